"""Reading small tables from their files, and merging small files as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.storage import compaction, queries
from include.storage.lake import Lake

KEYS = [f"2024-01-{day:02}" for day in range(1, 21)]
Commit = tuple[str, str, int]  # product, partition, number of rows
commits = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(KEYS), st.integers(0, 3)), min_size=1, max_size=40
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return an empty lake of one use case."""
    return Lake("usecase", str(tmp_path))


def publish(lake: Lake, commit: Commit, value: int) -> None:
    """Publish rows with a value; the table is partitioned by product, as Delta's own tables are."""
    product, partition, size = commit
    columns = {"product": [product] * size, "partition": [partition] * size, "value": [value] * size}
    schema = pa.schema([("product", pa.string()), ("partition", pa.string()), ("value", pa.int64())])
    rows = pa.table(columns, schema=schema)
    lake.publish("partitions", rows, {"product": product, "partition": partition})


def file_count(lake: Lake, table: str) -> int:
    """Return the number of files that a table is read from."""
    opened = lake.open(table)
    assert opened is not None
    return len(opened.file_uris())


@settings(max_examples=15, deadline=None)
@given(
    published=commits,
    products=st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
    keys=st.lists(st.sampled_from(KEYS), max_size=4, unique=True),
    columns=st.sampled_from([None, ["value"], ["value", "partition"]]),
)
def test_rows_read_from_files_are_those_of_a_query(
    published: list[Commit],
    products: list[str],
    keys: list[str],
    columns: list[str] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """For any commits, a lake that followed them reads what a query of the whole table finds."""
    lake = Lake("usecase", str(tmp_path_factory.mktemp("lake")))
    for value, commit in enumerate(published):
        publish(lake, commit, value)
    where = {"product": products, "partition": keys}
    opened = lake.open("partitions")
    assert opened is not None
    names = queries.columns(columns) if columns else "*"
    expected = queries.run_query(opened, queries.select(names, where))
    for reader, cached in ((lake, 1 << 20), (lake, 0), (Lake("usecase", lake.uri.rpartition("/")[0]), 0)):
        with mock.patch.object(queries, "CACHED_BYTES", cached):  # at 0, nothing is kept from read to read
            rows = reader.read("partitions", where, columns)
        assert rows is not None
        assert rows.schema.equals(expected.schema)
        assert sorted(map(repr, rows.to_pylist())) == sorted(map(repr, expected.to_pylist()))


def test_a_reader_sees_what_others_commit(lake: Lake) -> None:
    """Rows, a new column and an older version are read as another writer's commits left them."""
    publish(lake, ("a", KEYS[0], 1), 1)
    reader = Lake("usecase", lake.uri.rpartition("/")[0])
    assert [row["value"] for row in reader.rows("partitions")] == [1]
    version = reader.version("partitions")
    publish(lake, ("a", KEYS[0], 1), 2)
    assert [row["value"] for row in reader.rows("partitions")] == [2]
    wider = pa.table({"product": ["a"], "partition": [KEYS[1]], "value": [3], "note": ["new"]})
    lake.publish("partitions", wider, {"product": "a", "partition": KEYS[1]})
    assert sorted((row["value"], row["note"]) for row in reader.rows("partitions")) == [(2, None), (3, "new")]
    old = reader.read("partitions", version=version)
    assert old is not None
    assert old["value"].to_pylist() == [1]


@pytest.mark.full
def test_files_stay_few_however_many_commits(lake: Lake) -> None:
    """After a hundred commits a table has a few files, and the last rows of each partition."""
    expected = {}
    for number in range(100):
        key = f"2024-{1 + number // 28:02}-{1 + number % 28:02}"
        publish(lake, ("a", key, 2), number)
        expected[key] = number
    assert file_count(lake, "partitions") <= 2 * compaction.FANOUT
    rows = lake.rows("partitions")
    assert len(rows) == 2 * len(expected)
    assert {row["partition"]: row["value"] for row in rows} == expected


def test_a_ledger_stays_few_files_and_keeps_each_row(lake: Lake) -> None:
    """Thirty switches are thirty rows, in fewer files than are merged."""
    for switch in range(30):
        rows = pa.table({"switch": pa.array([switch], pa.int64())})
        lake.append_at("switches", rows, lake.version("switches"))
    assert file_count(lake, "switches") <= compaction.FANOUT
    assert sorted(row["switch"] for row in lake.rows("switches")) == list(range(30))


@pytest.mark.full
def test_a_merge_names_a_range_unless_other_files_are_in_it(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of a thousand partitions would cost more than the merge; a file between them is left alone."""
    conditions: list[str] = []
    real = compaction.write_deltalake

    def record(*given: Any, **how: Any) -> None:
        conditions.append(how["predicate"])
        real(*given, **how)

    monkeypatch.setattr(compaction, "write_deltalake", record)
    keys = [f"2024-{1 + place // 25:02}-{1 + place % 25:02}" for place in range(100)]
    for place, key in enumerate(keys[:50]):
        publish(lake, ("a", key, 1), place)
    assert conditions
    assert all('"partition" BETWEEN' in condition for condition in conditions)
    size, between = 60_000, "2024-02-30"
    values = pa.array(np.random.default_rng(1).integers(0, 1 << 60, size))
    large = pa.table({"product": ["a"] * size, "partition": [between] * size, "value": values})
    lake.publish("partitions", large, {"product": "a", "partition": between})
    for place, key in enumerate(keys[50:], 50):
        publish(lake, ("a", key, 1), place)
    assert '"partition" IN' in conditions[-1]
    assert lake.count("partitions", {"partition": between}) == size
    rows = lake.rows("partitions", {"partition": keys})
    assert {row["partition"]: row["value"] for row in rows} == {key: at for at, key in enumerate(keys)}


def test_a_partition_written_while_files_are_merged_stays_as_written(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another writer commits between the merge's read and its commit is neither lost nor doubled."""
    real, other = compaction.write_deltalake, Lake("usecase", lake.uri.rpartition("/")[0])
    crossed: list[str] = []

    def slow(*given: Any, **how: Any) -> None:
        if not crossed:
            crossed.append(KEYS[2])
            publish(other, ("a", KEYS[2], 1), 99)
        real(*given, **how)

    monkeypatch.setattr(compaction, "write_deltalake", slow)
    for value, key in enumerate(KEYS):
        publish(lake, ("a", key, 1), value)
    assert crossed
    expected = {key: value for value, key in enumerate(KEYS)} | {KEYS[2]: 99}
    rows = lake.rows("partitions")
    assert len(rows) == len(KEYS)
    assert {row["partition"]: row["value"] for row in rows} == expected


def test_a_result_is_kept_while_its_tables_stay_the_same(lake: Lake) -> None:
    """What follows from a table is computed once for each version of it, and once for each key."""
    publish(lake, ("a", KEYS[0], 1), 1)
    computed: list[int] = []

    def compute() -> pa.Table:
        computed.append(lake.version("partitions"))
        return pa.table({"value": [len(computed)]})

    for _ in range(2):
        assert lake.cached(("own", "x"), ["partitions"], compute)["value"].to_pylist() == [1]
    assert lake.cached(("own", "y"), ["partitions"], compute)["value"].to_pylist() == [2]
    publish(lake, ("a", KEYS[0], 1), 2)
    assert lake.cached(("own", "x"), ["partitions"], compute)["value"].to_pylist() == [3]
