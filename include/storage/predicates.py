"""Builds and runs queries of Delta tables, with conditions on keys that Delta's predicates accept too.

Names are quoted. Values are keys that Evergreen creates, and they are quoted too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from include.errors import SpecError
from include.storage import spill
from include.storage.shares import Share

Where = Mapping[str, str | int | Sequence[str] | Sequence[int]]


def select(columns_sql: str, where: Where | None, order: Sequence[str] = (), limit: int | None = None) -> str:
    """Return a query of the table ``t`` for columns from `columns`, or for another SQL expression."""
    query = f"SELECT {columns_sql} FROM t"
    query += f" WHERE {condition(where)}" if where else ""
    query += f" ORDER BY {columns(order)}" if order else ""
    return query if limit is None else f"{query} LIMIT {int(limit)}"


def select_counts(by: Sequence[str], where: Where | None, span: tuple[str, str] | None = None) -> str:
    """Return a query of the table ``t`` for how many rows, as ``count``, have each combination of values.

    Parameters
    ----------
    span : the first and the last partition; all by default.
    """
    names = columns(by)
    query = select(f"{names}, COUNT(*) AS count", None if span else where)
    query += f" WHERE {range_condition(where or {}, *span)}" if span else ""
    return f"{query} GROUP BY {names} ORDER BY {names}"


def columns(names: Sequence[str]) -> str:
    """Return the quoted names as SQL."""
    return ", ".join(map(_quote_name, names))


def condition(where: Where) -> str:
    """Return the condition that each column is equal to its value, or to one of its values."""
    return " AND ".join(_is_in(column, _as_list(values)) for column, values in where.items())


def range_condition(where: Where, low: str, high: str) -> str:
    """Return the `condition` on other columns, and that ``partition`` is from ``low`` to ``high``."""
    between = f'"partition" BETWEEN {_quote_value(low)} AND {_quote_value(high)}'
    return f"{condition(where)} AND {between}" if where else between


def run_query(table: DeltaTable, sql: str, share: Share | None = None) -> pa.Table:
    """Return the result of a query of the table ``t``, or a share of it."""
    # Arrow's own dataset over delta-rs' files took two to three times as long, and sometimes aborted at exit
    reader = pa.RecordBatchReader.from_stream(QueryBuilder().register("t", table).execute(sql))
    schema = plain_schema(reader.schema)
    rows = (batch.cast(schema) for batch in reader)
    return spill.spill_table(schema, (share.filter(batch) for batch in rows) if share else rows)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with plain strings and bytes, which the query engine reads as views."""
    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema])


def list_files(table: DeltaTable) -> list[dict[str, Any]]:
    """Return the entries of a table's files in its log: size, partition, and bounds of the columns."""
    files: list[dict[str, Any]] = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    return files


def merge_mode(table: DeltaTable, schema: pa.Schema) -> Literal["merge"] | None:
    """Return ``merge`` if the rows have a column that the table doesn't have yet."""
    return "merge" if set(schema.names) - {field.name for field in table.schema().fields} else None


def fill_missing_columns(rows: pa.Table, table_schema: pa.Schema, where: str) -> pa.Table:
    """Return rows with nulls for the table's columns that they lack.

    Raises
    ------
    SpecError
        if a column has another type than in the table, which Delta would cast silently.
    """
    for field in table_schema:
        expected = _plain_type(field.type)
        if field.name not in rows.schema.names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, expected))
        elif rows.schema.field(field.name).type != expected:
            raise SpecError(
                f"column {field.name}",
                required=str(expected),
                found=str(rows.schema.field(field.name).type),
                where=where,
                remedy="a stored column keeps its type: rename the feature, or the source if it is a "
                "source's column, or use a new lake",
            )
    return rows


def _is_in(column: str, values: Sequence[str | int]) -> str:
    # `IN (NULL)` on a partition column matched every row
    return f"{_quote_name(column)} IN ({', '.join(map(_quote_value, values))})" if values else "FALSE"


def _as_list(values: str | int | Sequence[str] | Sequence[int]) -> Sequence[str | int]:
    return [values] if isinstance(values, str | int) else list(values)


def _quote_name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _quote_value(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _plain_type(data_type: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(data_type) or pa.types.is_large_string(data_type):
        return pa.string()
    if pa.types.is_binary_view(data_type) or pa.types.is_large_binary(data_type):
        return pa.binary()
    return data_type
