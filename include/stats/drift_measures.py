"""How far two profiles of a column are apart, by each measure of the field: pure functions, no threshold.

A profile's cumulative shares are within 1 / 512 a side (`include.stats.profiles`), so the Kolmogorov–Smirnov
distance is within 1 / 256 of that of the rows, and Wasserstein's within 1 / 256 of the values' range. The
stability index and Jensen–Shannon's distance count values by the reference's deciles, or by its frequent
categories. Evidently 0.7 has the same formulas over other bins (equal widths over both sides, and every
category of its own) and gives of the Kolmogorov–Smirnov test the p-value; over the same bins they agree, see
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

Counts = NDArray[np.float64]
DECILES = tuple(share / 10 for share in range(1, 10))
RARE = 0.01  # categories with a smaller share of the reference are counted together
LEAST_STD = (
    0.001  # of a reference that is constant, so that a distance from it is finite; as Evidently has it
)
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
    """How a column's values are counted: between the reference's deciles, or by its frequent categories.

    Parameters
    ----------
    edges : ascending; a bin holds what is above the edge before it, up to and including its own.
    names : categories that are counted alone; the last bin holds all others. None for a numeric column.
    """

    edges: tuple[float, ...] = ()
    names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, reference: Profile) -> Binning:
        """Return the cut that a reference's profile gives; a constant column has one edge."""
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

    def profile(self, given: Profile) -> Counts:
        """Return the counts by bin that a profile holds (within its error), shape (bins,)."""
        present = float(given.count - given.missing)
        if not present:
            return np.zeros(self.bins)
        if self.names is None:
            return np.diff([0.0, *given.cdf(self.edges), 1.0]) * present
        items = given.items()
        named = [float(items.get(name, 0)) for name in self.names]
        return np.array([*named, max(present - sum(named), 0.0)])

    def places(self, given: pa.Array) -> NDArray[np.intp]:
        """Return the bin of each of the values, of which none is missing."""
        if self.names is None:
            values: NDArray[np.float64] = given.to_numpy(zero_copy_only=False)
            return np.searchsorted(self.edges, values, side="left")
        found = pc.index_in(given, pa.array(self.names, pa.string())).fill_null(len(self.names))
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.intp)


def psi(reference: Counts, current: Counts) -> float:
    """Return the population stability index of two counts over the same bins.

    Half a row is added to each bin of either side (Jeffreys' prior), so that an empty one counts as rare and
    not as impossible.

    Parameters
    ----------
    reference, current : shape (bins,), not negative.

    Returns
    -------
    float
        Sum of (q − p)·ln(q / p) over the bins, ≥ 0.0; the best value is 0.0.
    """
    p, q = reference + 0.5, current + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def js(reference: Counts, current: Counts) -> float:
    """Return the Jensen–Shannon distance of two counts over the same bins: natural, 0.0 (the best) to 0.833.

    Parameters
    ----------
    reference, current : shape (bins,), not negative, neither all nought.
    """
    return float(jensenshannon(reference, current))


def ks(reference: Profile, current: Profile) -> float:
    """Return the Kolmogorov–Smirnov distance, 0.0 (the best) to 1.0; both sides have values."""
    edges = np.union1d(reference.points, current.points)
    return float(np.abs(_cdf(reference, edges) - _cdf(current, edges)).max())


def wasserstein(reference: Profile, current: Profile) -> float:
    """Return Wasserstein's first distance in the reference's standard deviations, ≥ 0.0; both have values."""
    edges = np.union1d(reference.points, current.points)
    apart = np.abs(_cdf(reference, edges) - _cdf(current, edges))[:-1]
    return float((apart * np.diff(edges)).sum()) / (reference.std or LEAST_STD)


def new_category_share(reference: Profile, current: Profile, also: Collection[str] = ()) -> float | None:
    """Return the share of the current values in categories that the reference lacks, 0.0 to 1.0.

    ``also`` are known beside those of the reference. None where the reference has so many categories that it
    no longer names them all. Where the current side has, its counts are lower bounds and the
    share is an upper one.
    """
    known = {*reference.items(), *also}
    if len(reference.items()) < 0.9 * (reference.distinct or 0):
        return None
    present = current.count - current.missing
    return float(present - sum(n for name, n in current.items().items() if name in known)) / present


BINNED = {"psi": psi, "js": js}  # those that need counts alone


def measure_drift(cut: Binning, reference: Profile, current: Profile) -> dict[str, float | None]:
    """Return every measure of the column's kind, None where it can't be told.

    Parameters
    ----------
    cut : of the reference.

    Returns
    -------
    dict
        ``psi``, ``js``; of numbers ``ks`` and ``wasserstein``; of categories ``new`` (share of the current
        values that the reference lacks) and ``vanished`` (share of the reference's that are in none of the
        current); ``missing``, the rise of the share without a value, -1 to 1.
    """
    found: dict[str, float | None] = dict.fromkeys(BY_KIND[reference.kind])
    if reference.count and current.count:
        found["missing"] = current.missing_share - reference.missing_share
    if reference.count == reference.missing or current.count == current.missing:
        return found
    counts = cut.profile(reference), cut.profile(current)
    found |= {"psi": psi(*counts), "js": js(*counts)}
    if reference.kind == "numeric":
        return found | {"ks": ks(reference, current), "wasserstein": wasserstein(reference, current)}
    return found | {
        "new": new_category_share(reference, current),
        "vanished": new_category_share(current, reference),
    }


def _cdf(of: Profile, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(of.cdf(edges.tolist()))
