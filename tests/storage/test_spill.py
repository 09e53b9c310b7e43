"""Rows beyond what memory holds are the same rows: in their order, their digest, and what a model says."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import StoreUnavailable
from include.references import digest_bytes
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.schemas import TIME

KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-9, 9),
    pa.int64(): st.integers(-9, 9),
    pa.float64(): st.floats(width=32),
    pa.date32(): st.integers(0, 20_000),
    TIME: st.integers(0, 1 << 50),
    pa.list_(pa.int32()): st.lists(st.integers(0, 9), max_size=2),
}


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """A memory that holds next to nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "MEMORY_LIMIT", 0)
        patch.setattr(spill, "BATCH", 8)
        yield


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Return a table in chunks, a row's number in `row`, nulls here and there with something under them."""
    rows = draw(st.integers(0, 40))
    columns = {"row": pa.array(range(rows), pa.int64())}
    for number, (kind, value) in enumerate(KINDS.items()):
        values = draw(st.lists(value, min_size=rows, max_size=rows))
        holes = np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows)), bool)
        columns[str(number)] = pc.if_else(holes, pa.scalar(None, kind), pa.array(values, kind))
    table = pa.table(columns)
    cut = draw(st.integers(0, rows))
    return pa.concat_tables([table.slice(0, cut), table.slice(cut)])


def in_memory(table: pa.Table) -> str:
    """Return the digest as it was defined when every table was in memory."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.take(pa.array(range(table.num_rows), pa.int64())).combine_chunks().to_batches():
            if batch.num_rows:
                writer.write_batch(batch)
    return digest_bytes(sink.getvalue())


@pytest.mark.full
@given(table=tables())
def test_a_table_in_files_has_the_digest_that_it_had_in_memory(small: None, table: pa.Table) -> None:
    """The digest that old partitions are recorded with is the same, whatever their columns hold."""
    expected = in_memory(table)
    assert digest_table(table) == expected
    assert digest_table(spill.spill_table(table.schema, table.to_batches())) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "MEMORY_LIMIT", 1 << 20)
        assert digest_table(table) == expected


def test_text_beyond_what_an_array_can_have_is_digested_in_parts(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of so much text exists, whatever the chunks, and is another one for other text."""
    monkeypatch.setattr(spill, "MAX_TEXT_BYTES", 1000)
    table = pa.table({"text": ["some text"] * 5000})
    cut = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert len(list(spill.as_single_batch(table))) == 3
    assert digest_table(cut) == digest_table(table)
    assert digest_table(pa.table({"text": ["some text"] * 4999 + ["some.text"]})) != digest_table(table)


@pytest.mark.full
@given(table=tables(), data=st.data())
def test_a_table_in_files_is_chosen_and_sorted_as_in_memory(
    small: None, table: pa.Table, data: st.DataObject
) -> None:
    """Rows are held, chosen and sorted alike on either side of the bound."""
    mask = pa.array(
        data.draw(st.lists(st.booleans(), min_size=table.num_rows, max_size=table.num_rows)), pa.bool_()
    )
    by = [data.draw(st.sampled_from([str(n) for n in range(len(KINDS) - 1) if n != 5])), "row"]
    assert spill.spill_table(table.schema, table.to_batches()).equals(table.combine_chunks()) or _nan(table)
    table = table.drop_columns(["5"])  # NaN isn't a value that is equal to itself
    assert spill.filter_rows(table, mask).equals(table.filter(mask))
    assert spill.sort_rows(table, by).equals(table.sort_by([(name, "ascending") for name in by]))


