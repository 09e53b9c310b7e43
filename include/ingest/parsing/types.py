"""Text becomes typed values in UTC and declared units; what can't be read is said, never silently null.

All columns are trimmed and an empty field is null. What each type reads:

- integer: digits, and ``12.0``; number: decimal or exponent, then ``(x + shift) * scale``.
- boolean: true/false, t/f, yes/no, y/n, 1/0, in either case.
- date: ``2013-03-01``, also with a midnight behind it.
- timestamp: ISO 8601, with an offset or read in the column's time zone (UTC unless given). An offset that the
  declared time zone hasn't at that moment contradicts it: see `contradicts_zone`. A local time that
  a clock change skips can't be read. One that happens twice is the earlier moment; where a second row of the
  same partition and key (but for this column) says it again, that row is the later moment.
- hhmm: ``517``, ``0517`` or ``5:17`` as minutes after midnight; ``2400`` is 1440.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from include.environment import setting
from include.ingest.validation import rows as repeats
from include.ingest.validation.rows import Mask, RawRows, mask
from include.spec.source import Column, Source
from include.storage import spill
from include.storage.schemas import TIME

INTEGER = r"^[+-]?\d{1,18}(\.0+)?$"
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
DATE = r"^(\d{4}-\d{2}-\d{2})([T ]00:00(:00(\.0+)?)?)?$"
MOMENT = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?$"
OFFSET = r"[T ]\d{2}:.*(Z|[+-]\d{2}(:?\d{2})?)$"
UTC_OFFSET = r"(Z|[+-]00(:?00)?)$"
HHMM = r"^(\d{1,4}(\.0+)?|\d{1,2}:\d{2})$"
TRUE, FALSE = pa.array(["true", "t", "yes", "y", "1"]), pa.array(["false", "f", "no", "n", "0"])

Typed = tuple[pa.Array, Mask]


def clean_text(text: pa.Table, source: Source) -> pa.Table:
    """Return the text of some rows trimmed, empty fields as null, and hashed columns as their keyed hash.

    Hashing is the first thing that happens to a row: neither the tables nor the quarantine hold the value.
    """
    columns = {}
    for name, column in source.columns.items():
        trimmed = pc.utf8_trim_whitespace(text[name].combine_chunks())
        plain = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
        columns[name] = _hashed(plain) if column.hashed else plain
    return pa.table(columns)


def to_declared_types(rows: RawRows, source: Source) -> Iterator[tuple[slice, pa.Table, dict[str, Mask]]]:
    """Yield the typed columns batch by batch, and of each column the rows whose text it can't read.

    Parameters
    ----------
    rows : with `cleaned` text.
    """
    later = {name: _later(rows, source, name) for name in source.columns if _local(source, name)}
    for place, part in spill.batches(rows.text):
        typed, bad = {}, {}
        for name, column in source.columns.items():
            text = part[name].combine_chunks()
            if column.type == "string" or column.hashed:
                typed[name], bad[name] = text, np.zeros(len(text), bool)
            else:
                typed[name], bad[name] = _once(text, column)
                if name in later and later[name][place].any():
                    typed[name] = pc.if_else(
                        pa.array(later[name][place]), _moments(text, column)[1], typed[name]
                    )
        yield place, pa.table(typed), bad


def _once(text: pa.Array, column: Column) -> Typed:
    """Return what each text is, and whether it can't be read: each text is read once."""
    encoded = text.dictionary_encode()
    read, bad = READ[column.type](encoded.dictionary, column)
    missing = pc.fill_null(encoded.indices, len(bad))  # the place of one more, which is no bad text
    return read.take(encoded.indices), np.append(bad, False)[missing.to_numpy(zero_copy_only=False)]


def _hashed(values: pa.Array) -> pa.Array:
    key = setting("EVERGREEN_HASH_KEY").encode()
    encoded = values.dictionary_encode()
    hashes = [hmac.digest(key, value.encode(), "sha256").hex() for value in encoded.dictionary.to_pylist()]
    return pa.array(hashes, pa.string()).take(encoded.indices)


def _shaped(values: pa.Array, shape: str) -> Typed:
    """Return the values that have a shape, else null, and which have not."""
    return _judged(values, pc.match_substring_regex(values, shape))


def _judged(values: pa.Array, valid: pa.Array) -> Typed:
    """Return the valid values, else null, and which are not valid; null is neither."""
    return pc.if_else(pc.fill_null(valid, False), values, None), mask(pc.invert(pc.fill_null(valid, True)))


def _whole(values: pa.Array) -> pa.Array:
    digits = pc.replace_substring_regex(pc.replace_substring_regex(values, r"\.0+$", ""), r"^\+", "")
    return digits.cast(pa.int64())


def _integer(values: pa.Array, column: Column) -> Typed:
    good, bad = _shaped(values, INTEGER)
    return _whole(good), bad


def _number(values: pa.Array, column: Column) -> Typed:
    good, bad = _shaped(values, NUMBER)
    read = pc.replace_substring_regex(good, r"^\+", "").cast(pa.float64())
    if column.shift:
        read = pc.add(read, column.shift)
    if column.scale != 1.0:
        read = pc.multiply(read, column.scale)
    finite, infinite = _judged(read, pc.is_finite(read))
    return finite, bad | infinite


