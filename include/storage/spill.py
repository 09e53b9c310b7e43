"""Tables of any size: in memory if they are small, else spilled to memory-mapped temporary files.

A memory-mapped table is used like any other. The operating system drops its pages when memory is short. Its
file is unlinked, so it is freed when the table is garbage-collected or the process is killed. Files are
created in ``TMPDIR``, which must be on a disk and not in memory. DuckDB, which sorts and joins such tables,
spills there too, to a folder that its process has locked. What a killed process has left there is removed by
the next one.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import tempfile
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import chain, starmap
from pathlib import Path
from typing import IO, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import StoreUnavailable

MEMORY_LIMIT = 256 << 20  # bytes of a table that stay in memory
MEMORY_SHARES = 8  # tables or files that are read at once and share that limit
# rows that are processed at once; a multiple of eight, so that a batch's bits fill whole bytes
BATCH = 1 << 16
CHUNK_BYTES = 1 << 20  # bytes that are copied at once
DUCKDB_MEMORY = "2GB"  # DuckDB's memory limit, beyond which it spills
FOLDER = "evergreen-spill-"  # with which the name of a folder that DuckDB spills to begins
# of reading a query's result by Arrow, which has OSError for some of DuckDB's errors
SQL_ERRORS = (duckdb.Error, OSError, pa.ArrowException)
MAX_RUNS = 1000  # sorted runs that are concatenated instead of sorted
MAX_TEXT_BYTES = (1 << 31) - 1  # that one Arrow string array can hold
WORKERS = min(4, os.cpu_count() or 1)  # threads of `map_batches`
Data = bytes | mmap.mmap
Result = TypeVar("Result")


def duckdb_engine() -> duckdb.DuckDBPyConnection:
    """Return a DuckDB that computes reproducible floats, spills to disk, and has no access outside itself."""
    _remove_abandoned(tempfile.gettempdir())
    folder, descriptor = _locked_folder()
    connection = duckdb.connect(
        config={"memory_limit": DUCKDB_MEMORY, "temp_directory": str(folder), "threads": 1}
    )
    if descriptor is not None:
        weakref.finalize(connection, _release, folder, descriptor)
    connection.execute("SET TimeZone='UTC'; SET enable_progress_bar=false")
    connection.execute("SET python_enable_replacements=false; SET enable_external_access=false")
    return connection


def _locked_folder() -> tuple[Path, int | None]:
    """Create a folder, and return it with its descriptor, which has its lock until it is closed.

    There is no descriptor of a folder that can't be created: DuckDB says why if it has to spill.
    """
    while True:
        folder = Path(tempfile.gettempdir()) / f"{FOLDER}{uuid.uuid4().hex}"
        try:
            folder.mkdir(0o700)
        except OSError:
            return folder, None
        with suppress(FileNotFoundError):  # another process took it for abandoned before it was locked
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks, on which nothing is taken for abandoned
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.is_dir():
                return folder, descriptor
            os.close(descriptor)


def _release(folder: Path, descriptor: int) -> None:
    with suppress(OSError):  # DuckDB has emptied it
        folder.rmdir()
    os.close(descriptor)


@cache
def _remove_abandoned(parent: str) -> None:
    """Remove the folders that nobody has locked, once in a process.

    A process' number wouldn't tell whether it lives, since containers that share ``TMPDIR`` count their own.
    """
    for folder in Path(parent).glob(f"{FOLDER}*"):
        with suppress(OSError), ExitStack() as opened:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise `StoreUnavailable` if DuckDB ran out of memory or disk, since its SQL may be correct."""
    # Arrow's reader raises an OSError with DuckDB's message
    from_arrow = str(error).startswith(("Out of Memory Error", "IO Error"))
    if from_arrow or isinstance(error, (duckdb.OutOfMemoryException, duckdb.IOException)):
        raise _out_of_space(str(error)) from None


