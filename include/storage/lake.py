"""The lake: tables and raw objects on a folder or on S3, and the only storage I/O there is.

A partition is published by one commit that replaces exactly that partition, so a rerun replaces and never
appends, and a reader sees the old rows or the new ones. A ledger grows by one commit against a known version,
so of two writers the slower one fails and decides again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.store import from_url

from include.environment import lake_uri
from include.errors import StaleDecision
from include.references import validate_key
from include.storage import predicates, spill
from include.storage.store_errors import retry_commit, translate_store_errors

Where = predicates.Where

# By default the log behind old versions, which lineage refers to, is deleted: keep it for ten years.
CONFIGURATION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.checkpointInterval": "50",
}
# A partition is no partition column: a file for each, hundreds a year, took longer to open than to read.
# Files are pruned by their partitions' bounds instead, and a commit that replaces a partition rewrites only
# its file.
PARTITIONED = {"partitions": ["product"], "profiles": ["product"], "quarantine": ["source"]}


class Lake:
    """One use case's part of the lake.

    Parameters
    ----------
    usecase : its name, the first folder below the lake's address.
    uri : the lake's address; ``EVERGREEN_LAKE`` unless given. A folder, ``file://`` or ``s3://``.
    """

    def __init__(self, usecase: str, uri: str | None = None) -> None:
        base = (uri or lake_uri()).rstrip("/")
        if "://" not in base:
            folder = Path(base or "/")
            # the host of file://data/lake would be "data"
            base = f"file://{folder if folder.is_absolute() else folder.resolve()}".rstrip("/")
        self.name, self.uri = (
            usecase,
            f"{base}/{validate_key(usecase) if usecase else usecase}",
        )  # or all of them
        self._seen = threading.local()

    # tables

    @translate_store_errors
    @retry_commit
    def publish(self, table: str, rows: pa.Table, where: Where) -> int:
        """Replace the partitions that ``where`` names by ``rows``, in one commit.

        Parameters
        ----------
        rows : every row lies in ``where``; none empties the partitions.
        where : equal to a value, or one of a list, by column.

        Returns
        -------
        int
            The table's version with these rows.
        """
        opened = self._ensure(table, rows.schema)
        write_deltalake(
            opened,
            predicates.fill_missing_columns(rows, pa.schema(opened.schema().to_arrow()), self._at(table)),
            mode="overwrite",
            predicate=predicates.condition(where),
            schema_mode=predicates.merge_mode(opened, rows.schema),
        )
        return int(opened.version())

    @translate_store_errors
    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Append to a ledger that is still at ``version`` (-1: not there yet), or raise `StaleDecision`."""
        where, remedy = self._at(table), "somebody else wrote first: read it again and decide again"
        stale = StaleDecision(where, required=f"version {version}", found="a newer one", remedy=remedy)
        try:
            opened = self._ensure(table, rows.schema)
            # two that make a table at once leave an empty commit more: no rows is what -1 means
            if opened.file_uris() if version < 0 else opened.version() != version:
                raise stale
            write_deltalake(
                opened,
                rows,
                mode="append",
                schema_mode=predicates.merge_mode(opened, rows.schema),
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except CommitFailedError:
            raise stale from None
        return opened.version()

    @translate_store_errors
    def read(
        self,
        table: str,
        where: Where | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
        order: Sequence[str] = (),
        limit: int | None = None,
    ) -> pa.Table | None:
        """Return the rows of the partitions that ``where`` names (all without it).

        None says that there is no such table yet. The rows come in no order unless ``order`` names columns;
        with ``limit`` they are the first so many. ``version`` reads the table as it was then.
        """
        opened = self.open(table, version)
        if opened is None:
            return None
        what = predicates.columns(columns) if columns else "*"
        return predicates.run_query(opened, predicates.select(what, where, order, limit))

    @translate_store_errors
    def count(self, table: str, where: Where | None = None) -> int:
        """Return how many rows there are, without reading them."""
        opened = self.open(table)
        found = (
            None
            if opened is None
            else predicates.run_query(opened, predicates.select("COUNT(*) AS n", where))
        )
        return 0 if found is None else int(found["n"][0].as_py())

    def rows(self, table: str, where: Where | None = None) -> list[dict[str, Any]]:
        """Return a small table's rows as dicts, none where it isn't there yet."""
        found = self.read(table, where)
        return [] if found is None else found.to_pylist()

    @translate_store_errors
    def version(self, table: str) -> int:
        """Return a table's version, -1 where it isn't there yet."""
        opened = self.open(table)
        return -1 if opened is None else int(opened.version())

    def _at(self, table: str) -> str:
        return f"{self.uri}/tables/{validate_key(table)}"

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return a table as it is now: read once a thread, then only what was committed since."""
        seen: dict[str, DeltaTable] = self._seen.__dict__
        try:
            if version is not None:
                return DeltaTable(self._at(table), version=version)
            if table in seen:
                seen[table].update_incremental()
            else:
                seen[table] = DeltaTable(self._at(table))
            return seen[table]
        except TableNotFoundError:
            return None

    def _ensure(self, table: str, schema: pa.Schema) -> DeltaTable:
        opened = self.open(table)
        if opened is not None:
            return opened
        try:
            how: Any = {"partition_by": PARTITIONED.get(table), "configuration": CONFIGURATION}
            return DeltaTable.create(self._at(table), schema, mode="error", **how)
        except DeltaError:
            opened = self.open(table)  # another process made it between the look and the make
            if opened is None:
                raise
            return opened

    # objects

    @cached_property
    def _store(self) -> Any:
        return from_url(self.uri, mkdir=True) if self.uri.startswith("file:") else from_url(self.uri)

    @translate_store_errors
    def create(self, key: str, data: spill.Data) -> bool:
        """Write an object unless it is there; True if this call wrote it."""
        try:
            obstore.put(self._store, validate_key(key), data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    @translate_store_errors
    def replace(self, key: str, data: bytes) -> None:
        """Write an object, over the old one if there is one."""
        obstore.put(self._store, validate_key(key), data)

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, or None."""
        found = self.data(key)
        return None if found is None else bytes(found)

    @translate_store_errors
    def data(self, key: str) -> spill.Data | None:
        """Return an object's bytes as `get` does, but mapped from a file where they are many."""
        try:
            return spill.spill_bytes(
                obstore.get(self._store, validate_key(key)).stream(min_chunk_size=spill.PART)
            )
        except FileNotFoundError:
            return None

    @translate_store_errors
    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects, of which some may be gone already."""
        paths = [validate_key(key) for key in keys]
        try:
            obstore.delete(self._store, paths)
        except FileNotFoundError:  # one of them was, and what became of the others isn't said
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, [path])

    @translate_store_errors
    def size(self, key: str) -> int | None:
        """Return an object's bytes by number, without reading them, or None."""
        try:
            return int(obstore.head(self._store, validate_key(key))["size"])
        except FileNotFoundError:
            return None

    @translate_store_errors
    def tables(self) -> list[str]:
        """Return the names of the tables, sorted."""
        found = obstore.list_with_delimiter(self._store, "tables/")["common_prefixes"]
        return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in found)

    @translate_store_errors
    def written(self, prefix: str) -> dict[str, datetime]:
        """Return for each key below a prefix when it was written, by the store's clock."""
        pages = obstore.list(self._store, prefix=validate_key(prefix))
        return {str(one["path"]): one["last_modified"] for page in pages for one in page}

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below a prefix (all, if it is empty), sorted."""
        return sorted(self.marks(prefix))

    @translate_store_errors
    def marks(self, prefix: str = "") -> dict[str, str]:
        """Return for each key below a prefix its size and a mark: with other bytes it has another."""
        pages = obstore.list(self._store, prefix=validate_key(prefix) if prefix else None)
        return {str(one["path"]): f"{one['size']} {one['e_tag']}" for page in pages for one in page}
