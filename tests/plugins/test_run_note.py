"""The note of a run says what its tasks did."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy.orm
from airflow.models.xcom import XComModel

from evergreen.run_note import on_dag_run_success


@pytest.mark.parametrize(
    ("dag", "note"),
    [
        ("flight_delay__operate", "mine\nrolled back"),
        ("another_teams__operate", "mine"),
        ("operate", "mine"),
    ],
)
def test_a_run_of_another_teams_dag_keeps_its_note(
    dag: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name may end as ours do; what its tasks returned may be for nobody else."""
    stored = [SimpleNamespace(key="return_value", value={"note": "rolled back"})]
    session = SimpleNamespace(scalars=lambda query: stored)
    monkeypatch.setattr(sqlalchemy.orm, "object_session", lambda run: session)
    monkeypatch.setattr(XComModel, "get_many", lambda **where: None)
    monkeypatch.setattr(XComModel, "deserialize_value", lambda row: row.value)
    run: Any = SimpleNamespace(dag_id=dag, run_id="r", note="mine")
    on_dag_run_success(run, "")
    assert run.note == note
