"""A sequential test of whether a series of losses has become larger than a reference's.

The statistic is Page's cumulative sum (E. S. Page, Continuous inspection schemes, Biometrika 41, 1954): it
adds up each partition's excess over the reference in ordinary deviations, minus an allowance, and never falls
below zero. It may be looked at on every partition. The threshold follows from the tolerated rate of false
alarms by the average run length of a Brownian motion (D. Siegmund, Sequential Analysis, 1985).

The past of the same difference shows what is ordinary: its deviation, and its mean in the worst month. A
model that was far better than the reference needs less evidence to be worse. It is assumed that a partition
resembles the one before it (an autoregression of the first order), that the deviation is about the same in
most months, and that the mean moves by less than `TOLERATED` of the reference beyond what the past shows.
`python -m benchmarks.live` counts the false alarms where series are autocorrelated, weekly, yearly and
heavy-tailed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, stdtrit

Array = NDArray[np.float64]

MONTH = 28  # partitions; a shorter past shows no deviation
ALLOWANCE = 0.5  # ordinary deviations by which partitions may exceed what is ordinary
TOLERATED = 0.05  # share of the reference's mean by which they may exceed it besides: a season may do that
MAX_STEP = 4.0  # ordinary deviations that a partition counts: a single wild one isn't an alarm
MAX_STATISTIC = 1.5  # times the threshold, so that an alarm ends soon after its cause
MIN_DEVIATION = 0.01  # in units of the reference's mean
DISCRETE_STEPS = 1.166  # see `alarm_threshold`
MIN_THRESHOLD = 4.0  # of an alarm: a normal tail says little about less
MAX_CORRELATION = 0.6
SMALLEST = 1e-12  # deviation, so that equal models can be compared
CAUTION = 0.1  # chance that the deviation is larger than the bound that counts as ordinary
# without a past: the deviation of a row's difference and of a partition's, in units of the reference's mean
ROW_DEVIATION, PARTITION_DEVIATION = 0.8, 0.1


@dataclass(frozen=True)
class PairedSums:
    """Sums of losses, or of what is compared in their place, by partition.

    Parameters
    ----------
    sums, reference : of the model and of what it is compared with, on the same rows, shape (n,).
    rows : rows of each partition, at least 1, shape (n,).
    """

    sums: Array
    reference: Array
    rows: Array

    def excess(self, ratio: float) -> Array:
        """Return by how much each partition's mean exceeds ``ratio`` times the reference's, shape (n,)."""
        return np.asarray((self.sums - ratio * self.reference) / self.rows)

    @property
    def reference_mean(self) -> float:
        """The reference's mean per row."""
        return float(np.abs(self.reference).sum() / self.rows.sum())


@dataclass(frozen=True)
class LossLimits:
    """What counts as no change, and the statistic from which a change is an alarm.

    Parameters
    ----------
    ratio : the multiple of the reference that the model's losses are compared with.
    deviation : of a partition's mean excess over it, per row; autocorrelation is included.
    size : the reference's mean per row. Harder rows vary more: where it is larger, the variance grows alike.
    allowance : ordinary deviations by which a partition may exceed it.
    threshold : the statistic of an alarm, in ordinary deviations.
    rows : from which a partition counts in full; one of fewer rows counts by its share of them.
    """

    ratio: float
    deviation: float
    size: float
    allowance: float
    threshold: float
    rows: float

    def statistic(self, live: PairedSums) -> Array:
        """Return the cumulative sum after each partition, in ordinary deviations, shape (n,)."""
        harder = np.maximum(np.abs(live.reference) / live.rows / max(self.size, SMALLEST), 1.0)
        deviation = self.deviation * np.sqrt(harder)
        steps = live.excess(self.ratio) * np.minimum(live.rows / self.rows, 1.0) / deviation
        statistic, total = np.empty(len(steps)), 0.0
        for index, step in enumerate(np.clip(steps, -MAX_STEP, MAX_STEP)):
            total = min(max(total + step - self.allowance, 0.0), MAX_STATISTIC * self.threshold)
            statistic[index] = total
        return statistic


