"""How sure a gain in loss is.

When the rows of one partition resemble each other and a partition resembles the next.

The partitions are the sample, not the rows. The standard error is that of the circular block bootstrap over
partitions, in its closed form: it needs no draws, so no seed, and no number of resamples bounds the level
that can be shown. Quantiles of the bootstrap itself were tried and dropped: on a dozen partitions they
promote noise more than twice as often as they say. `python -m pytest tests/stats/test_intervals.py` shows
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from include.stats.formatting import figure_and_limit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gain:
    """A mean gain per row and what it is at least, at a level."""

    mean: float
    low: float
    level: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, inf)"

    def beside(self, limit: float) -> tuple[str, str]:
        """Return it as text beside what the lower bound is compared with."""
        low, bound = figure_and_limit(self.low, limit)
        return f"{self.mean:.4g} [{low}, inf)", bound


def partitions_needed(block: int) -> int:
    """Return the fewest partitions from which a spread can be had: two blocks."""
    return 2 * block


def estimate_gain(
    worse: Sequence[float], better: Sequence[float], rows: Sequence[int], block: int, alpha: float
) -> Gain:
    """Return how much less the second model loses per row, with a one-sided lower bound.

    Parameters
    ----------
    worse, better : each partition's sum of per-row losses, on the same rows, shape (n,), n at least two
        blocks.
    rows : labelled rows of each partition, shape (n,).
    block : partitions that are resampled together.
    alpha : chance that the bound lies above the true gain, in (0, 0.5).
    """
    saved = np.asarray(worse, float) - np.asarray(better, float)
    mean, low = gain_bounds(saved, np.asarray(rows, float), block, np.asarray(alpha))
    return Gain(float(mean), float(low), 1 - alpha)


@dataclass(frozen=True)
class MeanEstimate:
    """A mean per row, its variance, and how many blocks of partitions it rests on."""

    mean: float
    variance: float
    blocks: float


def mean_and_variance(sums: Array, rows: Array, block: int) -> MeanEstimate:
    """Return the mean per row of a window of partitions and its variance, as `bounds` has them.

    Parameters
    ----------
    sums, rows : by partition, shape (n,), n at least two blocks.
    """
    mean, variance, blocks = _moments(sums, rows, block)
    return MeanEstimate(float(mean), float(variance), blocks)


def gain_bounds(saved: Array, rows: Array, block: int, alpha: Array) -> tuple[Array, Array]:
    """Return the mean gain per row and its lower bound, of many windows of partitions at once.

    Parameters
    ----------
    saved : what the second model loses less, by partition, shape (..., n).
    rows : labelled rows of each partition, shape (..., n).
    alpha : as in `gain`, of a shape that fits the windows', (...).

    Notes
    -----
    The mean is the ratio of sums, so that a partition counts by its rows; its variance is that of the
    linearised ratio, Var* = sum over i of W_i^2 / (b R^2), where W_i sums b residuals from partition i on,
    round the circle, and R is all rows (Politis and Romano 1992, A circular block-resampling procedure for
    stationary data). With k = n / b blocks it is too small by (k - 1) / k, which is put right, and Student's
    t with k - 1 degrees of freedom stands for its own uncertainty. Overlapping blocks are a Bartlett kernel
    and worth 1.5 k of them (Priestley 1981, Spectral Analysis and Time Series, 6.2); with that figure, more
    noise was promoted than alpha allows (docs/explanation/evidence.md), since the kernel leaves out
    part of what partitions have in common with their neighbours.
    """
    mean, variance, blocks = _moments(saved, rows, block)
    return mean, mean - stdtrit(blocks - 1, 1 - alpha) * np.sqrt(variance)


def _moments(saved: Array, rows: Array, block: int) -> tuple[Array, Array, float]:
    total = rows.sum(axis=-1)
    mean = saved.sum(axis=-1) / total
    rest = saved - mean[..., None] * rows
    blocks = rest.shape[-1] / block
    sums = sum((np.roll(rest, -partition, axis=-1) for partition in range(1, block)), rest)
    variance = np.square(sums).sum(axis=-1) / block / total**2 * blocks / (blocks - 1)
    return mean, variance, blocks
