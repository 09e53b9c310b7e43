"""Back up a consistent state of the lake while partitions run, and then the databases.

1. Read all tables' versions twice. Versions only grow, so if both readings are equal, all tables had these
   versions at one moment between them. A lake restored to that moment looks as if its writers had been killed
   then: rerunning a partition repairs it, and no row refers to something that is missing.
2. Copy the files. A data file or object is written before the row that refers to it, so a listing made after
   the versions were read contains it. Later commits are left out. Files of old versions are copied as well,
   so that the past stays readable.
3. Dump the databases, because the ledgers refer to finished runs in them. The manifest is written last.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from include.environment import Connect, Endpoint, code_version
from include.errors import BackupError, EvergreenError, NotPublished, SettingError, StoreUnavailable
from include.ops import backup_store
from include.ops.backup_store import Manifest, Objects, StoreLock, lock_store
from include.score.shards import PARTS
from include.storage.lake import Lake

DATABASES = {"airflow": "evergreen_airflow_db", "mlflow": "evergreen_mlflow_db"}
ENDINGS = {"postgresql": "dump", "sqlite": "sqlite"}
REMEDIES = {
    "postgresql": "pg_restore --clean --if-exists --no-owner --dbname DATABASE {file}",
    "sqlite": "copy {file} over the database's file",
}


class DatabaseUnavailable(EvergreenError):
    """There is no connection to a database, or the tool that dumps it isn't installed."""


def database_address(endpoint: Endpoint) -> URL:
    """Return the address in a connection's host, with the connection's login and password."""
    url = make_url(endpoint.uri)
    return url.set(username=endpoint.login or url.username, password=endpoint.password or url.password)


def dump_database(tool: str, connect: Connect) -> tuple[str, bytes]:
    """Return the kind of a tool's database, and its dump.

    Raises
    ------
    DatabaseUnavailable
        when there is no connection, or no `pg_dump`.
    BackupError
        when the database can't be dumped.
    """
    try:
        url = database_address(connect(DATABASES[tool]))
    except SettingError:
        raise DatabaseUnavailable(f"{tool}'s database (no connection {DATABASES[tool]})") from None
    except ArgumentError:  # its text may contain the password
        raise _dump_error(tool, "an address that can't be parsed") from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        return kind, _sqlite(tool, Path(url.database or ""))
    if kind == "postgresql":
        return kind, _postgresql(tool, url)
    raise DatabaseUnavailable(f"{tool}'s database ({kind}; only postgresql and sqlite can be dumped)")


def _dump_error(tool: str, problem: str) -> BackupError:
    remedy = f"correct the connection {DATABASES[tool]}, then back up again"
    return BackupError(f"{tool}'s database", required="a dump", found=problem, remedy=remedy)