def loss_limits(
    past: PairedSums | None, live: PairedSums, alarms: float, *, past_ratio: bool = False
) -> LossLimits:
    """Return what counts as no change, by the past, and by a rule of thumb where that is short of a month.

    Parameters
    ----------
    past : at least two partitions before those that are judged; None without any.
    live : the partitions that are judged. Without a past, they say how large losses are.
    alarms : tolerated false alarms in a partition, in (0, 1).
    past_ratio : whether the model is compared with its ratio to the reference in the past, which is then
        needed; otherwise it must not exceed the reference.
    """
    basis = live if past is None else past
    rows, n, size = float(np.median(basis.rows)), len(basis.rows), basis.reference_mean
    ratio = float(basis.sums.sum() / basis.reference.sum()) if past_ratio and basis.reference.any() else 1.0
    months = np.array_split(basis.excess(ratio) * np.minimum(basis.rows / rows, 1.0), max(n // MONTH, 1))
    if past is not None and n >= MONTH:
        deviation = max(long_run_deviation(months), MIN_DEVIATION * size, SMALLEST)
    else:
        share = math.hypot(ROW_DEVIATION / math.sqrt(rows), PARTITION_DEVIATION)
        deviation = max(share * size, SMALLEST)
    null = 0.0
    if past is not None:  # the mean in the worst month, or the mean's upper bound
        reach = float(stdtrit(n - 1, 1 - CAUTION)) * deviation / math.sqrt(n)
        mean = max(float(np.concatenate(months).mean()) + reach, *(float(month.mean()) for month in months))
        null = min(mean / deviation, ALLOWANCE if past_ratio else 0.0)
    allowance = max(null + ALLOWANCE, 0.0)
    threshold = max(alarm_threshold(allowance - null, 1 / alarms), MIN_THRESHOLD)
    return LossLimits(ratio, deviation, size, allowance + TOLERATED * size / deviation, threshold, rows)


def long_run_deviation(months: Sequence[Array]) -> float:
    """Return the deviation of independent values whose sums would vary as those of a series do.

    Parameters
    ----------
    months : consecutive parts of the series, each of at least 3 values.

    Returns
    -------
    float
        A bound that is too small with a chance of `CAUTION`, as if the values were normal.

    Notes
    -----
    The variance is s² (1 + r) / (1 - r), that of an autoregression of the first order with autocorrelation r,
    whose estimate from n values is too small by (1 + 4r) / n (F. H. C. Marriott and J. A. Pope, Bias in the
    estimation of autocorrelations, Biometrika 41, 1954). It is the median of the months' variances: a month
    in which the relation broke is not ordinary.
    """
    variances = []
    for month in months:
        centered = month - month.mean()
        total = float(np.square(centered).sum())
        r = float((centered[1:] * centered[:-1]).sum()) / total if total else 0.0
        r = min(max(r + (1 + 4 * r) / len(month), 0.0), MAX_CORRELATION)
        variances.append(total / (len(month) - 1) * (1 + r) / (1 - r))
    freedom = sum(map(len, months)) - len(months)
    return math.sqrt(float(np.median(variances)) * freedom / float(chdtri(freedom, 1 - CAUTION)))


def alarm_threshold(allowance: float, partitions: float) -> float:
    """Return the statistic that is reached once in a number of partitions on average without a change.

    Notes
    -----
    The average run length of a Brownian motion without drift is (e^(2ka) - 2ka - 1) / (2k²) for the allowance
    k and the threshold a; it is solved for a. Sums of normal steps reach a threshold that is lower by
    2 · 0.583 as rarely (Siegmund's correction).
    """
    threshold = 1.0
    for _ in range(50):
        threshold = math.log(1 + 2 * allowance * threshold + 2 * allowance**2 * partitions) / (2 * allowance)
    return threshold - DISCRETE_STEPS
