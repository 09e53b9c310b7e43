"""How the lake asks: a condition on keys as SQL, which the query engine and Delta's own predicates both read.

Names are quoted, and values are keys that Evergreen made, quoted all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from include.errors import SpecError
from include.storage import spill

Where = Mapping[str, str | int | Sequence[str] | Sequence[int]]


def select(what: str, where: Where | None, order: Sequence[str] = (), limit: int | None = None) -> str:
    """Return a query of the table ``t``; ``what`` is SQL, see `columns`."""
    query = f"SELECT {what} FROM t"
    query += f" WHERE {condition(where)}" if where else ""
    query += f" ORDER BY {columns(order)}" if order else ""
    return query if limit is None else f"{query} LIMIT {int(limit)}"


def columns(names: Sequence[str]) -> str:
    """Return the names as SQL has them."""
    return ", ".join(map(_name, names))


def condition(where: Where) -> str:
    """Return the condition: each column equal to its value, or one of its values."""
    return " AND ".join(_condition(column, _many(values)) for column, values in where.items())


def engine_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the types that were written, where the engine reads strings and bytes as views."""
    return pa.schema([field.with_type(_plain(field.type)) for field in schema])


def run_query(opened: DeltaTable, sql: str) -> pa.Table:
    """Return what a query of the table ``t`` finds."""
    # Arrow's own dataset over delta-rs' files took two to three times as long, and was seen to abort at exit
    found = pa.RecordBatchReader.from_stream(QueryBuilder().register("t", opened).execute(sql))
    schema = engine_schema(found.schema)
    return spill.spill_table(schema, (batch.cast(schema) for batch in found))


def list_files(opened: DeltaTable) -> list[dict[str, Any]]:
    """Return what a table's log says of each file: size, partition, and the bounds of its columns."""
    found: list[dict[str, Any]] = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
    return found


def merge_mode(opened: DeltaTable, schema: pa.Schema) -> Literal["merge"] | None:
    """Return ``merge`` where the rows bring a column that the table doesn't have yet."""
    return "merge" if set(schema.names) - {f.name for f in opened.schema().fields} else None


def fill_missing_columns(rows: pa.Table, have: pa.Schema, where: str) -> pa.Table:
    """Return rows with nulls for the columns of a table that they don't have any more.

    Raises
    ------
    SpecError
        when a column has another type than in the table, which Delta would cast without a word.
    """
    for field in have:
        kind = _plain(field.type)
        if field.name not in rows.schema.names:
            rows = rows.append_column(field.name, pa.nulls(rows.num_rows, kind))
        elif rows.schema.field(field.name).type != kind:
            found = f"{rows.schema.field(field.name).type} for {field.name!r}"
            remedy = "keep the column under another name, so that old rows keep their type"
            raise SpecError("a table's columns", required=str(kind), found=found, where=where, remedy=remedy)
    return rows


def _condition(column: str, values: Sequence[str | int]) -> str:
    # `IN (NULL)` on a partition column was seen to hold for every row
    return f"{_name(column)} IN ({', '.join(map(_quoted, values))})" if values else "FALSE"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) or pa.types.is_large_binary(kind) else kind


def _many(values: str | int | Sequence[str] | Sequence[int]) -> Sequence[str | int]:
    return [values] if isinstance(values, str | int) else list(values)


def _quoted(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
