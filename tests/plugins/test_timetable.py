"""A partition that a person names has the moment that a backfill has for it, or is refused in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from airflow.models.backfill import InvalidBackfillDateRange
from airflow.timetables.base import TimeRestriction
from pendulum import instance

from evergreen.timetable import NO_PARTITION, RangeTimetable, UseCaseTimetable
from include.spec import load
from include.spec.clock import Clock

DAY = {"earliest": datetime(2013, 3, 10, tzinfo=UTC), "latest": datetime(2013, 3, 10, 23, 59, tzinfo=UTC)}


def timetable(cron: str = "0 18 * * *", usecase: str = "flight_delay") -> UseCaseTimetable:
    """Return a timetable, flight_delay's by default, after a way through Airflow's database."""
    made = UseCaseTimetable(cron, timezone="America/New_York", usecase=usecase)
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
    with pytest.raises(
        InvalidPartitionKeyError, match=f"expected a date such as 2013-03-01, but found '{key}'"
    ):
        timetable().resolve_partition_date(key)


@pytest.mark.parametrize(
    ("usecase", "remedy"),
    [
        (
            "flight_delay",
            "2013-03-01; a date field sends nothing for a day that doesn't exist.*",
        ),
        ("hourly_rides", "2013-03-01T0500Z"),
    ],
)
def test_an_empty_partition_is_refused_as_nothing(
    usecase: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form shows which field to fill in, and with what; a date field may have been filled in vain."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(Path(__file__).parents[1] / "usecases"))
    sentence = f"expected a partition, but found nothing; .* fill in Partition, such as {remedy}$"
    with pytest.raises(InvalidPartitionKeyError, match=sentence):
        timetable(usecase=usecase).resolve_partition_date(NO_PARTITION)


@pytest.mark.parametrize(
    ("day", "problem"),
    [((2012, 12, 30), "one before schedule.start"), ((2013, 12, 31), "after schedule.end")],
)
def test_a_backfill_that_leaves_the_schedule_is_refused(day: tuple[int, int, int], problem: str) -> None:
    """One partition before its start or after its end refuses the range, with the nearest valid ones."""
    begin = datetime(*day, tzinfo=UTC)
    with pytest.raises(InvalidBackfillDateRange, match=rf"{problem}; choose .*201[23]-12-3[01]"):
        timetable().iter_partition_dagrun_infos(earliest=begin, latest=begin + timedelta(days=1))


HOURLY = {"timezone": "America/New_York", "usecase": "hourly_rides"}


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> UseCaseTimetable:
    """Return hourly_rides' timetable after a way through Airflow's database."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(Path(__file__).parents[1] / "usecases"))
    return UseCaseTimetable.deserialize(UseCaseTimetable("5 * * * *", **HOURLY).serialize())


def test_a_backfill_of_days_has_a_run_for_each_hour_that_passes(hourly: UseCaseTimetable) -> None:
    """The runs of the day on which the clocks go forward are the partitions of the declaration's clock."""
    span = {"earliest": datetime(2024, 3, 9, tzinfo=UTC), "latest": datetime(2024, 3, 10, 23, 59, tzinfo=UTC)}
    infos = list(hourly.iter_partition_dagrun_infos(**span))
    keys = load("hourly_rides").clock.keys("2024-03-09", "2024-03-10")
    assert len(keys) == 47
    assert [info.partition_key for info in infos] == keys
    assert [hourly.resolve_partition_date(key) for key in keys] == [info.partition_date for info in infos]


@pytest.mark.parametrize("cron", ["5 * * * *", "*/15 * * * *", "0 */2 * * *", "30 1,2,14 * * *"])
@pytest.mark.parametrize("day", [datetime(2024, 3, 10), datetime(2024, 11, 3)])
def test_the_scheduler_starts_the_partitions_that_the_clock_has(cron: str, day: datetime) -> None:
    """One run after the other, also where the clocks change, is each partition once."""
    made = UseCaseTimetable(cron, **HOURLY)
    clock, first = Clock(cron, "America/New_York"), instance(day, "America/New_York")
    keys = clock.keys(f"{day - timedelta(days=1):%Y-%m-%d}", f"{day + timedelta(days=1):%Y-%m-%d}")
    restriction = TimeRestriction(earliest=first.subtract(days=1), latest=first.add(days=2), catchup=True)
    runs, last = [], None
    while info := made.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction):
        runs.append(info.partition_key)
        last = info
    assert [key for key in runs if key <= keys[-1]] == keys


def test_a_training_is_of_the_partition_at_or_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training at 6:00 belongs to the hour of 5:05, by the scheduler and when a person names that hour."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(Path(__file__).parents[1] / "usecases"))
    made = UseCaseTimetable.deserialize(
        UseCaseTimetable("0 6 * * *", batch="5 * * * *", **HOURLY).serialize()
    )
    span = {"earliest": datetime(2024, 3, 9, tzinfo=UTC), "latest": datetime(2024, 3, 11, tzinfo=UTC)}
    infos = list(made.iter_partition_dagrun_infos(**span))
    keys = [info.partition_key for info in infos]
    assert keys == ["2024-03-09T1005Z", "2024-03-10T0905Z"]
    assert keys == load("hourly_rides").trainings("2024-03-09", "2024-03-10")
    assert [made.resolve_partition_date(key) for key in keys] == [info.partition_date for info in infos]
    moment = made.resolve_partition_date("2024-03-09T1105Z")
    assert moment == datetime(2024, 3, 9, 11, 5, tzinfo=UTC)


def test_a_range_that_isnt_valid_is_refused_before_its_run_exists() -> None:
    """The form shows the sentence; a valid range has no date of its own."""
    ranges = RangeTimetable.deserialize(RangeTimetable("flight_delay").serialize())
    assert ranges.resolve_partition_date("2013-01-01--2013-02-28") is None
    assert ranges.resolve_partition_date(None) is None
    with pytest.raises(InvalidPartitionKeyError, match="the two swapped; choose 2013-03-01 as the first"):
        ranges.resolve_partition_date("2013-03-10--2013-03-01")
