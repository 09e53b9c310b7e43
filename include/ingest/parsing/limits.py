"""Size limits on the parts of a partition, checked before or while a part is decompressed and decoded.

The spec limits bytes, rows, columns and pages under ``fetch``. A decompression bomb therefore costs at most
its limit. What counts is the memory that a part takes once it is decoded, estimated from the file where
possible: a few bytes of JSON become an object of a hundred, and a few bytes of Parquet a column of a billion
values.
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
from include.storage.spill import CHUNK_BYTES, Data

JSON_VALUE_BYTES = 64  # memory that Python takes for the smallest value of a JSON text
MAX_ZIP_ENTRIES = 1000  # reading a zip's directory takes memory for each entry
BATCH_ROWS = 1 << 16  # rows of Parquet that are decoded at a time
DICTIONARY_ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
EXACT_INTEGERS = {16: 2**11, 32: 2**24, 64: 2**53}  # by bits: below it a float holds each integer exactly
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile can't limit the output of the others


def limit_count(request: Request, name: str, unit: str, count: int) -> None:
    """Refuse a part with more rows, columns or pages than ``fetch.max_<unit>``."""
    if count > (limit := getattr(request.source.fetch, f"max_{unit}")):
        raise PartitionRefused(
            request.subject,
            required=f"at most {limit} {unit}",
            found=str(count),
            where=name,
            remedy=f"check what the source delivers; if it is right, raise fetch.max_{unit} in usecase.yaml",
        )


def limit_bytes(chunks: Iterable[bytes], request: Request, name: str) -> Iterator[bytes]:
    """Yield chunks until they exceed ``max_bytes``, which refuses the part."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > _max_bytes(request):
            raise request.too_large(name)
        yield chunk


def check_csv_size(request: Request, name: str, data: Data) -> None:
    """Refuse a CSV file with too many lines, or with too many fields in its first line."""
    end, mark = data.find(b"\n"), request.source.csv_delimiter.encode()
    limit_count(request, name, "columns", _count(data, mark, end if end >= 0 else len(data)) + 1)
    limit_count(request, name, "rows", max(0, _count(data, b"\n", len(data)) - 1))


def _count(data: Data, byte: bytes, end: int) -> int:
    """Return how often a byte occurs before ``end``."""
    chunks = (data[start : min(start + CHUNK_BYTES, end)] for start in range(0, end, CHUNK_BYTES))
    return sum(chunk.count(byte) for chunk in chunks)


def check_json_size(request: Request, name: str, data: bytes) -> None:
    """Refuse a JSON text whose values would take more than ``max_bytes``, before it is parsed."""
    if JSON_VALUE_BYTES * sum(map(data.count, (b",", b"[", b"{"))) > request.source.fetch.max_bytes:
        raise request.too_large(f"{name}, by {JSON_VALUE_BYTES} bytes a value")


def open_zip(data: Data) -> zipfile.ZipFile:
    """Return an open zip archive.

    Raises
    ------
    zipfile.BadZipFile
        for an archive with too many entries, or with a compression method whose output can't be limited.
    """
    entries = re.finditer(re.escape(b"PK\x01\x02"), data)
    if sum(1 for _ in islice(entries, MAX_ZIP_ENTRIES + 1)) > MAX_ZIP_ENTRIES:
        raise zipfile.BadZipFile(f"more than {MAX_ZIP_ENTRIES} entries")
    archive = zipfile.ZipFile(pa.BufferReader(pa.py_buffer(data)))
    if any(entry.compress_type not in ZIP_METHODS for entry in archive.infolist()):
        raise zipfile.BadZipFile("compressed by a method other than deflate")
    return archive


