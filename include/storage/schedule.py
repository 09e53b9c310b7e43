"""The schedule that a lake was built for: what is stored can't be moved to other partitions."""

from __future__ import annotations

import json
from dataclasses import asdict

from include.errors import PartitionError, SpecError
from include.spec import UseCase
from include.spec.clock import Clock
from include.storage.lake import Lake

KEY = "state/schedule.json"
YEARS, FREQUENT_YEARS = 10, 3  # from schedule.start on, in which two schedules' partitions are compared


def record_schedule(lake: Lake, spec: UseCase) -> None:
    """Record the schedule that a lake is built for, unless one is recorded."""
    if lake.get_once(KEY) is None:
        lake.create(KEY, json.dumps(asdict(spec.clock)).encode())


def require_schedule(lake: Lake, spec: UseCase) -> None:
    """Refuse a schedule whose partitions aren't those that the lake was built for.

    Raises
    ------
    SpecError
        see `changed_schedule`.
    """
    if error := changed_schedule(lake, spec):
        raise error


def changed_schedule(lake: Lake, spec: UseCase) -> SpecError | None:
    """Return an error that names both schedules, if the lake was built for other partitions.

    A label belongs to the partition `labels.delay` before its own, and a window is a number of partitions: on
    other days or times, both would join other rows, without a sign of it. The time of the decision may change
    where a day has one partition at most.
    """
    data, clock = lake.get_once(KEY), spec.clock
    if data is None:  # nothing is stored, or it is older than this record
        newest = max(lake.published(spec.features.spine), default="")
        if not newest or _has(clock, newest):
            return None
        required = f"a schedule with the partition {newest}, which is stored"
    else:
        built_for = Clock(**json.loads(data))
        if clock == built_for or _has_same_partitions(spec, built_for):
            return None
        required = f"the partitions that are stored, those of {built_for.cron!r} ({built_for.timezone})"
    return SpecError(
        f"{spec.name}: schedule",
        required=required,
        found=f"{clock.cron!r} ({clock.timezone})",
        where=f"{lake.uri}/{KEY}",
        remedy="declare the earlier schedule again, or give the use case another name and load its history",
    )


def _has(clock: Clock, partition: str) -> bool:
    try:
        clock.decision_time(partition)
    except PartitionError:
        return False
    return True


def _has_same_partitions(spec: UseCase, built_for: Clock) -> bool:
    clock = spec.clock
    if clock.sub_daily != built_for.sub_daily:
        return False
    year, end = int(spec.schedule.start[:4]), "-12-31"
    if clock.sub_daily:  # in UTC, or the first and the last day would depend on the time zone
        first, last = f"{year}-01-02T0000Z", f"{year + FREQUENT_YEARS}{end}T0000Z"
    else:
        first, last = f"{year}-01-01", f"{year + YEARS}{end}"
    return clock.keys(first, last) == built_for.keys(first, last)
