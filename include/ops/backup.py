"""Copy the lake as it was at one moment, while partitions run, and then the databases.

The moment comes first. A table's version only grows, so when every table has the version that it had a look
before, all of them had these versions between the two looks. A lake restored to them is one whose writers
were killed at that moment, which a rerun of the partition heals; no row speaks of another that it doesn't
hold.

The files come second. What a row refers to, a data file or an object, was written before the row was, so a
listing made after the moment has it; commits that came since are left out, and files that only they refer to
are rows of no table. Files of old versions are copied while the lake has them: what can be read of the past
before can be read afterwards. The databases come third, since the ledgers refer to runs that were finished;
the manifest is last.
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
from include.errors import BackupError, EvergreenError, SettingError, StoreUnavailable
from include.ops import backup_store
from include.ops.backup_store import Manifest, Objects, Turn, take_turn
from include.storage.lake import Lake

DATABASES = {"airflow": "evergreen_airflow_db", "mlflow": "evergreen_mlflow_db"}
ENDINGS = {"postgresql": "dump", "sqlite": "sqlite"}
REMEDIES = {
    "postgresql": "pg_restore --clean --if-exists --no-owner --dbname DATABASE {file}",
    "sqlite": "cp {file} to where the database was",
}


class DatabaseUnavailable(EvergreenError):
    """Nobody gave the address of a database, or the tool that dumps it isn't installed."""


def database_address(found: Endpoint) -> URL:
    """Return the address that a connection's host gives, with its login and password."""
    url = make_url(found.uri)
    return url.set(username=found.login or url.username, password=found.password or url.password)


def dump_database(tool: str, connect: Connect) -> tuple[str, bytes]:
    """Return what kind of database a tool has, and its dump.

    Raises
    ------
    Absent
        when there is no connection, or no `pg_dump`.
    BackupError
        when the database can't be dumped.
    """
    try:
        url = database_address(connect(DATABASES[tool]))
    except SettingError:
        raise DatabaseUnavailable(f"{tool}'s database (no connection {DATABASES[tool]})") from None
    except ArgumentError:  # its text may hold the password
        raise _failed(tool, "an address that can't be read") from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        return kind, _sqlite(tool, Path(url.database or ""))
    if kind == "postgresql":
        return kind, _postgresql(tool, url)
    raise DatabaseUnavailable(
        f"{tool}'s database (of the kind {kind}: only postgresql and sqlite are dumped)"
    )


def _failed(tool: str, found: str) -> BackupError:
    remedy = f"mend the connection {DATABASES[tool]}, then back up again"
    return BackupError(f"{tool}'s database", required="a dump", found=found, remedy=remedy)


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
            raise _failed(tool, f"{error} ({path})") from None
        return copy.read_bytes()


def _postgresql(tool: str, url: URL) -> bytes:
    program = shutil.which("pg_dump")
    if program is None:
        raise DatabaseUnavailable(f"{tool}'s database (there is no pg_dump here)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dump")
        words = [program, "--format=custom", "--no-password", f"--file={file}"]
        done = subprocess.run(  # noqa: S603  # our own words, no shell
            words, env={**os.environ, **postgres_settings(url)}, text=True, capture_output=True, check=False
        )
        if done.returncode:
            said = " ".join(done.stderr.split())[-300:]
            raise _failed(tool, f"pg_dump ended with {done.returncode}: {said}")
        return file.read_bytes()


def postgres_settings(url: URL) -> Mapping[str, str]:
    """Return what PostgreSQL's own tools read from their environment."""
    query = {name: value for name, value in url.query.items() if isinstance(value, str)}
    given = {
        "PGHOST": query.get("host", url.host),
        "PGPORT": query.get("port", url.port and str(url.port)),
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": query.get("sslmode"),
        "PGSSLROOTCERT": query.get("sslrootcert"),
    }
    return {name: str(value) for name, value in given.items() if value}


ARTIFACTS = "EVERGREEN_MLFLOW_ARTIFACTS"
LOOKS, PAUSE = 400, 0.3  # two minutes and more: a partition leaves gaps between its commits
RECENT = 5  # backups, in which unchanged objects are looked for: what none has is read again
LOG = re.compile(r"tables/([^/]+)/_delta_log/(.*)")
COMMITTED = re.compile(r"(\d{20})\.(json|checkpoint\..*parquet)")


