"""How much the pages of a Parquet file's column unpack to, by their own headers.

The footer says so too, and may lie: a reader goes by the pages. Their headers are Thrift's compact protocol:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from include.spool import Data

DATA, INDEX, DICTIONARY, DATA_V2 = range(4)  # types of pages
PLAIN, INDICES, LENGTHS = 0, {2, 8}, 6  # encodings: 2 and 8 point into the dictionary
TRUE, FALSE, BYTE, SHORT, WHOLE, LONG, DOUBLE, BINARY, STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
NAMED, WIDEST = 1 << 15, 1 << 31  # numbers of fields and whole numbers are less: another reader cuts them off
MOST = 1 << 16  # pages of a column in a row group: an honest page has a thousand values at least
PROBED = 1000  # rows by which a dictionary is read
DEPTH = 8
Fields = dict[int, Any]


class Strange(ValueError):
    """These bytes are no page's header."""


@dataclass(frozen=True)
class Page:
    """One page of a column: its type and encoding, its bytes when unpacked, and its values."""

    kind: int
    encoding: int
    size: int
    values: int


def longest(data: Data, about: Any, place: int) -> int | None:
    """Return the most bytes that a value of a column of texts takes where it is written once for many.

    Parameters
    ----------
    about : what the file says of itself.
    place : the column's.

    Returns
    -------
    int or None
        None where it is all in a dictionary, which is read faster as it is, where this can't be told, or
        where the pages are more than the file says.
    """
    found, pure = 0, True
    for group in range(about.num_row_groups):
        chunk = about.row_group(group).column(place)
        try:
            start = min(at for at in (chunk.dictionary_page_offset, chunk.data_page_offset) if at)
            seen = list(pages(data, start, chunk.total_compressed_size))
        except (Strange, ValueError):
            return None
        if sum(page.size for page in seen) > chunk.total_uncompressed_size:
            return None
        written = [page for page in seen if page.kind in (DATA, DATA_V2)]
        encodings = {page.encoding for page in written}
        if not encodings <= {PLAIN, LENGTHS, *INDICES} or chunk.num_values != sum(p.values for p in written):
            return None
        pure = pure and encodings <= INDICES
        if encodings & INDICES:
            # a dictionary that comes later could be another than the one that is measured
            if seen[0].kind != DICTIONARY or written[0].encoding not in INDICES:
                return None
            said = _dictionary(data, about, chunk.path_in_schema, group)
            if said is None or len(said) != seen[0].values:
                return None
            found = max(found, pc.max(pc.binary_length(said)).as_py() or 0)
    return None if pure else found


def _dictionary(data: Data, about: Any, name: str, group: int) -> pa.Array | None:
    file = pa.parquet.ParquetFile(pa.py_buffer(data), metadata=about, read_dictionary=[name])
    for first in file.iter_batches(PROBED, row_groups=[group], columns=[name]):
        column = first.column(0)
        return column.dictionary if isinstance(column, pa.DictionaryArray) else None
    return None


def pages(data: Data, start: int, size: int) -> Iterator[Page]:
    """Yield the pages of a column that begins at ``start`` and takes so many bytes.

    Raises
    ------
    Strange
        where something else than pages lies there.
    """
    end = start + size
    for _ in range(MOST):
        if start >= end:
            return
        fields, start = _struct(data, start, DEPTH)
        kind, unpacked, packed = (fields.get(number) for number in (1, 2, 3))
        about = fields.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 6) if isinstance(kind, int) else 6)
        about = about if isinstance(about, dict) else {}
        values, encoding = about.get(1, 0), about.get(4 if kind == DATA_V2 else 2, PLAIN)
        sizes = [
            one for one in (kind, unpacked, packed, values, encoding) if isinstance(one, int) and one >= 0
        ]
        if len(sizes) < 5:
            raise Strange("a page without its sizes")
        kind, unpacked, packed, values, encoding = sizes
        yield Page(kind, encoding, unpacked, values)
        start += packed
    raise Strange(f"more than {MOST} pages")


def _struct(data: Data, at: int, depth: int) -> tuple[Fields, int]:
    fields: Fields = {}
    number = 0
    while True:
        head, at = _byte(data, at)
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _number(data, at)
        if number in fields or not 0 < number < NAMED:
            raise Strange("a field twice, of which another reader may take the other")
        fields[number], at = _value(data, at, head & 15, depth)


def _value(data: Data, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == WHOLE:
        found, at = _number(data, at)
        if not -WIDEST <= found < WIDEST:
            raise Strange("a number that is too large")
        return found, at
    # no size is one of the others: another reader would pass it over
    if kind in (TRUE, FALSE):
        return None, at
    if kind in (SHORT, LONG):
        return None, _varint(data, at)[1]
    if kind == BYTE:
        return None, at + 1
    if kind == DOUBLE:
        return None, at + 8
    if kind == BINARY:
        size, at = _varint(data, at)
        return None, at + size
    if kind == STRUCT and depth:
        return _struct(data, at, depth - 1)
    raise Strange("a field of another type than a page has")


def _byte(data: Data, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise Strange("an end within a header")
    return data[at], at + 1


def _varint(data: Data, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte, at = _byte(data, at)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise Strange("a number without end")


def _number(data: Data, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
