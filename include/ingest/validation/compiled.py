"""Expectations about rows as conditions of one DuckDB query, where its answers are Great Expectations' own.

What is compiled is listed here: a type, its arguments, and the type of its columns. All else is asked of
Great Expectations; `tests/ingest/test_compiled.py` asks both. To both, NaN is a missing value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from include.errors import SpecError
from include.ingest.validation.rows import UNIT, Codes, Mask, with_unit_numbers
from include.spec.source import Expectation
from include.stats.formatting import figure_and_limit
from include.storage import spill
from include.storage.schemas import TIME

LIMITS = ("min_value", "max_value", "strict_min", "strict_max")
EXACT = 2**53  # beyond, a float (which Great Expectations makes of limits) skips integers
# pandas' strings are matched by RE2 as DuckDB's are; of its syntax, what no option or version reads otherwise
_ONE = r"(?:[A-Za-z0-9 _:/,@-]|\\[d.-]|\[(?:a-z|A-Z|0-9|[A-Za-z0-9_ .])+\])"
PLAIN = re.compile(rf"\^?(?:{_ONE}(?:[?*+]|\{{\d{{1,2}}(?:,\d{{0,2}})?\}})?)+\$?")


@dataclass(frozen=True)
class Condition:
    """SQL that is true of the rows that break an expectation, and the values of its question marks."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Column:
    """A column's quoted name, and what it holds: string, integer, number, boolean, date or timestamp."""

    name: str
    holds: str

    @property
    def missing(self) -> str:
        return f"({self.name} IS NULL{f' OR isnan({self.name})' if self.holds == 'number' else ''})"

    @property
    def present(self) -> str:
        """Return what is to be added where NaN, which DuckDB holds for the greatest number, would be true."""
        return f" AND NOT isnan({self.name})" if self.holds == "number" else ""


Built = Condition | None
Kwargs = Mapping[str, Any]


def compile_expectation(expectation: Expectation, types: Mapping[str, pa.DataType]) -> Condition | None:
    """Return the condition that an expectation is, or None where it is Great Expectations' to answer.

    Parameters
    ----------
    types : of each column of the table.
    """
    if expectation.type not in KINDS:
        return None
    build, about, needed, others = KINDS[expectation.type]
    kwargs = expectation.kwargs
    if not {*about, *needed} <= set(kwargs) <= {*about, *needed, *others}:
        return None
    columns = [_column(kwargs[name], types) for name in about]
    return None if None in columns else build(kwargs, *columns)


def breaking_rows(connection: duckdb.DuckDBPyConnection, conditions: Sequence[Condition]) -> list[Mask]:
    """Return which of the connection's ``rows`` (a table or view) break each expectation, by one scan."""
    figures = ", ".join(f'coalesce({one.sql}, false) AS "{n}"' for n, one in enumerate(conditions))
    values = [value for one in conditions for value in one.values]
    # names are quoted, values are bound
    found = connection.execute(f"SELECT {figures} FROM rows", values).fetchnumpy()  # noqa: S608
    return [np.asarray(column, bool) for column in found.values()]


def _column(name: Any, types: Mapping[str, pa.DataType]) -> _Column | None:
    """Return a column, unless it isn't there, or its name is another's but for the case (one to DuckDB)."""
    if not isinstance(name, str) or not name or [n.lower() for n in types].count(name.lower()) != 1:
        return None
    for holds, fits in _HOLDS.items():
        if name in types and fits(types[name]):
            return _Column('"' + name.replace('"', '""') + '"', holds)
    return None


