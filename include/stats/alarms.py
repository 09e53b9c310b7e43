"""A column alarms when its partitions break with the weeks before as they never did, and rarely otherwise.

A partition is compared with the partitions just before it, not with the training's: a season moves slowly and
takes both along, a broken feed jumps. How far a column jumps without any fault differs a thousandfold between
columns (weather against timetables), so each is measured in its own spread; how many spreads are too many is
one number for all columns, chosen so that a clean year would bring as many alerts as were declared to be
tolerable. The year is resampled from the reference's partitions, in whole weeks of about the same season, all
columns together, so it keeps what they have in common, and the weekday: a local block bootstrap (Paparoditis
and Politis, Local block bootstrap, C. R. Math. 335, 2002). The largest of all columns decides, which is the
correction for their number (Westfall and Young, Resampling-based multiple testing, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from include.spec.stages import SuddenChanges

Array = NDArray[np.float64]
WEEK, YEAR = 7, 364
AROUND = 8  # weeks to either side from which a week of the resampled year is drawn
YEARS = 20  # resampled ones: the limit's own noise is then below that of two months of partitions
LEAST_SPREAD = 0.2  # of a column's logarithms, since that of few partitions may be nil by chance
HALVINGS = 30
# of the tolerable rate: a season that has not been is wilder than those that were
# (docs/explanation/drift-and-alarms.md)
CAUTION = 0.25


@dataclass(frozen=True)
class AlarmLimits:
    """From where on a column alarms.

    Parameters
    ----------
    middle, spread : by column, of the logarithm of its breaks: median, and 90 % quantile less median.
    height : spreads above the middle from which a break is one, the same for all columns.
    """

    middle: Mapping[str, float]
    spread: Mapping[str, float]
    height: float

    def of(self, column: str) -> float:
        """Return the break, as `breaks` measures it, from which a column alarms."""
        return float(np.exp(self.middle[column] + self.height * self.spread[column]))


def break_scores(counts: Array, past: int) -> Array:
    """Return how far each partition is from the ``past`` partitions before it.

    It is the population stability index, with half a row added to each bin, plus what independent rows would
    reach on average, (bins - 1)(1/n + 1/m), which keeps the ratio of two tiny breaks near 1.

    Parameters
    ----------
    counts : rows by partition and bin, partitions in their order, shape (..., partitions, bins).

    Returns
    -------
    array
        shape (..., partitions), not negative; NaN for the first ``past`` partitions, and where either side is
        empty.
    """
    sums = np.cumsum(counts, axis=-2)
    zero = np.zeros_like(sums[..., :1, :])
    upto = np.concatenate([zero, sums], axis=-2)
    before, partition = upto[..., past:-1, :] - upto[..., : -past - 1, :], counts[..., past:, :]
    n, m = before.sum(axis=-1), partition.sum(axis=-1)
    p, q = before + 0.5, partition + 0.5
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        noise = (counts.shape[-1] - 1) * (1 / n + 1 / m)
    found = ((q - p) * np.log(q / p)).sum(axis=-1) + noise
    found = np.where(np.isfinite(noise), found, np.nan)
    return np.concatenate([np.full((*found.shape[:-1], min(past, counts.shape[-2])), np.nan), found], axis=-1)


def persistent(high: NDArray[np.bool_], rules: SuddenChanges) -> NDArray[np.bool_]:
    """Return where a partition is high and so many of the last partitions were too, shape as given (.

    Partitions).
    """
    upto = np.cumsum(high, axis=-1)
    earlier = np.zeros_like(upto)
    earlier[..., rules.of :] = upto[..., : -rules.of]
    return high & (upto - earlier >= rules.partitions)


def alert_starts(alarm: NDArray[np.bool_], quiet: int) -> NDArray[np.bool_]:
    """Return the partitions on which a person hears of it.

    An alarm, after ``quiet`` partitions without one told.
    """
    told = np.zeros_like(alarm)
    free = 0
    for partition in np.flatnonzero(alarm):
        if partition >= free:
            told[partition], free = True, int(partition) + quiet
    return told


def alarm_limits(counts: Mapping[str, Array], rules: SuddenChanges, seed: int) -> AlarmLimits | None:
    """Return the limits that keep the promised rate on years of these partitions.

    None where they are too few.

    Parameters
    ----------
    counts : by column, rows by partition and bin, the same partitions in their order, shape (partitions,
        bins).
    """
    partitions = min((len(rows) for rows in counts.values()), default=0)
    if partitions < rules.past + 3 * WEEK:
        return None
    names, middle, spread = sorted(counts), {}, {}
    for name in names:
        seen = np.log(break_scores(counts[name], rules.past)[rules.past :])
        seen = seen[np.isfinite(seen)]
        if len(seen) >= 2 * WEEK:  # a column that mostly isn't there has no spread
            middle[name] = float(np.median(seen))
            spread[name] = max(float(np.quantile(seen, 0.9)) - middle[name], LEAST_SPREAD)
    if not middle:
        return None
    years = resample_years(partitions, rules.past + YEAR, YEARS, seed)
    scaled = [
        (np.log(break_scores(counts[name][years], rules.past)[:, rules.past :]) - middle[name]) / spread[name]
        for name in names
        if name in middle
    ]
    return AlarmLimits(middle, spread, _height(np.nan_to_num(np.stack(scaled), nan=-np.inf), rules))


def resample_years(partitions: int, length: int, years: int, seed: int) -> NDArray[np.intp]:
    """Return places of partitions in made-up years: whole weeks from about the same part of the history.

    Returns
    -------
    array
        shape (years, length rounded down to weeks).
    """
    weeks = partitions // WEEK
    random = np.random.default_rng(seed)
    there = np.linspace(0, weeks - 1, length // WEEK).round().astype(int)
    moved = there + random.integers(-AROUND, AROUND + 1, (years, len(there)))
    starts = np.clip(moved, 0, weeks - 1) * WEEK + partitions % WEEK  # the newest weeks are whole
    return np.asarray((starts[..., None] + np.arange(WEEK)).reshape(years, -1), dtype=np.intp)


def _height(scaled: Array, rules: SuddenChanges) -> float:
    """Return the least height at which the years, shape (columns, years, partitions).

    Bring no more alerts.
    """
    low, high = 0.0, float(scaled.max(initial=0.0, where=np.isfinite(scaled))) + 1.0
    allowed = CAUTION * rules.false_alarms_per_year * scaled.shape[1] * scaled.shape[2] / 365.25
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        alarm = np.any(persistent(scaled > middle, rules), axis=0)
        found = sum(int(alert_starts(year, rules.quiet).sum()) for year in alarm)
        low, high = (low, middle) if found <= allowed else (middle, high)
    return high


def judge_newest(counts: Array, limit: float, rules: SuddenChanges) -> tuple[float, bool]:
    """Return the newest partition's break and whether it alarms.

    Parameters
    ----------
    counts : of the past and the last ``rules.of`` partitions, shape (partitions, bins); a past that is
        shorter than declared is compared as it is.
    """
    seen = break_scores(counts, min(rules.past, len(counts) - rules.of))
    return float(seen[-1]), bool(persistent(seen > limit, rules)[-1])
