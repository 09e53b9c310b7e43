"""The form's action backs up what the command backs up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from evergreen.operators.operate import OperateOperator
from include.backup import shelf
from tests.backup.conftest import Clinic


@pytest.fixture
def context(home: Clinic, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The form, filled in by nobody who is logged in."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(home.folder / "usecases"))
    run = SimpleNamespace(triggering_user_name=None)
    return {"params": {"action": "back up", "reason": ""}, "dag_run": run, "run_id": "r"}


def test_backing_up_needs_no_reason_and_says_what_it_lacks(
    home: Clinic, context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes nothing of the lake; the reference names the backup and each database that isn't in it."""
    monkeypatch.setenv("EVERGREEN_BACKUP", str(tmp_path / "safe"))
    said = OperateOperator(task_id="operate", usecase=home.spec.name).execute(context)
    (name,) = shelf.names(shelf.shelf())
    assert said["note"].startswith(f"{name}: {said['rows']} objects")
    for tool in ("airflow", "mlflow"):
        assert f"{tool}'s database (no connection evergreen_{tool}_db)" in said["note"]


def test_without_a_place_for_it_it_fails_in_one_sentence(context: Any) -> None:
    """The setting that is missing is named."""
    with pytest.raises(AirflowFailException, match="setting EVERGREEN_BACKUP"):
        OperateOperator(task_id="operate", usecase="missed_visits").execute(context)
