"""Keys name local days, or minutes of a schedule that fires more often, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import PartitionError
from include.spec.clock import Clock, day_of, time_of

DAILY = Clock("0 18 * * *", "America/New_York")
WEEKLY = Clock("0 6 * * 1", "UTC")
NIGHTLY_IN_THE_GAP = Clock("30 2 * * *", "America/New_York")  # 02:30 does not exist on 10 March 2013
CLOCKS = [DAILY, WEEKLY, NIGHTLY_IN_THE_GAP, Clock("0 0 1 * *", "Asia/Kolkata"), Clock("5 4 * * 1-5", "UTC")]
days = st.dates(date(1999, 1, 1), date(2039, 12, 31))
clocks = st.sampled_from(CLOCKS)


def test_a_partition_is_a_local_hour_on_both_sides_of_a_change_of_clocks() -> None:
    """18:00 in New York is 23:00 UTC in winter and 22:00 in summer."""
    found = [
        DAILY.decision_time(key).isoformat()
        for key in ("2013-03-09", "2013-03-10", "2013-11-02", "2013-11-03")
    ]
    expected = ["2013-03-09T23:00", "2013-03-10T22:00", "2013-11-02T22:00", "2013-11-03T23:00"]
    assert found == [f"{moment}:00+00:00" for moment in expected]


def test_local_days_have_23_24_and_25_hours() -> None:
    """A day's two midnights are as far apart as its clocks make it."""
    hours = [
        (DAILY.local(day, "00:00", days=1) - DAILY.local(day, "00:00")) / timedelta(hours=1)
        for day in ("2013-03-10", "2013-03-11", "2013-11-03")
    ]
    assert hours == [23, 24, 25]


def test_a_wall_time_that_the_change_of_clocks_skips_still_has_a_moment() -> None:
    """02:30 on the partition the clocks go forward is one moment, after 01:59 and not after 03:30."""
    moment = NIGHTLY_IN_THE_GAP.decision_time("2013-03-10")
    assert datetime(2013, 3, 10, 6, 59, tzinfo=UTC) < moment <= datetime(2013, 3, 10, 7, 30, tzinfo=UTC)
    assert NIGHTLY_IN_THE_GAP.keys("2013-03-09", "2013-03-11") == ["2013-03-09", "2013-03-10", "2013-03-11"]


def test_a_wall_time_stays_on_its_side_of_the_decision_where_the_clocks_skip_an_hour() -> None:
    """What is available at 02:30 is known at 03:00, and a deadline of 03:00 isn't before 02:30."""
    at_three = Clock("0 3 * * *", "America/New_York")
    for key in ("2013-03-09", "2013-03-10", "2013-03-11", "2013-11-03"):
        assert at_three.local(key, "02:30") <= at_three.decision_time(key)
        assert NIGHTLY_IN_THE_GAP.local(key, "02:30") == NIGHTLY_IN_THE_GAP.decision_time(key)
        assert NIGHTLY_IN_THE_GAP.local(key, "03:00") >= NIGHTLY_IN_THE_GAP.decision_time(key)


def test_weekly_keys_are_the_days_on_which_the_cron_fires() -> None:
    """A weekly clock has Mondays only, both ends included."""
    assert WEEKLY.keys("2024-01-01", "2024-01-22") == ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"]
    assert WEEKLY.shift("2024-01-08", -1) == "2024-01-01"


def test_a_day_without_a_partition_is_refused_with_the_next_one() -> None:
    """A Tuesday isn't a key of a weekly clock, and the error says which day is."""
    with pytest.raises(PartitionError, match=r"2024-01-02.*found none on that day, the next is 2024-01-08"):
        WEEKLY.decision_time("2024-01-02")


@pytest.mark.parametrize(
    "key", ["", "yesterday", "2013-02-29", "2013-3-1", "20130301", "2013-W09-5", None, 20130301]
)
def test_what_is_no_date_is_refused_with_the_remedy(key: str) -> None:
    """A key that isn't a date is refused in a sentence that says what to give."""
    with pytest.raises(
        PartitionError, match=r"expected a date such as .*found .*; give a partition of the schedule"
    ):
        day_of(key)


@pytest.mark.parametrize("key", ["0001-01-01", "1799-12-31", "3100-01-01", "9999-12-31", "9999-12-31T2300Z"])
def test_a_date_that_no_calendar_goes_on_from_is_no_key(key: str) -> None:
    """Else the day before or after it would be an OverflowError."""
    with pytest.raises(PartitionError, match=r"expected a date from 1800 to 3099, but found"):
        time_of(key)


