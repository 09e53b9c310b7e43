"""Parses the bytes of one part into rows of text, and refuses a part that doesn't match the spec."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from include.errors import PartitionRefused
from include.ingest.connectors.request import REFETCH, Request
from include.ingest.parsing import limits
from include.spec.source import Column
from include.storage import spill
from include.storage.spill import Data

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"  # the first bytes of each
NON_SPACE = re.compile(rb"\S")


def parse(request: Request, name: str, data: Data) -> Iterator[pa.Table]:
    """Yield a part's rows in batches, with the spec's columns as text under the spec's names.

    Parameters
    ----------
    name : of the part: its file or page.

    Raises
    ------
    PartitionRefused
        for a part that is empty, truncated or too large, of another format or encoding, or that has missing
        or undeclared columns.
    """
    for table in read_rows(request, name, data):
        yield _select_declared(request, name, table)


def read_rows(request: Request, name: str, data: Data) -> Iterable[pa.Table]:
    """Return a part's rows under the source's own column names: at least one table, which may be empty."""
    if not data:
        _refuse(request, name, "rows", "an empty file", "have the source deliver it again")
    source = request.source
    if source.rows_field:
        return [_read_json(request, name, bytes(data), source.rows_field)]
    if source.part_format == "parquet":
        return _read_parquet(request, name, data)
    plain = decompress(request, name, data)
    if _first_byte(plain) == b"<":
        found = "HTML or XML, such as an error page"
        _refuse(request, name, "a data file", found, "look at what the source serves")
    if source.part_format == "json":
        return [_read_json(request, name, bytes(plain), None)]
    return _read_csv(request, name, plain)


def _first_byte(data: Data) -> bytes:
    """Return the first byte that isn't white space, empty if there is none."""
    match = NON_SPACE.search(data)
    return match.group() if match else b""


def _refuse(request: Request, name: str, required: str, found: str, remedy: str) -> NoReturn:
    remedy += f"; then {REFETCH}"
    raise PartitionRefused(request.subject, required=required, found=found, where=name, remedy=remedy)


def decompress(request: Request, name: str, data: Data) -> Data:
    """Return the bytes without gzip or zip compression, at most ``max_bytes`` of them."""
    try:
        if data[:2] == GZIP:
            plain = _read_archive(request, name, gzip.GzipFile(fileobj=pa.BufferReader(pa.py_buffer(data))))
        elif data[:4] == ZIP:
            archive = limits.open_zip(data)
            members = archive.namelist()
            if len(members) != 1:
                _refuse(request, name, "one file in the archive", f"{len(members)}", "send one file")
            with archive.open(members[0]) as member:
                plain = _read_archive(request, name, member)
        elif name.endswith((".gz", ".zip")):
            if _first_byte(data) != b"<":  # an error page in place of an archive is refused as such
                found = "something else"
                _refuse(request, name, "an archive, as its name says", found, "correct the file's name")
            return data
        else:
            plain = data
    except (EOFError, zlib.error, OSError, zipfile.BadZipFile, RuntimeError) as error:
        found = f"a truncated or corrupt one ({error})"
        _refuse(request, name, "a complete archive", found, "have it delivered again")
    if len(plain) > request.source.fetch.max_bytes:
        raise request.too_large(name)
    if not _first_byte(plain):
        _refuse(request, name, "rows", "an empty file", "have the source deliver it again")
    return plain


def _read_archive(request: Request, name: str, file: IO[bytes] | gzip.GzipFile) -> Data:
    """Return the decompressed content of a file, up to its limit."""
    chunks = iter(lambda: file.read(spill.CHUNK_BYTES), b"")
    return spill.spill_bytes(limits.limit_bytes(chunks, request, name))


def _read_csv(request: Request, name: str, data: Data) -> Iterator[pa.Table]:
    limits.check_csv_size(request, name, data)
    try:
        end = data.find(b"\n")
        first_line = data[: end if end >= 0 else len(data)] + b"\n"
        options = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=request.source.csv_delimiter)
        header = pyarrow.csv.open_csv(io.BytesIO(first_line), parse_options=options).schema.names
        if end < 0 and data.find(b"\r") < 0:  # a header without a line break, which Arrow doesn't read
            yield pa.schema([(name, pa.string()) for name in header]).empty_table()
            return
        reader = pyarrow.csv.open_csv(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=options,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])
        yield reader.schema.empty_table()
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        found = _one_line(error)
        if "UTF8" in found or isinstance(error, UnicodeDecodeError):
            _refuse(request, name, "UTF-8 text", found, "have the source write UTF-8")
        _refuse(request, name, "rows with as many fields as the header", found, "look at that row")


