"""What is old goes by the tools' own commands, with their own right to their databases."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from mlflow import MlflowClient

from evergreen.operators.upkeep import PurgeOperator

NAME = "evergreen_test_db"


def purge(tool: str, days: int) -> None:
    """Run the task."""
    context: Any = {}
    PurgeOperator(task_id=f"purge_{tool}", tool=tool, days=days, connection=NAME).execute(context)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the connection points to."""
    found = {"conn_type": "generic", "host": f"sqlite:///{tmp_path}/tool.db"}
    monkeypatch.setenv(f"AIRFLOW_CONN_{NAME.upper()}", json.dumps(found))
    return tmp_path / "tool.db"


@pytest.mark.parametrize("tool", ["airflow", "mlflow"])
def test_without_a_connection_the_task_is_skipped_and_says_what_to_run(tool: str) -> None:
    """Nobody has to give a task the right to a database."""
    with pytest.raises(AirflowSkipException, match=f"no connection {NAME}.*(db clean|gc --older-than)"):
        purge(tool, 30)


@pytest.mark.full
def test_what_was_deleted_in_mlflow_is_gone_after_its_days(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was deleted today stays for a month; with no days to wait it goes, and no other does."""
    uri = f"sqlite:///{database}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("e", f"file://{tmp_path}/artifacts")
    kept, deleted = (str(client.create_run(experiment).info.run_id) for _ in range(2))
    client.delete_run(deleted)
    with sqlite3.connect(database) as rows:
        query = "SELECT run_uuid FROM runs"
        purge("mlflow", 30)
        assert {run for (run,) in rows.execute(query)} == {kept, deleted}
        purge("mlflow", 0)
        assert {run for (run,) in rows.execute(query)} == {kept}


@pytest.mark.full
def test_a_database_that_is_not_there_fails_and_keeps_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has what the tool said, and not what it was told."""
    address = {"conn_type": "generic", "host": "nosuchdb://127.0.0.1:9/db"}
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{NAME.upper()}", json.dumps({**address, "login": "u", "password": "planted"})
    )
    with caplog.at_level(logging.INFO), pytest.raises(AirflowFailException, match="ended with"):
        purge("mlflow", 30)
    assert "planted" not in caplog.text


@pytest.mark.full
@pytest.mark.airflow
def test_airflow_deletes_what_is_older_than_its_days(database: Path, tmp_path: Path) -> None:
    """An entry of long ago goes, one of today stays, though a task itself is barred from the database."""
    own = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}"}
    subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env=os.environ | own, check=True, capture_output=True,
    )  # fmt: skip
    with sqlite3.connect(database) as rows:
        for moment in ("2020-01-01 00:00:00", "2999-01-01 00:00:00"):
            rows.execute("INSERT INTO log (dttm, event) VALUES (?, ?)", (moment, f"planted {moment[:4]}"))
    os.environ["AIRFLOW_HOME"], before = str(tmp_path), os.environ.get("AIRFLOW_HOME")
    try:
        purge("airflow", 365)
    finally:
        os.environ.pop("AIRFLOW_HOME") if before is None else os.environ.update(AIRFLOW_HOME=before)
    with sqlite3.connect(database) as rows:
        found = {event for (event,) in rows.execute("SELECT event FROM log WHERE event LIKE 'planted%'")}
    assert found == {"planted 2999"}