@given(clocks, days, st.integers(-40, 40))
def test_shift_has_an_inverse(clock: Clock, day: date, partitions: int) -> None:
    """So many partitions on and as many back is the same partition."""
    key = clock.keys(day.isoformat(), (day + timedelta(days=40)).isoformat())[0]
    assert clock.shift(clock.shift(key, partitions), -partitions) == key


@given(clocks, days, st.integers(0, 120))
def test_keys_are_ordered_and_so_are_their_moments(clock: Clock, first: date, length: int) -> None:
    """Keys rise without repeating, lie in the range, and sort as their decision times do."""
    last = (first + timedelta(days=length)).isoformat()
    keys = clock.keys(first.isoformat(), last)
    assert keys == sorted(set(keys))
    assert all(first.isoformat() <= key <= last for key in keys)
    moments = [clock.decision_time(key) for key in keys]
    assert moments == sorted(set(moments))


@given(clocks, days)
def test_a_range_is_the_same_however_it_is_cut(clock: Clock, first: date) -> None:
    """The keys of a range are those of its two parts: none is lost at the cut and none is there twice."""
    start, cut, end = (str(first + timedelta(days=n)) for n in (0, 30, 60))
    after = str(first + timedelta(days=31))
    assert clock.keys(start, cut) + clock.keys(after, end) == clock.keys(start, end)


# schedules that fire more than once a day

HOURLY = Clock("5 * * * *", "America/New_York")
QUARTERS = Clock("*/15 * * * *", "Europe/Berlin")
OFFICE = Clock("0 8-18 * * 1-5", "Europe/Berlin")
TWICE = Clock("30 2,14 * * *", "America/New_York")
HALF_AN_HOUR = Clock("0 * * * *", "Australia/Lord_Howe")  # its clocks change by half an hour
AT_MIDNIGHT = Clock("*/30 * * * *", "America/Sao_Paulo")  # its clocks changed at midnight, until 2019
SKIPPED_DAY = Clock("0 * * * *", "Pacific/Apia")  # had no 30 December 2011
FREQUENT = [HOURLY, QUARTERS, OFFICE, TWICE, HALF_AN_HOUR, AT_MIDNIGHT, SKIPPED_DAY]


def test_each_hour_that_passes_is_one_partition_also_where_the_clocks_change() -> None:
    """A day of 23 hours has 23 partitions and one of 25 has 25, each a UTC minute."""
    days = ["2013-03-10", "2013-03-11", "2013-11-03"]
    assert [len(HOURLY.keys(day, day)) for day in days] == [23, 24, 25]
    assert HOURLY.keys("2013-11-03T0505Z", "2013-11-03T0705Z") == [
        f"2013-11-03T{hour:02}05Z" for hour in (5, 6, 7)
    ]
    assert HOURLY.keys("2013-03-10", "2013-03-10")[0] == "2013-03-10T0505Z"


def test_a_time_that_the_clocks_skip_or_repeat_is_one_partition_unless_each_hour_has_one() -> None:
    """02:30 is moved by the skipped hour, as for a daily schedule, and 01:30 counts once."""
    assert TWICE.keys("2013-03-10", "2013-03-10") == ["2013-03-10T0730Z", "2013-03-10T1830Z"]
    again = Clock("30 1,14 * * *", "America/New_York")
    assert again.keys("2013-11-03", "2013-11-03") == ["2013-11-03T0530Z", "2013-11-03T1930Z"]


@pytest.mark.parametrize("clock", [HOURLY, QUARTERS, AT_MIDNIGHT, SKIPPED_DAY])
@pytest.mark.parametrize("year", [2011, 2013])
def test_partitions_of_a_year_are_equally_far_apart_in_time(clock: Clock, year: int) -> None:
    """No change of clocks makes a gap, a repetition or a wrong order."""
    keys = clock.keys(f"{year}-01-01", f"{year}-12-31")
    steps = {later - key for key, later in pairwise(map(time_of, keys))}
    assert len(steps) == 1
    assert keys == sorted(set(keys))


