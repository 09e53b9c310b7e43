"""A column has drifted when its window is further from the reference than the reference's own windows are.

Rows of one partition share their weather and their season, so a week differs from two months by far more than
chance among independent rows explains: in the year of the demo's data, a week of temperatures has a
population stability index (PSI) of 1 to 6 against its own two months, where a textbook's threshold is 0.25.
So the figure is judged against what the training's own windows of as many partitions reach, each against the
rest, and against the noise of independent rows, whichever is higher; the declared threshold is the least
that counts as drift. That holds of what is declared under `monitoring.measure`: of the stability index and
Jensen–Shannon's distance as told; of the Kolmogorov–Smirnov distance by threshold and noise, and of
Wasserstein's by threshold alone, since counts by bin can't say how far the reference's own windows are apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from include.monitor.findings import Finding
from include.spec.stages import Monitoring
from include.stats import drift_measures
from include.stats.drift_measures import BINNED, NAMES, Binning, Counts, psi
from include.stats.formatting import figure_and_limit
from include.stats.profiles import Profile, merge_profiles

CHANCE = 0.001  # of an alarm by the noise of independent rows alone, for one column on one partition
ALWAYS_MISSING, ALWAYS_UNSEEN = (
    0.5,
    0.95,
)  # more than that in a partition is an alarm, whatever the reference had
BROKEN = 0.5  # share of a partition's values beyond what was known, from which it makes nothing known
BASE = 3  # partitions, the oldest of the last weeks
FEWEST_WINDOWS = 5  # of the reference, from which its own spread can be told


def sampling_noise(measure: str, bins: int, reference: float, current: float) -> float:
    """Return what two samples of one distribution stay below, but for a chance of `CHANCE`; 0.0: not known.

    For independent rows the PSI is about (1/n + 1/m)·χ² with bins − 1 degrees of freedom, so its mean is
    (bins − 1)(1/n + 1/m): B. Yurdakul and J. Naranjo, Statistical properties of the population stability
    index, Journal of Risk Model Validation 14(4), 2020. Jensen–Shannon's divergence, the square of the
    distance, is an eighth of it where both are small.

    Parameters
    ----------
    bins : ≥ 1.
    reference, current : rows of either side, > 0.
    """
    rows = 1 / reference + 1 / current
    chi2 = float(stats.chi2.isf(CHANCE, max(bins - 1, 1))) * rows
    ks = float(stats.kstwobign.isf(CHANCE)) * rows**0.5
    found: dict[str, float] = {"psi": chi2, "js": (chi2 / 8) ** 0.5, "ks": ks}
    return found.get(measure, 0.0)


def own_windows(
    total: Counts,
    partitions: Counts,
    learnt: NDArray[np.bool_],
    width: int,
    measure: Callable[[Counts, Counts], float] = psi,
) -> NDArray[np.float64]:
    """Return how far each window of the training's partitions is from the reference without that window.

    Parameters
    ----------
    total : the reference's counts, shape (bins,).
    partitions : counts by partition in their order, shape (partitions, bins).
    learnt : which of the partitions are part of the reference, shape (partitions,); the others followed it.
    width : partitions in a window.
    """
    found = []
    for first in range(len(partitions) - width + 1):
        window = slice(first, first + width)
        # the profile is exact but for a few rows in a thousand: no bin may fall below none
        rest = np.maximum(total - partitions[window][learnt[window]].sum(axis=0), 0)
        current = partitions[window].sum(axis=0)
        if rest.sum() and current.sum():
            found.append(measure(rest, current))
    return np.array(found)


@dataclass(frozen=True)
class LearnedColumn:
    """A column as the serving model learnt it.

    Parameters
    ----------
    profile : of the reference.
    partitions : exact counts by partition and bin, shape (partitions, bins).
    learnt : which of those partitions are part of the reference, shape (partitions,).
    missing : by partition, the share of its rows without a value.
    unseen : by partition, the share of its values beyond what every other partition holds. None: not known by
        partition.
    """

    profile: Profile
    cut: Binning
    partitions: Counts | None = None
    learnt: NDArray[np.bool_] | None = None
    missing: NDArray[np.float64] | None = None
    unseen: NDArray[np.float64] | None = None


class PartitionValues(NamedTuple):
    """What a partition had: its range, NaN of no number, and its categories."""

    low: float
    high: float
    names: frozenset[str]


def check_distribution(
    name: str, column: LearnedColumn, window: Profile, width: int, rules: Monitoring
) -> Finding:
    """Judge the column's distribution over a window of ``width`` partitions."""
    reference, current = column.cut.profile_counts(column.profile), column.cut.profile_counts(window)
    if not reference.sum() or not current.sum():
        side = "window" if reference.sum() else "reference"
        return Finding("drift", name, None, None, "not enough", f"{name} has no value in the {side}")
    measure = getattr(rules.measure, column.profile.kind)
    value = drift_measures.measure_drift(column.cut, column.profile, window)[measure]
    assert value is not None  # both sides have values, and each of these measures has one then
    floors = {
        "the declared threshold": getattr(rules, measure),
        "the noise of so few rows": sampling_noise(measure, len(reference), reference.sum(), current.sum()),
    }
    if measure in BINNED and column.partitions is not None and column.learnt is not None:
        own = own_windows(reference, column.partitions, column.learnt, width, BINNED[measure])
        if len(own) >= FEWEST_WINDOWS:
            floors[f"the furthest of the reference's own {width}-partition windows"] = float(own.max())
    which, threshold = max(floors.items(), key=lambda floor: floor[1])
    alarm = value > threshold
    side = "beyond" if alarm else "within"
    text, bound = figure_and_limit(value, threshold, 3)
    note = f"{name}: {NAMES[measure]} {text} over {width} partition(s) is {side} {which}, {bound}"
    return Finding("drift", name, value, threshold, "alarm" if alarm else "ok", note)


