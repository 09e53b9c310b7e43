"""A partition key is the partition a row became known; this page turns keys into moments and back.

Nothing here, nor anything that calls it, reads the wall clock: a backfilled partition computes what that
partition saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter

from include.errors import PartitionError


def day_of(key: str) -> date:
    """Return the local date that a key names, or refuse the key in a sentence."""
    try:
        day = date.fromisoformat(key)
        if day.isoformat() != key:
            raise ValueError(key)  # 20130301 is the same day, but would be another partition
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
    cron : when a partition's decision is taken, at most once a local day.
    timezone : the zone in which cron and keys are read, as ``America/New_York``.
    """

    cron: str
    timezone: str

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which keys are read."""
        return ZoneInfo(self.timezone)

    def local(self, key: str, at: str, days: int = 0) -> datetime:
        """Return the UTC moment of a local wall time ``HH:MM`` on the key's day, or ``days`` later."""
        moment = datetime.combine(day_of(key) + timedelta(days=days), time.fromisoformat(at), self.zone)
        return moment.astimezone(UTC)

    def moment(self, key: str) -> datetime:
        """Return the partition's decision time (UTC)."""
        return self._tick(key).replace(tzinfo=self.zone).astimezone(UTC)

    def keys(self, first: str, last: str) -> list[str]:
        """Return the partitions from ``first`` to ``last``, both included."""
        return list(_keys(self, first, last))

    def shift(self, key: str, partitions: int) -> str:
        """Return the partition that is ``partitions`` later (or earlier, when negative)."""
        return _shifted(self, key, partitions)

    def around(self, key: str) -> tuple[str, str]:
        """Return the last partition up to a day and the first from it on: twice the day where it has one."""
        midnight = datetime.combine(day_of(key), time())
        before = croniter(self.cron, midnight + timedelta(days=1)).get_prev(datetime)
        after = croniter(self.cron, midnight - timedelta(seconds=1)).get_next(datetime)
        return before.date().isoformat(), after.date().isoformat()

    def newest(self, now: datetime) -> str:
        """Return the last partition whose decision time has come by a moment."""
        partition = self.around(now.astimezone(self.zone).date().isoformat())[0]
        return partition if self.moment(partition) <= now else self.shift(partition, -1)

    def _tick(self, key: str) -> datetime:
        """Return the wall time at which the cron fires on the key's day.

        It is naive, so that no change of clocks moves it.
        """
        day = day_of(key)
        tick: datetime = croniter(self.cron, datetime.combine(day, time()) - timedelta(seconds=1)).get_next(
            datetime
        )
        if tick.date() != day:
            raise PartitionError(
                f"partition {key}",
                required=f"a partition of the schedule {self.cron!r} ({self.timezone})",
                found=f"none on that day, the next is {tick.date()}",
                remedy="choose a date on which the schedule fires",
            )
        return tick

    def _ticks(self, first: date, last: date) -> Iterator[str]:
        step = croniter(self.cron, datetime.combine(first, time()) - timedelta(seconds=1))
        while (tick := step.get_next(datetime)).date() <= last:
            yield tick.date().isoformat()


# A partition asks for the same few some hundred times, and a step of croniter takes a tenth of a millisecond.
@lru_cache(maxsize=1024)
def _shifted(clock: Clock, key: str, partitions: int) -> str:
    tick = clock._tick(key)
    step = croniter(clock.cron, tick)
    for _ in range(abs(partitions)):
        tick = step.get_next(datetime) if partitions > 0 else step.get_prev(datetime)
    return tick.date().isoformat()


@lru_cache(maxsize=64)
def _keys(clock: Clock, first: str, last: str) -> tuple[str, ...]:
    return tuple(clock._ticks(day_of(first), day_of(last)))
