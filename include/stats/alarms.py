"""Limits of sudden changes: how far a column may move from its recent past before it raises an alarm.

A partition is compared with the partitions just before it, not with the training's, because a season moves
both slowly while a broken feed jumps. Columns differ a thousandfold in how far they move without any fault
(weather against timetables), so each is measured in units of its own spread. How many spreads raise an alarm
is one number for all columns, chosen so that a year without faults brings at most the declared number of
alerts.

That year is resampled from the reference's partitions by a local block bootstrap (Paparoditis and Politis,
Local block bootstrap, C. R. Math. 335, 2002): in whole weeks of about the same season, all columns together,
which preserves the correlation of the columns and the weekday. The largest of all columns decides, which
corrects for their number (Westfall and Young, Resampling-based multiple testing, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from include.spec.stages import SuddenChanges
from include.stats.drift_measures import psi

Array = NDArray[np.float64]
WEEK, YEAR = 7, 364  # days
MIN_SCORES = 14  # of a column, from which its spread is measured
WEEKS_AROUND = 8  # how many weeks away a week of the resampled year may be drawn
YEARS = 20  # resampled years: the limit's own noise is then below that of two months of partitions
MIN_SPREAD = 0.2  # of a column's logarithms, because that of few partitions may be zero by chance
BISECTIONS = 30  # of the number of spreads
# share of the tolerable rate that is used: a season to come is wilder than those in the past
# (docs/explanation/drift-and-alarms.md)
CAUTION = 0.25


@dataclass(frozen=True)
class AlarmLimits:
    """The change from which each column raises an alarm.

    Parameters
    ----------
    median_log_score : by column, of the logarithm of its break scores.
    log_score_spread : by column, the 90 % quantile of that logarithm minus the median.
    spreads : how many spreads above the median the threshold is, the same for all columns.
    """

    median_log_score: Mapping[str, float]
    log_score_spread: Mapping[str, float]
    spreads: float

    def threshold(self, column: str) -> float:
        """Return a column's threshold."""
        return threshold(self.median_log_score[column], self.log_score_spread[column], self.spreads)


def threshold(median_log_score: float, log_score_spread: float, spreads: float) -> float:
    """Return the break score above which a column raises an alarm, from its parts in `AlarmLimits`."""
    return float(np.exp(median_log_score + spreads * log_score_spread))


def break_scores(counts: Array, past: int) -> Array:
    """Return how far each partition is from the ``past`` partitions before it.

    The score is the population stability index, with half a row added to each bin, plus the value that
    independent rows would reach on average, (bins - 1)(1/n + 1/m). The latter keeps the ratio of two tiny
    scores near 1.

    Parameters
    ----------
    counts : rows by partition and bin, partitions ascending, shape (..., partitions, bins).

    Returns
    -------
    array
        shape (..., partitions), not negative; NaN for the first ``past`` partitions, and where either side is
        empty.
    """
    sums = np.cumsum(counts, axis=-2)
    zero = np.zeros_like(sums[..., :1, :])
    cumulative = np.concatenate([zero, sums], axis=-2)
    before, partition = cumulative[..., past:-1, :] - cumulative[..., : -past - 1, :], counts[..., past:, :]
    n, m = before.sum(axis=-1), partition.sum(axis=-1)
    with np.errstate(divide="ignore"):
        noise = (counts.shape[-1] - 1) * (1 / n + 1 / m)
    scores = psi(before, partition) + noise
    scores = np.where(np.isfinite(noise), scores, np.nan)
    without_past = np.full((*scores.shape[:-1], min(past, counts.shape[-2])), np.nan)
    return np.concatenate([without_past, scores], axis=-1)


def persistent(high: NDArray[np.bool_], rules: SuddenChanges) -> NDArray[np.bool_]:
    """Return where a partition is above its limit, and as many of the last partitions as the rules require.

    Parameters
    ----------
    high : whether a partition is above its limit, shape (..., partitions); the result has the same shape.
    """
    cumulative = np.cumsum(high, axis=-1)
    earlier = np.zeros_like(cumulative)
    earlier[..., rules.of :] = cumulative[..., : -rules.of]
    return high & (cumulative - earlier >= rules.partitions)