def _sqlite(tool: str, path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        try:
            with (
                closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise _dump_error(tool, f"{error} ({path})") from None
        return copy.read_bytes()


def _postgresql(tool: str, url: URL) -> bytes:
    program = shutil.which("pg_dump")
    if program is None:
        raise DatabaseUnavailable(f"{tool}'s database (there is no pg_dump here)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dump")
        command = [program, "--format=custom", "--no-password", f"--file={file}"]
        process = subprocess.run(  # noqa: S603  # a fixed command, no shell
            command, env={**os.environ, **postgres_settings(url)}, text=True, capture_output=True, check=False
        )
        if process.returncode:
            message = " ".join(process.stderr.split())[-300:]
            raise _dump_error(tool, f"pg_dump exited with {process.returncode}: {message}")
        return file.read_bytes()


def postgres_settings(url: URL) -> Mapping[str, str]:
    """Return an address as the environment variables of PostgreSQL's own tools."""
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    variables = {
        "PGHOST": query.get("host", url.host),
        "PGPORT": query.get("port", url.port and str(url.port)),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
    }
    return {name: str(value) for name, value in variables.items() if value}


ARTIFACTS = "EVERGREEN_MLFLOW_ARTIFACTS"
ATTEMPTS, PAUSE = 400, 0.3  # two minutes: a partition leaves gaps between its commits
RECENT = 5  # backups that are searched for unchanged objects; other objects are read again
REPLAYS = "replays/"  # see include/replay/fits.py
LOG = re.compile(r"tables/([^/]+)/_delta_log/(.*)")
COMMITTED = re.compile(r"(\d{20})\.(json|checkpoint\..*parquet)")


@dataclass(frozen=True)
class BackupResult:
    """The result of a backup.

    Parameters
    ----------
    name : the argument of `restore`.
    objects, copied : how many objects it contains, and how many of them are new in the store.
    size : bytes that were copied.
    missing : a sentence for each part that can't be in it.
    failed : a sentence for each part that should be in it and isn't.
    """

    name: str
    uri: str
    objects: int
    copied: int
    size: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def note(self) -> str:
        """The result in one sentence."""
        counts = f"{self.name}: {self.objects:,} objects, {self.copied:,} of them new"
        missing = "; ".join((*self.failed, *self.missing))
        return f"{counts} ({self.size / 1e6:,.1f} MB), at {self.uri}" + (
            f"; not in this backup: {missing}" if missing else ""
        )


def backup(
    lakes: Sequence[Lake], store: Lake, *, now: datetime, connect: Connect, artifacts: str = ""
) -> BackupResult:
    """Back up some use cases, and the databases that have a connection.

    Parameters
    ----------
    lakes : those without a table are left out.
    store : the backup store, as `backup_store.open_store` returns it.
    artifacts : the address of MLflow's artifacts: a folder, or a bucket with a prefix.

    Raises
    ------
    StoreUnavailable
        when the lake isn't there, or it or the store doesn't answer, or when commits to the lake never pause.
    NotPublished
        when no lake has a table, as where another one than theirs is mounted.
    """
    for lake in lakes:
        lake.require_address()
    with_tables = [lake for lake in lakes if lake.tables()]
    if lakes and not with_tables:
        raise NotPublished(
            f"a backup of {', '.join(lake.name for lake in lakes[:5])}",
            required="a use case that something was published of",
            found="none",
            where=lakes[0].uri,
            remedy="check that EVERGREEN_LAKE is the lake and is mounted; a new one is backed up after its "
            "first run",
        )
    with lock_store(store, "shared") as lock:
        return _backup(with_tables, store, lock, now=now, connect=connect, artifacts=artifacts)


def _backup(
    lakes: Sequence[Lake], store: Lake, lock: StoreLock, *, now: datetime, connect: Connect, artifacts: str
) -> BackupResult:
    name = backup_store.backup_name(now)
    sizes = store.sizes("objects")
    previous = _previous_objects(store)
    versions: dict[str, dict[str, int]] = {}
    objects: dict[str, Objects] = {}
    for lake in lakes:
        versions[lake.name] = consistent_versions(lake)
        keys = objects_of_versions(lake.sizes_and_etags(), versions[lake.name])
        objects[lake.name] = _copy_objects(lake, keys, store, previous.get(lake.name, {}), sizes)
    databases, missing, failed = _dump_databases(store, connect, sizes)
    if artifacts:
        folder = open_address(artifacts)
        objects[""] = _copy_objects(folder, folder.sizes_and_etags(), store, previous.get("", {}), sizes)
    else:
        missing.append(f"MLflow's artifacts ({ARTIFACTS} isn't set)")
    at = lakes[0].uri.rpartition("/")[0] if lakes else ""
    manifest = Manifest(name, code_version(), at, versions, objects, databases, [*failed, *missing])
    new = _new_sizes(store, manifest, sizes)
    lock.require_valid()
    backup_store.write_manifest(store, name, manifest)
    count = len(manifest.digests(objects))
    return BackupResult(name, store.uri, count, len(new), sum(new), tuple(missing), tuple(failed))


def _previous_objects(store: Lake) -> dict[str, Objects]:
    """Return the objects of the newest backup of each use case; damaged manifests are ignored."""
    objects: dict[str, Objects] = {}
    for name in backup_store.backup_names(store)[-RECENT:]:
        with suppress(BackupError):
            objects |= backup_store.load_manifest(store, name).objects
    return objects


def _new_sizes(store: Lake, manifest: Manifest, sizes: Mapping[str, int]) -> list[int]:
    """Check that every object of the manifest is stored, and return the sizes of the new ones."""
    stored = store.sizes("objects")
    keys = [backup_store.object_key(digest) for digest in manifest.digests(manifest.objects)]
    if missing := [key for key in keys if key not in stored]:
        raise StoreUnavailable(
            f"{store.uri}/{missing[0]}",
            required="an object of this backup",
            found="none",
            remedy="back up again",
        )
    return [stored[key] for key in keys if key not in sizes]


def open_address(address: str) -> Lake:
    """Open a folder, or a bucket with a prefix, through the same interface as a use case's lake."""
    if "://" not in address:
        address = str(Path(address).absolute())
    base, _, name = address.rstrip("/").rpartition("/")
    if base.endswith(":/"):
        raise SettingError(
            ARTIFACTS,
            required="a folder of a bucket, such as s3://mlflow/artifacts",
            found=address,
            remedy="add the folder below which MLflow stores its artifacts",
        )
    return Lake(name, base or "/")


def consistent_versions(lake: Lake) -> dict[str, int]:
    """Return the versions that all tables had at one moment.

    Raises
    ------
    StoreUnavailable
        when commits never pause.
    """
    for _ in range(ATTEMPTS):
        first, second = ({table: lake.version(table) for table in lake.tables()} for _ in range(2))
        if first == second:
            return first
        time.sleep(PAUSE)
    raise StoreUnavailable(
        f"{lake.uri}/tables",
        required="table versions that stay the same while they are read",
        found=f"other versions after each of {ATTEMPTS:,} attempts",
        remedy="back up again when fewer partitions are being published",
    )


def objects_of_versions(sizes_and_etags: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """Return the objects of a lake whose tables have these versions, without replays' fits and shards.

    Of a table's log these are the commits up to its version. The pointer to the newest checkpoint isn't one
    of them: it may refer to a later commit, and a reader finds the checkpoints without it.
    """

    def belongs(key: str) -> bool:
        if key.startswith((REPLAYS, f"{PARTS}/")):  # large, and computed again
            return False
        if not (log := LOG.fullmatch(key)):
            return True
        commit = COMMITTED.fullmatch(log[2])
        return commit is not None and int(commit[1]) <= versions.get(log[1], -1)

    return {key: size_and_etag for key, size_and_etag in sizes_and_etags.items() if belongs(key)}


def _copy_objects(
    source: Lake,
    sizes_and_etags: Mapping[str, str],
    store: Lake,
    previous: Mapping[str, Sequence[str]],
    sizes: dict[str, int],
) -> Objects:
    """Copy new objects to the store, and return the digest of each; unchanged ones aren't read again.

    Parameters
    ----------
    sizes_and_etags : of each object of the source, by key.
    previous : the objects of an earlier backup.
    sizes : the sizes of the store's objects, by key.
    """

    def copy_object(key: str) -> tuple[str, tuple[str, str]]:
        digest, copied = previous.get(key, ("", ""))
        if copied == sizes_and_etags[key]:
            size = int(copied.split()[0])
            if sizes.get(backup_store.object_key(digest)) == size:
                return key, (digest, copied)
        data = source.get(key)
        if data is None:
            raise StoreUnavailable(
                f"{source.uri}/{key}",
                required="the object, which existed when the backup began",
                found="none",
                remedy="it was removed during the backup: back up again when no upkeep runs",
            )
        etag = sizes_and_etags[key].partition(" ")[2]  # the object may have been replaced since
        return key, (backup_store.store_object(store, data, sizes), f"{len(data)} {etag}")

    return dict(backup_store.map_concurrently(copy_object, sorted(sizes_and_etags)))


def _dump_databases(
    store: Lake, connect: Connect, sizes: dict[str, int]
) -> tuple[dict[str, tuple[str, str]], list[str], list[str]]:
    """Dump each database, and return the dumps, the unavailable databases, and the failures."""
    dumps, missing, failed = {}, [], []
    for tool in DATABASES:
        try:
            kind, data = dump_database(tool, connect)
            dumps[tool] = (kind, backup_store.store_object(store, data, sizes))
        except DatabaseUnavailable as error:
            missing.append(str(error))
        except StoreUnavailable:
            raise
        except EvergreenError as error:
            failed.append(str(error))
    return dumps, missing, failed
