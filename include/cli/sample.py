"""Reads a sample file as text, and describes what its columns hold."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from include.cli.sample_schedule import schedule_of_hours
from include.errors import SpecError
from include.ingest.parsing.types import DATE, FALSE, INTEGER, NUMBER, TIMESTAMP, TRUE
from include.spec.source import SOURCE_COLUMNS
from include.spec.usecase import PREDICTION_COLUMNS

FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
OWN_COLUMNS = (*SOURCE_COLUMNS, "for_partition", "ago", *PREDICTION_COLUMNS)
YAML_WORDS = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
LONGEST = 40  # characters of a name that a declaration may have
LEADING_ZERO = r"^0\d"
DIGITS, LONG = r"^\d+$", r"^\d{16,}$"  # more digits than a float holds


@dataclass(frozen=True)
class SampleColumn:
    """A column of a sample.

    Parameters
    ----------
    name : a plain word for the declaration; ``original`` is the file's.
    type : the declared type that all its texts have.
    values : its different texts, sorted.
    low, high : of a number; 0 otherwise.
    """

    name: str
    original: str
    type: str
    values: Sequence[str]
    missing: int
    low: float = 0.0
    high: float = 0.0


@dataclass(frozen=True)
class Sample:
    """A file's rows as text, under the file's own column names.

    Parameters
    ----------
    reserved : names that a declaration can't have, besides `OWN_COLUMNS`.
    """

    path: Path
    rows: pa.Table
    reserved: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """Return the file's format as a source declares it."""
        return FORMATS[self.path.suffix.lower()]

    @cached_property
    def columns(self) -> dict[str, SampleColumn]:
        """Return the columns by the file's names."""
        names: dict[str, str] = {}
        for original in self.rows.column_names:
            name = base = _plain_name(original, self.reserved)
            while name in names.values():
                suffix = f"_{len(names)}"
                name = f"{base[: LONGEST - len(suffix)]}{suffix}"
            names[original] = name
        return {original: _describe(self.rows[original], original, name) for original, name in names.items()}

    def times(self, time: str) -> pd.Series | None:
        """Return each row's timestamp as UTC, which is the declared time zone; None if it's no timestamp."""
        if self.columns[time].type != "timestamp":
            return None
        times: pd.Series = pd.to_datetime(self.rows[time].to_pandas(), format="ISO8601", utc=True)
        return times

    def days(self, time: str) -> list[str]:
        """Return the date of each row, from a date or timestamp in text.

        Raises
        ------
        SpecError
            when a row has none.
        """
        times = self.times(time)
        texts = (
            self.rows[time]
            if times is None
            else pa.array(times.dt.strftime("%Y-%m-%d"), pa.string(), from_pandas=True)
        )
        days = pc.utf8_slice_codeunits(texts, 0, 10)
        if self.columns[time].type not in ("date", "timestamp") or days.null_count:
            raise SpecError(
                f"--time {time}",
                required="a date as 2024-01-31, or such a timestamp, in each row",
                found=f"{self.columns[time].type} such as {', '.join(self.columns[time].values[:2])}"
                + (f", and {days.null_count} rows without" if days.null_count else ""),
                where=str(self.path),
                remedy="choose another column, or write its dates in this form",
            )
        result: list[str] = days.to_pylist()
        return result

    def key_of_series(self, time: str) -> str:
        """Return the column of the time as the key, if no two rows have the same day or hour; else ''."""
        if time not in self.columns:
            return ""
        days, times = self.days(time), self.times(time)
        is_hourly = times is not None and times.is_unique and schedule_of_hours(times) is not None
        return time if is_hourly or len(set(days)) == len(days) else ""


def read_sample(path: Path, reserved: tuple[str, ...] = ()) -> Sample:
    """Read a CSV, Parquet or JSON lines file.

    Parameters
    ----------
    reserved : see `Sample`.

    Raises
    ------
    SpecError
        when there is no such file, or it has no rows of this format.
    """
    try:
        rows = _READERS[FORMATS[path.suffix.lower()]](path)
    except KeyError:
        raise _sample_error(path, f"the ending {path.suffix or 'none'}") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException, StopIteration) as error:
        raise _sample_error(path, " ".join(str(error).split())[:200] or "an empty file") from None
    if not rows.num_rows:
        raise _sample_error(path, "no rows")
    clean = []
    for column in rows.columns:
        trimmed = pc.utf8_trim_whitespace(column)
        clean.append(pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed))
    return Sample(path, pa.table(clean, names=rows.column_names), reserved)


def _sample_error(path: Path, actual: str) -> SpecError:
    return SpecError(
        f"--sample {path}",
        required="a .csv with a header, a .parquet, or a .jsonl with one object per line, that has rows",
        found=actual,
        where=str(path.absolute()),
        remedy="give another file, or convert it",
    )


def _refuse_repeated_names(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SpecError(
            f"--sample {path}",
            required="columns with different names",
            found=f"{', '.join(twice)} more than once",
            where=str(path.absolute()),
            remedy="rename or remove a column, in the file or in a copy of it",
        )


def _read_csv(path: Path) -> pa.Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file))
    _refuse_repeated_names(path, names)
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pa.csv.read_csv(path, convert_options=options)


def _read_parquet(path: Path) -> pa.Table:
    _refuse_repeated_names(path, pa.parquet.read_schema(path).names)
    table = pa.parquet.read_table(path)
    return pa.table({name: table[name].cast(pa.string()) for name in table.column_names})


def _read_json(path: Path) -> pa.Table:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    rows = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("lines that aren't objects")
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


_READERS = {"csv": _read_csv, "parquet": _read_parquet, "json": _read_json}


def _plain_name(original: str, reserved: tuple[str, ...]) -> str:
    """Return a name that YAML and SQL read without quotes."""
    name = re.sub(r"\W+", "_", original.lower(), flags=re.ASCII).strip("_") or "column"
    name = name if name[0].isalpha() else f"c_{name}"
    name = name[:LONGEST].rstrip("_")
    taken = {*_sql_keywords(), *OWN_COLUMNS, *YAML_WORDS, *reserved}
    return f"{name}_" if name in taken else name


@cache
def _sql_keywords() -> frozenset[str]:
    """Return the words that DuckDB's SQL reserves."""
    query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
    with duckdb.connect() as engine:
        return frozenset(word for (word,) in engine.execute(query).fetchall())


def _describe(column: pa.ChunkedArray, original: str, name: str) -> SampleColumn:
    values = pc.unique(column.drop_null()).sort()
    kind = _type_of(values)
    low = high = 0.0
    if kind in ("integer", "number"):
        numbers = np.array([float(text) for text in values.to_pylist()])
        low, high = float(numbers.min()), float(numbers.max())
    return SampleColumn(name, original, kind, values.to_pylist(), column.null_count, low, high)


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
