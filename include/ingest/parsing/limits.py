"""How much a part may be, measured before it is unpacked or while it is: a bomb costs its limit at most.

Bytes, rows, columns and pages have limits under ``fetch`` in the declaration. What is counted is what a part
takes once it is read, wherever the file can say so beforehand: a few bytes of JSON become an object of a
hundred, and a few bytes of Parquet a column of a billion values.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from include.errors import PartitionRefused
from include.ingest.connectors.request import Request
from include.storage.spill import PART, Data

VALUE = 64  # bytes that Python takes for the least value of a JSON text
ENTRIES = 1000  # of a zip's directory: reading the directory takes memory for each
BATCH = 1 << 16  # rows of Parquet that are decoded at a time
PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack without a limit


def limit_count(asked: Request, name: str, what: str, found: int) -> None:
    """Refuse more rows, columns or pages than ``fetch.max_<what>``."""
    if found > (limit := getattr(asked.source.fetch, f"max_{what}")):
        raise PartitionRefused(
            asked.subject,
            required=f"at most {limit} {what}",
            found=str(found),
            where=name,
            remedy=f"see whether the source sends what it should; if so raise fetch.max_{what} in the spec",
        )


def limit_bytes(chunks: Iterable[bytes], asked: Request, name: str) -> Iterator[bytes]:
    """Yield chunks, and refuse the one by which they are more than ``max_bytes``."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > _most(asked):
            raise asked.too_large(name)
        yield chunk


def check_csv_size(asked: Request, name: str, data: Data) -> None:
    """Refuse a CSV file of too many lines, or of too many fields in its first."""
    end = data.find(b"\n")
    limit_count(asked, name, "columns", _found(data, b",", end if end >= 0 else len(data)) + 1)
    limit_count(asked, name, "rows", max(0, _found(data, b"\n", len(data)) - 1))


def _found(data: Data, byte: bytes, end: int) -> int:
    """Return how often a byte is among the first so many."""
    return sum(data[start : min(start + PART, end)].count(byte) for start in range(0, end, PART))


def check_json_size(asked: Request, name: str, data: bytes) -> None:
    """Refuse a JSON text whose values would take more than ``max_bytes``, before there is one of them."""
    if VALUE * sum(map(data.count, (b",", b"[", b"{"))) > asked.source.fetch.max_bytes:
        raise asked.too_large(f"{name}, by {VALUE} bytes a value")


def open_zip(data: Data) -> zipfile.ZipFile:
    """Return an open zip.

    Raises
    ------
    zipfile.BadZipFile
        for one with a directory without end, or packed by a method that can't be measured.
    """
    found = re.finditer(re.escape(b"PK\x01\x02"), data)
    if sum(1 for _ in islice(found, ENTRIES + 1)) > ENTRIES:
        raise zipfile.BadZipFile(f"more than {ENTRIES} entries")
    packed = zipfile.ZipFile(pa.BufferReader(pa.py_buffer(data)))
    if any(one.compress_type not in METHODS for one in packed.infolist()):
        raise zipfile.BadZipFile("packed by another method than deflate")
    return packed


def read_parquet(asked: Request, name: str, data: Data) -> Iterator[pa.Table]:
    """Yield a Parquet file's columns as text, measured batch by batch as text.

    Strings stay in their dictionaries until they are measured: one of a megabyte, a million times, takes a
    megabyte there.

    Raises
    ------
    pyarrow.ArrowException
        for a file that is none, or has other columns than plain ones.
    """
    source = pa.py_buffer(data)
    file = pa.parquet.ParquetFile(source)
    limit_count(asked, name, "columns", file.metadata.num_columns)
    limit_count(asked, name, "rows", file.metadata.num_rows)
    schema, columns = _schema(file), _columns(file.metadata)
    widths = sum(_width(field.type) for field in schema) * file.metadata.num_rows
    if max(widths, sum(one.total_uncompressed_size for one in columns)) > _most(asked):
        raise asked.too_large(name)
    file = pa.parquet.ParquetFile(source, read_dictionary=_kept(columns))
    wanted = pa.schema([(column, pa.string()) for column in schema.names])
    size = 0
    for batch in file.iter_batches(_rows(asked, columns)):
        size += sum(map(_plain_size, batch.columns))
        if size > _most(asked):
            raise asked.too_large(name)
        yield _texts(pa.Table.from_batches([batch]), wanted)
    yield wanted.empty_table()


def _texts(table: pa.Table, wanted: pa.Schema) -> pa.Table:
    """Return all columns as text."""
    return pa.table([_text(column) for column in table.columns], schema=wanted)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text; a time, which takes a microsecond to write, is written once."""
    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.string())
    chunks = [chunk.dictionary_encode() for chunk in column.chunks]
    return pa.chunked_array([c.dictionary.cast(pa.string()).take(c.indices) for c in chunks], pa.string())


def _schema(file: Any) -> pa.Schema:
    """Return a file's schema, each of whose columns is plain and known by its own name in each row group."""
    schema, about = file.schema_arrow, file.metadata
    if nested := [field.name for field in schema if pa.types.is_nested(field.type)]:
        raise pa.ArrowInvalid(f"lists or structures in {', '.join(nested[:3])}")
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise pa.ArrowInvalid(f"{', '.join(twice[:3])} more than once")
    said = [one.path_in_schema for one in _columns(about)]
    if said != schema.names * about.num_row_groups:
        raise pa.ArrowInvalid("row groups of other columns than the file")
    return schema


def _columns(about: Any) -> list[Any]:
    """Return what the file says of each column of each row group."""
    groups = map(about.row_group, range(about.num_row_groups))
    return [group.column(number) for group in groups for number in range(group.num_columns)]


def _kept(columns: Sequence[Any]) -> list[str]:
    """Return the texts that stay in their dictionaries, where these can be had."""
    never = {one.path_in_schema for one in columns if not set(one.encodings) <= PLAIN}
    texts = dict.fromkeys(one.path_in_schema for one in columns if one.physical_type == "BYTE_ARRAY")
    return [name for name in texts if name not in never]


def _rows(asked: Request, columns: Sequence[Any]) -> int:
    """Return how many rows are decoded at a time: of texts that say what is new in each alone, few.

    None of them is longer than all that is written of its column.
    """
    sizes = [one.total_uncompressed_size for one in columns if "DELTA_BYTE_ARRAY" in one.encodings]
    return int(max(1, min(BATCH, _most(asked) // max([1, *sizes]))))


def _most(asked: Request) -> int:
    return int(asked.source.fetch.max_bytes)


def _width(kind: Any) -> int:
    """Return a fixed-width type's bytes, 0 for texts."""
    try:
        return int(kind.bit_width) // 8
    except ValueError:
        return 0


def _plain_size(column: pa.Array) -> int:
    """Return the bytes that a column takes without its dictionary, and as text."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes) + 4 * len(column)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0) + 4 * len(column)
