"""Confidence bounds of a difference in loss, where rows of one partition or of neighbors are correlated.

The partitions are the sample, not the rows. The standard error is that of the circular block bootstrap over
partitions in closed form. It needs no random draws, so it needs no seed, and no number of resamples limits
the level that can be reached. Quantiles of the bootstrap itself were tried and rejected: on a dozen
partitions they promote noise more than twice as often as their level states. `tests/stats/test_intervals.py`
shows both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from include.stats.formatting import figure_and_limit

Array = NDArray[np.float64]
TIGHTEST = 20  # blocks at which a confidence sequence is tightest
MIN_BLOCKS = 5  # from which the variance of blocks is estimated


@dataclass(frozen=True)
class Gain:
    """A mean gain per row and its lower confidence bound; ``level`` is that of the bound, 1 - alpha."""

    mean: float
    low: float
    level: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, inf)"

    def interval_and_limit(self, limit: float) -> tuple[str, str]:
        """Return the interval as text, and the limit that the lower bound is compared with."""
        low, bound = figure_and_limit(self.low, limit)
        return f"{self.mean:.4g} [{low}, inf)", bound


def partitions_needed(block: int) -> int:
    """Return the fewest partitions from which a variance can be estimated: two blocks."""
    return 2 * block


def estimate_gain(
    worse: Sequence[float], better: Sequence[float], rows: Sequence[int], block: int, alpha: float
) -> Gain:
    """Return how much lower the second model's loss per row is, with a one-sided lower bound.

    Parameters
    ----------
    worse, better : each partition's sum of row losses of the two models, on the same rows, shape (n,), n at
        least 2.
    rows : labeled rows of each partition, shape (n,).
    block : the number of consecutive partitions that are resampled together, at most half of them.
    alpha : the probability that the bound is above the true gain, in (0, 0.5).
    """
    saved = np.asarray(worse, float) - np.asarray(better, float)
    mean, low = gain_bounds(saved, np.asarray(rows, float), block, np.asarray(alpha))
    return Gain(float(mean), float(low), 1 - alpha)


@dataclass(frozen=True)
class Rate:
    """A group's rate, as sums by partition.

    Parameters
    ----------
    sums, rows : numerator and denominator, shape (n,).
    events : rows of the denominator with the event whose chance makes the rate uncertain, shape (n,).
    """

    sums: Array
    rows: Array
    events: Array

    @property
    def value(self) -> float:
        """The rate over all partitions; there must be rows."""
        return float(self.sums.sum() / self.rows.sum())


@dataclass(frozen=True)
class RateComparison:
    """The difference or ratio of two rates with one-sided bounds, each wrong with a probability of alpha."""

    value: float
    low: float
    high: float


def compare_rates(larger: Rate, smaller: Rate, *, ratio: bool, block: int, alpha: float) -> RateComparison:
    """Return the difference of two rates or, for a ratio, the smaller by the larger, which isn't 0 then.

    Parameters
    ----------
    larger, smaller : of the same partitions, at least two of which have rows.
    block, alpha : as in `estimate_gain`.

    Notes
    -----
    The variance is that of the linearized figure over blocks of partitions, as in `gain_bounds`, and at
    least the binomial one, for which one row with the event and one without are added to each rate (Agresti
    and Coull 1998). Partitions that agree by chance, as those of a group without an event, would make it 0.
    """
    value = smaller.value / larger.value if ratio else larger.value - smaller.value
    slopes = (-value / larger.value, 1 / larger.value) if ratio else (1.0, -1.0)
    present = larger.rows + smaller.rows > 0
    residuals, binomial = np.zeros(np.count_nonzero(present)), 0.0
    for rate, slope in zip((larger, smaller), slopes, strict=True):
        rows = float(rate.rows.sum())
        share = (float(rate.events.sum()) + 1) / (rows + 2)
        residuals += slope * (rate.sums - rate.value * rate.rows)[present] / rows
        binomial += slope**2 * share * (1 - share) / rows
    _, variance, blocks = _moments(residuals, np.ones_like(residuals), block)
    variance_of_sum = float(variance) * len(residuals) ** 2
    margin = float(stdtrit(blocks - 1, 1 - alpha)) * max(variance_of_sum, binomial) ** 0.5
    return RateComparison(value, value - margin, value + margin)


def gain_bounds(saved: Array, rows: Array, block: int, alpha: Array) -> tuple[Array, Array]:
    """Return the mean gain per row and its lower bound, for many windows of partitions at once.

    Parameters
    ----------
    saved : by how much the second model's loss is lower, by partition, shape (..., n).
    rows : labeled rows of each partition, shape (..., n).
    alpha : as in `estimate_gain`, of a shape that broadcasts with the windows', (...).

    Notes
    -----
    The mean is the ratio of sums, so that a partition counts by its rows; its variance is that of the
    linearized ratio, Var* = sum over i of W_i^2 / (b R^2), where W_i sums b residuals from partition i on,
    round the circle, and R is all rows (Politis and Romano 1992, A circular block-resampling procedure for
    stationary data). With k = n / b blocks it is too small by (k - 1) / k, which is put right, and Student's
    t with k - 1 degrees of freedom stands for its own uncertainty. Overlapping blocks are a Bartlett kernel
    and worth 1.5 k of them (Priestley 1981, Spectral Analysis and Time Series, 6.2); with that figure, more
    noise passes than alpha allows (tests/stats/test_intervals.py), since the kernel leaves out
    part of what partitions have in common with their neighbors.
    """
    mean, variance, blocks = _moments(saved, rows, block)
    return mean, mean - stdtrit(blocks - 1, 1 - alpha) * np.sqrt(variance)


def gain_sequence(gains: Sequence[float], block: int, alpha: float) -> Gain:
    """Return a mean gain with a lower bound that holds after every partition at once.

    It may be looked at as often as one likes: the chance that any of the bounds is ever above the true gain
    is at most ``alpha``, asymptotically.

    Parameters
    ----------
    gains : the gain per row of each partition, shape (n,).
    block : the number of consecutive partitions whose mean counts as one observation.

    Notes
    -----
    The one-sided asymptotic confidence sequence of I. Waudby-Smith, D. Arbour, R. Sinha, E. H. Kennedy and A.
    Ramdas, Time-uniform central limit theory and asymptotic confidence sequences, Annals of Statistics 52,
    2024, proposition B.1, tightest at `TIGHTEST` blocks. It assumes blocks that are nearly independent with a
    finite variance. The normal quantile that it implies is replaced by Student's t, since with few blocks
    their variance is uncertain: without it, noise was proven better in up to 8 % of sequences at 5 %.
    """
    values = np.asarray(gains, dtype=np.float64)
    blocks = len(values) // block
    if blocks < MIN_BLOCKS:
        return Gain(float(values.mean()) if len(values) else math.nan, -math.inf, 1 - alpha)
    means = values[len(values) - blocks * block :].reshape(blocks, block).mean(axis=1)
    tail = -2 * math.log(2 * min(alpha, 0.1))  # at higher levels the rate would make the bound looser
    rate = (tail + math.log(1 + tail)) / TIGHTEST
    spread = 2 * (blocks * rate + 1) / (blocks * rate)
    normal = math.sqrt(spread * math.log(1 + math.sqrt(blocks * rate + 1) / (2 * alpha)))
    reach = -float(stdtrit(blocks - 1, ndtr(-normal))) / math.sqrt(blocks)
    return Gain(float(means.mean()), float(means.mean() - means.std(ddof=1) * reach), 1 - alpha)


def _moments(saved: Array, rows: Array, block: int) -> tuple[Array, Array, float]:
    total = rows.sum(axis=-1)
    mean = saved.sum(axis=-1) / total
    residuals = saved - mean[..., None] * rows
    block = min(block, residuals.shape[-1] // 2)
    blocks = residuals.shape[-1] / block
    sums = sum((np.roll(residuals, -offset, axis=-1) for offset in range(1, block)), residuals)
    variance = np.square(sums).sum(axis=-1) / block / total**2 * blocks / (blocks - 1)
    return mean, variance, blocks
