"""A row's other columns are those that its partition knew, in the order of the rows.

Or there is a sentence.
"""

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

NIGHTS = ["2024-03-04", "2024-03-05", "2024-03-06"]
HOURS = (-6, -1, 2)  # from a partition's decision to when each revision of its rows was known


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic, where the place of a visit is no feature."""
    features = {", categorical: [place]": ""}
    return visits.usecase(tmp_path_factory.mktemp("columns"), **features)


@pytest.fixture(scope="module")
def published(spec: UseCase) -> pa.Table:
    """Visits of three partitions with one to three revisions each, shuffled."""
    random = np.random.default_rng(3)
    made = [
        {
            "visit": f"v{i:02}",
            "distance": float(100 * revision + i),
            "earlier": float(revision),
            "place": None if i % 7 == 3 else f"{partition} v{i:02} r{revision}",
            "partition": partition,
            "revision": revision,
            "known_at": spec.clock.moment(partition) + timedelta(hours=HOURS[revision]),
        }
        for partition in NIGHTS
        for i in range(20)
        for revision in range(int(random.integers(1, 4)))
    ]
    table = pa.Table.from_pylist(made, schema=schemas.validated_schema(spec.sources["visits"]))
    return table.take(random.permutation(table.num_rows))


@pytest.fixture(scope="module")
def lake(spec: UseCase, published: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake that holds them."""
    lake = Lake(spec.name, str(tmp_path_factory.mktemp("lake")))
    lake.publish("validated_visits", published, {"partition": NIGHTS})
    return lake


def _rows(published: pa.Table) -> pa.Table:
    """Return test rows in no order, each visit once, with a distance that the model saw."""
    pairs = sorted({(row["partition"], row["visit"]) for row in published.to_pylist()})
    mixed = [pairs[i] for i in np.random.default_rng(4).permutation(len(pairs))][:50]
    return pa.table(
        {
            "visit": [visit for _, visit in mixed],
            "partition": [partition for partition, _ in mixed],
            "distance": np.arange(50) / 7,
            "earlier": np.zeros(50),
            "missed": np.zeros(50),
        }
    )


def test_each_row_gets_what_its_partition_knew(lake: Lake, spec: UseCase, published: pa.Table) -> None:
    """A feature is the rows' own, another column the newest revision known then, in their order."""
    rows = _rows(published)
    found = columns_of_rows(lake, spec, rows, ["place", "distance", "visit", "place"])
    assert found.column_names == ["place", "distance", "visit"]
    assert found["distance"].equals(rows["distance"])
    assert found["visit"].equals(rows["visit"])
    known: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in published.to_pylist():
        if row["revision"] < 2:  # the third was known two hours too late
            known.setdefault((row["partition"], row["visit"]), []).append((row["revision"], row["place"]))
    asked = zip(rows["partition"].to_pylist(), rows["visit"].to_pylist(), strict=True)
    expected = [max(known[key], key=lambda pair: pair[0])[1] for key in asked]
    assert found["place"].to_pylist() == expected
    assert {place[-2:] for place in expected if place} == {"r0", "r1"}
    assert None in expected


@pytest.mark.parametrize("names", [["place", "distance"], ["distance"], []])
def test_no_rows_and_no_names_are_no_error(
    lake: Lake, spec: UseCase, published: pa.Table, names: list[str]
) -> None:
    """Of no rows there are none, of no names no column, and the rows stay as many."""
    rows = _rows(published)
    assert columns_of_rows(lake, spec, rows, names).shape == (50, len(names))
    assert columns_of_rows(lake, spec, rows.slice(0, 0), names).shape == (0, len(names))


def test_an_unknown_name_is_refused(lake: Lake, spec: UseCase, published: pa.Table) -> None:
    """A name that is neither feature nor column of the spine is refused with those that there are."""
    with pytest.raises(SpecError, match="required distance, earlier, visit, place, found minutes"):
        columns_of_rows(lake, spec, _rows(published), ["place", "minutes"])


def test_a_column_that_was_not_published_is_refused(
    spec: UseCase, published: pa.Table, tmp_path: Path
) -> None:
    """Where the source was published before the column was declared, or never, the error says what to do."""
    lake = Lake(spec.name, str(tmp_path))
    for _ in range(2):
        with pytest.raises(
            NotPublished, match=r"published with place, found .* ingest the test partitions again"
        ):
            columns_of_rows(lake, spec, _rows(published), ["distance", "place"])
        lake.publish("validated_visits", published.drop_columns("place"), {"partition": NIGHTS})


def test_a_row_that_no_partition_knew_is_refused(spec: UseCase, published: pa.Table, tmp_path: Path) -> None:
    """A row that was known after its decision only has no columns, and none are made up for it."""
    late = published.filter(pa.compute.greater(published["revision"], 0))
    lake = Lake(spec.name, str(tmp_path))
    lake.publish("validated_visits", late, {"partition": NIGHTS})
    message = r"required place for 50 rows, found [1-9][0-9]* rows that aren't in the table"
    with pytest.raises(NotPublished, match=message):
        columns_of_rows(lake, spec, _rows(published), ["place"])
