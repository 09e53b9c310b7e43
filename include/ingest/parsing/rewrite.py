"""Rewrites a part without some of its rows, in its own format and compression.

The other rows stay as the source wrote them: lines of a CSV byte by byte, unless one is quoted. A number in
JSON becomes its own text, which is parsed to the same value.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from include.errors import EvergreenError
from include.ingest.connectors.request import Request
from include.ingest.parsing.parse import GZIP, ZIP, decompress, load_json, read_rows
from include.storage import spill
from include.storage.spill import Data

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


def without_rows(
    request: Request, name: str, data: Data, select: Callable[[pa.Table], Mask]
) -> tuple[Data, int]:
    """Return a part without the selected rows, and how many they are; without any, the part itself.

    Parameters
    ----------
    select : takes a part's rows as text under the source's own column names, and returns which to leave out.

    Raises
    ------
    PartitionRefused
        for a part that can't be read.
    EvergreenError
        when the part as it was rewritten doesn't have exactly the other rows.
    """
    tables = list(read_rows(request, name, data))
    rows = pa.concat_tables(tables)
    mask = select(rows) if rows.num_rows else np.zeros(0, bool)
    count = int(np.count_nonzero(mask))
    if not count:
        return data, 0
    others = spill.filter_rows(rows, pa.array(~mask))
    rewritten = _rewrite(request, name, data, others, mask)
    written = pa.concat_tables(list(read_rows(request, name, rewritten)))
    if written.num_rows != others.num_rows or (
        others.num_rows and not written.select(others.column_names).equals(others)
    ):
        raise EvergreenError(
            f"{request.subject}: {name}",
            required=f"{others.num_rows:,} rows as they were, without {count:,} erased ones",
            found="others after it was rewritten",
            remedy="this is a fault of Evergreen: nothing of this part was erased; remove its partition's "
            "snapshot by hand if it must go now",
        )
    return rewritten, count


def _rewrite(request: Request, name: str, data: Data, others: pa.Table, mask: Mask) -> bytes:
    source = request.source
    if source.part_format == "parquet" and not source.rows_field:
        table = pq.read_table(pa.py_buffer(data))
        sink = io.BytesIO()
        pq.write_table(table.filter(pa.array(~mask)), sink, compression="zstd")
        return sink.getvalue()
    plain = bytes(data if source.rows_field else decompress(request, name, data))
    if source.rows_field or source.part_format == "json":
        return _compress(data, _rewrite_json(plain, source.rows_field, mask))
    return _compress(data, _rewrite_csv(plain, others, mask, source.csv_delimiter))


def _compress(like: Data, plain: bytes) -> bytes:
    """Return bytes compressed as another part is."""
    if like[:2] == GZIP:
        return gzip.compress(plain, mtime=0)
    if like[:4] == ZIP:
        sink = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(like)) as original, zipfile.ZipFile(sink, "w") as archive:
            info = zipfile.ZipInfo(original.namelist()[0])  # without the time, so that it is the same again
            archive.writestr(info, plain, zipfile.ZIP_DEFLATED)
        return sink.getvalue()
    return plain


def _rewrite_csv(plain: bytes, others: pa.Table, mask: Mask, delimiter: str) -> bytes:
    lines = plain.splitlines(keepends=True) if b'"' not in plain else []
    filled = [number for number, line in enumerate(lines) if line.strip(b"\r\n")]
    if len(filled) == len(mask) + 1:  # a line each, below the header
        erased = {filled[1 + row] for row in np.flatnonzero(mask).tolist()}
        return b"".join(line for number, line in enumerate(lines) if number not in erased)
    sink = io.BytesIO()
    pyarrow.csv.write_csv(others, sink, pyarrow.csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue()


def _rewrite_json(plain: bytes, field: str | None, mask: Mask) -> bytes:
    try:
        content: Any = load_json(plain)
    except ValueError:  # JSON lines
        lines = [line for line in plain.splitlines() if line.strip()]
        rows = [load_json(line) for line in lines]
        others = _without(rows, mask)
        texts = [line for line, erased in zip(lines, mask, strict=True) if not erased]
        if len(others) < 2:  # a single line would be an object, and not a list of rows
            return json.dumps(others).encode()
        return b"\n".join([json.dumps(others[0]).encode(), *texts[1:]])  # it may have got columns
    name = field or "rows"
    if isinstance(content, dict) and name in content:
        return json.dumps({**content, name: _without(content[name], mask)}).encode()
    rows = [content] if isinstance(content, dict) else content  # an object may be JSON lines of one row
    return json.dumps(_without(rows, mask)).encode()


def _without(rows: list[dict[str, Any]], mask: Mask) -> list[dict[str, Any]]:
    """Return the other rows; the first has every column, as a part without a declared column is refused."""
    others = [row for row, erased in zip(rows, mask, strict=True) if not erased]
    if not others:
        return []
    lost = dict.fromkeys(column for row in rows for column in row if column not in others[0])
    return [others[0] | lost, *others[1:]]
