"""Which partitions a run may write: those of the schedule, within its range, whose decision time has come."""

from __future__ import annotations

from datetime import datetime

from include.errors import PartitionError
from include.spec.clock import day_of
from include.spec.usecase import UseCase


def check_partition(spec: UseCase, key: str, now: datetime) -> None:
    """Refuse a partition that no run of the schedule could ever have had by ``now``.

    Parameters
    ----------
    now : with a time zone. Before a partition's decision time part of its data is still to come, and what
        was published without it would stay.

    Raises
    ------
    PartitionError
        It names the range and the nearest partitions that are valid.
    """
    schedule, clock = spec.schedule, spec.clock
    day_of(key)
    first, newest = clock.around(schedule.start)[1], clock.newest(now)
    last = newest if schedule.end is None else min(newest, clock.around(schedule.end)[0])
    before, after = clock.around(key)
    if key < schedule.start:
        problem = "one before schedule.start"
    elif schedule.end is not None and key > schedule.end:
        problem = "one after schedule.end"
    elif before != key:
        problem = "a day on which it has none"
    elif key > newest:
        problem = f"one still to come, whose decision is at {clock.moment(key):%Y-%m-%d %H:%M} UTC"
    else:
        return
    near = [min(max(one, first), last) for one in (before, after)] if first <= last else []
    choice = f"choose {' or '.join(dict.fromkeys(near))}" if near else f"wait for the first, {first}"
    until = f"to {schedule.end}" if schedule.end else "on"
    raise PartitionError(
        f"{spec.name}/{key}",
        required=f"a partition of the schedule {schedule.batch!r} ({schedule.timezone}) from "
        f"{schedule.start} {until}",
        found=problem,
        remedy=f"{choice}, or change `schedule` in usecase.yaml",
    )