def _out_of_space(found: str) -> StoreUnavailable:
    remedy = "free some space, or set TMPDIR to a folder on a larger disk; tasks retry by themselves"
    return StoreUnavailable(tempfile.gettempdir(), required="room for rows", found=found, remedy=remedy)


@contextmanager
def _translate_full_disk() -> Iterator[None]:
    """Raise `StoreUnavailable` for a full disk, and leave every other `OSError` as it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _out_of_space(str(error.strerror)) from None


def spill_table(schema: pa.Schema, batches: Iterable[pa.RecordBatch], shares: int = 1) -> pa.Table:
    """Return the batches as a table; at most `MEMORY_LIMIT` / ``shares`` bytes are in memory."""
    in_memory, size, remaining = [], 0, iter(batches)
    for batch in remaining:
        in_memory.append(batch)
        size += batch.nbytes
        if size > MEMORY_LIMIT // shares:
            with _translate_full_disk(), tempfile.TemporaryFile() as file:
                with pa.ipc.new_file(pa.PythonFile(file, "w"), schema) as writer:
                    for part in chain(in_memory, remaining):
                        writer.write_batch(part)
                return pa.ipc.open_file(memory_map(file)).read_all()
    return pa.Table.from_batches(in_memory, schema)


def spill_bytes(chunks: Iterable[bytes]) -> Data:
    """Return the chunks as one; at most a share of `MEMORY_LIMIT` is in memory."""
    in_memory, size, remaining = [], 0, iter(chunks)
    for chunk in remaining:
        in_memory.append(chunk)
        size += len(chunk)
        if size > MEMORY_LIMIT // MEMORY_SHARES:
            with _translate_full_disk(), tempfile.TemporaryFile() as file:
                for part in chain(in_memory, remaining):
                    file.write(part)
                file.flush()
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return b"".join(in_memory)


def to_bytes(rows: pa.Table) -> Data:
    """Return a table as a memory-mapped file of Arrow's format."""
    with _translate_full_disk(), tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(pa.PythonFile(file, "w"), rows.schema) as writer:
            writer.write_table(rows, max_chunksize=BATCH)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def from_bytes(data: Data) -> pa.Table:
    """Return the table that `to_bytes` wrote, without copying it."""
    return pa.ipc.open_file(pa.py_buffer(data)).read_all()


def batches(rows: pa.Table) -> Iterator[tuple[slice, pa.Table]]:
    """Yield the table in batches of at most `BATCH` rows with their positions; at least one."""
    for start in range(0, max(rows.num_rows, 1), BATCH):
        yield slice(start, start + BATCH), rows.slice(start, BATCH)


