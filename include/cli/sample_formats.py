"""Finds how a sample's column is written: its type, marks in numbers, format of dates, missing values."""

from __future__ import annotations

from datetime import datetime
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from include.ingest.parsing.types import (
    DATE,
    FALSE,
    INTEGER,
    NUMBER,
    TIMESTAMP,
    TRUE,
    standard_text,
)
from include.spec.source import Column

LEADING_ZERO = r"^0\d"
DIGITS, LONG = r"^\d+$", r"^\d{16,}$"  # more digits than a float holds
THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})*$"
COMPACT_DAY = r"^(19|20)\d{6}$"
MISSING = pa.array(
    ["NA", "N/A", "#N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "none", "?", "-", "--", "."]
)
DATES = (
    *(f"%d{mark}%m{mark}{year}" for mark, year in product("/.-", ("%Y", "%y"))),
    *(f"%m{mark}%d{mark}{year}" for mark, year in product("/-", ("%Y", "%y"))),
    *("%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d", "%Y%m%d"),
    *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %H.%M", " %H.%M.%S", " %H", " %I:%M %p", " %I:%M:%S %p", "T%H:%M:%S")
FEWEST = 10  # different numbers beside one that means a missing value


def written_as(text: pa.Array, delimiter: str) -> dict[str, Any]:
    """Return the keys of a `Column` that say how the texts of a column are written.

    Parameters
    ----------
    text : of all rows, trimmed, with null for an empty field.
    delimiter : of the file: where it is a comma, one in a number is more likely a mark between thousands.
    """
    values = pc.unique(text.drop_null())
    is_missing = pc.is_in(values, MISSING)
    others = values.filter(pc.invert(is_missing))
    keys = _keys(others, delimiter)
    if keys["type"] == "string":
        return keys
    nulls = [*values.filter(is_missing).to_pylist()]
    if keys["type"] in ("integer", "number"):
        nulls += _stand_ins(text, others, Column(**keys))
    return {**keys, "null_values": tuple(nulls)} if nulls else keys


def _keys(values: pa.Array, delimiter: str) -> dict[str, Any]:
    kind = _type_of(values)
    if kind == "integer" and _all_match(values, COMPACT_DAY) and _parsed(values, "%Y%m%d") is not None:
        return {"type": "date", "format": "%Y%m%d"}
    if kind != "string" or not len(values):
        return {"type": kind}
    is_thousands = delimiter == "," and _all_match(values, THOUSANDS)
    for decimal in (".", ",") if is_thousands else (",", "."):
        numbers = standard_text(values, Column(type="number", decimal=decimal))
        if (kind := _type_of(numbers)) in ("integer", "number"):
            return {"type": kind, "decimal": decimal}
    formats = {day + time: _parsed(values, day + time) for day, time in product(DATES, TIMES)}
    spans = {pattern: times.max() - times.min() for pattern, times in formats.items() if times is not None}
    if not spans:
        return {"type": "string"}
    # 01/02/2024 has two readings, of which the wrong one spreads a few days over the year
    pattern = min(spans, key=lambda pattern: spans[pattern])
    return {"type": "timestamp" if "%H" in pattern or "%I" in pattern else "date", "format": pattern}


def _parsed(values: pa.Array, pattern: str) -> pd.Series | None:
    """Return the times of texts in a format, None if one isn't in it."""
    try:
        datetime.strptime(values[0].as_py(), pattern)
    except ValueError:
        return None
    times: pd.Series = pd.to_datetime(values.to_pandas(), format=pattern, errors="coerce")
    return None if times.isna().any() else times


def _stand_ins(text: pa.Array, values: pa.Array, column: Column) -> list[str]:
    """Return the texts of a number that must mean a missing value, such as -200 or 9999, if there is one.

    It is repeated, and the only negative number; or negative or of nines alone, and further from all others
    than these are from each other.
    """
    numbers = np.array(standard_text(values, column).to_pylist(), float)
    different = np.unique(numbers)
    if len(different) <= FEWEST:
        return []
    low, high = different[0], different[-1]
    nines = set(f"{high:g}") == {"9"} and high > FEWEST
    if low < 0 and (different[1] >= 0 or different[1] - low > high - different[1]):
        number = low
    elif nines and high - different[-2] > different[-2] - low:
        number = high
    else:
        return []
    texts = values.filter(pa.array(numbers == number))
    return texts.to_pylist() if pc.sum(pc.is_in(text, texts)).as_py() > 1 else []


def _type_of(values: pa.Array) -> str:
    """Return the narrowest type that all texts have; one with a leading zero or too many digits is a text."""
    if not len(values):
        return "string"
    lower = pc.utf8_lower(values)
    is_boolean = pc.all(pc.or_(pc.is_in(lower, TRUE), pc.is_in(lower, FALSE))).as_py()
    if is_boolean and not _all_match(values, r"\d"):
        return "boolean"
    if pc.any(pc.match_substring_regex(values, LEADING_ZERO)).as_py() and not _all_match(values, DATE):
        return "string"
    if _all_match(values, DIGITS) and pc.any(pc.match_substring_regex(values, LONG)).as_py():
        return "string"
    patterns = {"integer": INTEGER, "number": NUMBER, "date": DATE, "timestamp": TIMESTAMP}
    return next((kind for kind, pattern in patterns.items() if _all_match(values, pattern)), "string")


def _all_match(values: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, pattern)).as_py())
