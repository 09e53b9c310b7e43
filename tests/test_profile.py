"""Profiles: of nothing, of one value, of many; and merged they say what the whole would say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.profile import POINTS, Profile, build, merge

EDGES = [-2.0, -0.5, 0.0, 0.1, 1.0, 3.0]


def profile(values: list[Any], kind: str = "numeric") -> Profile:
    """Return the profile of one column of one night."""
    table = pa.table({"c": pa.array(values, pa.float64() if kind == "numeric" else None)})
    rows = build("p", "n", table, ["c"] if kind == "numeric" else [], ["c"] if kind != "numeric" else [])
    return merge(rows.to_pylist())["c"]


def nights(values: np.ndarray, cuts: list[int]) -> Profile:
    """Return the profile of values that came over several nights."""
    rows = []
    for number, part in enumerate(np.split(values, cuts)):
        rows += build("p", f"n{number}", pa.table({"c": part}), ["c"], []).to_pylist()
    return merge(rows)["c"]


def test_of_nothing() -> None:
    """No rows: no share is claimed, and nothing divides by zero."""
    empty = profile([])
    assert (empty.count, empty.missing, empty.missing_share, empty.distinct) == (0, 0, 0.0, 0)
    assert all(
        math.isnan(x) for x in [empty.mean, empty.std, empty.low, *empty.cdf([1.0]), *empty.quantiles([0.5])]
    )


def test_of_missing_values_alone() -> None:
    """A column of nulls is all missing, and a NaN or an infinity is no value either."""
    assert profile([None, None]).missing_share == 1.0
    found = profile([1.0, None, math.nan, math.inf])
    assert (found.count, found.missing, found.mean, found.high) == (4, 3, 1.0, 1.0)


def test_of_a_constant() -> None:
    """A constant has no spread, and its distribution is one step."""
    found = profile([3.0] * 1000)
    assert (found.mean, found.std, found.low, found.high, found.distinct) == (3.0, 0.0, 3.0, 3.0, 1)
    assert found.cdf([2.999, 3.0]) == [0.0, 1.0]
    assert found.quantiles([0.0, 0.5, 1.0]) == [3.0, 3.0, 3.0]


def test_of_one_row() -> None:
    """One value is all quantiles."""
    found = profile([2.5])
    assert (found.count, found.std, found.quantiles([0.01, 0.99])) == (1, 0.0, [2.5, 2.5])


def test_a_small_night_is_exact() -> None:
    """Up to `POINTS` values the distribution is the sample's own."""
    values = np.random.default_rng(1).normal(size=POINTS)
    found = profile(list(values))
    assert found.cdf(EDGES) == pytest.approx([(values <= edge).mean() for edge in EDGES], abs=1e-12)
    assert found.std == pytest.approx(values.std())
    assert found.quantiles([0.25]) == [np.quantile(values, 0.25, method="inverted_cdf")]


def test_merged_nights_are_the_whole_within_the_bound() -> None:
    """Nights of any size merge to what all rows at once would give, each share within 1 / `POINTS`."""
    values = np.random.default_rng(2).normal(1e6, 1, size=20_000)  # far from zero: plain sums of squares fail
    merged = nights(values, [3, 900, 901, 12_000])
    edges = list(1e6 + np.array(EDGES))
    assert merged.cdf(edges) == pytest.approx([(values <= edge).mean() for edge in edges], abs=1 / POINTS)
    assert (merged.mean, merged.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert (merged.count, merged.low, merged.high) == (20_000, values.min(), values.max())
    assert merged.distinct == pytest.approx(20_000, rel=0.07)


def test_ties_are_kept() -> None:
    """A discrete column's steps stay where they are, whatever the size."""
    values = np.repeat([1.0, 2.0, 7.0], [5000, 3000, 2000])
    assert profile(list(values)).cdf([0.5, 1.0, 2.0, 7.0]) == pytest.approx(
        [0, 0.5, 0.8, 1.0], abs=1 / POINTS
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.data())
def test_the_order_of_rows_and_nights_makes_no_difference(values: list[float], data: st.DataObject) -> None:
    """The same rows in another order are the same bytes, the same nights the same profile."""
    shuffled = data.draw(st.permutations(values))
    tables = [build("p", "n", pa.table({"c": v}), ["c"], []) for v in (values, shuffled)]
    assert tables[0].equals(tables[1])
    rows = [build("p", f"{n}", pa.table({"c": values[n::3]}), ["c"], []).to_pylist()[0] for n in range(3)]
    first, second = merge(rows)["c"], merge(reversed(rows))["c"]
    assert (first.mean, first.std, first.cdf(EDGES)) == (second.mean, second.std, second.cdf(EDGES))


def test_categories_are_counted() -> None:
    """Few categories are counted exactly, over nights too; booleans are categories; null is missing."""
    rows = [
        *build("p", "1", pa.table({"c": ["a", "b", "a", None]}), [], ["c"]).to_pylist(),
        *build("p", "2", pa.table({"c": ["b", "b", "c", "a"]}), [], ["c"]).to_pylist(),
    ]
    found = merge(rows)["c"]
    assert list(found.items().items()) == [("a", 3), ("b", 3), ("c", 1)]
    assert (found.count, found.missing, found.distinct) == (8, 1, 3)
    assert profile([True, False, True, None], "categorical").items() == {"true": 2, "false": 1}


def test_ten_thousand_categories() -> None:
    """The frequent ones are found with lower bounds that never exceed the truth; the profile stays small."""
    random = np.random.default_rng(3)
    drawn = np.where(
        random.random(50_000) < 0.5, random.integers(0, 5, 50_000), random.integers(0, 10_000, 50_000)
    )
    truth = {
        f"v{value}": int(count) for value, count in zip(*np.unique(drawn, return_counts=True), strict=True)
    }
    rows = []
    for night, part in enumerate(np.array_split(drawn, 5)):
        rows += build("p", f"{night}", pa.table({"c": [f"v{v}" for v in part]}), [], ["c"]).to_pylist()
    found = merge(rows)["c"]
    assert sum(len(row["items"]) + len(row["distinct"]) for row in rows) / 5 < 20_000
    assert list(found.items())[:5] == sorted(truth, key=lambda item: (-truth[item], item))[:5]
    assert all(count <= truth[item] for item, count in found.items().items())
    assert all(truth[f"v{v}"] - found.items()[f"v{v}"] <= 0.005 * 50_000 for v in range(5))
    assert found.distinct == pytest.approx(len(truth), rel=0.07)
