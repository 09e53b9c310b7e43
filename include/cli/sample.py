"""Reads a sample file as text, and describes what its columns hold."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
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

from include.cli import sample_formats
from include.cli.sample_schedule import schedule_of_hours
from include.errors import SpecError
from include.ingest.parsing.parse import column_text
from include.ingest.parsing.types import clean_column, standard_text
from include.spec.source import SOURCE_COLUMNS, Column
from include.spec.usecase import PREDICTION_COLUMNS

FORMATS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
OWN_COLUMNS = (*SOURCE_COLUMNS, "for_partition", "ago", *PREDICTION_COLUMNS)
YAML_WORDS = ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
LONGEST = 40  # characters of a name that a declaration may have
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class SampleColumn:
    """A column of a sample.

    Parameters
    ----------
    name : a plain word for the declaration; ``original`` is the file's.
    declared : its type, and how its texts are written.
    values : its different texts, as the type accepts them, sorted; ``examples`` are two from the file.
    low, high : of a number; 0 otherwise.
    """

    name: str
    original: str
    declared: Column
    values: Sequence[str]
    examples: Sequence[str]
    missing: int
    low: float = 0.0
    high: float = 0.0

    @property
    def type(self) -> str:
        """The declared type that all its texts have."""
        return self.declared.type


@dataclass(frozen=True)
class Sample:
    """A file's rows as text, under the file's own column names.

    Parameters
    ----------
    original : the rows as they are in the file, but trimmed.
    declared : each column's type, and how its texts are written.
    reserved : names that a declaration can't have, besides `OWN_COLUMNS`.
    delimiter : of a CSV file.
    """

    path: Path
    original: pa.Table
    declared: Mapping[str, Column]
    reserved: tuple[str, ...] = ()
    delimiter: str = ","

    @cached_property
    def rows(self) -> pa.Table:
        """Return the rows' texts as the declared types accept them."""
        return pa.table({name: standard_text(self._clean(name), one) for name, one in self.declared.items()})

    def _clean(self, name: str) -> pa.Array:
        column = self.declared[name]
        return clean_column(column_text(self.original, name, column), column)

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
        return {original: self._describe(original, name) for original, name in names.items()}

    def _describe(self, original: str, name: str) -> SampleColumn:
        column, declared = self.rows[original], self.declared[original]
        values, low, high = pc.unique(column.drop_null()).sort().to_pylist(), 0.0, 0.0
        if declared.type in ("integer", "number") and values:
            numbers = np.array(values, float)
            low, high = float(numbers.min()), float(numbers.max())
        examples = pc.unique(self._clean(original).drop_null()).sort()[:2].to_pylist()
        return SampleColumn(name, original, declared, values, examples, column.null_count, low, high)

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
                required="a date or a timestamp in each row, such as 2024-01-31 or 31/01/2024 18:00",
                found=f"{self.columns[time].type} such as {', '.join(self.columns[time].values[:2])}"
                + (f", and {days.null_count} rows without" if days.null_count else ""),
                where=str(self.path),
                remedy="choose another column, or write its dates as 2024-01-31",
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


def read_sample(path: Path, reserved: tuple[str, ...] = (), time: str = "") -> Sample:
    """Read a CSV, Parquet or JSON lines file.

    Parameters
    ----------
    reserved : see `Sample`.
    time : the column of the time, or several that make a timestamp, as ``date,time``: they become one more
        column of this name.

    Raises
    ------
    SpecError
        when there is no such file, or it has no rows of this format.
    """
    try:
        rows, delimiter = _READERS[FORMATS[path.suffix.lower()]](path)
    except KeyError:
        raise _sample_error(path, f"the ending {path.suffix or 'none'}") from None
    except (OSError, ValueError, RecursionError, pa.ArrowException, StopIteration) as error:
        raise _sample_error(path, " ".join(str(error).split())[:200] or "an empty file") from None
    if not rows.num_rows:
        raise _sample_error(path, "no rows")
    texts = {name: Column(type="string") for name in rows.column_names}
    rows = pa.table({name: clean_column(rows[name], column) for name, column in texts.items()})
    parts = tuple(part.strip() for part in time.split(","))
    if len(parts) > 1 and time not in texts and set(parts) <= texts.keys():
        texts[time] = Column(type="string", source=parts)
    declared = {}
    for name, column in texts.items():
        text = clean_column(column_text(rows, name, column), column)
        declared[name] = column.model_copy(update=sample_formats.written_as(text, delimiter))
    return Sample(path, rows, declared, reserved, delimiter)


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
            found=f"{', '.join(name or 'no name' for name in twice)} more than once",
            where=str(path.absolute()),
            remedy="rename or remove a column, in the file or in a copy of it",
        )


def _read_csv(path: Path) -> tuple[pa.Table, str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = max(DELIMITERS, key=file.readline().count)
        file.seek(0)
        names = next(csv.reader(file, delimiter=delimiter))
    _refuse_repeated_names(path, names)
    rows = pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    return rows, delimiter


def _read_parquet(path: Path) -> tuple[pa.Table, str]:
    _refuse_repeated_names(path, pa.parquet.read_schema(path).names)
    table = pa.parquet.read_table(path)
    return pa.table({name: table[name].cast(pa.string()) for name in table.column_names}), ","


def _read_json(path: Path) -> tuple[pa.Table, str]:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    rows = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("lines that aren't objects")
    names = dict.fromkeys(name for row in rows for name in row)
    texts = {name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names}
    return pa.table(texts), ","


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
