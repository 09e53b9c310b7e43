"""Profiles: of nothing, of one value, of many; and merged they say what the whole would say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from include.errors import EvergreenError
from include.stats.profiles import Profile, build_profile, merge_profiles, stream_profile
from include.stats.quantile_sketch import BLOCK, EXACT_CATEGORIES, POINTS, STEP, Numbers

EDGES = [-2.0, -0.5, 0.0, 0.1, 1.0, 3.0]


def profile(values: list[Any], kind: str = "numeric") -> Profile:
    """Return the profile of one column of one partition."""
    table = pa.table({"c": pa.array(values, pa.float64() if kind == "numeric" else None)})
    rows = build_profile(
        "p", "n", table, ["c"] if kind == "numeric" else [], ["c"] if kind != "numeric" else []
    )
    return merge_profiles(rows.to_pylist())["c"]


def profile_of(rows: pa.Table) -> Profile:
    """Return the profile of the only column."""
    return next(iter(merge_profiles(rows.to_pylist()).values()))


def batches(columns: dict[str, Any], size: int) -> list[pa.RecordBatch]:
    """Return columns cut into batches."""
    return pa.table(columns).to_batches(max_chunksize=size)


def partitions(values: np.ndarray, cuts: list[int]) -> Profile:
    """Return the profile of values that came over several partitions."""
    rows = []
    for number, part in enumerate(np.split(values, cuts)):
        rows += build_profile("p", f"n{number}", pa.table({"c": part}), ["c"], []).to_pylist()
    return merge_profiles(rows)["c"]


def test_of_nothing() -> None:
    """No rows: no share is claimed, and nothing divides by zero."""
    empty = profile([])
    assert (empty.count, empty.missing, empty.missing_share) == (0, 0, 0.0)
    assert all(
        math.isnan(x) for x in [empty.mean, empty.std, empty.low, *empty.cdf([1.0]), *empty.quantiles([0.5])]
    )


def test_of_missing_values_alone() -> None:
    """A column of nulls is all missing, and a NaN or an infinity isn't a value either."""
    assert profile([None, None]).missing_share == 1.0
    found = profile([1.0, None, math.nan, math.inf])
    assert (found.count, found.missing, found.mean, found.high) == (4, 3, 1.0, 1.0)


def test_of_a_constant() -> None:
    """A constant has no spread, and its distribution is one step."""
    found = profile([3.0] * 1000)
    assert (found.mean, found.std, found.low, found.high) == (3.0, 0.0, 3.0, 3.0)
    assert found.cdf([2.999, 3.0]) == [0.0, 1.0]
    assert found.quantiles([0.0, 0.5, 1.0]) == [3.0, 3.0, 3.0]


def test_of_one_row() -> None:
    """One value is all quantiles."""
    found = profile([2.5])
    assert (found.count, found.std, found.quantiles([0.01, 0.99])) == (1, 0.0, [2.5, 2.5])


def test_a_small_partition_is_exact() -> None:
    """Up to `POINTS` values the distribution is the sample's own."""
    values = np.random.default_rng(1).normal(size=POINTS)
    found = profile(list(values))
    assert found.cdf(EDGES) == pytest.approx([(values <= edge).mean() for edge in EDGES], abs=1e-12)
    assert found.std == pytest.approx(values.std())
    assert found.quantiles([0.25]) == [np.quantile(values, 0.25, method="inverted_cdf")]


def test_merged_partitions_are_the_whole_within_the_bound() -> None:
    """Partitions of any size merge to what all rows at once would give, each share within 1 / `POINTS`."""
    values = np.random.default_rng(2).normal(1e6, 1, size=20_000)  # far from zero: plain sums of squares fail
    merged = partitions(values, [3, 900, 901, 12_000])
    edges = list(1e6 + np.array(EDGES))
    assert merged.cdf(edges) == pytest.approx([(values <= edge).mean() for edge in edges], abs=1 / POINTS)
    assert (merged.mean, merged.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert (merged.count, merged.low, merged.high) == (20_000, values.min(), values.max())


def test_ties_are_kept() -> None:
    """A discrete column's steps stay where they are, whatever the size."""
    values = np.repeat([1.0, 2.0, 7.0], [5000, 3000, 2000])
    assert profile(list(values)).cdf([0.5, 1.0, 2.0, 7.0]) == pytest.approx(
        [0, 0.5, 0.8, 1.0], abs=1 / POINTS
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.data())
def test_the_order_of_rows_and_partitions_makes_no_difference(
    values: list[float], data: st.DataObject
) -> None:
    """The same rows in another order are the same bytes, the same partitions the same profile."""
    shuffled = data.draw(st.permutations(values))
    tables = [build_profile("p", "n", pa.table({"c": v}), ["c"], []) for v in (values, shuffled)]
    assert tables[0].equals(tables[1])
    rows = [
        build_profile("p", f"{n}", pa.table({"c": values[n::3]}), ["c"], []).to_pylist()[0] for n in range(3)
    ]
    first, second = merge_profiles(rows)["c"], merge_profiles(reversed(rows))["c"]
    assert (first.mean, first.std, first.cdf(EDGES)) == (second.mean, second.std, second.cdf(EDGES))


@settings(max_examples=60)
@example(([0.0] + [1.0] * 7) * 2, (8, 4), [])  # the least of each block stands alone
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700),
    st.sampled_from([(4, 2), (8, 4), (32, 4)]),
    st.lists(st.integers(0, 700), max_size=6),
)
def test_a_column_read_in_blocks_is_the_whole_within_the_bound(
    values: list[float], shape: tuple[int, int], cuts: list[int]
) -> None:
    """However often blocks are thinned, each share is within what the thinnings and the last choice allow."""
    block, step = shape
    read = Numbers(block, step)
    for part in np.split(np.array(values), sorted(cuts)):
        read.add(pa.array(part))
    row = read.row(len(values))
    points = np.frombuffer(row["quantiles"])
    edges = np.unique(values)
    found = np.searchsorted(points, edges, side="right") / len(points)
    truth = np.searchsorted(np.sort(values), edges, side="right") / len(values)
    thinnings = 1 + math.log(max(len(values) / block, 1), step) if len(values) >= block else 0
    bound = 1 / (2 * POINTS) + int(thinnings + 1e-9) * step / (2 * block) if thinnings else 1 / POINTS
    assert np.abs(found - truth).max() <= bound + 1e-12
    assert (row["low"], row["high"]) == (min(values), max(values))
    spread = math.sqrt(row["squares"] / len(values))
    assert (row["total"] / len(values), spread) == (
        pytest.approx(np.mean(values), abs=1e-6),
        pytest.approx(np.std(values), abs=1e-6),
    )


