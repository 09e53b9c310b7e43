"""The partitions and ranges that a run may write: on the schedule and not in the future."""

from __future__ import annotations

from datetime import datetime

from include.errors import PartitionError
from include.spec.usecase import UseCase


def missing_partition(spec: UseCase) -> PartitionError:
    """Return the error of a run that has no partition."""
    remedy = f"trigger again and fill in Partition, such as {spec.clock.example}"
    if not spec.clock.sub_daily:  # whose field is a date
        remedy += "; a date field sends nothing for a day that doesn't exist, such as 2013-02-31"
    return PartitionError("partition", required="a partition", found="nothing", remedy=remedy)


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
        problem = f"one still to come, whose decision is at {clock.decision_time(key):%Y-%m-%d %H:%M} UTC"
    else:
        return
    near = [min(max(valid, first), last) for valid in (before, after)] if first <= last else []
    choice = f"choose {' or '.join(dict.fromkeys(near))}" if near else f"wait for the first, {first}"
    if near and spec.end is not None and key > spec.end:  # not the last one: no switch would follow it
        choice = f"choose the next one that hasn't run, at most {last}"
    until = f"to {schedule.end}" if schedule.end else "on"
    raise PartitionError(
        f"{spec.name}/{key}",
        required=f"a partition of the schedule {schedule.batch!r} ({schedule.timezone}) from "
        f"{schedule.start} {until}",
        found=problem,
        remedy=f"{choice}, or change `schedule` in usecase.yaml",
    )


def how_to_run(usecase: str, partition: str) -> str:
    """Return what a person does in Airflow to run one partition."""
    return f"open {usecase}__batch in Airflow, press Trigger and enter {partition} as Partition"


def last_of_range(spec: UseCase, first: str, last: str, now: datetime) -> str:
    """Return the last partition of a range that may be loaded: ``last``, or the newest by ``now``.

    Parameters
    ----------
    first, last : each a partition or a day.

    Raises
    ------
    PartitionError
        when they are swapped, one is beyond the schedule, or no partition between them has come.
    """
    schedule, clock = spec.schedule, spec.clock
    begin, end, newest = clock.start_of(first), clock.end_of(last), clock.newest(now)
    final = min(end, newest)
    if begin > end:
        problem, remedy = "the two swapped", f"choose {last} as the first and {first} as the last"
    elif begin < spec.start:
        problem, remedy = "a first one before schedule.start", f"choose a first one from {schedule.start} on"
    elif spec.end is not None and end > spec.end:
        problem, remedy = "a last one after schedule.end", f"choose a last one up to {schedule.end}"
    elif begin > final:
        problem, remedy = "a first one still to come", f"choose a first one up to {newest}"
    elif not clock.keys(begin, final):
        problem, remedy = "none between them", f"choose a range with {' or '.join(clock.around(first))}"
    else:
        return final
    until = f"to {schedule.end}" if schedule.end else "on"
    raise PartitionError(
        f"{spec.name}/{first} to {last}",
        required=f"a first and a last partition of the schedule {schedule.batch!r} ({schedule.timezone}) "
        f"from {schedule.start} {until}",
        found=problem,
        remedy=remedy,
    )
