"""The listener that sets the note of a failed `operate` run, so that the list of runs says why it is red.

A task can't write its run's note. So `operate` leaves the message in its XCom, and the scheduler, which calls
this listener, copies it. Every process imports this module with the plugin, so it must stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from airflow.models import DagRun

REFUSAL = "refusal"  # the XCom's key
MAX_NOTE = 1000  # characters, a limit of Airflow's API


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Append the message of a refused action to the run's note."""
    if not dag_run.dag_id.endswith("__operate"):
        return
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    query = XComModel.get_many(run_id=dag_run.run_id, key=REFUSAL, dag_ids=dag_run.dag_id)
    if session is not None and (refusal := session.scalars(query).first()):
        lines = filter(None, (dag_run.note, XComModel.deserialize_value(refusal)))
        dag_run.note = "\n".join(lines)[:MAX_NOTE]