def test_a_partition_of_a_million_rows_is_within_the_bound() -> None:
    """Seventeen blocks, thinned twice, of skewed values in order: the worst share is within 1 / `POINTS`."""
    values = np.sort(np.random.default_rng(4).lognormal(size=17 * BLOCK + 5))
    found = profile_of(stream_profile("p", "n", batches({"c": values}, 50_000), ["c"], []))
    edges = np.quantile(values, np.linspace(0, 1, 999))
    truth = np.searchsorted(values, edges, side="right") / values.size
    off = np.abs(np.array(found.cdf(list(edges))) - truth).max()
    assert off <= 1 / (2 * POINTS) + 2 * STEP / (2 * BLOCK) < 1 / POINTS
    assert found.count == values.size


@pytest.mark.full
@pytest.mark.parametrize("size", [1000, 65_536, 70_001])
def test_how_a_partition_is_cut_makes_no_difference(size: int) -> None:
    """Batches of any size give the bytes of the whole table, for numbers and for many categories."""
    random = np.random.default_rng(5)
    numbers, many = random.normal(size=200_000), random.integers(0, 3 * EXACT_CATEGORIES, 200_000)
    rows = {"c": numbers, "k": pa.array(many).cast(pa.string())}
    whole = build_profile("p", "n", pa.table(rows), ["c"], ["k"])
    assert stream_profile("p", "n", batches(rows, size), ["c"], ["k"]).equals(whole)


def test_rows_in_another_order_are_the_same_bytes_within_a_block() -> None:
    """Up to 65,536 rows, and 10,000 categories, the order of rows makes no difference."""
    random = np.random.default_rng(6)
    numbers, many = random.normal(size=BLOCK), random.integers(0, 10_000, BLOCK)
    order = random.permutation(BLOCK)
    made = [
        build_profile("p", "n", pa.table({"c": n, "k": pa.array(k).cast(pa.string())}), ["c"], ["k"])
        for n, k in ((numbers, many), (numbers[order], many[order]))
    ]
    assert made[0].equals(made[1])


def test_what_is_held_does_not_grow_with_the_rows() -> None:
    """After three million values a column holds less than a block and its levels, 3 MB at most."""
    read, part = Numbers(), np.random.default_rng(7).normal(size=100_000)
    for _ in range(30):
        read.add(pa.array(part))
    in_memory = sum(a.nbytes for a in read._pending) + sum(a.nbytes for level in read._levels for a in level)
    assert in_memory < 3e6


def test_a_column_that_is_not_there_or_no_number_is_named() -> None:
    """A profile of a column that the rows lack, or that holds words, is refused by name, of no rows too."""
    for rows in (pa.table({"other": [1.0]}), pa.table({"other": pa.array([], pa.float64())})):
        with pytest.raises(EvergreenError, match="a column c"):
            build_profile("features", "2024-01-01", rows, ["c"], [])
    with pytest.raises(EvergreenError, match="numbers in c"):
        build_profile("features", "2024-01-01", pa.table({"c": ["seven"]}), ["c"], [])


def test_categories_are_counted() -> None:
    """Few categories are counted exactly, over partitions too; booleans are categories; null is missing."""
    rows = [
        *build_profile("p", "1", pa.table({"c": ["a", "b", "a", None]}), [], ["c"]).to_pylist(),
        *build_profile("p", "2", pa.table({"c": ["b", "b", "c", "a"]}), [], ["c"]).to_pylist(),
    ]
    found = merge_profiles(rows)["c"]
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
    for partition, part in enumerate(np.array_split(drawn, 5)):
        rows += build_profile(
            "p", f"{partition}", pa.table({"c": [f"v{v}" for v in part]}), [], ["c"]
        ).to_pylist()
    found = merge_profiles(rows)["c"]
    assert sum(len(row["items"]) + len(row["distinct"]) for row in rows) / 5 < 20_000
    assert list(found.items())[:5] == sorted(truth, key=lambda item: (-truth[item], item))[:5]
    assert all(count <= truth[item] for item, count in found.items().items())
    assert all(truth[f"v{v}"] - found.items()[f"v{v}"] <= 0.005 * 50_000 for v in range(5))
    assert found.distinct == pytest.approx(len(truth), rel=0.07)
