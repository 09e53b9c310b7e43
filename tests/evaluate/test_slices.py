"""Every row is in exactly one part of a column, so the slices of a column are its losses, cut up."""

from __future__ import annotations

import time
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import EvergreenError
from include.evaluate.slices import MAX_DISTINCT, measure_slices, slice_column
from include.judge.evidence import Slice
from include.spec import UseCase
from include.spec.gate import Slices
from tests.train import visits

PARTITIONS = ("2024-03-04", "2024-03-05", "2024-03-06")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic, whose features are two numbers and a category."""
    return visits.usecase(tmp_path_factory.mktemp("slices"))


def _with(spec: UseCase, **changes: object) -> UseCase:
    rules = Slices(**{"min_rows": 1} | changes)  # type: ignore[arg-type]
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"slices": rules})})


def _rows(values: list[tuple[int, float | None, float | None, str | None]]) -> pa.Table:
    partitions = [PARTITIONS[partition] for partition, *_ in values]
    _, distance, earlier, place = zip(*values, strict=True)
    kinds = {"distance": pa.float64(), "earlier": pa.float64(), "place": pa.string()}
    columns = {"distance": distance, "earlier": earlier, "place": place}
    return pa.table({"partition": partitions} | {n: pa.array(v, kinds[n]) for n, v in columns.items()})


def _column(values: object, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


number = st.none() | st.floats() | st.integers(-4, 4).map(float)
row = st.tuples(
    st.integers(0, 2), number, st.none() | st.integers(0, 40).map(float), st.sampled_from("abc") | st.none()
)


@given(st.lists(row, min_size=1, max_size=80), st.randoms(use_true_random=False))
def test_the_parts_of_a_column_are_all_rows_once(clinic_rows: list, random: object) -> None:
    """Whatever a column holds, its parts have other names, none is empty, and order doesn't matter."""
    table = _rows(clinic_rows)
    order = list(range(len(clinic_rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for name in ("distance", "earlier", "place"):
        slices = slice_column(table[name])
        assert len(set(slices.names)) == len(slices.names)
        assert sorted(set(slices.codes.tolist())) == list(range(len(slices.names)))
        again = slice_column(table.take(order)[name])
        assert again.names == slices.names
        assert again.codes.tolist() == slices.codes[order].tolist()
        values = table[name].to_pylist()
        expected = [v is None or (isinstance(v, float) and not np.isfinite(v)) for v in values]
        missing = np.array([n == "missing" for n in slices.names])[slices.codes]
        assert missing.tolist() == expected


@pytest.fixture(scope="module")
def specs(clinic: UseCase) -> dict[str, UseCase]:
    """The clinic as the properties below need it."""
    return {
        "all": _with(clinic, columns=("place", "distance")),
        "declared": _with(clinic, columns=("place",), automatic=False),
    }


def test_the_slices_of_a_column_are_its_losses(specs: dict[str, UseCase]) -> None:
    """With one row as minimum, rows and losses of a column's slices add up to those of each partition."""

    @given(st.lists(row, min_size=1, max_size=80))
    def holds(values: list) -> None:
        table, random = _rows(values), np.random.default_rng(len(values))
        losses = {name: random.exponential(1, len(values)) for name in ("challenger", "champion")}
        slices = measure_slices(specs["all"], table, table, losses, PARTITIONS, "champion")
        partition_of_row = np.array(table["partition"].to_pylist())
        for column in ("place", "distance", "earlier"):
            parts = [part for part in slices if part.name.split(" ")[0] == column]
            assert {part.declared for part in parts} == {column != "earlier"}
            counts = np.sum([part.rows for part in parts], axis=0)
            assert counts.tolist() == [(partition_of_row == partition).sum() for partition in PARTITIONS]
            for name, sums in (("challenger", "challenger"), ("champion", "rival")):
                total = np.sum([getattr(part, sums) for part in parts], axis=0)
                expected = [losses[name][partition_of_row == partition].sum() for partition in PARTITIONS]
                assert total == pytest.approx(expected)

    holds()


def test_a_slice_holds_what_its_name_says(specs: dict[str, UseCase]) -> None:
    """Rows and losses by partition, by hand; a missing category is a slice of its own."""
    table = _rows([(0, 1.0, 0.0, "a"), (0, 1.0, 0.0, "b"), (1, 1.0, 0.0, "a"), (2, 1.0, 0.0, None)])
    losses = {"challenger": np.array([1.0, 2.0, 3.0, 4.0]), "baseline:prior": np.array([5.0, 6.0, 7.0, 8.0])}
    assert measure_slices(specs["declared"], table, table, losses, PARTITIONS, "baseline:prior") == (
        Slice("place = a", True, (1, 1, 0), (1.0, 3.0, 0.0), (5.0, 7.0, 0.0)),
        Slice("place = b", True, (1, 0, 0), (2.0, 0.0, 0.0), (6.0, 0.0, 0.0)),
        Slice("place missing", True, (0, 0, 1), (0.0, 0.0, 4.0), (0.0, 0.0, 8.0)),
    )


def test_a_declared_feature_is_measured_once(clinic: UseCase) -> None:
    """Declared columns come first, as declared; a feature among them has no automatic slices beside."""
    table = _rows([(0, 1.0, 2.0, "a"), (0, None, 2.0, "b")])
    losses = {"challenger": np.ones(2), "champion": np.ones(2)}
    for columns, names in (
        (
            ("place", "distance"),
            ["place = a", "place = b", "distance = 1", "distance missing", "earlier = 2"],
        ),
        ((), ["distance = 1", "distance missing", "earlier = 2", "place = a", "place = b"]),
    ):
        slices = measure_slices(_with(clinic, columns=columns), table, table, losses, PARTITIONS, "champion")
        assert [part.name for part in slices] == names
        assert [part.declared for part in slices] == [part.name.split(" ")[0] in columns for part in slices]


def test_small_slices_are_left_out(clinic: UseCase) -> None:
    """A slice has the declared number of rows over all partitions, or it isn't there, declared or not."""
    table = _rows([(i % 3, 1.0, float(i % 2), "a" if i < 6 else "b") for i in range(11)])
    losses = {"challenger": np.ones(11), "champion": np.ones(11)}
    spec = _with(clinic, columns=("place",), min_rows=6)
    slices = measure_slices(spec, table, table, losses, PARTITIONS, "champion")
    assert [part.name for part in slices] == ["place = a", "distance = 1", "earlier = 0"]


def test_a_row_of_another_partition_is_refused(clinic: UseCase) -> None:
    """Losses that would be in no slice are an error."""
    table = _rows([(0, 1.0, 2.0, "a"), (2, 1.0, 2.0, "a")])
    losses = {"challenger": np.ones(2), "champion": np.ones(2)}
    with pytest.raises(EvergreenError, match="expected rows of 2 partitions, but found 1 rows of others"):
        measure_slices(_with(clinic), table, table, losses, PARTITIONS[:2], "champion")


def test_no_rows_have_no_slices(specs: dict[str, UseCase]) -> None:
    """Evidence without a labeled partition has no slice, and nothing crashes."""
    table = _rows([(0, 1.0, 2.0, "a")]).slice(0, 0)
    losses = {"challenger": np.empty(0), "champion": np.empty(0)}
    assert measure_slices(specs["all"], table, table, losses, (), "champion") == ()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (range(1, 101), ["in [1, 25)", "in [25, 50)", "in [50, 75)", "in [75, 100]"]),
        (range(MAX_DISTINCT), [f"= {i}" for i in range(MAX_DISTINCT)]),
        ([0.0] * 80 + list(range(1, 21)), ["in [0, 1)", "in [1, 20]"]),
        (list(range(20)) + [20] * 80, ["in [0, 20)", "= 20"]),
        ([1e6 + i / 10 for i in range(40)], None),
        ([True, False, None], ["= false", "= true", "missing"]),
        ([date(2024, 3, 4), date(2024, 3, 5)], ["= 2024-03-04", "= 2024-03-05"]),
        ([datetime(2024, 3, 4, 5)], ["= 2024-03-04 05:00:00.000000"]),
        (["b", "a", "", "missing", None], ["= ", "= a", "= b", "= missing", "missing"]),
        ([None, None], ["missing"]),
    ],
)
def test_a_column_is_cut_as_a_person_would(values: list, names: list[str] | None) -> None:
    """Quarters of numbers, each of a few numbers, the rest apart from a value that most rows share."""
    slices = slice_column(_column(list(values)))
    assert len(set(slices.names)) == len(slices.names)
    if names is not None:
        assert list(slices.names) == names
    else:
        assert len(slices.names) == 4
        assert np.bincount(slices.codes).tolist() == [9, 10, 10, 11]


def test_a_month_of_partitions_takes_no_time(clinic: UseCase) -> None:
    """Some hundred slices of 28 partitions with 900 rows are measured in well below half a second."""
    random, count = np.random.default_rng(1), 28 * 900
    partitions = tuple(f"2024-03-{day:02}" for day in range(1, 29))
    numeric = tuple(f"n{i}" for i in range(20))
    features = clinic.features.model_copy(update={"numeric": numeric, "categorical": ("place",)})
    spec = _with(clinic.model_copy(update={"features": features}), columns=("place",))
    table = pa.table(
        {"partition": np.repeat(partitions, 900), "place": random.choice([f"p{i}" for i in range(40)], count)}
        | {name: random.standard_normal(count) for name in numeric}
    )
    losses = {name: random.exponential(1, count) for name in ("challenger", "champion")}
    started = time.process_time()
    slices = measure_slices(spec, table, table, losses, partitions, "champion")
    assert time.process_time() - started < 0.5
    assert len(slices) == 40 + 20 * 4
