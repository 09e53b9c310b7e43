"""The measures against Evidently's own figures of the same rows, within what a profile's error allows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from include.stats import drift_measures, profiles
from include.stats.drift_measures import Binning, measure_drift
from include.stats.profiles import Profile
from include.stats.quantile_sketch import POINTS

N, M = 30_000, 12_000
RANDOM = np.random.default_rng(8)
SHAPES = {
    "the same": (RANDOM.normal(size=N), RANDOM.normal(size=M)),
    "moved": (RANDOM.normal(size=N), RANDOM.normal(0.3, size=M)),
    "wider": (RANDOM.normal(size=N), RANDOM.normal(0, 1.6, size=M)),
    "skewed": (RANDOM.lognormal(size=N), RANDOM.lognormal(0.2, size=M)),
}
KINDS = RANDOM.choice(list("abcde"), N, p=[0.4, 0.3, 0.15, 0.1, 0.05])
OTHER = RANDOM.choice(list("abcdf"), M, p=[0.3, 0.3, 0.2, 0.1, 0.1])


def profiled(values: Any) -> Profile:
    """Return the profile of one column."""
    text = len(values) > 0 and isinstance(next((v for v in values if v is not None), 0.0), str)
    rows = pa.table({"c": pa.array(values, pa.string() if text else pa.float64())})
    return profiles.merge_profiles(
        profiles.build_profile("p", "n", rows, [] if text else ["c"], ["c"] if text else []).to_pylist()
    )["c"]


def figures(reference: Any, current: Any) -> dict[str, float | None]:
    """Return every measure of two sides."""
    of = profiled(reference)
    return measure_drift(Binning.of(of), of, profiled(current))


def evidently(reference: Any, current: Any, method: str) -> float:
    """Return what Evidently says of the same rows."""
    from evidently import DataDefinition, Dataset, Report  # seconds, which other workers needn't spend
    from evidently.metrics import ValueDrift

    text = isinstance(reference[0], str)
    definition = DataDefinition(**{"categorical_columns" if text else "numerical_columns": ["c"]})
    sides = [
        Dataset.from_pandas(pd.DataFrame({"c": v}), data_definition=definition) for v in (current, reference)
    ]
    found = Report([ValueDrift(column="c", method=method)]).run(*sides).dict()["metrics"][0]["value"]
    return float(found)


@pytest.mark.full
@pytest.mark.parametrize("shape", SHAPES)
def test_wasserstein_is_evidentlys(shape: str) -> None:
    """Within 1/256 of the values' range, in the reference's standard deviations; the center is far closer."""
    reference, current = SHAPES[shape]
    span = max(reference.max(), current.max()) - min(reference.min(), current.min())
    found, theirs = figures(reference, current)["wasserstein"], evidently(reference, current, "wasserstein")
    assert found == pytest.approx(theirs, abs=2 / POINTS * span / reference.std())
    assert found == pytest.approx(theirs, abs=0.01 + 0.05 * theirs)


@pytest.mark.parametrize("shape", SHAPES)
def test_kolmogorov_smirnov_is_scipys_and_its_p_value_evidentlys(shape: str) -> None:
    """The distance is the rows' within 1/256; Evidently's figure is that distance's p-value."""
    reference, current = SHAPES[shape]
    distance = figures(reference, current)["ks"]
    assert distance == pytest.approx(stats.ks_2samp(reference, current).statistic, abs=2 / POINTS)
    pairs = round(N * M / (N + M))
    least, most = (stats.kstwo.sf(max(distance + by, 0), pairs) for by in (2 / POINTS, -2 / POINTS))
    assert least <= evidently(reference, current, "ks") <= most


@pytest.mark.parametrize("shape", SHAPES)
def test_psi_and_js_over_evidentlys_bins_are_evidentlys(shape: str) -> None:
    """Evidently's bins are of equal width over both sides; a profile's counts over them give its figures."""
    reference, current = SHAPES[shape]
    edges = np.histogram_bin_edges(np.concatenate([reference, current]), bins="sturges")
    cut = Binning(edges=tuple(edges[1:-1]))
    counts = [cut.profile_counts(profiled(side)) for side in (reference, current)]
    assert drift_measures.js(*counts) == pytest.approx(
        evidently(reference, current, "jensenshannon"), abs=0.01
    )
    # of an empty bin Evidently takes .0001 or a millionth, and we half a row: compare where there is none
    full = Binning(edges=tuple(np.quantile(np.concatenate([reference, current]), np.linspace(0.1, 0.9, 9))))
    binned = [
        np.bincount(full.bin_indexes(pa.array(side)), minlength=10).astype(float)
        for side in (reference, current)
    ]
    names = [np.repeat([f"bin {n}" for n in range(10)], count.astype(int)) for count in binned]
    ours = drift_measures.psi(*(full.profile_counts(profiled(side)) for side in (reference, current)))
    assert ours == pytest.approx(evidently(*names, "psi"), abs=0.005)


@pytest.mark.parametrize("method", ["psi", "js"])
def test_categories_are_evidentlys(method: str) -> None:
    """Without rare or new categories counts are exact, and so are PSI and Jensen–Shannon's distance."""
    other = np.where(OTHER == "f", "e", OTHER)
    found = figures(KINDS, other)[method]
    assert found == pytest.approx(
        evidently(KINDS, other, {"js": "jensenshannon"}.get(method, method)), rel=1e-3
    )


def test_new_and_vanished_categories_are_shares_of_their_side() -> None:
    """The share of f, which is new, and of e, which no longer comes."""
    found = figures(KINDS, OTHER)
    assert found["new"] == pytest.approx((OTHER == "f").mean())
    assert found["vanished"] == pytest.approx((KINDS == "e").mean())


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), max_size=40),
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), max_size=40),
)
def test_any_numbers_have_finite_measures_or_none(reference: list[Any], current: list[Any]) -> None:
    """Nothing, nulls, one row, a constant: a finite figure, not negative, or none where a side lacks it."""
    found = figures(reference, current)
    there = any(v is not None for v in reference) and any(v is not None for v in current)
    for measure in ("psi", "js", "ks", "wasserstein"):
        assert (found[measure] is not None) == there
        assert found[measure] is None or 0 <= found[measure] < math.inf
    same = figures(reference, reference)
    assert all(value in (None, pytest.approx(0, abs=1e-9)) for value in same.values())


def test_a_constant_that_changes_is_far_by_every_measure() -> None:
    """7 and then 8: all of it has moved, and Wasserstein's distance is finite though there is no spread."""
    found = figures([7.0] * 500, [8.0] * 100)
    assert found["ks"] == 1
    assert found["js"] == pytest.approx(math.sqrt(math.log(2)))
    assert found["psi"] > 1
    assert found["wasserstein"] == 1 / drift_measures.MIN_STD


def test_ten_thousand_categories_are_not_told_to_be_new() -> None:
    """Beyond what a sketch names, new and vanished can't be told; the counts of the rest still are."""
    found = figures([f"k{n}" for n in range(10_000)], [f"k{n}" for n in range(5_000, 15_000)])
    assert (found["new"], found["vanished"]) == (None, None)
    assert found["psi"] is not None