def _boolean(values: pa.Array, column: Column) -> Typed:
    lower = pc.utf8_lower(values)
    yes, no = pc.is_in(lower, TRUE), pc.is_in(lower, FALSE)
    known = pc.or_(yes, no)
    return pc.if_else(known, yes, None), mask(pc.and_(pc.invert(known), pc.is_valid(values)))


def _date(values: pa.Array, column: Column) -> Typed:
    good, bad = _shaped(values, DATE)
    days = pc.utf8_slice_codeunits(good, 0, 10).to_pandas()
    read = pd.to_datetime(days, format="%Y-%m-%d", errors="coerce")
    array = pa.array(read, pa.timestamp("us"), from_pandas=True).cast(pa.date32())
    return array, bad | _lost(good, array)


def _hhmm(values: pa.Array, column: Column) -> Typed:
    good, bad = _shaped(values, HHMM)
    read = _whole(pc.replace_substring(good, ":", ""))
    hours = pc.divide(read, 100)
    minutes = pc.subtract(read, pc.multiply(hours, 100))
    valid = pc.or_(pc.and_(pc.less(hours, 24), pc.less(minutes, 60)), pc.equal(read, 2400))
    after, never = _judged(pc.add(pc.multiply(hours, 60), minutes).cast(pa.int32()), valid)
    return after, bad | never


def _timestamp(values: pa.Array, column: Column) -> Typed:
    good, bad = _shaped(values, MOMENT)
    array = _moments(values, column)[0]
    return array, bad | _lost(good, array)


def _moments(values: pa.Array, column: Column) -> tuple[pa.Array, pa.Array]:
    """Return the moments of texts, and where a clock change repeats a local time the later ones."""
    good = _shaped(values, MOMENT)[0]
    exact = pc.fill_null(pc.match_substring_regex(good, OFFSET), False)
    null = pa.scalar(None, pa.string())
    with_offset = pd.to_datetime(
        pc.if_else(exact, good, null).to_pandas(), format="ISO8601", utc=True, errors="coerce"
    )
    local = pd.to_datetime(pc.if_else(exact, null, good).to_pandas(), format="ISO8601", errors="coerce")
    zone, read = column.timezone or "UTC", []
    for early in (True, False):
        which = np.full(len(values), early)
        moment = local.dt.tz_localize(zone, ambiguous=which, nonexistent="NaT").dt.tz_convert("UTC")
        read.append(pa.array(with_offset.where(mask(exact), moment), TIME, from_pandas=True))
    return read[0], read[1]


def contradicts_zone(text: pa.Array, column: Column) -> Mask:
    """Return which texts of a timestamp have an offset other than the column's declared time zone then.

    The text may be right or the declaration, so neither is taken. Without a declared zone the text counts.
    """
    encoded = text.dictionary_encode()
    good = _shaped(encoded.dictionary, MOMENT)[0]
    exact = pc.fill_null(pc.match_substring_regex(good, OFFSET), False)
    if column.timezone == "UTC":  # the usual case needs no calendar
        other = mask(exact) & ~mask(pc.fill_null(pc.match_substring_regex(good, UTC_OFFSET), True))
    else:
        with_offset = pc.if_else(exact, good, pa.scalar(None, pa.string()))
        moments = pd.to_datetime(with_offset.to_pandas(), format="ISO8601", utc=True, errors="coerce")
        wall = pc.replace_substring_regex(with_offset, r" ?(Z|[+-]\d{2}(:?\d{2})?)$", "").to_pandas()
        stated = pd.to_datetime(wall, format="ISO8601", errors="coerce")
        declared = moments.dt.tz_convert(column.timezone).dt.tz_localize(None)
        other = np.asarray(moments.notna() & (declared != stated), bool)
    missing = pc.fill_null(encoded.indices, len(other))
    return np.asarray(np.append(other, False)[missing.to_numpy(zero_copy_only=False)], bool)


def _local(source: Source, name: str) -> bool:
    """Return whether a column's times may happen twice."""
    column = source.columns[name]
    return column.type == "timestamp" and not column.hashed and column.timezone not in (None, "UTC")


def _later(rows: RawRows, source: Source, name: str) -> Mask:
    """Return which of the local times that happen twice the same key has said before.

    On the same partition.
    """
    among = np.zeros(len(rows), bool)
    for place, part in spill.batches(rows.text):
        encoded = part[name].combine_chunks().dictionary_encode()
        twice = pc.not_equal(*_moments(encoded.dictionary, source.columns[name]))
        among[place] = mask(pc.fill_null(twice.take(encoded.indices), False))
    columns = dict.fromkeys([*source.key, name])
    return repeats.repeated_rows(rows.text.select(columns), rows.sizes, among) if among.any() else among


def _lost(before: pa.Array, after: pa.Array) -> Mask:
    """Return which values had the right shape and still weren't any, as 2013-02-30."""
    return mask(pc.and_(pc.is_valid(before), pc.is_null(after)))


READ: dict[str, Callable[[pa.Array, Column], Typed]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "hhmm": _hhmm,
    "timestamp": _timestamp,
}
