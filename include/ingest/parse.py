"""From one part's bytes to rows of text; what isn't as the spec says is refused whole, with the remedy."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv

from include.errors import PartitionRefused
from include.ingest import bounds
from include.ingest.request import Request
from include.spec.source import Http, Objects

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"


def parse(asked: Request, name: str, data: bytes) -> pa.Table:
    """Return a part's rows, each of the spec's columns as text and by its own name.

    Parameters
    ----------
    name : the part's, as its file or page is called.

    Raises
    ------
    PartitionRefused
        for a part that is empty, cut off, too large unpacked, of another format or encoding, or that lacks a
        column or has one too many.
    """
    if not data:
        _refuse(asked, name, "rows", "an empty file", "have the source deliver it again")
    source = asked.source
    if isinstance(source, Http):
        return _named(asked, name, _json(asked, name, data, source.rows))
    if isinstance(source, Objects) and source.format == "parquet":
        return _named(asked, name, _parquet(asked, name, data))
    plain = _unpacked(asked, name, data)
    if plain.lstrip()[:1] == b"<":
        _refuse(
            asked, name, "a data file", "HTML or XML, as of an error page", "look at what the source serves"
        )
    if isinstance(source, Objects) and source.format == "json":
        return _named(asked, name, _json(asked, name, plain, None))
    return _named(asked, name, _csv(asked, name, plain))


def _refuse(asked: Request, name: str, required: str, found: str, remedy: str) -> NoReturn:
    remedy += "; then run the night again with fetch_anew"
    raise PartitionRefused(asked.subject, required=required, found=found, where=name, remedy=remedy)


def _unpacked(asked: Request, name: str, data: bytes) -> bytes:
    """Return the bytes without gzip or zip, never more than ``max_bytes`` of them."""
    limit = asked.source.fetch.max_bytes
    try:
        if data[:2] == GZIP:
            plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(limit + 1)
        elif data[:4] == ZIP:
            packed = bounds.archive(data)
            if len(packed.namelist()) != 1:
                _refuse(asked, name, "one file in the archive", f"{len(packed.namelist())}", "send one file")
            with packed.open(packed.namelist()[0]) as member:
                plain = member.read(limit + 1)
        elif name.endswith((".gz", ".zip")):
            return data if data.lstrip()[:1] == b"<" else _packed_otherwise(asked, name)
        else:
            plain = data
    except (EOFError, zlib.error, OSError, zipfile.BadZipFile, RuntimeError) as error:
        _refuse(
            asked, name, "a whole archive", f"a truncated or corrupt one ({error})", "have it delivered again"
        )
    if len(plain) > limit:
        raise asked.too_large(name)
    if not plain.strip():
        _refuse(asked, name, "rows", "an empty file", "have the source deliver it again")
    return plain


def _packed_otherwise(asked: Request, name: str) -> NoReturn:
    _refuse(asked, name, "an archive, as its name says", "something else", "name it for what it is")


def _csv(asked: Request, name: str, data: bytes) -> pa.Table:
    bounds.lines(asked, name, data)
    try:
        header = pyarrow.csv.open_csv(io.BytesIO(data.split(b"\n", 1)[0] + b"\n")).schema.names
        return pyarrow.csv.read_csv(
            io.BytesIO(data),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())[:200]
        wrong = "UTF8" in found or isinstance(error, UnicodeDecodeError)
        what = "UTF-8 text" if wrong else "rows with as many fields as the header"
        _refuse(asked, name, what, found, "have the source write it so" if wrong else "look at that row")


def _json(asked: Request, name: str, data: bytes, field: str | None) -> pa.Table:
    """Return the rows of a list of objects, of one under ``field``, or of an object a line."""
    bounds.values(asked, name, data)
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
    bounds.count(asked, name, "rows", len(rows))
    columns = dict.fromkeys(column for row in rows for column in row)
    bounds.count(asked, name, "columns", len(columns))
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


def _parquet(asked: Request, name: str, data: bytes) -> pa.Table:
    try:
        return bounds.parquet(asked, name, data)
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
