"""Convert partition keys to points in time and back, for a cron schedule in a time zone.

If the schedule fires at most once a day, a key is a local date: the day of the decision time. If it fires
more often, a key is a UTC minute, such as ``2013-03-01T0500Z``, because local times repeat when the clocks go
back. Keys of either kind sort as text in the order of time.
Nothing here reads the system clock, so a backfilled partition computes exactly what the original run would
have.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from croniter import croniter

from include.errors import PartitionError

MINUTE_KEY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{4}Z")
YEARS = range(1800, 3100)  # of a key, beyond those of a declaration: the dates near it exist too
OFFSET_PATTERN = r"[+-]\d{1,5}m"


def day_of(key: str) -> date:
    """Return the date that a text is; raise a PartitionError if it is none."""
    try:
        day = date.fromisoformat(key)
        if day.isoformat() != key:
            raise ValueError(key)  # 20130301 is the same day, but would be a second partition
    except (TypeError, ValueError):
        raise _no_key(key, "a date such as 2013-03-01") from None
    if day.year not in YEARS:
        raise _no_key(key, f"a date from {YEARS[0]} to {YEARS[-1]}")
    return day


def time_of(key: str) -> datetime:
    """Return what a key says without its schedule: midnight of its date, or its UTC minute, both naive.

    Two keys of one schedule are as far apart as these times. Raises a PartitionError if it isn't a key.
    """
    if not (isinstance(key, str) and MINUTE_KEY.fullmatch(key)):
        return datetime.combine(day_of(key), time())
    try:
        return datetime.combine(day_of(key[:10]), time.fromisoformat(key[11:15]))
    except ValueError:
        raise _no_key(key, "a UTC minute such as 2013-03-01T0500Z") from None


def is_frequent(cron: str) -> bool:
    """Return whether a schedule can fire more than once a day."""
    return not re.fullmatch(r"\d{1,2} \d{1,2} \S+ \S+ \S+", cron)


def _no_key(key: object, required: str) -> PartitionError:
    remedy = "give a partition of the schedule, as the pages and `status` list them"
    return PartitionError("partition", required=required, found=repr(key), remedy=remedy)


@dataclass(frozen=True)
class Clock:
    """The partitions of a use case.

    Parameters
    ----------
    cron : the decision time of each partition.
    timezone : the time zone of the cron and of the dates, such as ``America/New_York``.
    """

    cron: str
    timezone: str

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the schedule."""
        return ZoneInfo(self.timezone)

    @property
    def sub_daily(self) -> bool:
        """Whether the schedule can fire more than once a day, so that keys are UTC minutes."""
        return is_frequent(self.cron)

    @property
    def example(self) -> str:
        """A partition key, for messages."""
        return "2013-03-01T0500Z" if self.sub_daily else "2013-03-01"

    def partitions_in(self, days: int) -> int:
        """Return how many partitions a number of days has.

        A schedule that fires at most once a day counts as daily: a week, month or year then stands for 7, 30
        or 365 partitions.
        """
        return max(round(days * fires_a_year(self.cron) / 365), days) if self.sub_daily else days

    def date_of(self, key: str) -> date:
        """Return the local date of a partition."""
        return self.local_time(key).date() if self.sub_daily else day_of(key)

    def start_of(self, bound: str) -> str:
        """Return the earliest text that a key from a day, or from a partition, on can have."""
        return _key(self._midnight(day_of(bound))) if self._is_day(bound) else self._checked(bound)

    def end_of(self, bound: str) -> str:
        """Return the latest text that a key up to a day, or up to a partition, can have."""
        if not self._is_day(bound):
            return self._checked(bound)
        return _key(self._midnight(day_of(bound) + timedelta(days=1)) - timedelta(minutes=1))

    def local(self, key: str, at: str, days: int = 0) -> datetime:
        """Return a local time ``HH:MM`` on the key's day, or ``days`` later, as a UTC datetime.

        ``at`` can also be minutes from the partition's decision time, such as ``+20m`` or ``-5m``.
        """
        if re.fullmatch(OFFSET_PATTERN, at):
            decision = self._utc(key) if self.sub_daily else self.local(key, time_of_day(self.cron), days)
            return decision + timedelta(minutes=int(at[:-1]))
        day = self.date_of(key) + timedelta(days=days)
        moment = self._moment(day, at)
        if self.sub_daily:
            return moment
        # a time that daylight saving skips moves forward, but not to the other side of the decision
        decides_at = time_of_day(self.cron)
        decision = self._moment(day, decides_at)
        return min(moment, decision) if at <= decides_at else max(moment, decision)

    def local_time(self, key: str) -> datetime:
        """Return the partition's local date and time, naive."""
        if self.sub_daily:
            return self._utc(key).astimezone(self.zone).replace(tzinfo=None)
        return datetime.combine(day_of(key), time.fromisoformat(time_of_day(self.cron)))

    def decision_time(self, key: str) -> datetime:
        """Return the partition's decision time (UTC)."""
        if self.sub_daily:
            self._index(key)
            return self._utc(key)
        return self._tick(key).replace(tzinfo=self.zone).astimezone(UTC)

    def times_about(self, key: str) -> tuple[datetime, datetime]:
        """Return from when on, and before when, rows about a partition of several a day are (UTC).

        That is before the next partition, and after half of the time since the one before: a file may be of
        minutes that end a little before the decision. Where the gaps between partitions differ, as those of
        office hours, rows may be as old as the partition before.
        """
        moment, before = self._utc(key), self._utc(self.shift(key, -1))
        earliest = before + (moment - before) / 2 if _is_even(self.cron) else before
        return earliest, self._utc(self.shift(key, 1))

    def keys(self, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last``, both included; either may be a date."""
        return list(_keys(self, first, last))

    def shift(self, key: str, partitions: int) -> str:
        """Return the partition that is ``partitions`` later (earlier if negative)."""
        return _shifted(self, key, partitions)

    def after(self, key: str) -> str:
        """Return the first partition after a key, which may be off the schedule."""
        if self.sub_daily:
            return self._first(_key(self._utc(key) + timedelta(minutes=1)))
        return self.around((day_of(key) + timedelta(days=1)).isoformat())[1]

    def before(self, key: str) -> str:
        """Return the last partition before a key, which may be off the schedule."""
        if self.sub_daily:
            return self._last(_key(self._utc(key) - timedelta(minutes=1)))
        return self.around((day_of(key) - timedelta(days=1)).isoformat())[0]

    def around(self, key: str) -> tuple[str, str]:
        """Return the last partition up to a day and the first from it on; both are the day if it has one.

        If the schedule fires more than once a day, also up to and from a point in time on.
        """
        if self.sub_daily:
            return self._last(self.end_of(key)), self._first(self.start_of(key))
        midnight = datetime.combine(day_of(key), time())
        before = croniter(self.cron, midnight + timedelta(days=1)).get_prev(datetime)
        after = croniter(self.cron, midnight - timedelta(seconds=1)).get_next(datetime)
        return before.date().isoformat(), after.date().isoformat()

    def newest(self, now: datetime) -> str:
        """Return the last partition whose decision time isn't after ``now``."""
        if self.sub_daily:
            return self._last(_key(now.astimezone(UTC)))
        partition = self.around(now.astimezone(self.zone).date().isoformat())[0]
        return partition if self.decision_time(partition) <= now else self.shift(partition, -1)

    # a schedule that fires at most once a day

    def _tick(self, key: str) -> datetime:
        """Return the local time at which the cron fires on the key's day, naive: DST can't move it."""
        day = day_of(key)
        if at := _daily(self.cron):
            return datetime.combine(day, at)
        tick: datetime = croniter(self.cron, datetime.combine(day, time()) - timedelta(seconds=1)).get_next(
            datetime
        )
        if tick.date() != day:
            raise self._not_scheduled(key, f"none on that day, the next is {tick.date()}", "a date")
        return tick

    def _ticks(self, first: date, last: date) -> Iterator[str]:
        if _daily(self.cron):
            yield from ((first + timedelta(days)).isoformat() for days in range((last - first).days + 1))
            return
        step = croniter(self.cron, datetime.combine(first, time()) - timedelta(seconds=1))
        while (tick := step.get_next(datetime)).date() <= last:
            yield tick.date().isoformat()

    # a schedule that fires more often

    def _is_day(self, bound: str) -> bool:
        return self.sub_daily and not MINUTE_KEY.fullmatch(bound)

    def _checked(self, key: str) -> str:
        """Return a partition key; raise a PartitionError if it can't be one."""
        self.date_of(key)
        return key

    def _utc(self, key: str) -> datetime:
        if not MINUTE_KEY.fullmatch(str(key)):
            raise _no_key(key, f"a UTC minute such as {self.example}")
        return time_of(key).replace(tzinfo=UTC)

    def _moment(self, day: date, at: str) -> datetime:
        return datetime.combine(day, time.fromisoformat(at), self.zone).astimezone(UTC)

    def _midnight(self, day: date) -> datetime:
        return self._moment(day, "00:00")

    def _index(self, key: str) -> tuple[date, int]:
        """Return a partition's local day and its place among the day's partitions."""
        day = self.date_of(key)
        keys = _keys_of_day(self, day)
        index = bisect_left(keys, key)
        if index == len(keys) or keys[index] != key:
            before, after = self.around(key)
            raise self._not_scheduled(key, f"none at that time; {before} and {after} are the nearest", "one")
        return day, index

    def _first(self, bound: str) -> str:
        """Return the first partition from a point in time on."""
        day = self.date_of(bound)
        while not (keys := _keys_of_day(self, day)) or keys[-1] < bound:
            day += timedelta(days=1)
        return keys[bisect_left(keys, bound)]

    def _last(self, bound: str) -> str:
        """Return the last partition up to a point in time."""
        day = self.date_of(bound)
        while not (keys := _keys_of_day(self, day)) or keys[0] > bound:
            day -= timedelta(days=1)
        return keys[bisect_right(keys, bound) - 1]

    def _not_scheduled(self, key: str, problem: str, choice: str) -> PartitionError:
        return PartitionError(
            f"partition {key}",
            required=f"a partition of the schedule {self.cron!r} ({self.timezone})",
            found=problem,
            remedy=f"choose {choice} of the schedule",
        )


def _key(moment: datetime) -> str:
    """Return the key of a point in time (UTC); seconds are cut off."""
    return f"{moment:%Y-%m-%dT%H%MZ}"


# A partition needs the same keys some hundred times, and each step of croniter takes 0.1 ms.
@lru_cache
def _daily(cron: str) -> time | None:
    """Return when a cron fires, if that is once on each day; None otherwise."""
    fields = re.fullmatch(r"(\d{1,2}) (\d{1,2}) \* \* \*", cron)
    return time(int(fields[2]), int(fields[1])) if fields else None


def time_of_day(cron: str) -> str:
    """Return the time at which a schedule of at most once a day fires, as ``HH:MM``."""
    minute, hour = cron.split()[:2]
    return f"{int(hour):02}:{int(minute):02}"


@lru_cache
def _times(cron: str) -> tuple[time, ...]:
    """Return the times of a day at which a cron fires, ascending."""
    minutes, hours = croniter(cron).expanded[:2]
    return tuple(
        time(hour, minute)
        for hour in (range(24) if hours == ["*"] else hours)
        for minute in (range(60) if minutes == ["*"] else minutes)
    )


@lru_cache
def _is_even(cron: str) -> bool:
    """Return whether a cron divides its days and nights evenly."""
    minutes = [60 * at.hour + at.minute for at in _times(cron)]
    return len({later - earlier for earlier, later in pairwise([*minutes, minutes[0] + 24 * 60])}) == 1


@lru_cache(maxsize=4096)
def _fires_on(cron: str, day: date) -> bool:
    """Return whether a cron fires on a day, by its last three fields."""
    days = " ".join(cron.split()[2:])
    return days == "* * *" or bool(croniter.match(f"0 0 {days}", datetime.combine(day, time())))


@lru_cache
def fires_a_year(cron: str) -> int:
    """Return how often a cron fires in a year of 365 days."""
    days = sum(_fires_on(cron, date(2001, 1, 1) + timedelta(index)) for index in range(365))
    return len(_times(cron)) * days


@lru_cache(maxsize=4096)
def _keys_of_day(clock: Clock, day: date) -> tuple[str, ...]:
    """Return the partitions of a local day, for a schedule that can fire more than once a day.

    A cron for every hour fires in each hour that passes. Otherwise a local time that daylight saving skips
    moves forward by what is skipped, and of a repeated one the first counts, as for a schedule that fires
    once a day.
    """
    if not _fires_on(clock.cron, day):
        return ()
    zone, times = clock.zone, _times(clock.cron)
    every_hour = len({at.hour for at in times}) == 24
    offsets = {datetime.combine(one, time(), zone).utcoffset() for one in (day, day + timedelta(days=1))}
    if len(offsets) == 1:  # no change of clocks
        shift = offsets.pop() or timedelta(0)
        return tuple(_key(datetime.combine(day, at) - shift) for at in times)
    moments = set()
    for at in times:
        once, again = (datetime.combine(day, at.replace(fold=fold), zone).astimezone(UTC) for fold in (0, 1))
        moments |= {once, again} if every_hour and again > once else {once}
    return tuple(_key(moment) for moment in sorted(moments) if moment.astimezone(zone).date() == day)


@lru_cache(maxsize=1024)
def _shifted(clock: Clock, key: str, partitions: int) -> str:
    if clock.sub_daily:
        day, index = clock._index(key)
        keys, index = _keys_of_day(clock, day), index + partitions
        while index < 0:
            day -= timedelta(days=1)
            keys = _keys_of_day(clock, day)
            index += len(keys)
        while index >= len(keys):
            day, index = day + timedelta(days=1), index - len(keys)
            keys = _keys_of_day(clock, day)
        return keys[index]
    tick = clock._tick(key)
    if _daily(clock.cron):
        return (tick.date() + timedelta(partitions)).isoformat()
    step = croniter(clock.cron, tick)
    for _ in range(abs(partitions)):
        tick = step.get_next(datetime) if partitions > 0 else step.get_prev(datetime)
    return tick.date().isoformat()


@lru_cache(maxsize=64)
def _keys(clock: Clock, first: str, last: str) -> tuple[str, ...]:
    if not clock.sub_daily:
        return tuple(clock._ticks(day_of(first), day_of(last)))
    first, last = clock.start_of(first), clock.end_of(last)
    day, until = clock.date_of(first), clock.date_of(last)
    days = (day + timedelta(index) for index in range((until - day).days + 1))
    keys = [key for one in days for key in _keys_of_day(clock, one)]
    return tuple(keys[bisect_left(keys, first) : bisect_right(keys, last)])
