"""Convert partition keys to points in time and back, for a cron schedule in a time zone.

A partition key is the local date of the decision time: the day on which the batch schedule fires.
Nothing here reads the system clock, so a backfilled partition computes exactly what the original run would
have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter

from include.errors import PartitionError


def day_of(key: str) -> date:
    """Return the local date of a partition key; raise a PartitionError if it is none."""
    try:
        day = date.fromisoformat(key)
        if day.isoformat() != key:
            raise ValueError(key)  # 20130301 is the same day, but would be a second partition
        return day
    except (TypeError, ValueError):
        raise PartitionError(
            "partition",
            required="a date such as 2013-03-01",
            found=repr(key),
            remedy="give the partition in the trigger form's field, or backfill a range of dates",
        ) from None


@dataclass(frozen=True)
class Clock:
    """The partitions of a use case.

    Parameters
    ----------
    cron : the decision time of each partition, at most one per local day.
    timezone : the time zone of the cron and of the keys, such as ``America/New_York``.
    """

    cron: str
    timezone: str

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the keys."""
        return ZoneInfo(self.timezone)

    def local(self, key: str, at: str, days: int = 0) -> datetime:
        """Return a local time ``HH:MM`` on the key's day, or ``days`` later, as a UTC datetime."""
        moment = datetime.combine(day_of(key) + timedelta(days=days), time.fromisoformat(at), self.zone)
        return moment.astimezone(UTC)

    def moment(self, key: str) -> datetime:
        """Return the partition's decision time (UTC)."""
        return self._tick(key).replace(tzinfo=self.zone).astimezone(UTC)

    def keys(self, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last``, both included."""
        return list(_keys(self, first, last))

    def shift(self, key: str, partitions: int) -> str:
        """Return the partition that is ``partitions`` later (earlier if negative)."""
        return _shifted(self, key, partitions)

    def around(self, key: str) -> tuple[str, str]:
        """Return the last partition up to a day and the first from it on; both are the day if it has one."""
        midnight = datetime.combine(day_of(key), time())
        before = croniter(self.cron, midnight + timedelta(days=1)).get_prev(datetime)
        after = croniter(self.cron, midnight - timedelta(seconds=1)).get_next(datetime)
        return before.date().isoformat(), after.date().isoformat()

    def newest(self, now: datetime) -> str:
        """Return the last partition whose decision time isn't after ``now``."""
        partition = self.around(now.astimezone(self.zone).date().isoformat())[0]
        return partition if self.moment(partition) <= now else self.shift(partition, -1)

    def _tick(self, key: str) -> datetime:
        """Return the local time at which the cron fires on the key's day, naive: DST can't move it."""
        day = day_of(key)
        if at := _daily(self.cron):
            return datetime.combine(day, at)
        tick: datetime = croniter(self.cron, datetime.combine(day, time()) - timedelta(seconds=1)).get_next(
            datetime
        )
        if tick.date() != day:
            raise PartitionError(
                f"partition {key}",
                required=f"a partition of the schedule {self.cron!r} ({self.timezone})",
                found=f"none on that day, the next is {tick.date()}",
                remedy="choose a date of the schedule",
            )
        return tick

    def _ticks(self, first: date, last: date) -> Iterator[str]:
        if _daily(self.cron):
            yield from ((first + timedelta(days)).isoformat() for days in range((last - first).days + 1))
            return
        step = croniter(self.cron, datetime.combine(first, time()) - timedelta(seconds=1))
        while (tick := step.get_next(datetime)).date() <= last:
            yield tick.date().isoformat()


# A partition needs the same keys some hundred times, and each step of croniter takes 0.1 ms.
@lru_cache
def _daily(cron: str) -> time | None:
    """Return when a cron fires, if that is once on each day; None otherwise."""
    fields = re.fullmatch(r"(\d{1,2}) (\d{1,2}) \* \* \*", cron)
    return time(int(fields[2]), int(fields[1])) if fields else None


@lru_cache(maxsize=1024)
def _shifted(clock: Clock, key: str, partitions: int) -> str:
    tick = clock._tick(key)
    if _daily(clock.cron):
        return (tick.date() + timedelta(partitions)).isoformat()
    step = croniter(clock.cron, tick)
    for _ in range(abs(partitions)):
        tick = step.get_next(datetime) if partitions > 0 else step.get_prev(datetime)
    return tick.date().isoformat()


@lru_cache(maxsize=64)
def _keys(clock: Clock, first: str, last: str) -> tuple[str, ...]:
    return tuple(clock._ticks(day_of(first), day_of(last)))
