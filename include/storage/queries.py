"""Reads Delta tables: a few rows from their files, each decoded once, and more rows by a query.

A query engine costs some milliseconds for each query and file, and a task asks for a few rows of the same
tables dozens of times. A Delta table's data files never change. So a `TableFiles` follows the log commit by
commit, and keeps the decoded columns of the files that were read.

Queries and Delta's predicates have the same conditions on keys. Names are quoted. Values are keys that
Evergreen creates, and they are quoted too.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, QueryBuilder

from include.errors import SpecError
from include.storage import spill
from include.storage.shares import Share

Where = Mapping[str, str | int | Sequence[str] | Sequence[int]]
SMALL_BYTES = 16 << 20  # of the files that a read touches; for more, a query streams them
FILE_BYTES = 4 << 20  # of each of them: a larger one would be decoded whole, where a query skips parts of it
CACHED_BYTES = 32 << 20  # of decoded columns of a table, beyond which they are dropped before the next read
Load = Callable[[str], bytes | None]  # returns an object of the table's folder, None if it doesn't exist


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


@dataclass(frozen=True)
class File:
    """A data file.

    Parameters
    ----------
    path : below the table's folder.
    size : in bytes.
    values : of the columns by which Delta partitions the table.
    low, high : bounds of the column ``partition``; None if they aren't recorded.
    """

    path: str
    size: int
    values: Mapping[str, str]
    low: str | None
    high: str | None

    def may_have(self, where: Mapping[str, Sequence[Any]]) -> bool:
        """Return whether any row may satisfy a condition: for each column, its values in order."""
        for column, selected in where.items():
            if column in self.values:
                if self.values[column] not in selected:
                    return False
            elif column == "partition" and self.low is not None and self.high is not None:
                index = bisect_left(selected, self.low)
                if index == len(selected) or selected[index] > self.high:
                    return False
        return True


class TableFiles:
    """The data files of the newest version of a table.

    Parameters
    ----------
    table : opened at any version.
    load : reads from its folder.

    Attributes
    ----------
    version : of the table.
    schema : of its rows, with plain strings and bytes.
    """

    def __init__(self, table: DeltaTable, load: Load) -> None:
        self._load = load
        self._columns: dict[tuple[str, str], pa.ChunkedArray] = {}
        self._bytes = 0  # of these columns
        self.restart(table)

    def restart(self, table: DeltaTable) -> None:
        """Take the files of a table that was opened, and its schema."""
        self.version = int(table.version())
        self.schema = plain_schema(pa.schema(table.schema().to_arrow()))
        names = table.metadata().partition_columns
        self._files = {
            file.path: file
            for row in list_files(table)
            for file in [
                File(
                    unquote(str(row["path"])),
                    row["size_bytes"],
                    {name: row[f"partition.{name}"] for name in names},
                    row.get("min.partition"),
                    row.get("max.partition"),
                )
            ]
        }

    def follow(self) -> bool:
        """Follow the log to its end; False if the table has to be opened again, since its columns changed."""
        while (commit := self._load(commit_path(self.version + 1))) is not None:
            actions = [json.loads(line) for line in commit.splitlines() if line]
            if any("metaData" in action or "protocol" in action for action in actions):
                return False
            for action in actions:
                if "remove" in action:
                    self._remove(unquote(action["remove"]["path"]))
            for action in actions:
                if "add" in action:
                    file = _added(action["add"])
                    self._files[file.path] = file
            self.version += 1
        return True

    def _remove(self, path: str) -> None:
        self._files.pop(path, None)
        for key in [key for key in self._columns if key[0] == path]:
            self._bytes -= self._columns.pop(key).nbytes

    def select(self, where: Where | None) -> list[File]:
        """Return the files that may have rows that satisfy a condition, ordered by their partitions."""
        selected = _values_by_column(where)
        files = [file for file in self._files.values() if file.may_have(selected)]
        return sorted(files, key=lambda file: (file.low or "", file.path))

    def read(self, files: Sequence[File], where: Where | None, columns: Sequence[str]) -> pa.Table:
        """Return the columns of those rows of the files that satisfy a condition."""
        selected = _values_by_column(where)
        names = list(dict.fromkeys([*columns, *selected]))
        decoded = [self._decode(file, names) for file in files]
        schema = pa.schema([self.schema.field(name) for name in names])
        # all files at once, as each call costs more than a file's few rows
        chunks = ([chunk for file in decoded for chunk in file[name].chunks] for name in names)
        arrays = [pa.chunked_array(own, field.type) for own, field in zip(chunks, schema, strict=True)]
        rows = pa.table(arrays, schema=schema)
        for column, values in selected.items():
            if not (files and column in files[0].values):  # such files were selected by their value
                rows = rows.filter(pc.is_in(rows[column], pa.array(values, schema.field(column).type)))
        return rows.select(columns)

    def _decode(self, file: File, columns: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Return columns of a file; those that were decoded before are kept."""
        if self._bytes > CACHED_BYTES:
            self._columns.clear()
            self._bytes = 0
        missing = [name for name in dict.fromkeys(columns) if (file.path, name) not in self._columns]
        if missing:
            self._keep(file, missing)
        return {name: self._columns[file.path, name] for name in dict.fromkeys(columns)}

    def _keep(self, file: File, columns: Sequence[str]) -> None:
        data = self._load(file.path)
        if data is None:
            raise FileNotFoundError(file.path)
        stored = pq.ParquetFile(pa.py_buffer(data))
        present = set(stored.schema_arrow.names)
        rows = stored.read([name for name in columns if name in present], use_threads=False)
        for name in columns:
            data_type = self.schema.field(name).type
            if name in file.values:
                array: pa.ChunkedArray = pa.chunked_array(
                    [pa.repeat(pa.scalar(file.values[name], data_type), stored.metadata.num_rows)]
                )
            elif name in present:
                array = rows[name].cast(data_type)
            else:  # the column is newer than the file
                array = pa.chunked_array([pa.nulls(stored.metadata.num_rows, data_type)])
            self._columns[file.path, name] = array
            self._bytes += array.nbytes


def _added(add: Mapping[str, object]) -> File:
    stats = json.loads(str(add.get("stats") or "{}"))
    low, high = (stats.get(f"{side}Values", {}).get("partition") for side in ("min", "max"))
    return File(unquote(str(add["path"])), int(str(add["size"])), dict(add["partitionValues"]), low, high)  # type: ignore[call-overload]


def _values_by_column(where: Where | None) -> dict[str, list[Any]]:
    return {
        column: [values] if isinstance(values, str | int) else sorted(values)
        for column, values in (where or {}).items()
    }


def commit_path(version: int) -> str:
    """Return the path of a version's commit below a table's folder."""
    return f"_delta_log/{version:020}.json"


def small(files: Sequence[File]) -> bool:
    """Return whether files are few bytes, which are faster decoded than queried."""
    sizes = [file.size for file in files]
    return sum(sizes) <= SMALL_BYTES and max(sizes, default=0) <= FILE_BYTES
