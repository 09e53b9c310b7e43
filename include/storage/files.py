"""Reads small parts of a Delta table from its files, and decodes each part once.

A query engine costs some milliseconds for each query and file, and a task asks for a few rows of the same
tables dozens of times. A Delta table's data files never change. So a `TableFiles` follows the log commit by
commit, and keeps the decoded columns of the files that were read.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from include.storage import predicates
from include.storage.predicates import Where

SMALL_BYTES = 16 << 20  # of the files that a read touches; for more, a query streams them
FILE_BYTES = 4 << 20  # of each of them: a larger one would be decoded whole, where a query skips parts of it
CACHED_BYTES = 32 << 20  # of decoded columns of a table, beyond which they are dropped before the next read
Load = Callable[[str], bytes | None]  # returns an object of the table's folder, None if it doesn't exist


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
        self.schema = predicates.plain_schema(pa.schema(table.schema().to_arrow()))
        names = table.metadata().partition_columns
        self._files = {
            file.path: file
            for row in predicates.list_files(table)
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
