"""The lake: Delta tables and raw objects in a folder or store, and the only place that does storage I/O.

A partition is published in one atomic commit that replaces exactly that partition. Publishing is therefore
idempotent, and a reader sees either the old rows or the new ones. A ledger is appended to by
compare-and-swap: the commit names the version that it is based on, so the slower of two concurrent writers
fails and has to decide again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from obstore.store import MemoryStore, from_url

from include.environment import lake_uri
from include.errors import BackupError, ConcurrentCommit, StoreUnavailable
from include.references import validate_key
from include.storage import queries, spill
from include.storage.compaction import FANOUT, LEDGERS, NO_CLEANUP, merge_small_files
from include.storage.queries import TableFiles, commit_path, small
from include.storage.shares import Share
from include.storage.store_errors import retry_commit, translate_store_errors

log = logging.getLogger(__name__)
Where = queries.Where
Row = dict[str, Any]
T = TypeVar("T")

# Lineage refers to old versions, whose log would be deleted by default, so it is kept for ten years.
# Opening a table reads each commit since its last checkpoint, and each task opens many. A checkpoint lists
# all files, so a shorter interval makes the log larger.
TABLE_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    "delta.checkpointInterval": "20",
}
RESTORING = "restore_unfinished.txt"  # the key of the object that a restore writes first and removes last
UNFINISHED = re.compile(r".+#\d+")  # the name of an object's file in a folder until it is whole
CACHED, CACHED_BYTES = 8, 4 << 20  # results, and the most bytes of one; see `Lake.cached`
# `partition` isn't a partition column of Delta: hundreds of small files a year took longer to open than to
# read. Files are pruned by the bounds of that column instead, and replacing a partition rewrites only its
# file.
DELTA_PARTITIONS = {"partitions": ["product"], "profiles": ["product"], "quarantine": ["source"]}


def newest_known(rows: Iterable[Row], *by: str, as_of: str | None = None) -> dict[Any, Row]:
    """Return the row that became known last for each value of a column, or for each tuple of several.

    Parameters
    ----------
    by : the columns.
    as_of : only what was known on this partition; None for all that is known now.
    """
    key = itemgetter(*by)
    ordered = sorted(rows, key=lambda row: str(row["as_of"]))
    return {key(row): row for row in ordered if as_of is None or row["as_of"] <= as_of}


class Lake:
    """One use case's part of the lake.

    Parameters
    ----------
    usecase : the use case's name, which is the first folder below the lake's address; empty for the whole
        lake.
    uri : the lake's address: a folder, ``file://``, ``s3://``, ``az://`` or ``gs://``. The default is
        ``EVERGREEN_LAKE``.

    Whatever is read or written, a `BackupError` is raised if a restore of this part hasn't ended.
    """

    def __init__(self, usecase: str, uri: str | None = None) -> None:
        base = (uri or lake_uri()).rstrip("/")
        if "://" not in base:
            folder = Path(base or "/")
            # a relative path would lose its first folder, which is the host in file://data/lake
            base = f"file://{folder if folder.is_absolute() else folder.resolve()}".rstrip("/")
        self.name = usecase
        self.uri = f"{base}/{validate_key(usecase) if usecase else ''}"
        self._tables = threading.local()  # the tables that each thread has opened
        self._cache: dict[tuple[Any, ...], tuple[list[int], tuple[Any, ...], pa.Table]] = {}
        self._constants: dict[str, bytes] = {}  # see `get_once`
        self._files = threading.local()  # the files of the tables that each thread has read

    # tables

    @translate_store_errors
    def publish(self, table: str, rows: pa.Table, where: Where) -> int:
        """Replace the partitions that ``where`` selects by ``rows``, in one atomic commit.

        Parameters
        ----------
        rows : all of them satisfy ``where``; an empty table empties the partitions.
        where : for each column its value, or a list of values.

        Returns
        -------
        int
            The version of the table with these rows.
        """
        version = self._replace(table, rows, where)
        self._merge(table, version)
        return version

    @retry_commit
    def _replace(self, table: str, rows: pa.Table, where: Where) -> int:
        delta = self._open_or_create(table, rows.schema)
        table_schema = pa.schema(delta.schema().to_arrow())
        write_deltalake(
            delta,
            queries.fill_missing_columns(rows, table_schema, self._table_uri(table)),
            mode="overwrite",
            predicate=queries.condition(where),
            schema_mode=queries.merge_mode(delta, rows.schema),
            post_commithook_properties=NO_CLEANUP,
        )
        return int(delta.version())

    @translate_store_errors
    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Append to a ledger by compare-and-swap, and return its new version.

        Parameters
        ----------
        version : the version that the caller has read, -1 if the table didn't exist.

        Raises
        ------
        ConcurrentCommit
            if the table has a newer version.
        """
        concurrent = self._concurrent_commit(table, version)
        try:
            delta = self._open_or_create(table, rows.schema)
            # two writers that create a table at once add an empty commit, so -1 means that there are no rows
            if delta.file_uris() if version < 0 else delta.version() != version:
                raise concurrent
            write_deltalake(
                delta,
                rows,
                mode="append",
                schema_mode=queries.merge_mode(delta, rows.schema),
                commit_properties=CommitProperties(max_commit_retries=0),
                post_commithook_properties=NO_CLEANUP,
            )
        except CommitFailedError:
            raise concurrent from None
        appended = int(delta.version())
        self._merge(table, appended)
        return appended

    @retry_commit
    def append_compare_and_swap(
        self, table: str, schema: pa.Schema, decide: Callable[[list[Row]], list[Row] | T]
    ) -> Row | T:
        """Append to a ledger the rows that ``decide`` returns, in one commit.

        Parameters
        ----------
        decide : takes the ledger's rows, in no order. It returns the rows to append, or anything but a list
            to append nothing. It is called again whenever a concurrent commit came first, so it has no side
            effects.

        Returns
        -------
        dict or T
            The first row that was appended, or what ``decide`` returned instead.

        Raises
        ------
        ConcurrentCommit
            when concurrent commits came first a hundred times.
        """
        version = self.version(table)
        decision = decide(self.rows(table, version=version) if version >= 0 else [])
        if not isinstance(decision, list):
            return decision
        self.append_at(table, pa.Table.from_pylist(decision, schema), version)
        return decision[0]

    @translate_store_errors
    @retry_commit
    def revise(self, table: str, where: Where, change: Callable[[pa.Table], pa.Table]) -> None:
        """Replace the rows of partitions by what ``change`` returns for them, by compare-and-swap.

        Parameters
        ----------
        change : takes the partitions' rows, and returns what replaces them, or the same table, and then
            nothing is written. It is called again whenever a concurrent commit came first.

        Raises
        ------
        ConcurrentCommit
            when concurrent commits came first a hundred times.
        """
        version = self.version(table)
        rows = self.read(table, where, version=version)
        delta = self.open(table)
        if rows is None or delta is None:
            return
        changed = change(rows)
        if changed is rows:
            return
        if int(delta.version()) != version:
            raise self._concurrent_commit(table, version)
        try:
            write_deltalake(
                delta,
                changed,
                mode="overwrite",
                predicate=queries.condition(where),
                commit_properties=CommitProperties(max_commit_retries=0),
                post_commithook_properties=NO_CLEANUP,
            )
        except CommitFailedError:
            raise self._concurrent_commit(table, version) from None

    def _concurrent_commit(self, table: str, version: int) -> ConcurrentCommit:
        return ConcurrentCommit(
            self._table_uri(table),
            required=f"version {version}",
            found="a newer one",
            remedy="a concurrent run has written first: read the table again and decide again",
        )

    def _merge(self, table: str, version: int) -> None:
        """Merge a table's small files after every few commits, see `include.storage.compaction`.

        Parameters
        ----------
        version : of the commit that this process has made.
        """
        if version % FANOUT != 0:
            return
        try:
            files, delta = self._current_files(table), self.open(table)
            if files is not None and delta is not None and delta.version() == files.version:
                merge_small_files(delta, files, ledger=table in LEDGERS)
        except Exception:  # the rows are committed; a later commit merges
            log.exception("%s: can't merge the files of %s", self.uri, table)

    @translate_store_errors
    def read(
        self,
        table: str,
        where: Where | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
        order: Sequence[str] = (),
        limit: int | None = None,
        share: Share | None = None,
    ) -> pa.Table | None:
        """Return rows of a table, or None if it doesn't exist.

        Parameters
        ----------
        where : for each column its value, or a list of values; all rows by default.
        version : read the table as of this version.
        order : columns to sort by; without it the order is undefined.
        limit : the maximum number of rows.
        share : of these rows, whose columns contain the entity's; all by default.
        """
        files = self._current_files(table)
        if files is not None and version in (None, files.version):
            stored_names = set(files.schema.names)
            names = list(columns or files.schema.names)
            touched = files.select(where)
            if stored_names.issuperset({*names, *(where or {}), *order}) and small(touched):
                rows = files.read(touched, where, list(dict.fromkeys([*names, *order])))
                rows = share.filter(rows) if share else rows
                rows = rows.sort_by([(name, "ascending") for name in order]) if order else rows
                return rows.select(names).slice(0, limit)
        delta = self.open(table, version)
        if delta is None:
            return None
        selected = queries.columns(columns) if columns else "*"
        return queries.run_query(delta, queries.select(selected, where, order, limit), share)

    @translate_store_errors
    def count(self, table: str, where: Where | None = None) -> int:
        """Return the number of rows, without reading them."""
        delta = self.open(table)
        if delta is None:
            return 0
        result = queries.run_query(delta, queries.select("COUNT(*) AS n", where))
        return int(result["n"][0].as_py())

    @translate_store_errors
    def counts(
        self,
        table: str,
        by: Sequence[str],
        where: Where | None = None,
        span: tuple[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return how many rows have each combination of values, as ``count``, without reading other columns.

        Parameters
        ----------
        by : columns of the table, none of them named ``count``; the result is sorted by them.
        span : the first and the last partition that count; all by default.
        """
        delta = self.open(table)
        if delta is None:
            return []
        rows: list[dict[str, Any]] = queries.run_query(
            delta, queries.select_counts(by, where, span)
        ).to_pylist()
        return rows

    def rows(
        self, table: str, where: Where | None = None, columns: Sequence[str] | None = None, **options: Any
    ) -> list[Row]:
        """Return rows of a small table as dicts, none if it doesn't exist; options are those of `read`."""
        rows = self.read(table, where, columns, **options)
        return [] if rows is None else rows.to_pylist()

    def published(self, product: str, *, with_rows: bool = False) -> list[str]:
        """Return the partitions of a product that are published, in order: all, or those with rows."""
        where: Where = {"product": product, "outcome": "published"}
        rows = self.read("partitions", where, ["partition", "rows"])
        if rows is None:
            return []
        rows = rows.filter(pc.greater(rows["rows"], 0)) if with_rows else rows
        return sorted(rows["partition"].to_pylist())

    @translate_store_errors
    def version(self, table: str) -> int:
        """Return the version of a table, -1 if it doesn't exist."""
        files = self._current_files(table)
        return -1 if files is None else files.version

    @translate_store_errors
    def written_at(self, table: str, partition: str) -> datetime | None:
        """Return when the newest file with a partition's rows was written (UTC); None if none was."""
        delta = self.open(table)
        times = [
            row["modification_time"]
            for row in (queries.list_files(delta) if delta else [])
            if (row.get("min.partition") or "") <= partition <= (row.get("max.partition") or "")
        ]
        return datetime.fromtimestamp(max(times) / 1000, UTC) if times else None

    def _table_uri(self, table: str) -> str:
        return f"{self.uri}/tables/{validate_key(table)}"

    def open(self, table: str, version: int | None = None) -> DeltaTable | None:
        """Return a table, or None if it doesn't exist.

        Each thread reads a table's log once, and afterwards only the commits since.
        """
        opened: dict[str, DeltaTable] = self._tables.__dict__
        _ = self._store  # refuses an unfinished restore, which a table's own log doesn't show
        try:
            if version is not None:
                return DeltaTable(self._table_uri(table), version=version)
            if table not in opened:
                opened[table] = DeltaTable(self._table_uri(table))
            elif self._table_object(table, commit_path(int(opened[table].version()) + 1)) is not None:
                opened[table].update_incremental()  # it lists the whole log
            return opened[table]
        except TableNotFoundError:
            return None

    def _current_files(self, table: str) -> TableFiles | None:
        """Return the files of a table's newest version, None if it doesn't exist."""
        followed: dict[str, TableFiles] = self._files.__dict__
        if table in followed and followed[table].follow():
            return followed[table]
        delta = self.open(table)
        if delta is None:
            return None
        if table in followed:
            followed[table].restart(delta)
        else:
            followed[table] = TableFiles(delta, partial(self._table_object, table))
        return followed[table]

    def _table_object(self, table: str, path: str) -> bytes | None:
        """Return an object below a table's folder, None if it doesn't exist."""
        try:
            return bytes(obstore.get(self._store, f"tables/{validate_key(table)}/{path}").bytes())
        except FileNotFoundError:
            return None

    def _open_or_create(self, table: str, schema: pa.Schema) -> DeltaTable:
        delta = self.open(table)
        if delta is not None:
            return delta
        configuration = dict(TABLE_CONFIGURATION)
        if "partition" in schema.names:
            # files are chosen by this column; by default only the first 32 columns have bounds
            configuration["delta.dataSkippingStatsColumns"] = "partition"
        options: Any = {"partition_by": DELTA_PARTITIONS.get(table), "configuration": configuration}
        try:
            return DeltaTable.create(self._table_uri(table), schema, mode="error", **options)
        except DeltaError:
            delta = self.open(table)  # a concurrent process may have created it meanwhile
            if delta is None:
                raise
            return delta

    @translate_store_errors
    def tables(self) -> list[str]:
        """Return the names of the tables, sorted."""
        prefixes = obstore.list_with_delimiter(self._store, "tables/")["common_prefixes"]
        return sorted(str(prefix).rstrip("/").rpartition("/")[2] for prefix in prefixes)

    def cached(
        self, key: tuple[Any, ...], tables: Sequence[str], compute: Callable[[], pa.Table]
    ) -> pa.Table:
        """Return what is computed from tables, which a task's stages share while the tables stay the same.

        Parameters
        ----------
        key : all that the result depends on besides the tables' rows; objects are compared by identity.
        """
        versions = [self.version(table) for table in tables]
        names = tuple(part if isinstance(part, str | tuple) else id(part) for part in key)
        cached = self._cache.get(names)
        if cached is not None and cached[0] == versions:
            return cached[2]
        result = compute()
        if result.nbytes <= CACHED_BYTES:
            if len(self._cache) >= CACHED:
                self._cache.pop(next(iter(self._cache)), None)
            # the key's objects stay, so that no other has their id
            self._cache[names] = versions, key, result
        return result

    # objects

    @cached_property
    def folder(self) -> Path | None:
        """The folder of this part of the lake, None in a store."""
        return Path(unquote(urlsplit(self.uri).path)) if self.uri.startswith("file:") else None

    @property
    def _store(self) -> Any:
        """The store to read from; it is empty if its folder doesn't exist, which reading doesn't create."""
        if self.folder is not None and "_writable_store" not in vars(self):
            try:
                self.folder.stat()
            except FileNotFoundError:
                return MemoryStore()
        return self._writable_store

    @cached_property
    def _writable_store(self) -> Any:
        store = from_url(self.uri, mkdir=True) if self.folder else from_url(self.uri)
        with suppress(FileNotFoundError):
            mark = bytes(obstore.get(store, RESTORING).bytes()).decode(errors="replace")
            raise BackupError(
                self.uri,
                required="a lake whose restore has ended",
                found=f"an unfinished restore of {mark}",
                where=f"{self.uri}/{RESTORING}",
                remedy="if that restore no longer runs, remove all objects at this address and restore "
                "again, see docs/how-to/back-up-and-restore.md",
            )
        return store

    def require_address(self) -> None:
        """Raise `StoreUnavailable` if the lake is a folder that doesn't exist, which a write would create."""
        lake = self.folder.parent if self.folder and self.name else self.folder
        if lake is not None and not lake.is_dir():
            raise StoreUnavailable(
                "EVERGREEN_LAKE",
                required="a folder that exists",
                found="none",
                where=str(lake),
                remedy="mount its volume; if the lake is to be a new one, create the folder",
            )

    @translate_store_errors
    def require_version(self, table: str, version: int) -> None:
        """Raise `StoreUnavailable` if a version of a table that was read before is no longer there."""
        key = f"tables/{validate_key(table)}/{commit_path(version)}"
        if self.size(key) is None:
            raise StoreUnavailable(
                f"{self.uri}/{key}",
                required=f"version {version} of {table}, which was read before",
                found="none, so the lake isn't mounted, or another one is",
                remedy="mount its volume or correct its address; after a restore, start this process again",
            )

    @translate_store_errors
    def create(self, key: str, data: spill.Data) -> bool:
        """Write an object unless it exists; return whether this call wrote it."""
        try:
            obstore.put(self._writable_store, validate_key(key), data, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True

    @translate_store_errors
    def replace(self, key: str, data: bytes) -> None:
        """Write an object, overwriting an existing one."""
        obstore.put(self._writable_store, validate_key(key), data)

    def get_once(self, key: str) -> bytes | None:
        """Do as `get` does, but read an object that exists, and never changes, only once."""
        if key not in self._constants and (data := self.get(key)) is not None:
            self._constants[key] = data
        return self._constants.get(key)

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, or None if it doesn't exist."""
        data = self.data(key)
        return None if data is None else bytes(data)

    @translate_store_errors
    def data(self, key: str) -> spill.Data | None:
        """Return an object's bytes, memory-mapped if it is large, or None if it doesn't exist."""
        try:
            stream = obstore.get(self._store, validate_key(key)).stream(min_chunk_size=spill.CHUNK_BYTES)
            return spill.spill_bytes(stream)
        except FileNotFoundError:
            return None

    @translate_store_errors
    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; some of them may not exist."""
        paths = [validate_key(key) for key in keys]
        try:
            obstore.delete(self._store, paths)
        except FileNotFoundError:  # one of them didn't exist, and the others may not have been removed
            for path in paths:
                with suppress(FileNotFoundError):
                    obstore.delete(self._store, [path])

    @translate_store_errors
    def size(self, key: str) -> int | None:
        """Return an object's size in bytes, or None if it doesn't exist."""
        try:
            return int(obstore.head(self._store, validate_key(key))["size"])
        except FileNotFoundError:
            return None

    @translate_store_errors
    def last_modified(self, prefix: str) -> dict[str, datetime]:
        """Return when each object below a prefix was written, by the store's clock."""
        pages = obstore.list(self._store, prefix=validate_key(prefix))
        return {str(entry["path"]): entry["last_modified"] for page in pages for entry in page}

    def unfinished_puts(self) -> dict[Path, datetime]:
        """Return the files of puts that were killed, or still run, and when each was last written to.

        In a folder, an object is written to a file beside it, which is then renamed, and which no listing
        has.
        """
        files = self.folder.rglob("*#*") if self.folder else ()
        written: dict[Path, datetime] = {}
        for file in files:
            with suppress(FileNotFoundError):  # renamed meanwhile
                if UNFINISHED.fullmatch(file.name) and file.is_file():
                    written[file] = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        return written

    def remove_unfinished_puts(self, before: datetime) -> int:
        """Remove the files of puts that were last written to before a time, and return how many."""
        old = [file for file, written_at in self.unfinished_puts().items() if written_at < before]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def keys(self, prefix: str, after: str | None = None) -> list[str]:
        """Return the keys of the objects below a prefix, sorted; all keys for an empty prefix.

        Parameters
        ----------
        after : only keys that come after this one, without listing the others.
        """
        return sorted(self.sizes_and_etags(prefix, after))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return the size in bytes of each object below a prefix."""
        return {key: int(both.split()[0]) for key, both in self.sizes_and_etags(prefix).items()}

    @translate_store_errors
    def sizes_and_etags(self, prefix: str = "", after: str | None = None) -> dict[str, str]:
        """Return the size and ETag of each object below a prefix; one of them changes when the bytes do."""
        pages = obstore.list(self._store, prefix=validate_key(prefix) if prefix else None, offset=after)
        return {str(entry["path"]): f"{entry['size']} {entry['e_tag']}" for page in pages for entry in page}