def _fits(value: Any, holds: str) -> bool:
    """Return whether a limit or member is compared with a column of such values, and the same by both."""
    if holds in ("integer", "number"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and abs(value) < EXACT
    if holds == "date":
        return isinstance(value, date) and not isinstance(value, datetime)
    return isinstance(value, {"string": str, "boolean": bool}.get(holds, ()))


def _between(kwargs: Kwargs, column: _Column) -> Built:
    # a limit of text is refused by Great Expectations, in its words
    limits = None if column.holds == "string" else expectation_bounds(kwargs, column.holds)
    return limits and _outside(column.name, column.holds, column.present, *limits)


def _lengths(kwargs: Kwargs, column: _Column) -> Built:
    """Both count code points."""
    limits = expectation_bounds(kwargs, "integer")
    if limits is None or column.holds != "string" or any(isinstance(limit, float) for limit in limits):
        return None  # Great Expectations cuts a limit of 2.5 to 2
    return _outside(f"length({column.name})", "integer", "", *limits)


def _length(kwargs: Kwargs, column: _Column) -> Built:
    value = kwargs["value"]
    if column.holds != "string" or isinstance(value, float) or not _fits(value, "integer"):
        return None
    return Condition(f"length({column.name}) <> ?", (value,))


def expectation_bounds(kwargs: Kwargs, holds: str) -> tuple[Any, Any, bool, bool] | None:
    """Return the limits and whether they are strict, if they are usual ones for such values."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    strict = (kwargs.get("strict_min", False), kwargs.get("strict_max", False))
    given = [limit for limit in (low, high) if limit is not None]
    if not given or not all(_fits(one, holds) for one in given) or given[0] > given[-1]:
        return None
    return (low, high, *strict) if {type(one) for one in strict} == {bool} else None


def _outside(
    what: str, holds: str, present: str, low: Any, high: Any, strict_min: bool, strict_max: bool
) -> Condition:
    """Return below or above; an integer is compared with an integer, not as a float with 3.5."""
    parts, values = [], []
    if low is not None:
        parts.append(f"{what} {'<=' if strict_min else '<'} ?")
        values.append(_bound(low, holds, math.floor if strict_min else math.ceil))
    if high is not None:
        parts.append(f"({what} {'>=' if strict_max else '>'} ?{present})")
        values.append(_bound(high, holds, math.ceil if strict_max else math.floor))
    return Condition(f"({' OR '.join(parts)})", tuple(values))


def _bound(limit: Any, holds: str, whole: Callable[[float], int]) -> Any:
    return whole(limit) if holds == "integer" else float(limit) if holds == "number" else limit


def _in_set(kwargs: Kwargs, column: _Column, word: str = "NOT IN") -> Built:
    values = kwargs["value_set"]
    if not isinstance(values, list) or not values or not all(_fits(one, column.holds) for one in values):
        return None
    if column.holds == "integer" and any(isinstance(one, float) for one in values):
        return None
    members = tuple(float(one) if column.holds == "number" else one for one in values)
    marks = ", ".join("?" for _ in members)
    return Condition(f"({column.name} {word} ({marks}){column.present})", members)


def _not_in_set(kwargs: Kwargs, column: _Column) -> Built:
    return _in_set(kwargs, column, "IN")


def _matches(kwargs: Kwargs, column: _Column, word: str = "NOT ") -> Built:
    pattern = kwargs["regex"]
    if column.holds != "string" or not isinstance(pattern, str) or not PLAIN.fullmatch(pattern):
        return None
    try:
        re.compile(pattern)  # a{3,1} is refused by each, in its own words
    except re.error:
        return None
    return Condition(f"{word}regexp_matches({column.name}, ?)", (pattern,))


def _matches_not(kwargs: Kwargs, column: _Column) -> Built:
    return _matches(kwargs, column, "")


def _pair(kwargs: Kwargs, one: _Column, other: _Column, sign: str = "=") -> Built:
    """Compare columns of one kind; where either is missing nothing is greater, nor equal."""
    ignored = _IGNORED.get(str(kwargs.get("ignore_row_if", "both_values_are_missing")))
    if ignored is None or one.holds != other.holds or one.holds == "boolean":
        return None
    ok = f"({one.name} {sign} {other.name}) AND NOT {one.missing} AND NOT {other.missing}"
    return Condition(f"(NOT ({ok}){ignored.format(one=one.missing, other=other.missing)})")


def _greater(kwargs: Kwargs, one: _Column, other: _Column) -> Built:
    equal = kwargs.get("or_equal", False)
    return _pair(kwargs, one, other, ">=" if equal else ">") if isinstance(equal, bool) else None


_HOLDS: dict[str, Callable[[pa.DataType], bool]] = {
    "string": pa.types.is_string,
    "integer": lambda kind: kind in (pa.int64(), pa.int32()),
    "number": pa.types.is_float64,
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date32,
    "timestamp": lambda kind: kind == TIME,
}
_IGNORED = {
    "both_values_are_missing": " AND NOT ({one} AND {other})",
    "either_value_is_missing": " AND NOT ({one} OR {other})",
    "neither": "",
}
_ALONE, _TWO = ("column",), ("column_A", "column_B")
# of each type: what makes its condition, its columns, and the other arguments that are read (all it may have)
KINDS: dict[str, tuple[Callable[..., Built], tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "expect_column_pair_values_a_to_be_greater_than_b": (_greater, _TWO, (), ("ignore_row_if", "or_equal")),
    "expect_column_pair_values_to_be_equal": (_pair, _TWO, (), ("ignore_row_if",)),
    "expect_column_value_lengths_to_be_between": (_lengths, _ALONE, (), LIMITS),
    "expect_column_value_lengths_to_equal": (_length, _ALONE, ("value",), ()),
    "expect_column_values_to_be_between": (_between, _ALONE, (), LIMITS),
    "expect_column_values_to_be_in_set": (_in_set, _ALONE, ("value_set",), ()),
    "expect_column_values_to_be_null": (lambda kwargs, one: Condition(f"NOT {one.missing}"), _ALONE, (), ()),
    "expect_column_values_to_match_regex": (_matches, _ALONE, ("regex",), ()),
    "expect_column_values_to_not_be_in_set": (_not_in_set, _ALONE, ("value_set",), ()),
    "expect_column_values_to_not_be_null": (lambda kwargs, one: Condition(one.missing), _ALONE, (), ()),
    "expect_column_values_to_not_match_regex": (_matches_not, _ALONE, ("regex",), ()),
}


_BETWEEN = {
    "expect_table_row_count_to_be_between": "count(*)",
    "expect_column_max_to_be_between": "max({column})",
    "expect_column_mean_to_be_between": "avg({column})",
    "expect_column_median_to_be_between": "median({column})",
    "expect_column_min_to_be_between": "min({column})",
    "expect_column_proportion_of_non_null_values_to_be_between": "count({column}) / count(*)",
    "expect_column_proportion_of_unique_values_to_be_between": "count(DISTINCT {column}) / count({column})",
    "expect_column_stdev_to_be_between": "stddev_samp({column})",
    "expect_column_sum_to_be_between": "sum({column})",
    "expect_column_unique_value_count_to_be_between": "count(DISTINCT {column})",
}
_EQUAL = {"expect_table_row_count_to_equal": "count(*)"}
_SETS = {
    "expect_column_distinct_values_to_be_in_set": "list(DISTINCT {column})",
    "expect_column_distinct_values_to_contain_set": "list(DISTINCT {column})",
    "expect_column_distinct_values_to_equal_set": "list(DISTINCT {column})",
}
_SQL = _BETWEEN | _EQUAL | _SETS
ANSWERED = tuple(_SQL)
# they look beyond the row too, and set rows aside: `include.ingest.validation.contract` answers them
UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")


def is_simple_aggregate(expectation: Expectation, columns: Collection[str]) -> bool:
    """Return whether it is one of these with usual arguments, which Great Expectations takes for sure."""
    kwargs, kind = dict(expectation.kwargs), expectation.type
    if kind not in (*_SQL, *UNIQUE):
        return False
    if _SQL.get(kind) != "count(*)":
        many = kind == "expect_compound_columns_to_be_unique"
        named = kwargs.pop("column_list" if many else "column", None)
        names = named if many else [named]
        if not isinstance(names, list) or not names or any(str(name) not in columns for name in names):
            return False
    if kind in _BETWEEN:
        return set(kwargs) <= set(LIMITS) and expectation_bounds(kwargs, "number") is not None
    if kind in _EQUAL:
        return set(kwargs) == {"value"} and type(kwargs["value"]) is int
    if kind in _SETS:
        values = kwargs.pop("value_set", None)
        return not kwargs and isinstance(values, list) and bool(values)
    return not kwargs


def unmet_aggregates(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table, sizes: Codes
) -> Iterator[tuple[int, Expectation, str]]:
    """Yield each unit that does not meet an expectation about the whole, and what was found.

    Parameters
    ----------
    rows : of all units.
    sizes : how many of them each unit has; they follow one another.

    Raises
    ------
    SpecError
        for an expectation that doesn't fit its column's type.
    """
    asked = [one for one in expectations if one.type in _SQL]
    if not asked:
        return
    empty = tuple(0 if _SQL[one.type] == "count(*)" else None for one in asked)
    with spill.duckdb_engine() as connection:  # of one thread: a sum is the same each time
        connection.register("rows", rows.slice(0, 0))
        for one in asked:
            _require_comparable(subject, connection, one)
        connection.register("rows", with_unit_numbers(rows, sizes))
        figures = ", ".join(_figure(one) for one in asked)
        query = f'SELECT "{UNIT}", {figures} FROM rows GROUP BY 1'  # noqa: S608 - names are quoted
        found = {int(line[0]): line[1:] for line in connection.execute(query).fetchall()}
    for number in range(len(sizes)):
        for expectation, value in zip(asked, found.get(number, empty), strict=True):
            try:
                met = _met(expectation, value)
            except (TypeError, ValueError) as error:  # as a number for a date's limit
                raise _misfit(subject, expectation, str(error)) from None
            if not met:
                yield number, expectation, _said(value, expectation)


def _require_comparable(
    subject: str, connection: duckdb.DuckDBPyConnection, expectation: Expectation
) -> None:
    """Refuse an expectation whose figure the column's type doesn't have, as the mean of strings."""
    try:
        connection.execute(f"SELECT {_figure(expectation)} FROM rows LIMIT 0")  # noqa: S608 - names are quoted
    except duckdb.Error as error:
        raise _misfit(subject, expectation, str(error).splitlines()[0]) from None


def _misfit(subject: str, expectation: Expectation, found: str) -> SpecError:
    return SpecError(
        f"{subject}: contract.expectations: {expectation.type}",
        required="an expectation that fits its columns' types",
        found=found,
        remedy="correct it in the spec",
    )


def _figure(expectation: Expectation) -> str:
    column = str(expectation.kwargs.get("column", "")).replace('"', '""')
    return _SQL[expectation.type].format(column=f'"{column}"')


def _met(expectation: Expectation, value: Any) -> bool:
    """Return whether a figure is what the expectation asks; no figure, as of no values, never is."""
    kwargs = expectation.kwargs
    if value is None:
        return False
    if expectation.type in _EQUAL:
        return bool(value == kwargs["value"])
    if expectation.type in _BETWEEN:
        low, high = _like(value, kwargs.get("min_value")), _like(value, kwargs.get("max_value"))
        above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
        below = high is None or (value < high if kwargs.get("strict_max") else value <= high)
        return bool(above and below)
    have = {one for one in value if one is not None}
    wanted = {_like(next(iter(have), None), one) for one in kwargs["value_set"]}
    if expectation.type.endswith("be_in_set"):
        return have <= wanted
    return have >= wanted if expectation.type.endswith("contain_set") else have == wanted


def _like(value: Any, limit: Any) -> Any:
    """Return a limit in the type of a value: a YAML file may say a date or a time as text."""
    if isinstance(value, datetime):
        read = datetime.fromisoformat(str(limit)) if limit is not None else None
        return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read
    if isinstance(value, date) and limit is not None:
        return date.fromisoformat(str(limit))
    return limit


def _said(value: Any, expectation: Expectation) -> str:
    if isinstance(value, list):
        return ", ".join(sorted(str(one) for one in value[:20]))
    if not isinstance(value, float):
        return str(value)
    limits = (expectation.kwargs.get(name) for name in ("min_value", "max_value"))
    numbers = [float(limit) for limit in limits if isinstance(limit, int | float)]
    return figure_and_limit(value, min(numbers, key=lambda limit: abs(value - limit), default=value), 6)[0]
