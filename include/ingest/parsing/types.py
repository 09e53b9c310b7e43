"""Converts text to typed values in UTC and declared units, and marks the rows whose text can't be converted.

All columns are trimmed, and an empty field is null. So is one of the column's ``null_values``. A column's
``decimal`` or ``format`` says how its texts are written; without it the types accept:

- integer: digits, also ``12.0``.
- number: decimal or exponent notation, then ``(x + shift) * scale``.
- boolean: true/false, t/f, yes/no, y/n, 1/0, in upper or lower case.
- date: ``2013-03-01``, also followed by midnight.
- timestamp: ISO 8601 with an offset, or local time in the column's time zone (UTC unless declared), in the
  years 1 to 9999 in UTC. Fractions of a microsecond are cut off. An offset that the declared time zone
  doesn't have at that moment contradicts it; see `contradicts_time_zone`. With ``timezone_override`` any
  offset in the text is ignored. A local time that a clock change skips is invalid. A local time that occurs
  twice is the earlier moment, except in a second row with the same partition and key (ignoring this column),
  which is the later moment.
- hhmm: ``517``, ``0517`` or ``5:17`` as minutes after midnight; ``2400`` is 1440.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from include.environment import setting
from include.ingest.validation.rows import Mask, RawRows, repeated_rows, to_mask
from include.spec.source import Column, Source
from include.storage import spill
from include.storage.schemas import TIME

INTEGER = r"^[+-]?\d{1,18}(\.0+)?$"
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
DATE = r"^(\d{4}-\d{2}-\d{2})([T ]00:00(:00(\.0+)?)?)?$"
TIMESTAMP = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?)?( ?(Z|[+-]\d{2}(:?\d{2})?))?$"
OFFSET = r"[T ]\d{2}:.*(Z|[+-]\d{2}(:?\d{2})?)$"
UTC_OFFSET = r"(Z|[+-]00(:?00)?)$"
HHMM = r"^(\d{1,4}(\.0+)?|\d{1,2}:\d{2})$"
TRUE, FALSE = pa.array(["true", "t", "yes", "y", "1"]), pa.array(["false", "f", "no", "n", "0"])
EARLIEST, LATEST = pd.Timestamp(datetime.min, tz="UTC"), pd.Timestamp(datetime.max, tz="UTC")
NULL_TEXT = pa.scalar(None, pa.string())
NOT_AS_DECLARED = "?"

Converted = tuple[pa.Array, Mask]  # the values, null where invalid, and which are invalid


def clean_text(text: pa.Table, source: Source) -> pa.Table:
    """Return rows with trimmed text, empty fields as null, and hashed columns as their keyed hash.

    Hashing comes first, so neither the tables nor the quarantine contain the original value.
    """
    return pa.table({name: clean_column(text[name], column) for name, column in source.columns.items()})


def clean_column(text: pa.ChunkedArray, column: Column) -> pa.Array:
    """Return one column as `clean_text` does."""
    trimmed = pc.utf8_trim_whitespace(text.combine_chunks())
    is_missing = pc.equal(trimmed, "")
    if column.null_values:
        is_missing = pc.or_(is_missing, pc.is_in(trimmed, pa.array(column.null_values, pa.string())))
    plain = pc.if_else(is_missing, NULL_TEXT, trimmed)
    return _hash(plain) if column.hashed else plain


def canonical_text(text: pa.Array, column: Column) -> pa.Array:
    """Return clean texts as their stored values are written; one that can't be converted stays as it is."""
    if column.type == "string" or column.hashed:
        return pc.fill_null(text, "")
    values = _convert(standard_text(text, column), column)[0]
    return pc.coalesce(values.cast(pa.string()), text, pa.scalar(""))


def standard_text(text: pa.Array, column: Column) -> pa.Array:
    """Return clean texts as the types accept them, if the column declares how they are written.

    One that isn't written so becomes `NOT_AS_DECLARED`, which no type accepts.
    """
    if column.hashed or not (column.decimal or column.format):
        return text
    encoded = text.dictionary_encode()
    convert = _plain_numbers if column.decimal else _iso_times
    return convert(encoded.dictionary, column).take(encoded.indices)


def _plain_numbers(values: pa.Array, column: Column) -> pa.Array:
    mark, other = (",", ".") if column.decimal == "," else (r"\.", ",")
    between = rf"[{other} '’\x{{a0}}\x{{202f}}]"  # the last two are spaces that don't break a line
    pattern = rf"^[+-]?(\d{{1,3}}({between}\d{{3}})+|\d*)({mark}\d*)?([eE][+-]?\d{{1,3}})?$"
    plain = pc.replace_substring(pc.replace_substring_regex(values, between, ""), ",", ".")
    return pc.if_else(pc.match_substring_regex(values, pattern), plain, NOT_AS_DECLARED)


def _iso_times(values: pa.Array, column: Column) -> pa.Array:
    times = pd.to_datetime(values.to_pandas(), format=column.format, errors="coerce")
    iso = times.dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return pc.fill_null(pa.array(iso, pa.string(), from_pandas=True), NOT_AS_DECLARED)


