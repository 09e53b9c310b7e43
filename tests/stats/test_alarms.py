"""A column that jumps away from the weeks before is an alarm, and rarely otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.spec.stages import SuddenChanges
from include.stats.alarms import (
    alarm_limits,
    alert_starts,
    break_scores,
    judge_newest,
    persistent,
    resample_years,
)
from tests.stats.feeds import HISTORY, ROWS, YEAR, Counts, feed

RULES = SuddenChanges()


def told(counts: dict[str, Counts], start: int) -> int:
    """Return how many alerts a year from ``start`` on brings, with limits from the partitions before."""
    made = alarm_limits({name: rows[:start] for name, rows in counts.items()}, RULES, 7)
    assert made is not None
    high = np.stack([break_scores(rows, RULES.past) > made.threshold(name) for name, rows in counts.items()])
    return int(alert_starts(np.any(persistent(high, RULES), axis=0)[start:], RULES.quiet).sum())


@pytest.mark.full
@pytest.mark.parametrize("season", [0.0, 1.0])
def test_clean_years_bring_no_more_alerts_than_promised(season: float) -> None:
    """Nor does a season that moves every column by one of its standard deviations, up and down."""
    found = [told(feed(HISTORY + YEAR, seed, season=season), HISTORY) for seed in range(12)]
    assert sum(found) <= len(found) * RULES.false_alarms_per_year, found


@pytest.mark.parametrize("column", ["c0", "c3"])
def test_a_broken_feed_is_told_on_its_second_partition(column: str) -> None:
    """All values of a column moved by two of its standard deviations at once."""
    counts = feed(HISTORY + 10, 5)
    made = alarm_limits({name: rows[:HISTORY] for name, rows in counts.items()}, RULES, 7)
    assert made is not None
    broken = counts[column].copy()
    broken[HISTORY:] = np.roll(broken[HISTORY:], 5, axis=1)
    alarms = [judge_newest(broken[: HISTORY + ahead], made.threshold(column), RULES)[1] for ahead in range(4)]
    assert alarms == [False, False, True, True]


@given(
    high=st.lists(st.booleans(), min_size=1, max_size=40),
    partitions=st.integers(1, 3),
    of=st.integers(3, 5),
    quiet=st.integers(1, 9),
)
def test_an_alarm_lasts_and_is_told_once_in_the_quiet_partitions(
    high: list[bool], partitions: int, of: int, quiet: int
) -> None:
    """An alarm has so many of the last partitions high, its own among them; alerts are that far apart."""
    rules = SuddenChanges(partitions=partitions, of=of, quiet=quiet)
    marks = np.array(high)
    found = persistent(marks, rules)
    for partition in range(len(high)):
        last = high[max(partition - of + 1, 0) : partition + 1]
        assert found[partition] == (high[partition] and sum(last) >= partitions)
    places = np.flatnonzero(alert_starts(found, quiet))
    assert set(places) <= set(np.flatnonzero(found))
    assert (np.diff(places) >= quiet).all()
    assert bool(len(places)) == bool(found.any())


@settings(deadline=None)
@given(partitions=st.integers(7, 400), length=st.integers(7, 400), seed=st.integers(0, 5))
def test_made_up_years_are_whole_weeks_of_the_history(partitions: int, length: int, seed: int) -> None:
    """Each week of them is seven consecutive partitions that begin on one weekday of the history."""
    weeks = resample_years(partitions, length, 3, seed).reshape(3, -1, 7)
    assert (np.diff(weeks, axis=2) == 1).all()
    assert (weeks.min(), weeks.max()) >= (0, 6)
    assert weeks.max() < partitions
    assert len(np.unique(weeks[..., 0] % 7)) == 1


def test_a_column_that_never_moves_never_alarms() -> None:
    """Nor does one without any value, or a history that is too short to tell."""
    still = np.tile([0.0, float(ROWS)], (HISTORY, 1))
    empty = np.zeros((HISTORY, 2))
    made = alarm_limits({"still": still, "empty": empty, **feed(HISTORY, 1)}, RULES, 7)
    assert made is not None
    assert "empty" not in made.median_log_score
    assert not judge_newest(still, made.threshold("still"), RULES)[1]
    assert np.isnan(judge_newest(empty, 1.0, RULES)[0])
    assert alarm_limits({"still": still[: RULES.past + 20]}, RULES, 7) is None
