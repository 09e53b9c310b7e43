"""Airflow's database and MLflow's: dumped by their own tools, where a connection gives the address.

PostgreSQL is dumped by `pg_dump` in its custom format, SQLite by its backup, both while they are in use. The
address and the password go to the tool in its environment: others can read a process's words.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from include.environment import Connect, Endpoint
from include.errors import BackupError, EvergreenError, SettingError

DATABASES = {"airflow": "evergreen_airflow_db", "mlflow": "evergreen_mlflow_db"}
ENDINGS = {"postgresql": "dump", "sqlite": "sqlite"}
REMEDIES = {
    "postgresql": "pg_restore --clean --if-exists --no-owner --dbname DATABASE {file}",
    "sqlite": "cp {file} to where the database was",
}


class Absent(EvergreenError):
    """Nobody gave the address of a database, or the tool that dumps it isn't installed."""


def address(found: Endpoint) -> URL:
    """Return the address that a connection's host gives, with its login and password."""
    url = make_url(found.uri)
    return url.set(username=found.login or url.username, password=found.password or url.password)


def dump(tool: str, connect: Connect) -> tuple[str, bytes]:
    """Return what kind of database a tool has, and its dump.

    Raises
    ------
    Absent
        when there is no connection, or no `pg_dump`.
    BackupError
        when the database can't be dumped.
    """
    try:
        url = address(connect(DATABASES[tool]))
    except SettingError:
        raise Absent(f"{tool}'s database (no connection {DATABASES[tool]})") from None
    except ArgumentError:  # its text may hold the password
        raise _failed(tool, "an address that can't be read") from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        return kind, _sqlite(tool, Path(url.database or ""))
    if kind == "postgresql":
        return kind, _postgresql(tool, url)
    raise Absent(f"{tool}'s database (of the kind {kind}: only postgresql and sqlite are dumped)")


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
        raise Absent(f"{tool}'s database (there is no pg_dump here)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "dump")
        words = [program, "--format=custom", "--no-password", f"--file={file}"]
        done = subprocess.run(  # noqa: S603  # our own words, no shell
            words, env={**os.environ, **settings(url)}, text=True, capture_output=True, check=False
        )
        if done.returncode:
            said = " ".join(done.stderr.split())[-300:]
            raise _failed(tool, f"pg_dump ended with {done.returncode}: {said}")
        return file.read_bytes()


def settings(url: URL) -> Mapping[str, str]:
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