def check_missing(name: str, column: LearnedColumn, partition: Profile, rules: Monitoring) -> Finding:
    """Judge the rise of the missing share on one partition.

    Against the binomial noise of so few rows as well.
    """
    of = column.profile
    rise = partition.missing_share - of.missing_share
    own = None if column.missing is None else column.missing - of.missing_share
    threshold = _lenient(rules.missing, own, ALWAYS_MISSING)
    chance = float(
        stats.binom.sf(partition.missing - 1, partition.count, (of.missing + 0.5) / (of.count + 1))
    )
    alarm = rise > threshold and chance < CHANCE
    note = f"{name}: {partition.missing_share:.1%} missing, {of.missing_share:.1%} in the reference"
    risen, bound = figure_and_limit(rise, threshold, 1, "{:.#%}")
    note += f"; a rise of {risen}, {bound} is expected at most"
    return Finding("missing", name, rise, threshold, "alarm" if alarm else "ok", note)


def check_unseen(
    name: str,
    column: LearnedColumn,
    partition: Profile,
    rules: Monitoring,
    lately: Sequence[Mapping[str, Any]] = (),
) -> Finding:
    """Judge the share of a partition's values in no category, or beyond the range, of what is known.

    Known is what the reference holds, and what two of the last weeks' partitions had of it: a season is no
    alarm for as long as it lasts. Stray values don't count, nor does a partition that was itself mostly
    beyond what was known by then: a feed that breaks from one partition to the next stays an alarm while
    `lately` reaches back.

    Parameters
    ----------
    lately : the column's rows of `profiles` of those partitions.
    """
    of, present = column.profile, partition.count - partition.missing
    threshold = _lenient(rules.unseen, column.unseen, ALWAYS_UNSEEN)
    if not present or of.count == of.missing:
        why = f"{name} has no value in the {'reference' if present else 'partition'}"
        return Finding("unseen", name, None, threshold, "not enough", why)
    known: list[PartitionValues] = []
    for place, row in enumerate(row for row in lately if row["kind"] == of.kind):
        one = merge_profiles([row])[of.column]
        # the oldest have nothing of their time to be compared with
        if place < BASE or (_outside(of, one, known) or 0.0) <= BROKEN:
            known.append(_bulk(one, rules.unseen / 2))
    share = _outside(of, partition, known)
    if share is None:
        why = f"{name} has too many categories to tell which are new"
        return Finding("unseen", name, None, threshold, "not enough", why)
    chance = float(stats.binom.sf(round(share * present) - 1, present, 0.5 / (of.count + 1)))
    alarm = share > threshold and chance < CHANCE
    what = "beyond the range" if partition.kind == "numeric" else "in categories that are new to those"
    text, bound = figure_and_limit(share, threshold, 1, "{:.#%}")
    note = f"{name}: {text} of the partition's values are {what} of the reference"
    note += f" and the last weeks, {bound} are expected at most"
    return Finding("unseen", name, share, threshold, "alarm" if alarm else "ok", note)


def _lenient(declared: float, own: NDArray[np.float64] | None, always: float) -> float:
    """Return one partition's threshold.

    What the training's own partitions reached was no fault, up to a limit.
    """
    reached = float(own.max()) if own is not None and len(own) >= FEWEST_WINDOWS else 0.0
    return max(declared, min(reached, always))


def _bulk(partition: Profile, stray: float) -> PartitionValues:
    """Return a partition's range and categories without its outermost and its rarest values."""
    low, high = partition.quantiles((stray, 1 - stray))
    least = stray * (partition.count - partition.missing)
    return PartitionValues(
        low, high, frozenset(name for name, count in partition.items().items() if count >= least)
    )


def _outside(reference: Profile, partition: Profile, known: Sequence[PartitionValues]) -> float | None:
    """Return the share of a partition's values that neither the reference nor two partitions hold; None.

    Not told.
    """
    if partition.count == partition.missing:
        return 0.0
    if partition.kind == "categorical":
        partitions = Counter(name for one in known for name in one.names)
        return drift_measures.new_category_share(
            reference, partition, [name for name, count in partitions.items() if count > 1]
        )
    lows, highs = (
        sorted(v for v in ends if v == v) for ends in ([k.low for k in known], [k.high for k in known])
    )
    low, high = min([reference.low, *lows[1:2]]), max([reference.high, *highs[-2:-1]])
    below, up_to = partition.cdf((np.nextafter(low, -np.inf), high))
    return float(below + 1 - up_to)
