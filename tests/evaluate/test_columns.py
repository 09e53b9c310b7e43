"""Columns that aren't features are looked up point-in-time correctly, in the order of the rows."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.errors import NotPublished, SpecError
from include.evaluate.measure import columns_of_rows
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.train import visits

PARTITIONS = ["2024-03-04", "2024-03-05", "2024-03-06"]
HOURS = (-6, -1, 2)  # from a partition's decision to when each revision of its rows was known


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic, where the place of a visit isn't a feature."""
    features = {", categorical: [place]": ""}
    return visits.usecase(tmp_path_factory.mktemp("columns"), **features)


@pytest.fixture(scope="module")
def published(spec: UseCase) -> pa.Table:
    """Visits of three partitions with one to three revisions each, shuffled."""
    random = np.random.default_rng(3)
    records = [
        {
            "visit": f"v{i:02}",
            "distance": float(100 * revision + i),
            "earlier": float(revision),
            "place": None if i % 7 == 3 else f"{partition} v{i:02} r{revision}",
            "partition": partition,
            "revision": revision,
            "known_at": spec.clock.decision_time(partition) + timedelta(hours=HOURS[revision]),
        }
        for partition in PARTITIONS
        for i in range(20)
        for revision in range(int(random.integers(1, 4)))
    ]
    table = pa.Table.from_pylist(records, schema=schemas.validated_schema(spec.sources["visits"]))
    return table.take(random.permutation(table.num_rows))


@pytest.fixture(scope="module")
def lake(spec: UseCase, published: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that holds them."""
    lake = Lake(spec.name, str(tmp_path_factory.mktemp("lake")))
    lake.publish("validated_visits", published, {"partition": PARTITIONS})
    return lake


def _rows(published: pa.Table) -> pa.Table:
    """Return test rows in no order, each visit once, with a distance that the model saw."""
    pairs = sorted({(row["partition"], row["visit"]) for row in published.to_pylist()})
    sample = [pairs[i] for i in np.random.default_rng(4).permutation(len(pairs))][:50]
    return pa.table(
        {
            "visit": [visit for _, visit in sample],
            "partition": [partition for partition, _ in sample],
            "distance": np.arange(50) / 7,
            "earlier": np.zeros(50),
            "missed": np.zeros(50),
        }
    )


def test_each_row_gets_what_its_partition_knew(lake: Lake, spec: UseCase, published: pa.Table) -> None:
    """Features come from the rows, other columns from the newest revision known at the decision."""
    rows = _rows(published)
    columns = columns_of_rows(lake, spec, rows, ["place", "distance", "visit", "place"])
    assert columns.column_names == ["place", "distance", "visit"]
    assert columns["distance"].equals(rows["distance"])
    assert columns["visit"].equals(rows["visit"])
    revisions: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in published.to_pylist():
        if row["revision"] < 2:  # the third was known two hours too late
            revisions.setdefault((row["partition"], row["visit"]), []).append((row["revision"], row["place"]))
    keys = zip(rows["partition"].to_pylist(), rows["visit"].to_pylist(), strict=True)
    expected = [max(revisions[key], key=lambda pair: pair[0])[1] for key in keys]
    assert columns["place"].to_pylist() == expected
    assert {place[-2:] for place in expected if place} == {"r0", "r1"}
    assert None in expected


@pytest.mark.parametrize("names", [["place", "distance"], ["distance"], []])
def test_no_rows_and_no_names_are_no_error(
    lake: Lake, spec: UseCase, published: pa.Table, names: list[str]
) -> None:
    """No rows give an empty table, and no names a table without columns."""
    rows = _rows(published)
    assert columns_of_rows(lake, spec, rows, names).shape == (50, len(names))
    assert columns_of_rows(lake, spec, rows.slice(0, 0), names).shape == (0, len(names))


def test_an_unknown_name_is_refused(lake: Lake, spec: UseCase, published: pa.Table) -> None:
    """A name that is neither a feature nor a column of the spine is rejected; the error lists valid names."""
    with pytest.raises(SpecError, match="expected distance, earlier, visit, place, but found minutes"):
        columns_of_rows(lake, spec, _rows(published), ["place", "minutes"])


def test_a_column_that_was_not_published_is_refused(
    spec: UseCase, published: pa.Table, tmp_path: Path
) -> None:
    """If the source was published without the column, or never, the error has a remedy."""
    lake = Lake(spec.name, str(tmp_path))
    for _ in range(2):
        with pytest.raises(
            NotPublished, match=r"published with place, but found .* ingest the test partitions again"
        ):
            columns_of_rows(lake, spec, _rows(published), ["distance", "place"])
        lake.publish("validated_visits", published.drop_columns("place"), {"partition": PARTITIONS})


def test_a_row_that_no_partition_knew_is_refused(spec: UseCase, published: pa.Table, tmp_path: Path) -> None:
    """A row that became known only after its decision is an error and gets no default."""
    late = published.filter(pa.compute.greater(published["revision"], 0))
    lake = Lake(spec.name, str(tmp_path))
    lake.publish("validated_visits", late, {"partition": PARTITIONS})
    message = r"expected place for 50 rows, but found [1-9][0-9]* rows that aren't in the table"
    with pytest.raises(NotPublished, match=message):
        columns_of_rows(lake, spec, _rows(published), ["place"])
