"""Finds the schedule whose partitions are the days of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from include.spec.clock import Clock

HOUR, TRAINING_HOUR = 6, 8
SUNDAY = 7  # of ISO's weekdays
YEAR = 12  # months
SEEN = 2  # weeks or years, from which a schedule of some of their days or months is proposed
ENOUGH = 0.5  # share of its partitions that have rows


@dataclass(frozen=True)
class SampleSchedule:
    """A schedule of at most one partition a day.

    Parameters
    ----------
    days, training : the last three fields of the crons.
    what : the days' pattern, as a comment continues "sample: 40 days"; empty for each day.
    season, length : ``week`` or ``year``, and its partitions; 1 if it has one, or wasn't seen.
    step : days from one partition to the next; 0 if it isn't always the same.
    """

    days: str
    training: str
    what: str
    season: str
    length: int
    step: int

    @property
    def clock(self) -> Clock:
        """Return the clock of its partitions."""
        return Clock(f"0 {HOUR} {self.days}", "UTC")


EACH_DAY = SampleSchedule("* * *", "* * 0", "", "week", 7, 1)


def schedule_of(days: Sequence[str]) -> SampleSchedule:
    """Return the schedule with the fewest partitions that has all days of a sample; if in doubt each day.

    Parameters
    ----------
    days : different ones, sorted.
    """
    dates = [date.fromisoformat(day) for day in days]
    weekdays, days_of_month = sorted({one.isoweekday() for one in dates}), {one.day for one in dates}
    proposed = [EACH_DAY]
    if len(weekdays) == 1:
        cron = f"* * {_cron_weekdays(weekdays)}"
        proposed.append(SampleSchedule(cron, cron, ", all on the same day of the week", "week", 1, 7))
    elif len(days) >= SEEN * len(weekdays):
        some = SampleSchedule(
            f"* * {_cron_weekdays(weekdays)}",
            f"* * {_cron_weekdays(weekdays[-1:])}",
            f", on {len(weekdays)} days of the week",
            "week",
            len(weekdays),
            0,
        )
        if len(days) >= ENOUGH * len(some.clock.keys(days[0], days[-1])):
            proposed.append(some)
    if len(days_of_month) == 1:
        months = sorted({one.month for one in dates})
        is_seen = len(days) >= SEEN * len(months)
        some_months = ",".join(map(str, months)) if is_seen and len(months) < YEAR else "*"
        cron = f"{days_of_month.pop()} {some_months} *"
        what = ", all on the same day of the month"
        proposed.append(SampleSchedule(cron, cron, what, "year", len(months) if is_seen else 1, 0))
    return min(proposed, key=lambda one: len(one.clock.keys(days[0], days[-1])))


def _cron_weekdays(weekdays: Sequence[int]) -> str:
    """Return ISO's weekdays as in a cron, where Sunday is 0."""
    first, last = weekdays[0], weekdays[-1]
    if 1 < len(weekdays) == last - first + 1 and last < SUNDAY:
        return f"{first}-{last}"
    return ",".join(str(one % SUNDAY) for one in weekdays)


def days_between(first: str, last: str) -> int:
    """Return how many days there are from one to another, both included."""
    return (date.fromisoformat(last) - date.fromisoformat(first) + timedelta(days=1)).days
