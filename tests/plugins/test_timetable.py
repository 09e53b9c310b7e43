"""A partition that a person names has the moment that a backfill has for it, or is refused in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from airflow.models.backfill import InvalidBackfillDateRange

from evergreen.timetable import NO_PARTITION, UseCaseTimetable

DAY = {"earliest": datetime(2013, 3, 10, tzinfo=UTC), "latest": datetime(2013, 3, 10, 23, 59, tzinfo=UTC)}


def timetable(cron: str = "0 18 * * *") -> UseCaseTimetable:
    """Return flight_delay's timetable after a way through Airflow's database."""
    made = UseCaseTimetable(cron, timezone="America/New_York", usecase="flight_delay")
    return UseCaseTimetable.deserialize(made.serialize())


@pytest.mark.parametrize("cron", ["0 18 * * *", "0 0 * * *", "30 2 * * *"])
def test_a_named_partition_is_the_one_that_a_backfill_has(cron: str) -> None:
    """Key and moment are the same, also on a day whose 2:30 doesn't exist: it isn't missing any more."""
    (info,) = timetable(cron).iter_partition_dagrun_infos(**DAY)
    assert info.partition_key == "2013-03-10"
    assert timetable(cron).resolve_partition_date("2013-03-10") == info.partition_date


def test_a_training_may_be_of_a_partition_without_a_scheduled_one() -> None:
    """It gets the partition's midnight, which no scheduled run has."""
    moment = timetable("0 20 * * 0").resolve_partition_date("2013-03-12")
    assert moment == datetime(2013, 3, 12, 4, tzinfo=UTC)


@pytest.mark.parametrize("key", ["2013-02-30", "20130301"])
def test_what_is_no_partition_is_refused(key: str) -> None:
    """The form shows the sentence."""
    with pytest.raises(InvalidPartitionKeyError, match=f"required a date such as 2013-03-01, found '{key}'"):
        timetable().resolve_partition_date(key)


def test_an_empty_partition_is_refused_as_nothing() -> None:
    """The form shows what is missing and which field to fill in."""
    with pytest.raises(
        InvalidPartitionKeyError, match=r"required a partition, found nothing; .* fill in Partition"
    ):
        timetable().resolve_partition_date(NO_PARTITION)


@pytest.mark.parametrize(
    ("day", "problem"),
    [((2012, 12, 30), "one before schedule.start"), ((2013, 12, 31), "after schedule.end")],
)
def test_a_backfill_that_leaves_the_schedule_is_refused(day: tuple[int, int, int], problem: str) -> None:
    """One partition before its start or after its end refuses the range, with the nearest valid ones."""
    begin = datetime(*day, tzinfo=UTC)
    with pytest.raises(InvalidBackfillDateRange, match=rf"{problem}; choose 201[23]-12-3[01]"):
        timetable().iter_partition_dagrun_infos(earliest=begin, latest=begin + timedelta(days=1))