def _read_json(request: Request, name: str, data: bytes, field: str | None) -> pa.Table:
    """Return the rows of a JSON list of objects, of a list under ``field``, or of JSON lines."""
    limits.check_json_size(request, name, data)
    try:
        try:
            content = load_json(data)
        except ValueError:
            if field is not None:
                raise
            content = [load_json(line) for line in data.splitlines() if line.strip()]
    except ValueError as error:
        _refuse(request, name, "JSON in UTF-8", str(error)[:200], "have the source write valid JSON")
    declared = {
        name: column.required
        for own, column in request.source.columns.items()
        for name in column.names_in_source(own)
    }
    rows = content.get(field or "rows", content) if isinstance(content, dict) else content
    rows = [] if rows is None else rows  # as some servers write an empty list
    if field is None and isinstance(rows, dict) and declared.keys() & rows:
        rows = [rows]  # JSON lines of one row
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        required, remedy = "a list of objects", "look at what the source serves"
        if field:
            required = f"a list of objects under {field!r}"
            remedy = "declare in usecase.yaml which field holds the rows (`rows:`)"
        _refuse(request, name, required, type(rows).__name__, remedy)
    limits.limit_count(request, name, "rows", len(rows))
    columns = dict.fromkeys(column for row in rows for column in row)
    limits.limit_count(request, name, "columns", len(columns))
    if rows and columns.keys() <= declared.keys():  # else one may have been renamed
        columns |= dict.fromkeys(column for column, required in declared.items() if not required)
    values = [_to_text([row.get(column) for row in rows]) for column in columns]
    return pa.table(values, names=_to_text([*columns]).to_pylist())


def load_json(data: bytes) -> Any:
    """Return parsed JSON, with each number as the text that was written."""
    try:
        return json.loads(data, parse_float=str, parse_int=str, parse_constant=str)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _to_text(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        return _to_text(texts)
    except UnicodeEncodeError:  # half of a character, as in a text that was cut
        texts = [v and v.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for v in values]
        return pa.array(texts, pa.string())


def _read_parquet(request: Request, name: str, data: Data) -> Iterator[pa.Table]:
    try:
        yield from limits.read_parquet(request, name, data)
    except (pa.ArrowException, OSError) as error:
        required = "a Parquet file without nested columns, its text in UTF-8"
        _refuse(request, name, required, _one_line(error), "have it delivered again")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _select_declared(request: Request, name: str, table: pa.Table) -> pa.Table:
    """Return the spec's columns under the spec's names, or refuse missing and undeclared columns."""
    declared = request.source.columns
    columns = {name: own for own, column in declared.items() for name in column.names_in_source(own)}
    names = table.column_names
    if not names and table.num_rows == 0:  # a page without rows has no columns
        return pa.schema([(own, pa.string()) for own in declared]).empty_table()
    missing = [column for column in columns if column not in names]
    unknown = [column for column in names if column not in columns]
    repeated = sorted({column for column in names if names.count(column) > 1})
    if repeated:
        found = f"{', '.join(repeated)} more than once"
        _refuse(request, name, "each column once", found, "have it corrected")
    required = f"the columns {', '.join(columns)}"
    if missing and unknown:
        found = f"no {', '.join(missing)}, and unknown {', '.join(unknown)}"
        own_name = columns[missing[0]]
        remedy = (
            f"if the source renamed it, write `from: {unknown[0]}` under columns.{own_name} in usecase.yaml"
        )
        _refuse(request, name, required, found, remedy)
    if missing:
        _refuse(request, name, required, f"no {', '.join(missing)}", "have it sent again with all columns")
    if unknown and request.source.contract.extra == "refuse":
        remedy = "declare it under columns, or write `extra: ignore` under contract in usecase.yaml"
        _refuse(request, name, required, f"also {', '.join(unknown)}", remedy)
    return pa.table({own: column_text(table, own, column) for own, column in declared.items()})


def column_text(rows: pa.Table, own: str, column: Column) -> pa.ChunkedArray:
    """Return a declared column's texts, from rows under the source's own column names."""
    parts = [pc.utf8_trim_whitespace(rows[name]) for name in column.names_in_source(own)]
    if len(parts) == 1:
        return rows[column.names_in_source(own)[0]]
    return pc.binary_join_element_wise(*parts, " ")  # null if a part is
