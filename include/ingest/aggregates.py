"""Expectations about a whole partition, answered by one SQL statement for all nights of a batch.

The names, arguments and meaning are Great Expectations'; the figures are had without its memory, and a
partition of any size is one partition (its own batches end at a million rows).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

import duckdb
import pyarrow as pa

from include import spool
from include.digits import beside
from include.errors import SpecError
from include.ingest.compiled import LIMITS, bounds
from include.ingest.rows import UNIT, Codes, numbered
from include.spec.source import Expectation

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
# they look beyond the row too, and set rows aside: `include.ingest.contract` answers them
UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")


def plain(expectation: Expectation, columns: Collection[str]) -> bool:
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
        return set(kwargs) <= set(LIMITS) and bounds(kwargs, "number") is not None
    if kind in _EQUAL:
        return set(kwargs) == {"value"} and type(kwargs["value"]) is int
    if kind in _SETS:
        values = kwargs.pop("value_set", None)
        return not kwargs and isinstance(values, list) and bool(values)
    return not kwargs


def unmet(
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
    with spool.engine() as connection:  # of one thread: a sum is the same each time
        connection.register("rows", rows.slice(0, 0))
        for one in asked:
            _fits(subject, connection, one)
        connection.register("rows", numbered(rows, sizes))
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


def _fits(subject: str, connection: duckdb.DuckDBPyConnection, expectation: Expectation) -> None:
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
    return beside(value, min(numbers, key=lambda limit: abs(value - limit), default=value), 6)[0]