def alert_starts(alarm: NDArray[np.bool_], quiet: int) -> NDArray[np.bool_]:
    """Return the partitions that send an alert: alarms, but none within ``quiet`` partitions of an alert."""
    alerts = np.zeros_like(alarm)
    quiet_until = 0
    for partition in np.flatnonzero(alarm):
        if partition >= quiet_until:
            alerts[partition], quiet_until = True, int(partition) + quiet
    return alerts


def alarm_limits(
    counts: Mapping[str, Array], rules: SuddenChanges, seed: int, *, week: int = WEEK
) -> AlarmLimits | None:
    """Return the limits that keep the declared alert rate in resampled years; None for too few partitions.

    Parameters
    ----------
    counts : by column, rows by partition and bin, the same partitions ascending, shape (partitions, bins).
    week : the number of partitions in a week.
    """
    partitions = min((len(rows) for rows in counts.values()), default=0)
    if partitions < rules.past + 3 * week:
        return None
    names, medians, spreads = sorted(counts), {}, {}
    for name in names:
        scores = np.log(break_scores(counts[name], rules.past)[rules.past :])
        scores = scores[np.isfinite(scores)]
        if len(scores) >= MIN_SCORES:  # a column that is mostly missing has no spread
            medians[name] = float(np.median(scores))
            spreads[name] = max(float(np.quantile(scores, 0.9)) - medians[name], MIN_SPREAD)
    if not medians:
        return None
    years = resample_years(partitions, rules.past + YEAR // WEEK * week, YEARS, seed, week=week)
    scaled = []
    for name, center in medians.items():  # year by year, which bounds the memory
        scores = np.stack([break_scores(counts[name][year], rules.past)[rules.past :] for year in years])
        scaled.append((np.log(scores) - center) / spreads[name])
    threshold_spreads = _threshold_spreads(np.nan_to_num(np.stack(scaled), nan=-np.inf), rules, week)
    return AlarmLimits(medians, spreads, threshold_spreads)


def resample_years(
    partitions: int, length: int, years: int, seed: int, *, week: int = WEEK
) -> NDArray[np.intp]:
    """Return indexes of partitions that form resampled years, in whole weeks of about the same season.

    Returns
    -------
    array
        shape (years, length rounded down to weeks).
    """
    weeks = partitions // week
    random = np.random.default_rng(seed)
    centers = np.linspace(0, weeks - 1, length // week).round().astype(int)
    drawn = centers + random.integers(-WEEKS_AROUND, WEEKS_AROUND + 1, (years, len(centers)))
    starts = np.clip(drawn, 0, weeks - 1) * week + partitions % week  # the newest weeks are whole
    return np.asarray((starts[..., None] + np.arange(week)).reshape(years, -1), dtype=np.intp)


def _threshold_spreads(scaled: Array, rules: SuddenChanges, week: int) -> float:
    """Return the lowest number of spreads at which the years bring no more alerts than are tolerable.

    Parameters
    ----------
    scaled : break scores in spreads above the median, shape (columns, years, partitions).
    """
    low, high = 0.0, float(scaled.max(initial=0.0, where=np.isfinite(scaled))) + 1.0
    allowed = (
        CAUTION * rules.false_alarms_per_year * scaled.shape[1] * scaled.shape[2] / (365.25 * week / WEEK)
    )
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        alarm = np.any(persistent(scaled > middle, rules), axis=0)
        alerts = sum(int(alert_starts(year, rules.quiet).sum()) for year in alarm)
        low, high = (low, middle) if alerts <= allowed else (middle, high)
    return high


def judge_newest(counts: Array, limit: float, rules: SuddenChanges) -> tuple[float, bool]:
    """Return the newest partition's break score and whether it raises an alarm.

    Parameters
    ----------
    counts : of the past and the last ``rules.of`` partitions, shape (partitions, bins); a past that is
        shorter than declared is used as it is.
    """
    scores = break_scores(counts, min(rules.past, len(counts) - rules.of))
    return float(scores[-1]), bool(persistent(scores > limit, rules)[-1])