def _hash(values: pa.Array) -> pa.Array:
    key = setting("EVERGREEN_HASH_KEY").encode()
    encoded = values.dictionary_encode()
    hashes = [hmac.digest(key, value.encode(), "sha256").hex() for value in encoded.dictionary.to_pylist()]
    return pa.array(hashes, pa.string()).take(encoded.indices)


def to_declared_types(rows: RawRows, source: Source) -> Iterator[tuple[slice, pa.Table, dict[str, Mask]]]:
    """Yield the typed columns batch by batch, with the rows whose text is invalid for each column.

    Parameters
    ----------
    rows : with text from `clean_text`.
    """
    later = {name: _later_times(rows, source, name) for name in source.columns if _is_local(source, name)}
    for span, batch in spill.batches(rows.text):
        typed, invalid = {}, {}
        for name in source.columns:
            column, text = source.column(name), _readable_text(batch[name], source, name)
            if column.type == "string" or column.hashed:
                typed[name], invalid[name] = text, np.zeros(len(text), bool)
            else:
                typed[name], invalid[name] = _convert(text, column)
                if name in later and later[name][span].any():
                    second_occurrence = _to_moments(text, column)[1]
                    typed[name] = pc.if_else(pa.array(later[name][span]), second_occurrence, typed[name])
        yield span, pa.table(typed), invalid


def _readable_text(text: pa.ChunkedArray, source: Source, name: str) -> pa.Array:
    """Return a column's texts as its type accepts them, without offsets if ``timezone_override`` is set."""
    values = standard_text(text.combine_chunks(), source.columns[name])
    if not (source.timezone_override and is_time(source.columns[name])):
        return values
    return pc.replace_substring_regex(values, r"^(.*[T ]\d{2}:.*?) ?(Z|[+-]\d{2}(:?\d{2})?)$", r"\1")


def _convert(text: pa.Array, column: Column) -> Converted:
    """Return the values and the invalid rows; each distinct text is converted once."""
    encoded = text.dictionary_encode()
    values, invalid = CONVERTERS[column.type](encoded.dictionary, column)
    return values.take(encoded.indices), _take_mask(invalid, encoded.indices)


def _take_mask(mask: Mask, indices: pa.Array) -> Mask:
    """Return the mask's value at each index, false for a null index."""
    filled = pc.fill_null(indices, len(mask))  # the index of an extra element, which is false
    return np.asarray(np.append(mask, False)[filled.to_numpy(zero_copy_only=False)], bool)


def _match(values: pa.Array, pattern: str) -> Converted:
    """Return the values that match a pattern, else null, and which don't match."""
    return _keep_valid(values, pc.match_substring_regex(values, pattern))


def _keep_valid(values: pa.Array, valid: pa.Array) -> Converted:
    """Return the valid values, else null, and which are invalid; a null is neither."""
    valid_values = pc.if_else(pc.fill_null(valid, False), values, None)
    return valid_values, to_mask(pc.invert(pc.fill_null(valid, True)))


def _lost_values(before: pa.Array, after: pa.Array) -> Mask:
    """Return which values matched the pattern and still couldn't be converted, such as 2013-02-30."""
    return to_mask(pc.and_(pc.is_valid(before), pc.is_null(after)))


def _parse_integers(values: pa.Array) -> pa.Array:
    digits = pc.replace_substring_regex(pc.replace_substring_regex(values, r"\.0+$", ""), r"^\+", "")
    return digits.cast(pa.int64())


def _to_integer(values: pa.Array, column: Column) -> Converted:
    matching, invalid = _match(values, INTEGER)
    return _parse_integers(matching), invalid


def _to_number(values: pa.Array, column: Column) -> Converted:
    matching, invalid = _match(values, NUMBER)
    numbers = pc.replace_substring_regex(matching, r"^\+", "").cast(pa.float64())
    if column.shift:
        numbers = pc.add(numbers, column.shift)
    if column.scale != 1.0:
        numbers = pc.multiply(numbers, column.scale)
    finite, infinite = _keep_valid(numbers, pc.is_finite(numbers))
    return finite, invalid | infinite


def _to_boolean(values: pa.Array, column: Column) -> Converted:
    lower = pc.utf8_lower(values)
    is_true, is_false = pc.is_in(lower, TRUE), pc.is_in(lower, FALSE)
    valid = pc.or_(is_true, is_false)
    return pc.if_else(valid, is_true, None), to_mask(pc.and_(pc.invert(valid), pc.is_valid(values)))


def _to_date(values: pa.Array, column: Column) -> Converted:
    matching, invalid = _match(values, DATE)
    days = pc.utf8_slice_codeunits(matching, 0, 10).to_pandas()
    dates = pd.to_datetime(days, format="%Y-%m-%d", errors="coerce")
    array = pa.array(dates, pa.timestamp("us"), from_pandas=True).cast(pa.date32())
    return array, invalid | _lost_values(matching, array)