def read_parquet(request: Request, name: str, data: Data) -> Iterator[pa.Table]:
    """Yield a Parquet file's columns as text, batch by batch, each measured before it is expanded.

    Strings stay dictionary-encoded until they are measured: a string of one megabyte that occurs a million
    times takes one megabyte that way.

    Raises
    ------
    pyarrow.ArrowException
        for a file that isn't Parquet, has nested columns or text that isn't UTF-8.
    """
    source = pa.py_buffer(data)
    file = pa.parquet.ParquetFile(source)
    limit_count(request, name, "columns", file.metadata.num_columns)
    limit_count(request, name, "rows", file.metadata.num_rows)
    schema, chunks = _flat_schema(file), _column_chunks(file.metadata)
    fixed_size = sum(_byte_width(field.type) for field in schema) * file.metadata.num_rows
    if max(fixed_size, sum(chunk.total_uncompressed_size for chunk in chunks)) > _max_bytes(request):
        raise request.too_large(name)
    file = pa.parquet.ParquetFile(source, read_dictionary=_dictionary_columns(chunks))
    text_schema = pa.schema([(column, pa.string()) for column in schema.names])
    size = 0
    for batch in file.iter_batches(_batch_rows(request, chunks)):
        size += sum(map(_decoded_size, batch.columns))
        if size > _max_bytes(request):
            raise request.too_large(name)
        table = pa.Table.from_batches([batch])
        yield pa.table([_to_text(column) for column in table.columns], schema=text_schema)
    yield text_schema.empty_table()


def _to_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as text; equal timestamps, which take a microsecond to format, are formatted once."""
    column.validate(full=True)  # that text is UTF-8
    if pa.types.is_floating(column.type):
        limit = EXACT_INTEGERS[column.type.bit_width]
        if pa.types.is_float16(column.type):
            column = column.cast(pa.float32())  # Arrow can do little with it
        # Arrow writes large ones with an exponent, also those of an integer column in which pandas had a null
        values = column.cast(pa.float64())
        is_whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), limit))
        digits = pc.if_else(is_whole, values, None).cast(pa.int64()).cast(pa.string())
        text = column.cast(pa.string())
        # with an exponent, as Arrow writes large ones, it is a number and no integer
        is_short = pc.and_(pc.greater_equal(pc.abs(values), limit), pc.is_finite(values))
        is_short = pc.and_(is_short, pc.invert(pc.match_substring(text, "e")))
        text = pc.if_else(is_short, pc.binary_join_element_wise(text, "e0", ""), text)
        return pc.coalesce(digits, text)
    if not pa.types.is_timestamp(column.type):
        return column.cast(pa.string())
    chunks = [chunk.dictionary_encode() for chunk in column.chunks]
    return pa.chunked_array([c.dictionary.cast(pa.string()).take(c.indices) for c in chunks], pa.string())


def _flat_schema(file: Any) -> pa.Schema:
    """Return a file's schema, after checking that columns are flat, unique and the same in each row group."""
    schema, metadata = file.schema_arrow, file.metadata
    if nested := [field.name for field in schema if pa.types.is_nested(field.type)]:
        raise pa.ArrowInvalid(f"lists or structures in {', '.join(nested[:3])}")
    if repeated := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise pa.ArrowInvalid(f"{', '.join(repeated[:3])} more than once")
    paths = [chunk.path_in_schema for chunk in _column_chunks(metadata)]
    if paths != schema.names * metadata.num_row_groups:
        raise pa.ArrowInvalid("row groups with columns other than the file's")
    return schema


def _column_chunks(metadata: Any) -> list[Any]:
    """Return the metadata of each column of each row group."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [group.column(number) for group in groups for number in range(group.num_columns)]


def _dictionary_columns(chunks: Sequence[Any]) -> list[str]:
    """Return the text columns that can be read dictionary-encoded."""
    excluded = {chunk.path_in_schema for chunk in chunks if not set(chunk.encodings) <= DICTIONARY_ENCODINGS}
    texts = dict.fromkeys(chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY")
    return [name for name in texts if name not in excluded]


def _batch_rows(request: Request, chunks: Sequence[Any]) -> int:
    """Return how many rows to decode at a time.

    A value of delta-encoded text can be as long as its column chunk, so only a few are decoded at once.
    """
    sizes = [chunk.total_uncompressed_size for chunk in chunks if "DELTA_BYTE_ARRAY" in chunk.encodings]
    return int(max(1, min(BATCH_ROWS, _max_bytes(request) // max([1, *sizes]))))


def _max_bytes(request: Request) -> int:
    return int(request.source.fetch.max_bytes)


def _byte_width(data_type: Any) -> int:
    """Return the bytes of a fixed-width type, 0 for text."""
    try:
        return int(data_type.bit_width) // 8
    except ValueError:
        return 0


def _decoded_size(column: pa.Array) -> int:
    """Return the bytes that a column takes as text without a dictionary."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes) + 4 * len(column)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0) + 4 * len(column)
