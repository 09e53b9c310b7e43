"""Compiles expectations to DuckDB SQL where the result is the same as that of Great Expectations.

Row expectations become conditions that one scan evaluates; expectations about a whole partition become
aggregates. What can be compiled is listed here: a type, its arguments, and the types of its columns.
Everything else is evaluated by Great Expectations; `tests/ingest/test_compiled.py` compares both. Both treat
NaN as a missing value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from include.errors import SpecError
from include.ingest.validation.rows import SNAPSHOT_INDEX, Integers, Mask, with_snapshot_indices
from include.spec.source import Expectation
from include.stats.formatting import figure_and_limit
from include.storage import spill
from include.storage.schemas import TIME

# expectations about rows

LIMITS = ("min_value", "max_value", "strict_min", "strict_max")
# a float, to which Great Expectations converts limits, can't represent every larger integer
MAX_EXACT = 2**53
# Pandas matches strings with RE2, as DuckDB does. This is the part of its syntax that no option or version
# changes.
_ATOM = r"(?:[A-Za-z0-9 _:/,@-]|\\[d.-]|\[(?:a-z|A-Z|0-9|[A-Za-z0-9_ .])+\])"
PORTABLE_REGEX = re.compile(rf"\^?(?:{_ATOM}(?:[?*+]|\{{\d{{1,2}}(?:,\d{{0,2}})?\}})?)+\$?")


@dataclass(frozen=True)
class Condition:
    """SQL that is true for the rows that break an expectation, and the values of its parameters."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class _Column:
    """A column's quoted name, and its kind: string, integer, number, boolean, date or timestamp."""

    name: str
    kind: str

    @property
    def is_missing(self) -> str:
        return f"({self.name} IS NULL{f' OR isnan({self.name})' if self.kind == 'number' else ''})"

    @property
    def and_not_nan(self) -> str:
        """Return the clause that excludes NaN, which DuckDB orders above every number."""
        return f" AND NOT isnan({self.name})" if self.kind == "number" else ""


Kwargs = Mapping[str, Any]


def compile_expectation(expectation: Expectation, types: Mapping[str, pa.DataType]) -> Condition | None:
    """Return the condition for an expectation, or None where Great Expectations has to evaluate it.

    Parameters
    ----------
    types : of each column of the table.
    """
    if expectation.type not in KINDS:
        return None
    build, column_arguments, required, optional = KINDS[expectation.type]
    kwargs = expectation.kwargs
    if not {*column_arguments, *required} <= set(kwargs) <= {*column_arguments, *required, *optional}:
        return None
    columns = [_column(kwargs[name], types) for name in column_arguments]
    return None if None in columns else build(kwargs, *columns)


def breaking_rows(connection: duckdb.DuckDBPyConnection, conditions: Sequence[Condition]) -> list[Mask]:
    """Return which rows of the table or view ``rows`` break each expectation, in one scan."""
    selected = ", ".join(
        f'coalesce({condition.sql}, false) AS "{number}"' for number, condition in enumerate(conditions)
    )
    values = [value for condition in conditions for value in condition.values]
    # names are quoted, values are bound
    result = connection.execute(f"SELECT {selected} FROM rows", values).fetchnumpy()  # noqa: S608
    return [np.asarray(column, bool) for column in result.values()]


def _column(name: Any, types: Mapping[str, pa.DataType]) -> _Column | None:
    """Return a column, or None if it doesn't exist or its name is ambiguous to DuckDB, which ignores case."""
    if not isinstance(name, str) or not name or [other.lower() for other in types].count(name.lower()) != 1:
        return None
    for kind, matches in _KIND_OF_TYPE.items():
        if name in types and matches(types[name]):
            return _Column('"' + name.replace('"', '""') + '"', kind)
    return None