def _to_minutes(values: pa.Array, column: Column) -> Converted:
    matching, invalid = _match(values, HHMM)
    digits = _parse_integers(pc.replace_substring(matching, ":", ""))
    hours = pc.divide(digits, 100)
    minutes = pc.subtract(digits, pc.multiply(hours, 100))
    valid = pc.or_(pc.and_(pc.less(hours, 24), pc.less(minutes, 60)), pc.equal(digits, 2400))
    total = pc.add(pc.multiply(hours, 60), minutes).cast(pa.int32())
    after_midnight, out_of_range = _keep_valid(total, valid)
    return after_midnight, invalid | out_of_range


def _to_timestamp(values: pa.Array, column: Column) -> Converted:
    matching, invalid = _match(values, TIMESTAMP)
    array = _to_moments(values, column)[0]
    return array, invalid | _lost_values(matching, array)


CONVERTERS: dict[str, Callable[[pa.Array, Column], Converted]] = {
    "integer": _to_integer,
    "number": _to_number,
    "boolean": _to_boolean,
    "date": _to_date,
    "hhmm": _to_minutes,
    "timestamp": _to_timestamp,
}


def _to_moments(values: pa.Array, column: Column) -> tuple[pa.Array, pa.Array]:
    """Return the moments of texts twice: first the earlier, then the later of an ambiguous local time."""
    matching, has_offset = _split_offsets(values)
    with_offset = _moments_with_offset(pc.if_else(has_offset, matching, NULL_TEXT))
    without_offset = pc.if_else(has_offset, NULL_TEXT, matching).to_pandas()
    local = pd.to_datetime(without_offset, format="ISO8601", errors="coerce")
    zone, moments = column.timezone or "UTC", []
    latest = datetime.max + min(ZoneInfo(zone).utcoffset(datetime.max) or timedelta(), timedelta())
    local = local.where(local <= latest)  # what is later there is in the year 10000 in UTC
    for early in (True, False):
        ambiguous = np.full(len(values), early)
        moment = local.dt.tz_localize(zone, ambiguous=ambiguous, nonexistent="NaT").dt.tz_convert("UTC")
        moments.append(pa.array(with_offset.where(to_mask(has_offset), moment), TIME, from_pandas=True))
    return moments[0], moments[1]


def _moments_with_offset(texts: pa.Array) -> pd.Series:
    """Return the moments of timestamps with an offset; one outside years 1 to 9999 in UTC is missing."""
    moments: pd.Series = pd.to_datetime(texts.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    return moments.where(moments.between(EARLIEST, LATEST))


def _split_offsets(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the texts that are timestamps, to the microsecond, else null, and which have an offset."""
    matching = pc.replace_substring_regex(_match(values, TIMESTAMP)[0], r"[.,](\d{1,6})\d*", r".\1")
    return matching, pc.fill_null(pc.match_substring_regex(matching, OFFSET), False)


def contradicts_time_zone(text: pa.Array, column: Column) -> Mask:
    """Return which timestamps have an offset other than the column's declared time zone has at that moment.

    Either the text or the declaration is wrong, so neither is trusted. Without a declared time zone the
    offset in the text counts.
    """
    encoded = text.dictionary_encode()
    matching, has_offset = _split_offsets(encoded.dictionary)
    if column.timezone == "UTC":  # the common case needs no time zone arithmetic
        is_utc = pc.fill_null(pc.match_substring_regex(matching, UTC_OFFSET), True)
        contradicting = to_mask(has_offset) & ~to_mask(is_utc)
    else:
        with_offset = pc.if_else(has_offset, matching, NULL_TEXT)
        moments = _moments_with_offset(with_offset)
        wall = pc.replace_substring_regex(with_offset, r" ?(Z|[+-]\d{2}(:?\d{2})?)$", "").to_pandas()
        written = pd.to_datetime(wall, format="ISO8601", errors="coerce")
        declared = moments.dt.tz_convert(column.timezone).dt.tz_localize(None)
        contradicting = np.asarray(moments.notna() & (declared != written), bool)
    return _take_mask(contradicting, encoded.indices)


def _is_local(source: Source, name: str) -> bool:
    """Return whether a column's times are local to a zone in which a time may occur twice."""
    column = source.column(name)
    return is_time(column) and column.timezone not in (None, "UTC")


def is_time(column: Column) -> bool:
    """Return whether a column's texts are read as timestamps."""
    return column.type == "timestamp" and not column.hashed


def _later_times(rows: RawRows, source: Source, name: str) -> Mask:
    """Return which ambiguous local times repeat an earlier row with the same partition and key."""
    ambiguous = np.zeros(len(rows), bool)
    for span, batch in spill.batches(rows.text):
        encoded = _readable_text(batch[name], source, name).dictionary_encode()
        differs = pc.not_equal(*_to_moments(encoded.dictionary, source.column(name)))
        ambiguous[span] = to_mask(pc.fill_null(differs.take(encoded.indices), False))
    if not ambiguous.any():
        return ambiguous
    columns = dict.fromkeys([*source.key, name])
    return repeated_rows(rows.text.select(columns), rows.row_counts, ambiguous)