@pytest.mark.full
@given(table=tables(), data=st.data())
def test_sorted_runs_are_laid_one_after_the_other(small: None, table: pa.Table, data: st.DataObject) -> None:
    """Rows that come sorted, in pieces, or in pieces that overlap, are those that a stable sort gives."""
    by = [data.draw(st.sampled_from([str(n) for n in range(len(KINDS) - 1) if n != 5])), "row"]
    order = [(name, "ascending") for name in by[: data.draw(st.integers(1, 2))]]
    table = table.drop_columns(["5"])
    cuts = sorted(data.draw(st.lists(st.integers(0, table.num_rows), max_size=3)))
    whole, ends = table.sort_by(order), [0, *cuts, table.num_rows]
    pieces = data.draw(st.permutations([whole.slice(a, b - a) for a, b in pairwise(ends)]))
    mixed = pa.concat_tables([*pieces, table.slice(0, data.draw(st.integers(0, 1)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "MEMORY_LIMIT", 1 << 20)  # DuckDB's sort isn't stable
        assert spill.sort_rows(mixed, [name for name, _ in order]).equals(mixed.sort_by(order))


def _nan(table: pa.Table) -> bool:
    return bool(pc.any(pc.is_nan(table["5"])).as_py())


def test_a_full_disk_is_no_fault_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs room for its own files says so, and a task tries again."""
    monkeypatch.setattr(spill, "MEMORY_LIMIT", 0)
    full = partial(Path("/dev/full").open, "w+b", buffering=0)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    rows = pa.table({"a": pa.array(range(1000))})
    for work in (
        lambda: spill.spill_table(rows.schema, rows.to_batches()),
        lambda: spill.spill_bytes([b"x" * 1000]),
        lambda: list(spill.as_single_batch(rows)),
    ):
        with pytest.raises(StoreUnavailable, match="TMPDIR"):
            work()


def test_duckdb_without_room_is_no_wrong_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that can't spill is told apart from a SQL that it can't run."""
    monkeypatch.setattr(spill, "DUCKDB_MEMORY", "20MB")
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with spill.duckdb_engine() as engine:
        with pytest.raises(StoreUnavailable, match="TMPDIR"):
            _starve(engine, "SELECT * FROM range(10000000) ORDER BY hash(range)")
        with pytest.raises(duckdb.Error):
            _starve(engine, "SELECT nothing")


def _starve(engine: duckdb.DuckDBPyConnection, sql: str) -> None:
    try:
        engine.sql(sql).to_arrow_table()
    except (duckdb.Error, OSError) as error:
        spill.raise_if_out_of_memory(error)
        raise


SPILLING = """
import sys
from include.storage import spill

spill.DUCKDB_MEMORY = "60MB"
with spill.duckdb_engine() as engine:
    engine.execute("CREATE TEMP TABLE t AS SELECT 'patient-' || hash(i) AS p FROM range(3000000) r(i)")
    engine.execute("SELECT p FROM t ORDER BY p").fetchmany(5)
    print("spilled", flush=True)
    sys.stdin.read()
"""


@pytest.mark.full
def test_rows_that_a_killed_process_has_spilled_are_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a process that lives stay, and one that ends leaves nothing; nobody else may read them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = tmp_path / "evergreen-try-abc"
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SPILLING],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"spilled\n"
        (folder,) = (path for path in tmp_path.iterdir() if path != other)
        assert folder.stat().st_mode & 0o077 == 0
        for lives in (True, False):
            spill._remove_abandoned.cache_clear()
            spill.duckdb_engine().close()
            gc.collect()
            assert set(tmp_path.iterdir()) == ({other, folder} if lives else {other})
            assert any(folder.glob("duckdb_temp*")) == lives
            process.kill()
            process.wait()


@pytest.mark.full
def test_parts_are_worked_on_in_order_and_few_of_them_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is made little is held, and little more begins once something failed."""
    monkeypatch.setattr(spill, "BATCH", 8)
    rows, begun = pa.table({"n": range(800)}), []

    def work(place: slice, part: pa.Table) -> int:
        begun.append(place.start)
        if place.start == 80:
            raise KeyError(place.start)
        return int(part["n"][0].as_py())

    made = spill.map_batches(work, rows)
    assert [next(made) for _ in range(3)] == [0, 8, 16]
    assert len(begun) <= 3 + spill.WORKERS
    with pytest.raises(KeyError):
        list(made)
    assert max(begun) <= 80 + 8 * spill.WORKERS
