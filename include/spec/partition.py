"""The partitions that a run may write: on the schedule, within its range, and not in the future."""

from __future__ import annotations

from datetime import datetime

from include.errors import PartitionError
from include.spec.usecase import UseCase


def missing_partition() -> PartitionError:
    """Return the error of a run that has no partition."""
    return PartitionError(
        "partition",
        required="a partition",
        found="nothing",
        remedy="trigger again and fill in Partition, such as 2013-03-01 or 2013-03-01T0500Z",
    )


def check_partition(spec: UseCase, key: str, now: datetime) -> None:
    """Refuse a partition that no scheduled run could have had by ``now``.

    Parameters
    ----------
    now : with a time zone. Before a partition's decision time its data is incomplete, and what was published
        without the rest would stay.

    Raises
    ------
    PartitionError
        with the schedule's range and the nearest valid partitions.
    """
    schedule, clock = spec.schedule, spec.clock
    first, newest = clock.around(schedule.start)[1], clock.newest(now)
    last = newest if schedule.end is None else min(newest, clock.around(schedule.end)[0])
    clock.date_of(key)  # raises for a malformed key
    before, after = clock.around(key)
    if key < spec.start:
        problem = "one before schedule.start"
    elif spec.end is not None and key > spec.end:
        problem = "one after schedule.end"
    elif before != key:
        problem = "a time at which it has none" if clock.sub_daily else "a day on which it has none"
    elif key > newest:
        problem = f"one still to come, whose decision is at {clock.moment(key):%Y-%m-%d %H:%M} UTC"
    else:
        return
    near = [min(max(valid, first), last) for valid in (before, after)] if first <= last else []
    choice = f"choose {' or '.join(dict.fromkeys(near))}" if near else f"wait for the first, {first}"
    if near and spec.end is not None and key > spec.end:  # not the last one: no switch would follow it
        choice = f"choose the next, at most {last}"
    until = f"to {schedule.end}" if schedule.end else "on"
    raise PartitionError(
        f"{spec.name}/{key}",
        required=f"a partition of the schedule {schedule.batch!r} ({schedule.timezone}) from "
        f"{schedule.start} {until}",
        found=problem,
        remedy=f"{choice}, or change `schedule` in usecase.yaml",
    )