def _is_comparable(value: Any, kind: str) -> bool:
    """Return whether both engines compare a limit or member with columns of this kind in the same way."""
    if kind in ("integer", "number"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and abs(value) < MAX_EXACT
    if kind == "date":
        return isinstance(value, date) and not isinstance(value, datetime)
    return isinstance(value, {"string": str, "boolean": bool}.get(kind, ()))


def expectation_bounds(kwargs: Kwargs, kind: str) -> tuple[Any, Any, bool, bool] | None:
    """Return both limits and whether they are strict, or None if they are unusual for this kind."""
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    strict = (kwargs.get("strict_min", False), kwargs.get("strict_max", False))
    limits = [limit for limit in (low, high) if limit is not None]
    if not limits or not all(_is_comparable(limit, kind) for limit in limits) or limits[0] > limits[-1]:
        return None
    return (low, high, *strict) if {type(flag) for flag in strict} == {bool} else None


def _between(kwargs: Kwargs, column: _Column) -> Condition | None:
    # Great Expectations rejects limits for text, with its own message
    bounds = None if column.kind == "string" else expectation_bounds(kwargs, column.kind)
    return bounds and _outside(column.name, column.kind, column.and_not_nan, *bounds)


def _length_between(kwargs: Kwargs, column: _Column) -> Condition | None:
    """Compare lengths, which both engines count in code points."""
    bounds = expectation_bounds(kwargs, "integer")
    if bounds is None or column.kind != "string" or any(isinstance(limit, float) for limit in bounds):
        return None  # Great Expectations truncates a limit of 2.5 to 2
    return _outside(f"length({column.name})", "integer", "", *bounds)


def _length_equal(kwargs: Kwargs, column: _Column) -> Condition | None:
    value = kwargs["value"]
    if column.kind != "string" or isinstance(value, float) or not _is_comparable(value, "integer"):
        return None
    return Condition(f"length({column.name}) <> ?", (value,))


def _outside(
    expression: str, kind: str, and_not_nan: str, low: Any, high: Any, strict_min: bool, strict_max: bool
) -> Condition:
    """Return the condition for values below or above the limits."""
    parts, values = [], []
    if low is not None:
        parts.append(f"{expression} {'<=' if strict_min else '<'} ?")
        values.append(_bound_value(low, kind, math.floor if strict_min else math.ceil))
    if high is not None:
        parts.append(f"({expression} {'>=' if strict_max else '>'} ?{and_not_nan})")
        values.append(_bound_value(high, kind, math.ceil if strict_max else math.floor))
    return Condition(f"({' OR '.join(parts)})", tuple(values))


def _bound_value(limit: Any, kind: str, round_limit: Callable[[float], int]) -> Any:
    """Return a limit in the column's type: integers are compared with integers, not as floats with 3.5."""
    return round_limit(limit) if kind == "integer" else float(limit) if kind == "number" else limit


def _in_set(kwargs: Kwargs, column: _Column, operator: str = "NOT IN") -> Condition | None:
    values = kwargs["value_set"]
    if not isinstance(values, list) or not values:
        return None
    if not all(_is_comparable(value, column.kind) for value in values):
        return None
    if column.kind == "integer" and any(isinstance(value, float) for value in values):
        return None
    members = tuple(float(value) if column.kind == "number" else value for value in values)
    placeholders = ", ".join("?" for _ in members)
    return Condition(f"({column.name} {operator} ({placeholders}){column.and_not_nan})", members)


def _matches(kwargs: Kwargs, column: _Column, negation: str = "NOT ") -> Condition | None:
    pattern = kwargs["regex"]
    if column.kind != "string" or not isinstance(pattern, str) or not PORTABLE_REGEX.fullmatch(pattern):
        return None
    try:
        re.compile(pattern)  # each engine rejects a{3,1} with its own message
    except re.error:
        return None
    return Condition(f"{negation}regexp_matches({column.name}, ?)", (pattern,))


def _pair(kwargs: Kwargs, first: _Column, second: _Column, operator: str = "=") -> Condition | None:
    """Compare columns of one kind; a missing value is neither greater than nor equal to another."""
    ignored = _IGNORE_ROW_IF.get(str(kwargs.get("ignore_row_if", "both_values_are_missing")))
    if ignored is None or first.kind != second.kind or first.kind == "boolean":
        return None
    holds = f"({first.name} {operator} {second.name}) AND NOT {first.is_missing} AND NOT {second.is_missing}"
    exceptions = ignored.format(first=first.is_missing, second=second.is_missing)
    return Condition(f"(NOT ({holds}){exceptions})")


def _greater(kwargs: Kwargs, first: _Column, second: _Column) -> Condition | None:
    or_equal = kwargs.get("or_equal", False)
    return _pair(kwargs, first, second, ">=" if or_equal else ">") if isinstance(or_equal, bool) else None


def _null(kwargs: Kwargs, column: _Column) -> Condition:
    return Condition(f"NOT {column.is_missing}")


def _not_null(kwargs: Kwargs, column: _Column) -> Condition:
    return Condition(column.is_missing)


_KIND_OF_TYPE: dict[str, Callable[[pa.DataType], bool]] = {
    "string": pa.types.is_string,
    "integer": lambda data_type: data_type in (pa.int64(), pa.int32()),
    "number": pa.types.is_float64,
    "boolean": pa.types.is_boolean,
    "date": pa.types.is_date32,
    "timestamp": lambda data_type: data_type == TIME,
}
_IGNORE_ROW_IF = {
    "both_values_are_missing": " AND NOT ({first} AND {second})",
    "either_value_is_missing": " AND NOT ({first} OR {second})",
    "neither": "",
}
_COLUMN, _PAIR = ("column",), ("column_A", "column_B")
# of each type: the function that builds its condition, and its arguments: columns, required and optional ones
KINDS: dict[
    str, tuple[Callable[..., Condition | None], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
] = {
    "expect_column_pair_values_a_to_be_greater_than_b": (_greater, _PAIR, (), ("ignore_row_if", "or_equal")),
    "expect_column_pair_values_to_be_equal": (_pair, _PAIR, (), ("ignore_row_if",)),
    "expect_column_value_lengths_to_be_between": (_length_between, _COLUMN, (), LIMITS),
    "expect_column_value_lengths_to_equal": (_length_equal, _COLUMN, ("value",), ()),
    "expect_column_values_to_be_between": (_between, _COLUMN, (), LIMITS),
    "expect_column_values_to_be_in_set": (_in_set, _COLUMN, ("value_set",), ()),
    "expect_column_values_to_be_null": (_null, _COLUMN, (), ()),
    "expect_column_values_to_match_regex": (_matches, _COLUMN, ("regex",), ()),
    "expect_column_values_to_not_be_in_set": (partial(_in_set, operator="IN"), _COLUMN, ("value_set",), ()),
    "expect_column_values_to_not_be_null": (_not_null, _COLUMN, (), ()),
    "expect_column_values_to_not_match_regex": (partial(_matches, negation=""), _COLUMN, ("regex",), ()),
}
# they compare rows with each other and quarantine rows: `include.ingest.validation.contract` evaluates them
UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")


# expectations about a whole partition

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
_AGGREGATE_SQL = _BETWEEN | _EQUAL | _SETS
AGGREGATES = tuple(_AGGREGATE_SQL)


def is_simple_aggregate(expectation: Expectation, columns: Collection[str]) -> bool:
    """Return whether it is an aggregate or uniqueness expectation whose arguments are certain to be valid."""
    kwargs, kind = dict(expectation.kwargs), expectation.type
    if kind not in (*AGGREGATES, *UNIQUE):
        return False
    if _AGGREGATE_SQL.get(kind) != "count(*)":
        is_compound = kind == "expect_compound_columns_to_be_unique"
        argument = kwargs.pop("column_list" if is_compound else "column", None)
        names = argument if is_compound else [argument]
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
    subject: str, expectations: Sequence[Expectation], rows: pa.Table, row_counts: Integers
) -> Iterator[tuple[int, Expectation, str]]:
    """Yield each snapshot's index with an aggregate expectation that it doesn't meet and the actual value.

    Parameters
    ----------
    rows : of all snapshots.
    row_counts : consecutive rows of each snapshot.

    Raises
    ------
    SpecError
        for an expectation that doesn't fit its column's type.
    """
    aggregates = [expectation for expectation in expectations if expectation.type in AGGREGATES]
    if not aggregates:
        return
    without_rows = tuple(
        0 if _AGGREGATE_SQL[expectation.type] == "count(*)" else None for expectation in aggregates
    )
    with spill.duckdb_engine() as connection:  # single-threaded, so that sums are reproducible
        connection.register("rows", rows.slice(0, 0))
        for expectation in aggregates:
            _require_matching_type(subject, connection, expectation)
        connection.register("rows", with_snapshot_indices(rows, row_counts))
        values_sql = ", ".join(map(_aggregate_sql, aggregates))
        query = f'SELECT "{SNAPSHOT_INDEX}", {values_sql} FROM rows GROUP BY 1'  # noqa: S608 - names are quoted
        values = {int(line[0]): line[1:] for line in connection.execute(query).fetchall()}
    for number in range(len(row_counts)):
        for expectation, value in zip(aggregates, values.get(number, without_rows), strict=True):
            try:
                met = _is_met(expectation, value)
            except (TypeError, ValueError) as error:  # such as a number as the limit of a date
                raise _type_error(subject, expectation, str(error)) from None
            if not met:
                yield number, expectation, _format_value(value, expectation)


def _require_matching_type(
    subject: str, connection: duckdb.DuckDBPyConnection, expectation: Expectation
) -> None:
    """Reject an aggregate that the column's type doesn't support, such as the mean of strings."""
    query = f"SELECT {_aggregate_sql(expectation)} FROM rows LIMIT 0"  # noqa: S608 - names are quoted
    try:
        connection.execute(query)
    except duckdb.Error as error:
        raise _type_error(subject, expectation, str(error).splitlines()[0]) from None


def _type_error(subject: str, expectation: Expectation, found: str) -> SpecError:
    return SpecError(
        f"{subject}: contract.expectations: {expectation.type}",
        required="an expectation that fits its columns' types",
        found=found,
        remedy="correct it in usecase.yaml",
    )


def _aggregate_sql(expectation: Expectation) -> str:
    column = str(expectation.kwargs.get("column", "")).replace('"', '""')
    return _AGGREGATE_SQL[expectation.type].format(column=f'"{column}"')


def _is_met(expectation: Expectation, value: Any) -> bool:
    """Return whether a value meets the expectation; a missing value never does."""
    kwargs = expectation.kwargs
    if value is None:
        return False
    if expectation.type in _EQUAL:
        return bool(value == kwargs["value"])
    if expectation.type in _BETWEEN:
        low = _to_type_of(value, kwargs.get("min_value"))
        high = _to_type_of(value, kwargs.get("max_value"))
        above = low is None or (value > low if kwargs.get("strict_min") else value >= low)
        below = high is None or (value < high if kwargs.get("strict_max") else value <= high)
        return bool(above and below)
    actual = {item for item in value if item is not None}
    example = next(iter(actual), None)
    expected = {_to_type_of(example, item) for item in kwargs["value_set"]}
    if expectation.type.endswith("be_in_set"):
        return actual <= expected
    return actual >= expected if expectation.type.endswith("contain_set") else actual == expected


def _to_type_of(value: Any, limit: Any) -> Any:
    """Return a limit in the type of a value, since a YAML file may have a date or time as text."""
    if isinstance(value, datetime):
        moment = datetime.fromisoformat(str(limit)) if limit is not None else None
        return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
    if isinstance(value, date) and limit is not None:
        return date.fromisoformat(str(limit))
    return limit


def _format_value(value: Any, expectation: Expectation) -> str:
    """Return a value with enough digits to tell it from the limit that it misses."""
    if isinstance(value, list):
        return ", ".join(sorted(str(item) for item in value[:20]))
    if not isinstance(value, float):
        return str(value)
    limits = (expectation.kwargs.get(name) for name in ("min_value", "max_value"))
    numbers = [float(limit) for limit in limits if isinstance(limit, int | float)]
    nearest = min(numbers, key=lambda limit: abs(value - limit), default=value)
    return figure_and_limit(value, nearest, 6)[0]
