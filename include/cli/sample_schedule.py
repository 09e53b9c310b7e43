"""Finds the schedule whose partitions are the days of a sample, or their hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

import pandas as pd

from include.spec.clock import Clock

HOUR, TRAINING_HOUR = 6, 8
MARGIN = timedelta(minutes=5)  # from the time of an hour's rows to its decision
SUNDAY = 7  # of ISO's weekdays
YEAR = 12  # months
HOURS = 24  # of a day
SEEN = 2  # weeks or years, from which a schedule of some of their days or months is proposed
ENOUGH = 0.5  # share of its partitions that have rows


@dataclass(frozen=True)
class SampleSchedule:
    """A schedule of one partition a day, or of one for each of some hours.

    Parameters
    ----------
    days, training : the last three fields of the crons.
    what : the days' pattern, as a comment continues "sample: 40 days"; empty for each day.
    season, length : ``week`` or ``year``, and its days; 1 if it has one, or wasn't seen.
    step : what ``offset`` counts from one partition to the next: days, or partitions if a day has several; 0
        if it isn't always the same.
    time, per_day : the first two fields of the cron, and the partitions of a day.
    """

    days: str
    training: str
    what: str
    season: str
    length: int
    step: int
    time: str = f"0 {HOUR}"
    per_day: int = 1

    @property
    def clock(self) -> Clock:
        """Return the clock of its partitions."""
        return Clock(f"{self.time} {self.days}", "UTC")

    @property
    def seasons(self) -> dict[str, int]:
        """The partitions of each season that has several."""
        days = {self.season: self.length * self.per_day} if self.length > 1 else {}
        return ({"day": self.per_day} if self.per_day > 1 else {}) | days


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


def schedule_of_hours(times: pd.Series) -> SampleSchedule | None:
    """Return the schedule with a partition for each hour that has rows; None if rows have several minutes.

    Parameters
    ----------
    times : of the rows, in UTC.
    """
    decisions = pd.DatetimeIndex(times.unique()).sort_values() + MARGIN
    hours = sorted(set(decisions.hour))
    if len(hours) == 1 or len({at.time().replace(hour=0) for at in decisions}) > 1 or decisions[0].second:
        return None
    days = schedule_of(sorted(set(decisions.strftime("%Y-%m-%d"))))
    step = hours[1] - hours[0]
    fields = "*" if step == 1 else f"*/{step}"
    if hours != [*range(0, HOURS, step)]:
        fields = ",".join(map(str, hours))
    schedule = replace(days, time=f"{decisions[0].minute} {fields}", per_day=len(hours), step=1)
    first, last = (f"{at:%Y-%m-%d}" for at in (decisions[0], decisions[-1]))
    return schedule if len(decisions) >= ENOUGH * len(schedule.clock.keys(first, last)) else None


def _cron_weekdays(weekdays: Sequence[int]) -> str:
    """Return ISO's weekdays as in a cron, where Sunday is 0."""
    first, last = weekdays[0], weekdays[-1]
    if 1 < len(weekdays) == last - first + 1 and last < SUNDAY:
        return f"{first}-{last}"
    return ",".join(str(one % SUNDAY) for one in weekdays)
