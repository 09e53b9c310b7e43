"""The schedule that a lake was built for: what is stored can't be moved to other partitions."""

from __future__ import annotations

import json
from dataclasses import asdict

from include.errors import SpecError
from include.spec import UseCase
from include.spec.clock import Clock
from include.storage.lake import Lake

KEY = "state/schedule.json"
YEAR = ("2024-01-01", "2024-12-31")  # any one: two schedules with its partitions in common have all


def record_schedule(lake: Lake, spec: UseCase) -> None:
    """Record the schedule that a lake is built for, unless one is recorded."""
    if lake.get(KEY) is None:
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
    data = lake.get(KEY)
    if data is None:
        return None
    clock, built_for = spec.clock, Clock(**json.loads(data))
    if clock == built_for or (
        clock.sub_daily == built_for.sub_daily and clock.keys(*YEAR) == built_for.keys(*YEAR)
    ):
        return None
    return SpecError(
        f"{spec.name}: schedule.batch",
        required=f"the partitions that are stored, those of {built_for.cron!r} ({built_for.timezone})",
        found=f"{clock.cron!r} ({clock.timezone})",
        where=f"{lake.uri}/{KEY}",
        remedy="restore the schedule, or give the use case another name and load its history again",
    )
