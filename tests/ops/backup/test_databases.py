"""A database is dumped by its own tool, and its password is in no process's words."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from demo.environment import postgres_uri
from demo.home import Home
from demo.postgres import binaries
from demo.stack import Stack
from include.environment import Endpoint
from include.errors import BackupError, SettingError
from include.ops.backup import DatabaseUnavailable, database_address, dump_database


@pytest.fixture(scope="module")
def database() -> Iterator[Endpoint]:
    """A PostgreSQL with a table, as a connection has it."""
    with tempfile.TemporaryDirectory(prefix="evergreen-test-") as folder:
        home = Home(Path(folder))
        stack = Stack(home)
        try:
            stack.up(["postgres"])
            found = Endpoint("", postgres_uri(home, "mlflow"))
            url = database_address(found)
            args = {"host": url.query["host"], "user": url.username, "password": url.password}
            with psycopg2.connect(dbname=url.database, **args) as rows:
                rows.cursor().execute("CREATE TABLE planted AS SELECT 7 AS n")
            yield found
        finally:
            stack.down()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server's own tools, of which one writes down what it was told; return that page."""
    output, program = tmp_path / "said", tmp_path / "bin" / "pg_dump"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {output}\nexec {binaries()}/pg_dump "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return output


def test_postgresql_is_dumped_and_can_be_read_back(database: Endpoint, tools: Path, tmp_path: Path) -> None:
    """The dump holds the table and its row; the tool's words hold neither address nor password."""
    kind, data = dump_database("mlflow", lambda name: database)
    (tmp_path / "dump").write_bytes(data)
    read = [binaries() / "pg_restore", "--file=-", tmp_path / "dump"]
    text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert (kind, "COPY public.planted (n) FROM stdin;\n7\n" in text) == ("postgresql", True)
    password = database_address(database).password
    assert password
    assert password not in tools.read_text()
    assert "mlflow" not in tools.read_text()


@pytest.mark.parametrize("password", ["wrong-planted"])
def test_one_that_cannot_be_dumped_says_why_without_its_password(
    database: Endpoint, tools: Path, password: str
) -> None:
    """What the tool said is in the sentence, and the connection to mend."""
    wrong = Endpoint("", database.uri, password=password)
    with pytest.raises(BackupError, match=r"password authentication failed.*evergreen_airflow_db") as refused:
        dump_database("airflow", lambda name: wrong)
    assert password not in str(refused.value)


def test_without_a_connection_or_a_tool_it_is_said_that_it_is_not_in_the_backup(
    database: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to give a task the right to a database."""

    def nobody(name: str) -> Endpoint:
        raise SettingError(name)

    with pytest.raises(DatabaseUnavailable, match=r"mlflow's database \(no connection evergreen_mlflow_db\)"):
        dump_database("mlflow", nobody)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DatabaseUnavailable, match="there is no pg_dump here"):
        dump_database("mlflow", lambda name: database)


def test_a_sqlite_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    """It was to be in the backup, so an empty one isn't made instead."""
    with pytest.raises(BackupError, match="unable to open database file"):
        dump_database("mlflow", lambda name: Endpoint(name, f"sqlite:///{tmp_path}/none.db"))
    assert not (tmp_path / "none.db").exists()
