"""Keys name local days, whatever the clocks do."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import PartitionError
from include.spec.clock import Clock, day_of

DAILY = Clock("0 18 * * *", "America/New_York")
WEEKLY = Clock("0 6 * * 1", "UTC")
NIGHTLY_IN_THE_GAP = Clock("30 2 * * *", "America/New_York")  # 02:30 does not exist on 10 March 2013
CLOCKS = [DAILY, WEEKLY, NIGHTLY_IN_THE_GAP, Clock("0 0 1 * *", "Asia/Kolkata"), Clock("5 4 * * 1-5", "UTC")]
days = st.dates(date(1999, 1, 1), date(2039, 12, 31))
clocks = st.sampled_from(CLOCKS)


def test_a_partition_is_a_local_hour_on_both_sides_of_a_change_of_clocks() -> None:
    """18:00 in New York is 23:00 UTC in winter and 22:00 in summer."""
    found = [
        DAILY.moment(key).isoformat() for key in ("2013-03-09", "2013-03-10", "2013-11-02", "2013-11-03")
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
    moment = NIGHTLY_IN_THE_GAP.moment("2013-03-10")
    assert datetime(2013, 3, 10, 6, 59, tzinfo=UTC) < moment <= datetime(2013, 3, 10, 7, 30, tzinfo=UTC)
    assert NIGHTLY_IN_THE_GAP.keys("2013-03-09", "2013-03-11") == ["2013-03-09", "2013-03-10", "2013-03-11"]


def test_weekly_keys_are_the_days_on_which_the_cron_fires() -> None:
    """A weekly clock has Mondays only, both ends included."""
    assert WEEKLY.keys("2024-01-01", "2024-01-22") == ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"]
    assert WEEKLY.shift("2024-01-08", -1) == "2024-01-01"


def test_a_day_without_a_partition_is_refused_with_the_next_one() -> None:
    """A Tuesday is no key of a weekly clock, and the error says which day is."""
    with pytest.raises(PartitionError, match=r"2024-01-02.*found none on that day, the next is 2024-01-08"):
        WEEKLY.moment("2024-01-02")


@pytest.mark.parametrize(
    "key", ["", "yesterday", "2013-02-29", "2013-3-1", "20130301", "2013-W09-5", None, 20130301]
)
def test_what_is_no_date_is_refused_with_the_remedy(key: str) -> None:
    """A key that is no date is refused in a sentence that says what to give."""
    with pytest.raises(PartitionError, match=r"required a date such as .*found .*; give the partition"):
        day_of(key)


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
    moments = [clock.moment(key) for key in keys]
    assert moments == sorted(set(moments))


@given(clocks, days)
def test_a_range_is_the_same_however_it_is_cut(clock: Clock, first: date) -> None:
    """The keys of a range are those of its two parts: none is lost at the cut and none is there twice."""
    start, cut, end = (str(first + timedelta(days=n)) for n in (0, 30, 60))
    after = str(first + timedelta(days=31))
    assert clock.keys(start, cut) + clock.keys(after, end) == clock.keys(start, end)