def map_batches(function: Callable[[slice, pa.Table], Result], rows: pa.Table) -> Iterator[Result]:
    """Yield the function's result for each batch, in order.

    Threads compute a few results ahead, which helps where the function releases the interpreter's lock. The
    first error is raised.
    """
    if rows.num_rows <= BATCH:
        yield from starmap(function, batches(rows))
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(WORKERS) as workers:
        for span, batch in batches(rows):
            pending.append(workers.submit(function, span, batch))
            if len(pending) > WORKERS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def filter_rows(rows: pa.Table, mask: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the rows for which a mask without nulls is true."""
    if pc.all(mask).as_py():
        return rows
    filtered = (batch.filter(mask[span.start : span.stop]) for span, batch in batches(rows))
    return spill_table(rows.schema, chain.from_iterable(batch.to_batches() for batch in filtered))


def sort_rows(rows: pa.Table, by: Sequence[str]) -> pa.Table:
    """Return the rows sorted by columns, nulls last."""
    if (merged := _concatenate_runs(rows, by)) is not None:
        return merged
    if rows.nbytes <= MEMORY_LIMIT:
        return rows.sort_by([(name, "ascending") for name in by])
    return spill_table(rows.schema, sorted_batches(rows.to_reader(BATCH), rows.nbytes, by))


def sorted_batches(rows: pa.RecordBatchReader, size: int, by: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield rows of about ``size`` bytes sorted by columns, nulls last."""
    if size <= MEMORY_LIMIT:
        ordered = rows.read_all().sort_by([(name, "ascending") for name in by])
        yield from ordered.combine_chunks().to_batches()
        return
    schema, order = rows.schema, ", ".join('"' + name.replace('"', '""') + '"' for name in by)
    with duckdb_engine() as connection:
        connection.register("unsorted", rows)
        query = f"SELECT * FROM unsorted ORDER BY {order}"  # noqa: S608 - the names are quoted
        for batch in connection.sql(query).to_arrow_reader(BATCH):
            yield batch.cast(schema)


def _concatenate_runs(rows: pa.Table, by: Sequence[str]) -> pa.Table | None:
    """Return the rows sorted if they are a few sorted runs, as partitions from the lake are; else None."""
    keys = rows.select(by)
    descents: list[int] = []  # rows that come before the row above them
    changes: list[
        int
    ] = []  # rows at which the first column changes, since runs may be ordered without a descent
    for start in range(0, rows.num_rows - 1, BATCH):
        part = keys.slice(start, BATCH + 1)
        above, below = part.slice(0, part.num_rows - 1), part.slice(1)
        less, equal = _compare(above, below)
        if less.null_count:
            return None
        descents += _false_positions(pc.or_(less, equal), start + 1)
        if len(changes) < MAX_RUNS:
            changes += _false_positions(pc.equal(above[by[0]], below[by[0]]), start + 1)
        if len(descents) > MAX_RUNS:
            return None
    if not descents:
        return rows
    starts = sorted({0, *descents, *changes})
    if len(starts) > MAX_RUNS:
        return None
    ends = [*starts[1:], rows.num_rows]
    order = pc.sort_indices(keys.take(starts), [(name, "ascending") for name in by]).to_pylist()
    last = keys.take([ends[run] - 1 for run in order[:-1]])
    first = keys.take([starts[run] for run in order[1:]])
    if not pc.all(_compare(last, first)[0], skip_nulls=False).as_py():
        return None  # the runs overlap
    return pa.concat_tables([rows.slice(starts[run], ends[run] - starts[run]) for run in order])


def _false_positions(mask: pa.ChunkedArray, first: int) -> list[int]:
    """Return where a mask is false, counted from ``first``."""
    positions: list[int] = pc.add(pc.indices_nonzero(pc.invert(mask)), first).to_pylist()
    return positions


def _compare(left: pa.Table, right: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return for each row whether it comes before the other table's row, and whether both are equal."""
    less, equal = pa.repeat(False, left.num_rows), pa.repeat(True, left.num_rows)
    for left_column, right_column in reversed(list(zip(left.columns, right.columns, strict=True))):
        same = pc.equal(left_column, right_column)
        if pc.all(same, skip_nulls=False).as_py():
            continue  # as within one partition
        less = pc.or_(pc.less(left_column, right_column), pc.and_(same, less))
        equal = pc.and_(same, equal)
    return less, equal


def allocate_array(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return an uninitialized array, memory-mapped if it is large."""
    if np.prod(shape) * 8 <= MEMORY_LIMIT:
        return np.empty(shape, dtype=np.float64)
    with _translate_full_disk(), tempfile.TemporaryFile() as file:
        # without allocated blocks, a disk that fills up later would kill the process
        os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * 8)
        return np.memmap(file, np.float64, "w+", shape=shape)


def as_single_batch(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the table as one batch, with buffers of its own and zeros under its nulls; nothing for no rows.

    A table with more text in a column than one array can hold becomes several batches.
    """
    size = table.num_rows
    if any(
        pa.types.is_string(column.type)
        and column.nbytes > MAX_TEXT_BYTES
        and _text_bytes(column) > MAX_TEXT_BYTES
        for column in table.columns
    ):
        size = BATCH << 8
    for start in range(0, table.num_rows, size or 1):
        part = table.slice(start, size)
        if part.nbytes <= MEMORY_LIMIT:
            yield pa.RecordBatch.from_arrays([_copy(c) for c in part.columns], schema=table.schema)
        else:
            with _translate_full_disk():
                copies = ([_copy(c) for c in batch.columns] for _, batch in batches(part))
                single = memory_mapped_batch(table.schema, copies)
            yield single


def _copy(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array whose buffers start at offset 0, with nothing under its nulls."""
    array = pa.concat_arrays([*column.chunks, pa.array([], column.type)])
    if array.null_count or pa.types.is_nested(array.type) or pa.types.is_boolean(array.type):
        return array.take(np.arange(len(array)))
    return array


def _text_bytes(column: pa.ChunkedArray) -> int:
    return sum(pc.sum(pc.binary_length(chunk)).as_py() or 0 for chunk in column.chunks)


def memory_mapped_batch(schema: pa.Schema, parts: Iterable[Sequence[pa.Array]]) -> pa.RecordBatch:
    """Return consecutive parts of a table as one memory-mapped batch.

    Parameters
    ----------
    parts : the arrays of each column, with buffers that start at offset 0; all but the last part have a
        multiple of eight rows.
    """
    with ExitStack() as files:
        columns = [_ColumnWriter(field.type, files) for field in schema]
        for part in parts:
            for column, array in zip(columns, part, strict=True):
                column.append(array)
        return pa.RecordBatch.from_arrays([column.array() for column in columns], schema=schema)


def memory_map(file: IO[bytes]) -> pa.Buffer:
    """Return a file's bytes; they stay available after it is closed."""
    file.flush()
    size = file.seek(0, 2)
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


class _ColumnWriter:
    """Writes a column's buffers to temporary files; the parts of a nested type stay in memory."""

    def __init__(self, data_type: pa.DataType, files: ExitStack) -> None:
        self.type, self.rows, self.null_count, self.text_bytes = data_type, 0, 0, 0
        self.is_text = pa.types.is_string(data_type) or pa.types.is_binary(data_type)
        is_flat = self.is_text or pa.types.is_primitive(data_type)
        self.nested_parts: list[pa.Array] | None = None if is_flat else []
        self.validity, self.offsets, self.data = (_temporary_file(files) for _ in range(3))
        self.offsets.write(bytes(4))

    def append(self, part: pa.Array) -> None:
        """Append an array to the column."""
        self.rows, self.null_count = self.rows + len(part), self.null_count + part.null_count
        if self.nested_parts is not None:
            self.nested_parts.append(part)
            return
        self.validity.write(_pack_bits(part.is_valid()))
        if self.is_text:
            offsets = np.frombuffer(part.buffers()[1], np.int32)[: len(part) + 1]
            self.offsets.write((offsets[1:] + np.int32(self.text_bytes)).tobytes())
            self.data.write(memoryview(part.buffers()[2] or b"")[: offsets[-1]])
            self.text_bytes += int(offsets[-1])
        elif pa.types.is_boolean(self.type):
            self.data.write(_pack_bits(part.fill_null(False)))
        else:
            self.data.write(memoryview(part.buffers()[1])[: len(part) * self.type.bit_width // 8])

    def array(self) -> pa.Array:
        """Return the whole column."""
        if self.nested_parts is not None:
            return pa.concat_arrays([*self.nested_parts, pa.array([], self.type)])
        validity = memory_map(self.validity) if self.null_count else None
        values = [memory_map(self.data)]
        if self.is_text:
            values.insert(0, memory_map(self.offsets))
        return pa.Array.from_buffers(self.type, self.rows, [validity, *values], self.null_count)


def _temporary_file(files: ExitStack) -> IO[bytes]:
    return files.enter_context(tempfile.TemporaryFile())


def _pack_bits(booleans: pa.Array) -> bytes:
    return np.packbits(booleans.to_numpy(zero_copy_only=False), bitorder="little").tobytes()