@given(st.sampled_from(FREQUENT), days, st.integers(-400, 400), st.integers(0, 23))
def test_a_partition_is_found_again_by_each_way_to_it(clock: Clock, day: date, by: int, place: int) -> None:
    """Shifting has an inverse and agrees with the range; the newest at its decision time is itself."""
    keys = clock.keys(day.isoformat(), (day + timedelta(days=4)).isoformat())
    key = keys[place % len(keys)]
    other = clock.shift(key, by)
    assert clock.shift(other, -by) == key
    assert len(clock.keys(min(key, other), max(key, other))) == abs(by) + 1
    assert clock.newest(clock.decision_time(key)) == key
    assert clock.newest(clock.decision_time(key) - timedelta(microseconds=1)) == clock.shift(key, -1)
    assert clock.after(key) == clock.shift(key, 1)
    assert clock.before(key) == clock.shift(key, -1)
    assert clock.around(key) == (key, key)
    assert key in clock.keys(str(clock.date_of(key)), str(clock.date_of(key)))


@pytest.mark.parametrize(
    ("clock", "key", "first", "end"),
    [
        (HOURLY, "2013-03-01T0605Z", "05:35", "07:05"),
        (QUARTERS, "2013-03-01T0600Z", "05:52", "06:15"),
        (TWICE, "2013-11-03T0730Z", "01:00", "19:30"),  # after a night of thirteen hours
        (OFFICE, "2013-03-01T0800Z", "07:00", "09:00"),
    ],
)
def test_rows_are_about_a_partition_until_the_next_and_from_half_of_the_time_before(
    clock: Clock, key: str, first: str, end: str
) -> None:
    """Where the gaps between partitions differ, rows may be as old as the partition before."""
    assert [f"{moment:%H:%M}" for moment in clock.times_about(key)] == [first, end]


def test_a_day_stands_for_its_own_partitions_in_a_range() -> None:
    """A date as a bound means the local day's first or last partition, and a time the nearest inside."""
    assert HOURLY.around("2013-03-01") == ("2013-03-02T0405Z", "2013-03-01T0505Z")
    assert HOURLY.around("2013-03-01T0530Z") == ("2013-03-01T0505Z", "2013-03-01T0605Z")
    assert OFFICE.around("2013-03-02") == ("2013-03-01T1700Z", "2013-03-04T0700Z")  # a Saturday
    assert HOURLY.start_of("2013-03-01") == "2013-03-01T0500Z"
    assert HOURLY.end_of("2013-03-01") == "2013-03-02T0459Z"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("2013-03-01T0500Z", r"none at that time; 2013-03-01T0405Z and 2013-03-01T0505Z are the nearest"),
        ("2013-03-01", r"expected a UTC minute such as 2013-03-01T0500Z, but found '2013-03-01'"),
        ("2013-03-01T2505Z", r"expected a UTC minute such as 2013-03-01T0500Z"),
        ("2013-03-01T05:05Z", r"expected a UTC minute such as 2013-03-01T0500Z"),
    ],
)
def test_what_is_no_partition_of_a_frequent_schedule_is_refused(key: str, problem: str) -> None:
    """The sentence names the form of a key, or the nearest ones."""
    with pytest.raises(PartitionError, match=problem):
        HOURLY.decision_time(key)


def test_minutes_are_counted_from_the_decision_of_any_schedule() -> None:
    """An offset is added to the decision time, of a date to that of its day."""
    assert HOURLY.local("2013-03-01T0505Z", "-5m") == datetime(2013, 3, 1, 5, tzinfo=UTC)
    assert HOURLY.local("2013-03-01T0505Z", "+20m") == datetime(2013, 3, 1, 5, 25, tzinfo=UTC)
    assert DAILY.local("2013-03-01", "+90m") == datetime(2013, 3, 2, 0, 30, tzinfo=UTC)


def test_days_are_counted_in_partitions_and_never_in_fewer_than_themselves() -> None:
    """A year has 8,760 hours and 35,040 quarters; of a weekly schedule 365 partitions stand for a year."""
    assert [clock.partitions_in(365) for clock in (DAILY, WEEKLY, HOURLY, QUARTERS)] == [
        365,
        365,
        8760,
        35040,
    ]
    assert [clock.partitions_in(7) for clock in (DAILY, WEEKLY, HOURLY, OFFICE, TWICE)] == [7, 7, 168, 55, 14]


def test_a_year_of_quarter_hours_takes_less_time_than_a_task() -> None:
    """The first time a process needs them, and the hundreds of times after that."""
    clock = Clock("*/15 * * * *", "America/Chicago")  # of no other test
    begin = perf_counter()
    keys = clock.keys("2013-01-01", "2013-12-31")
    for key in keys[-300:]:
        clock.shift(key, -672)
        clock.decision_time(key)
        clock.around(key)
    assert len(keys) == 35040
    assert perf_counter() - begin < 5  # 0.1 s on a machine without other work
