"""The note of a run says what its tasks did."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy.orm
from airflow.models.xcom import XComModel

from evergreen.run_note import on_dag_run_failed, on_dag_run_success


def run_note_of(
    dag: str, stored: list[SimpleNamespace], ended: Callable[..., None], patch: pytest.MonkeyPatch
) -> str:
    """Return the note of a run that has ended, from what its tasks returned."""
    session = SimpleNamespace(scalars=lambda query: stored)
    patch.setattr(sqlalchemy.orm, "object_session", lambda run: session)
    patch.setattr(XComModel, "get_many", lambda **where: None)
    patch.setattr(XComModel, "deserialize_value", lambda row: row.value)
    run: Any = SimpleNamespace(dag_id=dag, run_id="r", note="mine")
    ended(run, "")
    return str(run.note)


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
    stored = [SimpleNamespace(task_id="roll_back", key="return_value", value={"note": "rolled back"})]
    assert run_note_of(dag, stored, on_dag_run_success, monkeypatch) == note


@pytest.mark.parametrize("ended", [on_dag_run_success, on_dag_run_failed])
@pytest.mark.parametrize(
    ("kind", "note"),
    [("training", "mine\nv2 promoted: blessed"), ("batch", "mine\n40 by the champion")],
)
def test_the_note_of_a_partition_or_training_has_its_outcome(
    ended: Callable[..., None], kind: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a red run as far as it came; the verdict isn't repeated, nor are other tasks' results in it."""
    results = {
        "promote.switch": "v2 promoted: blessed",
        "score.predict": "40 by the champion",
        "train.fit": "three fits",
        "judge.decide": "blessed",
    }
    stored = [SimpleNamespace(task_id=t, key="return_value", value={"note": n}) for t, n in results.items()]
    assert run_note_of(f"flight_delay__{kind}", stored, ended, monkeypatch) == note
