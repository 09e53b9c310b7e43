"""Drift measures: the distance between two profiles of a column, as pure functions without thresholds.

A profile's cumulative shares have an error of at most 1 / 512 (`include.stats.profiles`). The
Kolmogorov–Smirnov distance is therefore within 1 / 256 of the rows' own, and the Wasserstein distance within
1 / 256 of the range of values. The population stability index and the Jensen–Shannon distance count values by
the reference's deciles or by its frequent categories.

Evidently 0.7 uses the same formulas over other bins (of equal width over both sides, and one for every
category), and reports the p-value of the Kolmogorov–Smirnov test. Over the same bins the figures agree, see
`tests/stats/test_drift_measures.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from include.stats.profiles import Profile
from include.stats.quantile_sketch import LG_ITEMS

Counts = NDArray[np.float64]
DECILES = tuple(share / 10 for share in range(1, 10))
RARE = 0.01  # categories with a smaller share of the reference are counted together
# standard deviation that a constant reference is given, so that a distance from it is finite; as in Evidently
MIN_STD = 0.001
SKETCH_ERROR = 3.5 / (1 << LG_ITEMS)  # of a category's count, as a share of all values, at most
MAX_UNCERTAIN = 0.5  # share of values of which it can't be told whether their categories are new
BY_KIND = {
    "numeric": ("psi", "js", "ks", "wasserstein", "missing"),
    "categorical": ("psi", "js", "new", "vanished", "missing"),
}
NAMES = {
    "psi": "PSI",
    "js": "Jensen–Shannon",
    "ks": "Kolmogorov–Smirnov",
    "wasserstein": "Wasserstein",
    "new": "new",
    "vanished": "vanished",
    "missing": "missing",
}


@dataclass(frozen=True)
class Binning:
    """The bins in which a column's values are counted: the reference's deciles, or its frequent categories.

    Parameters
    ----------
    edges : ascending; a bin holds the values above the previous edge, up to and including its own.
    names : categories with a bin of their own; the last bin holds all others. None for a numeric column.
    """

    edges: tuple[float, ...] = ()
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, reference: Profile) -> Binning:
        """Return the bins of a reference's profile; a constant column has one edge."""
        if reference.kind == "numeric":
            deciles = reference.quantiles(DECILES) if reference.count > reference.missing else []
            return cls(edges=tuple(sorted(set(deciles))))
        least = RARE * (reference.count - reference.missing)
        items = sorted(reference.items().items(), key=lambda item: (-item[1], item[0]))
        return cls(names=tuple(name for name, count in items if count >= least))

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return (len(self.edges) if self.names is None else len(self.names)) + 1

    def profile_counts(self, profile: Profile) -> Counts:
        """Return a profile's number of values in each bin, within the profile's error, shape (bins,)."""
        present = float(profile.count - profile.missing)
        if not present:
            return np.zeros(self.bins)
        if self.names is None:
            return np.diff([0.0, *profile.cdf(self.edges), 1.0]) * present
        items = profile.items()
        counts = [float(items.get(name, 0)) for name in self.names]
        return np.array([*counts, max(present - sum(counts), 0.0)])

    def bin_indexes(self, values: pa.Array) -> NDArray[np.intp]:
        """Return the index of each value's bin; no value may be missing."""
        if self.names is None:
            numbers: NDArray[np.float64] = values.to_numpy(zero_copy_only=False)
            return np.searchsorted(self.edges, numbers, side="left")
        indexes = pc.index_in(values, pa.array(self.names, pa.string())).fill_null(len(self.names))
        return np.asarray(indexes.to_numpy(zero_copy_only=False), dtype=np.intp)


def psi(reference: Counts, current: Counts) -> NDArray[np.float64]:
    """Return the population stability index of two counts over the same bins, or of each row of them.

    Half a row is added to each bin of both sides (Jeffreys' prior), so that an empty bin counts as rare and
    not as impossible.

    Parameters
    ----------
    reference, current : shape (bins,) or (n, bins), not negative.

    Returns
    -------
    ndarray of float64
        Sum of (q − p)·ln(q / p) over the bins, ≥ 0.0, shape () or (n,); the best value is 0.0.
    """
    p, q = reference + 0.5, current + 0.5
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    index: NDArray[np.float64] = ((q - p) * np.log(q / p)).sum(axis=-1)
    return index


def js(reference: Counts, current: Counts) -> NDArray[np.float64]:
    """Return the Jensen–Shannon distance of two counts over the same bins, from 0.0 (the best) to 0.833.

    Parameters
    ----------
    reference, current : shape (bins,) or (n, bins), not negative, and none all zeros. The logarithm is
        natural.
    """
    distance: NDArray[np.float64] = jensenshannon(reference, current, axis=-1)
    return distance


def ks(reference: Profile, current: Profile) -> float:
    """Return the Kolmogorov–Smirnov distance, 0.0 (the best) to 1.0; both sides must have values."""
    edges = np.union1d(reference.points, current.points)
    return float(np.abs(_cdf(reference, edges) - _cdf(current, edges)).max())


def wasserstein(reference: Profile, current: Profile) -> float:
    """Return the Wasserstein distance in the reference's standard deviations, ≥ 0.0; both need values."""
    edges = np.union1d(reference.points, current.points)
    distance = np.abs(_cdf(reference, edges) - _cdf(current, edges))[:-1]
    return float((distance * np.diff(edges)).sum()) / (reference.std or MIN_STD)


def new_category_share(
    reference: Profile, current: Profile, extra_categories: Collection[str] = ()
) -> float | None:
    """Return the share of the current values in categories that the reference lacks, 0.0 to 1.0.

    Return None where the reference has too many categories to name them all. Where the current side has too
    many, the share is a lower bound, or None where half of the values or more could belong to either.

    Parameters
    ----------
    extra_categories : categories that aren't new either.
    """
    categories = {*reference.items(), *extra_categories}
    if len(reference.items()) < 0.9 * (reference.distinct or 0):
        return None
    present, counts = current.count - current.missing, current.items()
    new = float(present - sum(count for name, count in counts.items() if name in categories)) / present
    # the counts of a full sketch are lower bounds: each category may have up to its error more, listed or not
    uncertain = min((present - sum(counts.values())) / present, len(categories) * SKETCH_ERROR)
    return new - uncertain if uncertain < MAX_UNCERTAIN else None


BINNED = {"psi": psi, "js": js}  # the measures that need only counts


def measure_drift(cut: Binning, reference: Profile, current: Profile) -> dict[str, float | None]:
    """Return every measure of the column's kind, None where it can't be computed.

    Parameters
    ----------
    cut : the reference's bins.

    Returns
    -------
    dict
        ``psi`` and ``js``; for numbers ``ks`` and ``wasserstein``; for categories ``new`` (the share of the
        current values that the reference lacks) and ``vanished`` (the share of the reference's values that
        the current side lacks); ``missing``, the rise of the share of missing values, -1 to 1.
    """
    measures: dict[str, float | None] = dict.fromkeys(BY_KIND[reference.kind])
    if reference.count and current.count:
        measures["missing"] = current.missing_share - reference.missing_share
    if reference.count == reference.missing or current.count == current.missing:
        return measures
    counts = cut.profile_counts(reference), cut.profile_counts(current)
    measures |= {"psi": float(psi(*counts)), "js": float(js(*counts))}
    if reference.kind == "numeric":
        return measures | {"ks": ks(reference, current), "wasserstein": wasserstein(reference, current)}
    return measures | {
        "new": new_category_share(reference, current),
        "vanished": new_category_share(current, reference),
    }


def _cdf(profile: Profile, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(profile.cdf(edges.tolist()))