@dataclass(frozen=True)
class BackupResult:
    """What a backup came to.

    Parameters
    ----------
    name : what `restore` is given.
    objects, copied : how many objects it holds, and how many of them weren't there before.
    size : bytes that were copied.
    missing : a sentence for each thing that isn't in it.
    failed : a sentence for each that was to be in it.
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
        """The sentence a person reads."""
        what = f"{self.name}: {self.objects:,} objects, of which {self.copied:,} are new"
        lack = "; ".join((*self.failed, *self.missing))
        return f"{what} ({self.size / 1e6:,.1f} MB), at {self.uri}" + (
            f"; not in this backup: {lack}" if lack else ""
        )


def backup(
    lakes: Sequence[Lake], kept: Lake, *, now: datetime, connect: Connect, artifacts: str = ""
) -> BackupResult:
    """Add a backup of some use cases, and of the databases that there are connections to.

    Parameters
    ----------
    kept : the place of the backups, as `shelf` opens it.
    artifacts : where MLflow's server keeps them: a folder's or a bucket's address with a prefix.

    Raises
    ------
    StoreUnavailable
        when the lake or the place doesn't answer or isn't at rest for a moment.
    """
    with take_turn(kept, "shares") as mine:
        return _backup(lakes, kept, mine, now=now, connect=connect, artifacts=artifacts)


def _backup(
    lakes: Sequence[Lake], kept: Lake, mine: Turn, *, now: datetime, connect: Connect, artifacts: str
) -> BackupResult:
    name = backup_store.backup_name(now)
    there = {key: int(mark.split()[0]) for key, mark in kept.marks("objects").items()}
    known = _known(kept)
    versions: dict[str, dict[str, int]] = {}
    objects: dict[str, Objects] = {}
    for lake in lakes:
        versions[lake.name] = consistent_versions(lake)
        keys = objects_of_versions(lake.marks(), versions[lake.name])
        objects[lake.name] = _copied(lake, keys, kept, known.get(lake.name, {}), there)
    databases, missing, failed = _dumped(kept, connect, there)
    if artifacts:
        place = open_address(artifacts)
        objects[""] = _copied(place, place.marks(), kept, known.get("", {}), there)
    else:
        missing.append(f"MLflow's artifacts ({ARTIFACTS} gives no address)")
    at = lakes[0].uri.rpartition("/")[0] if lakes else ""
    absent = [*failed, *missing]
    manifest = Manifest(name, code_version(), at, versions, objects, databases, absent)
    new = _arrived(kept, manifest, there)
    mine.holds()
    backup_store.write_manifest(kept, name, manifest)
    held = len(manifest.digests(objects))
    return BackupResult(name, kept.uri, held, len(new), sum(new), tuple(missing), tuple(failed))


def _known(kept: Lake) -> dict[str, Objects]:
    """Return what the newest backup of each use case holds; one that is damaged is in nobody's way."""
    found: dict[str, Objects] = {}
    for name in backup_store.backup_names(kept)[-RECENT:]:
        with suppress(BackupError):
            found |= backup_store.load_manifest(kept, name).objects
    return found


def _arrived(kept: Lake, manifest: Manifest, there: Mapping[str, int]) -> list[int]:
    """Return the sizes of the objects that are new, and see that each that the manifest names is there."""
    now = kept.marks("objects")
    held = [backup_store.object_key(digest) for digest in manifest.digests(manifest.objects)]
    if lost := [key for key in held if key not in now]:
        raise StoreUnavailable(
            f"{kept.uri}/{lost[0]}", required="an object of this backup", found="none", remedy="back up again"
        )
    return [int(now[key].split()[0]) for key in held if key not in there]


def open_address(address: str) -> Lake:
    """Open a folder's or a bucket's address that has a prefix as a use case's is opened."""
    base, _, name = address.rstrip("/").rpartition("/")
    return Lake(name, base or "/")


def consistent_versions(lake: Lake) -> dict[str, int]:
    """Return the versions that all tables had at one moment.

    Raises
    ------
    StoreUnavailable
        when commits leave no gap.
    """
    for _ in range(LOOKS):
        first, second = ({table: lake.version(table) for table in lake.tables()} for _ in range(2))
        if first == second:
            return first
        time.sleep(PAUSE)
    raise StoreUnavailable(
        f"{lake.uri}/tables",
        required="a moment without a commit",
        found=f"none in {LOOKS:,} looks",
        remedy="back up again when fewer partitions are being published",
    )


def objects_of_versions(marks: Mapping[str, str], versions: Mapping[str, int]) -> dict[str, str]:
    """Return what belongs to a lake whose tables have these versions.

    Of a log that is each commit up to the version. The pointer to its newest checkpoint isn't: it may be of a
    later commit, and a reader finds the checkpoints without it.
    """

    def belongs(key: str) -> bool:
        if not (log := LOG.fullmatch(key)):
            return True
        commit = COMMITTED.fullmatch(log[2])
        return commit is not None and int(commit[1]) <= versions.get(log[1], -1)

    return {key: mark for key, mark in marks.items() if belongs(key)}


def _copied(
    place: Lake,
    marks: Mapping[str, str],
    kept: Lake,
    known: Mapping[str, Sequence[str]],
    there: dict[str, int],
) -> Objects:
    """Copy what isn't there, and return the digest of each; what has the mark it had isn't read again."""

    def one(key: str) -> tuple[str, tuple[str, str]]:
        digest, mark = known.get(key, ("", ""))
        if mark == marks[key] and there.get(backup_store.object_key(digest)) == int(mark.split()[0]):
            return key, (digest, mark)
        data = place.get(key)
        if data is None:
            raise StoreUnavailable(
                f"{place.uri}/{key}",
                required="an object that was there when the backup began",
                found="none",
                remedy="back up again when nothing tidies the lake",
            )
        etag = marks[key].partition(" ")[2]  # it may have been written again since
        return key, (backup_store.store_object(kept, data, there), f"{len(data)} {etag}")

    return dict(backup_store.map_concurrently(one, sorted(marks)))


def _dumped(
    kept: Lake, connect: Connect, there: dict[str, int]
) -> tuple[dict[str, tuple[str, str]], list[str], list[str]]:
    """Dump each database, and return the dumps, what was not to be had, and what failed."""
    dumps, missing, failed = {}, [], []
    for tool in DATABASES:
        try:
            kind, data = dump_database(tool, connect)
            dumps[tool] = (kind, backup_store.store_object(kept, data, there))
        except DatabaseUnavailable as error:
            missing.append(str(error))
        except StoreUnavailable:
            raise
        except EvergreenError as error:
            failed.append(str(error))
    return dumps, missing, failed
