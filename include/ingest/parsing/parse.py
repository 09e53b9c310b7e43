"""From one part's bytes to rows of text; what isn't as the spec says is refused whole, with the remedy."""

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
import pyarrow.csv

from include.errors import PartitionRefused
from include.ingest.connectors.request import FETCH_ANEW, Request
from include.ingest.parsing import limits
from include.spec.source import Http, Objects
from include.storage import spill
from include.storage.spill import Data

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
SOLID = re.compile(rb"\S")


def parse(asked: Request, name: str, data: Data) -> Iterator[pa.Table]:
    """Yield a part's rows, some at a time, each of the spec's columns as text and by its own name.

    Parameters
    ----------
    name : the part's, as its file or page is called.

    Raises
    ------
    PartitionRefused
        for a part that is empty, cut off, too large unpacked, of another format or encoding, or that lacks a
        column or has one too many.
    """
    for table in _read(asked, name, data):
        yield _named(asked, name, table)


def _read(asked: Request, name: str, data: Data) -> Iterable[pa.Table]:
    """Return a part's rows under the source's own names: one table at least, which may be empty."""
    if not data:
        _refuse(asked, name, "rows", "an empty file", "have the source deliver it again")
    source = asked.source
    if isinstance(source, Http):
        return [_json(asked, name, bytes(data), source.rows)]
    if isinstance(source, Objects) and source.format == "parquet":
        return _parquet(asked, name, data)
    plain = _unpacked(asked, name, data)
    if _begin(plain) == b"<":
        _refuse(
            asked, name, "a data file", "HTML or XML, as of an error page", "look at what the source serves"
        )
    if isinstance(source, Objects) and source.format == "json":
        return [_json(asked, name, bytes(plain), None)]
    return _csv(asked, name, plain)


def _begin(data: Data) -> bytes:
    """Return the first byte that is no space, none of nothing but space."""
    found = SOLID.search(data)
    return found.group() if found else b""


def _refuse(asked: Request, name: str, required: str, found: str, remedy: str) -> NoReturn:
    remedy += f"; then {FETCH_ANEW}"
    raise PartitionRefused(asked.subject, required=required, found=found, where=name, remedy=remedy)


def _unpacked(asked: Request, name: str, data: Data) -> Data:
    """Return the bytes without gzip or zip, never more than ``max_bytes`` of them."""
    try:
        if data[:2] == GZIP:
            plain = _poured(asked, name, gzip.GzipFile(fileobj=pa.BufferReader(pa.py_buffer(data))))
        elif data[:4] == ZIP:
            packed = limits.open_zip(data)
            if len(packed.namelist()) != 1:
                _refuse(asked, name, "one file in the archive", f"{len(packed.namelist())}", "send one file")
            with packed.open(packed.namelist()[0]) as member:
                plain = _poured(asked, name, member)
        elif name.endswith((".gz", ".zip")):
            return data if _begin(data) == b"<" else _packed_otherwise(asked, name)
        else:
            plain = data
    except (EOFError, zlib.error, OSError, zipfile.BadZipFile, RuntimeError) as error:
        _refuse(
            asked, name, "a whole archive", f"a truncated or corrupt one ({error})", "have it delivered again"
        )
    if len(plain) > asked.source.fetch.max_bytes:
        raise asked.too_large(name)
    if not _begin(plain):
        _refuse(asked, name, "rows", "an empty file", "have the source deliver it again")
    return plain


def _poured(asked: Request, name: str, file: IO[bytes] | gzip.GzipFile) -> Data:
    """Return what a packed file holds, up to its limit."""
    return spill.spill_bytes(limits.limit_bytes(iter(lambda: file.read(spill.PART), b""), asked, name))


def _packed_otherwise(asked: Request, name: str) -> NoReturn:
    _refuse(asked, name, "an archive, as its name says", "something else", "name it for what it is")


def _csv(asked: Request, name: str, data: Data) -> Iterator[pa.Table]:
    limits.check_csv_size(asked, name, data)
    try:
        end = data.find(b"\n")
        first = data[: end if end >= 0 else len(data)] + b"\n"
        header = pyarrow.csv.open_csv(io.BytesIO(first)).schema.names
        reader = pyarrow.csv.open_csv(
            pa.BufferReader(pa.py_buffer(data)),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
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
        found = " ".join(str(error).split())[:200]
        wrong = "UTF8" in found or isinstance(error, UnicodeDecodeError)
        what = "UTF-8 text" if wrong else "rows with as many fields as the header"
        _refuse(asked, name, what, found, "have the source write it so" if wrong else "look at that row")


def _json(asked: Request, name: str, data: bytes, field: str | None) -> pa.Table:
    """Return the rows of a list of objects, of one under ``field``, or of an object a line."""
    limits.check_json_size(asked, name, data)
    try:
        try:
            content = _loaded(data)
        except ValueError:
            if field is not None:
                raise
            content = [_loaded(line) for line in data.splitlines() if line.strip()]
    except ValueError as error:
        _refuse(asked, name, "JSON in UTF-8", str(error)[:200], "have the source write it so")
    rows = content.get(field or "rows", content) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        where = f"a list of objects under {field!r}" if field else "a list of objects"
        _refuse(
            asked, name, where, type(rows).__name__, "say in the spec which field holds the rows (`rows:`)"
        )
    limits.limit_count(asked, name, "rows", len(rows))
    columns = dict.fromkeys(column for row in rows for column in row)
    limits.limit_count(asked, name, "columns", len(columns))
    return pa.table({column: _column([row.get(column) for row in rows]) for column in columns})


def _loaded(data: bytes) -> Any:
    """Return JSON with each number as it is written."""
    try:
        return json.loads(data, parse_float=str, parse_int=str, parse_constant=str)
    except RecursionError:
        raise ValueError("lists within lists without end") from None


def _column(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(
            [v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string()
        )


def _parquet(asked: Request, name: str, data: Data) -> Iterator[pa.Table]:
    try:
        yield from limits.read_parquet(asked, name, data)
    except (pa.ArrowException, OSError) as error:
        found = " ".join(str(error).split())[:200]
        _refuse(asked, name, "a Parquet file of plain columns", found, "have it delivered again")


def _named(asked: Request, name: str, table: pa.Table) -> pa.Table:
    """Return the spec's columns under the spec's names, or say which are missing and which are unknown."""
    columns = {column.source or own: own for own, column in asked.source.columns.items()}
    have = table.column_names
    if not have and table.num_rows == 0:  # a page without rows names no columns
        return pa.schema([(own, pa.string()) for own in columns.values()]).empty_table()
    missing = [column for column in columns if column not in have]
    unknown = [column for column in have if column not in columns]
    twice = sorted({column for column in have if have.count(column) > 1})
    if twice:
        _refuse(asked, name, "each column once", f"{', '.join(twice)} more than once", "have it corrected")
    required = f"the columns {', '.join(columns)}"
    if missing and unknown:
        found = f"no {', '.join(missing)}, and unknown {', '.join(unknown)}"
        own = columns[missing[0]]
        remedy = f"if the source renamed it, write `from: {unknown[0]}` under columns.{own} in the spec"
        _refuse(asked, name, required, found, remedy)
    if missing:
        _refuse(asked, name, required, f"no {', '.join(missing)}", "have it sent again with all columns")
    if unknown and asked.source.contract.extra == "refuse":
        remedy = "declare it under columns, or write `extra: ignore` under contract in the spec"
        _refuse(asked, name, required, f"also {', '.join(unknown)}", remedy)
    return table.select(list(columns)).rename_columns(list(columns.values()))
