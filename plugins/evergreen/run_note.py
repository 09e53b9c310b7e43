"""The listener that sets the note of an `operate` run: what it did, or why it is red.

A task can't write its run's note. So `operate` leaves the sentence in its XCom, and the scheduler, which
calls this listener, copies it. Every process imports this module with the plugin, so it must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models import DagRun

REFUSAL, RESULT = "refusal", "return_value"  # the XComs' keys
MAX_NOTE = 1000  # characters, a limit of Airflow's API


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Append the message of a refused action to the run's note."""
    _append(dag_run, REFUSAL)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Append what an action did to the run's note."""
    _append(dag_run, RESULT)


def _append(dag_run: DagRun, key: str) -> None:
    if not dag_run.dag_id.endswith("__operate"):
        return
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    query = XComModel.get_many(run_id=dag_run.run_id, key=key, dag_ids=dag_run.dag_id)
    if session is not None and (stored := session.scalars(query).first()):
        value = XComModel.deserialize_value(stored)
        sentence = value.get("note") if isinstance(value, dict) else value
        dag_run.note = "\n".join(filter(None, (dag_run.note, sentence)))[:MAX_NOTE]
