"""Rows of any number: in memory while they are few, else in a file without a name that is mapped.

A mapped table is used like any other. The system drops its pages when memory is short, and its file when the
table is gone or the process is killed. Files lie in ``TMPDIR``, which must be on a disk and not in memory.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain, starmap
from pathlib import Path
from typing import IO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import StoreUnavailable


def memory_mapped_batch(schema: pa.Schema, parts: Iterable[Sequence[pa.Array]]) -> pa.RecordBatch:
    """Return parts of a table, one after the other, as one batch.

    Parameters
    ----------
    parts : arrays by column that begin with their buffers; all but the last of a multiple of eight rows.
    """
    with ExitStack() as files:
        columns = [_Column(field.type, files) for field in schema]
        for part in parts:
            for column, one in zip(columns, part, strict=True):
                column.add(one)
        return pa.RecordBatch.from_arrays([column.array() for column in columns], schema=schema)


def memory_map(file: IO[bytes]) -> pa.Buffer:
    """Return a file's bytes; they stay when it is closed."""
    file.flush()
    size = file.seek(0, 2)
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


class _Column:
    """A column's buffers in files; of a nested type its parts, as they are."""

    def __init__(self, kind: pa.DataType, files: ExitStack) -> None:
        self.kind, self.rows, self.nulls, self.end = kind, 0, 0, 0
        self.text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        self.nested: list[pa.Array] | None = None if self.text or pa.types.is_primitive(kind) else []
        self.valid, self.ends, self.data = (_file(files) for _ in range(3))
        self.ends.write(bytes(4))

    def add(self, part: pa.Array) -> None:
        """Write a part."""
        self.rows, self.nulls = self.rows + len(part), self.nulls + part.null_count
        if self.nested is not None:
            self.nested.append(part)
            return
        self.valid.write(_bits(part.is_valid()))
        if self.text:
            offsets = np.frombuffer(part.buffers()[1], np.int32)[: len(part) + 1]
            self.ends.write((offsets[1:] + np.int32(self.end)).tobytes())
            self.data.write(memoryview(part.buffers()[2] or b"")[: offsets[-1]])
            self.end += int(offsets[-1])
        elif pa.types.is_boolean(self.kind):
            self.data.write(_bits(part.fill_null(False)))
        else:
            self.data.write(memoryview(part.buffers()[1])[: len(part) * self.kind.bit_width // 8])

    def array(self) -> pa.Array:
        """Return the column."""
        if self.nested is not None:
            return pa.concat_arrays([*self.nested, pa.array([], self.kind)])
        validity = memory_map(self.valid) if self.nulls else None
        values = [memory_map(self.ends), memory_map(self.data)] if self.text else [memory_map(self.data)]
        return pa.Array.from_buffers(self.kind, self.rows, [validity, *values], self.nulls)


def _file(files: ExitStack) -> IO[bytes]:
    return files.enter_context(tempfile.TemporaryFile())


def _bits(booleans: pa.Array) -> bytes:
    return np.packbits(booleans.to_numpy(zero_copy_only=False), bitorder="little").tobytes()


HELD = 256 << 20  # bytes of a table that stays in memory
SHARE = 8  # of them that a file's bytes may take: as many are read at once
BATCH = 1 << 16  # rows that are worked on at once; a multiple of eight, since eight bits are a byte
PART = 1 << 20  # bytes that are copied at once
MEMORY = "2GB"  # of DuckDB, which spills beyond
RUNS = 1000  # sorted runs that are laid one after the other instead of being sorted
TEXT = (1 << 31) - 1  # bytes of text that one array can have
WORKERS = min(4, os.cpu_count() or 1)  # parts of a table that are worked on at once
Data = bytes | mmap.mmap
Made = TypeVar("Made")


def duckdb_engine() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB that gives the same floats each time, spills, and can open nothing outside itself."""
    spill = str(Path(tempfile.gettempdir()) / f"evergreen-{uuid.uuid4().hex}")  # made and removed by DuckDB
    connection = duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": spill})
    connection.execute("SET threads=1; SET TimeZone='UTC'; SET enable_progress_bar=false")
    connection.execute("SET python_enable_replacements=false; SET enable_external_access=false")
    return connection


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise `StoreUnavailable` for an error by which DuckDB lacked memory or disk: its SQL may be right."""
    told = str(error).startswith(("Out of Memory Error", "IO Error"))  # by Arrow's reader
    if told or isinstance(error, (duckdb.OutOfMemoryException, duckdb.IOException)):
        raise _full(str(error)) from None


def _full(found: str) -> StoreUnavailable:
    remedy = "free some, or let TMPDIR lie on a larger disk; a task tries again by itself"
    return StoreUnavailable(tempfile.gettempdir(), required="room for rows", found=found, remedy=remedy)


@contextmanager
def _disk() -> Iterator[None]:
    """Tell a full disk apart from whatever else an `OSError` would be taken for."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(str(error.strerror)) from None


def spill_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], share: int = 1) -> pa.Table:
    """Return a table of the batches, of which not more than `HELD` bytes are in memory, or a share of it."""
    first, size, rest = [], 0, iter(batches)
    for batch in rest:
        first.append(batch)
        size += batch.nbytes
        if size > HELD // share:
            with _disk(), tempfile.TemporaryFile() as file:
                with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
                    for one in chain(first, rest):
                        writer.write_batch(one)
                return pa.ipc.open_file(memory_map(file)).read_all()
    return pa.Table.from_batches(first, schema)


def spill_bytes(chunks: Iterable[bytes]) -> Data:
    """Return all the bytes of the chunks, of which not more than a share of `HELD` are in memory."""
    first, size, rest = [], 0, iter(chunks)
    for chunk in rest:
        first.append(chunk)
        size += len(chunk)
        if size > HELD // SHARE:
            with _disk(), tempfile.TemporaryFile() as file:
                for one in chain(first, rest):
                    file.write(one)
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return b"".join(first)


def batches(rows: pa.Table) -> Iterator[tuple[slice, pa.Table]]:
    """Yield the table in parts of at most `BATCH` rows, with their places; of no rows an empty one."""
    for start in range(0, max(rows.num_rows, 1), BATCH):
        yield slice(start, start + BATCH), rows.slice(start, BATCH)


def map_batches(work: Callable[[slice, pa.Table], Made], rows: pa.Table) -> Iterator[Made]:
    """Yield what is made of each part, in order, several at once where the work lets go of the interpreter.

    Few parts are made ahead, and the first error is raised.
    """
    if rows.num_rows <= BATCH:
        yield from starmap(work, batches(rows))
        return
    ahead: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(WORKERS) as workers:
        for place, part in batches(rows):
            ahead.append(workers.submit(work, place, part))
            if len(ahead) > WORKERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def filter_rows(rows: pa.Table, mask: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the rows that a mask, without nulls, says."""
    if pc.all(mask).as_py():
        return rows
    found = (part.filter(mask[place.start : place.stop]) for place, part in batches(rows))
    return spill_table(rows.schema, chain.from_iterable(part.to_batches() for part in found))


def sort_rows(rows: pa.Table, by: Sequence[str]) -> pa.Table:
    """Return the rows sorted by columns, nulls last."""
    if (joined := _joined(rows, by)) is not None:
        return joined
    if rows.nbytes <= HELD:
        return rows.sort_by([(name, "ascending") for name in by])
    return spill_table(rows.schema, sorted_batches(rows.to_reader(BATCH), rows.nbytes, by))


def sorted_batches(rows: pa.RecordBatchReader, size: int, by: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows of about so many bytes sorted by columns, nulls last."""
    if size <= HELD:
        found = rows.read_all().sort_by([(name, "ascending") for name in by])
        yield from found.combine_chunks().to_batches()
        return
    schema, order = rows.schema, ", ".join('"' + name.replace('"', '""') + '"' for name in by)
    with duckdb_engine() as connection:
        connection.register("given", rows)
        # what is pasted are quoted names
        for batch in connection.sql(f"SELECT * FROM given ORDER BY {order}").to_arrow_reader(BATCH):  # noqa: S608
            yield batch.cast(schema)


def _joined(rows: pa.Table, by: Sequence[str]) -> pa.Table | None:
    """Return the rows sorted if they are a few sorted runs, as partitions come from the lake; else None."""
    keys = rows.select(by)
    falls: list[int] = []  # where a row comes before the one above it
    turns: list[
        int
    ] = []  # where the first column changes: from an early partition to a late one nothing falls
    for start in range(0, rows.num_rows - 1, BATCH):
        part = keys.slice(start, BATCH + 1)
        above, below = part.slice(0, part.num_rows - 1), part.slice(1)
        less, equal = _compared(above, below)
        if less.null_count:
            return None
        falls += _places(pc.or_(less, equal), start + 1)
        turns += _places(pc.equal(above[by[0]], below[by[0]]), start + 1) if len(turns) < RUNS else []
        if len(falls) > RUNS:
            return None
    if not falls:
        return rows
    starts = sorted({0, *falls, *turns})
    if len(starts) > RUNS:
        return None
    ends = [*starts[1:], rows.num_rows]
    order = pc.sort_indices(keys.take(starts), [(name, "ascending") for name in by]).to_pylist()
    last = keys.take([ends[run] - 1 for run in order[:-1]])
    first = keys.take([starts[run] for run in order[1:]])
    if not pc.all(_compared(last, first)[0], skip_nulls=False).as_py():
        return None  # they overlap
    return pa.concat_tables([rows.slice(starts[run], ends[run] - starts[run]) for run in order])


def _places(mask: pa.ChunkedArray, first: int) -> list[int]:
    """Return where a mask is false, counted from ``first``."""
    found: list[int] = pc.add(pc.indices_nonzero(pc.invert(mask)), first).to_pylist()
    return found


def _compared(one: pa.Table, other: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Tell for each row whether it comes before the other table's, and whether it is equal to it."""
    less, equal = pa.repeat(False, one.num_rows), pa.repeat(True, one.num_rows)
    for low, high in reversed(list(zip(one.columns, other.columns, strict=True))):
        same = pc.equal(low, high)
        if pc.all(same, skip_nulls=False).as_py():
            continue  # as a partition's name is
        less, equal = pc.or_(pc.less(low, high), pc.and_(same, less)), pc.and_(same, equal)
    return less, equal


def allocate_array(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return an array to be filled."""
    if np.prod(shape) * 8 <= HELD:
        return np.empty(shape, dtype=np.float64)
    with _disk(), tempfile.TemporaryFile() as file:
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * 8)  # a disk that is full later kills
        return np.memmap(file, np.float64, "w+", shape=shape)


def as_single_batch(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the table as one batch with buffers of its own and nothing under its nulls; none of no rows.

    Where a column has more text than an array can have it is several batches.
    """
    size = table.num_rows
    if any(pa.types.is_string(c.type) and c.nbytes > TEXT and _text(c) > TEXT for c in table.columns):
        size = BATCH << 8
    for start in range(0, table.num_rows, size or 1):
        part = table.slice(start, size)
        if part.nbytes <= HELD:
            yield pa.RecordBatch.from_arrays([_own(c) for c in part.columns], schema=table.schema)
        else:
            with _disk():
                one = memory_mapped_batch(
                    table.schema, ([_own(c) for c in some.columns] for _, some in batches(part))
                )
            yield one


def _own(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array with buffers of its own, from their beginning, and nothing under nulls."""
    whole = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    if whole.null_count or pa.types.is_nested(whole.type) or pa.types.is_boolean(whole.type):
        return whole.take(np.arange(len(whole)))
    return whole


def _text(column: pa.ChunkedArray) -> int:
    return sum(pc.sum(pc.binary_length(chunk)).as_py() or 0 for chunk in column.chunks)
