"""The listener that appends to a run's note what it did, or why it is red.

A task can't write its run's note. So it leaves the sentence in its XCom, and the scheduler, which calls this
listener, copies it. Every process imports this module with the plugin, so it must stay light.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from include.spec import names

if TYPE_CHECKING:
    from airflow.models import DagRun

# the XComs' keys; the last two are of a history's tasks: what was clipped, and what a task has loaded
REFUSAL, RESULT, CLIPPED, LOADED = "refusal", "return_value", "clipped", "loaded"
MAX_NOTE = 1000  # characters, a limit of Airflow's API
# the tasks whose results say what came of a run
OUTCOMES = {"batch": ("score.predict", "monitor.check"), "training": ("judge.decide", "promote.switch")}


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:
    """Append the message of what was refused to the run's note."""
    _append(dag_run, REFUSAL)


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:
    """Append what a run did to its note."""
    _append(dag_run, RESULT)


def _append(dag_run: DagRun, key: str) -> None:
    usecase, _, kind = dag_run.dag_id.rpartition("__")
    # a DAG of others may end so too
    if kind not in ("operate", "history", *OUTCOMES) or usecase not in names():
        return
    from airflow.models.xcom import XComModel
    from sqlalchemy.orm import object_session

    if (session := object_session(dag_run)) is None:
        return
    tasks = OUTCOMES.get(kind, ())
    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids=tasks or None)
    rows: Iterable[Any] = session.scalars(query)
    stored = [(row.task_id, row.key, XComModel.deserialize_value(row)) for row in rows]
    if kind == "history":
        sentences = history_note((name, value) for _, name, value in stored)
    elif tasks:  # of a red run too, as far as it came
        results = {task: value for task, name, value in stored if name == RESULT}
        sentences = [_sentence(results[task]) for task in tasks if task in results]
        # a switch says why, in the verdict's words
        sentences = [
            one for one in sentences if not any(one in other and one != other for other in sentences)
        ]
    else:
        sentences = [_sentence(value) for _, name, value in stored if name == key]
    dag_run.note = "\n".join(filter(None, (dag_run.note, *sentences)))[:MAX_NOTE]


def _sentence(value: Any) -> str:
    return str((value.get("note") if isinstance(value, dict) else value) or "")


def history_note(stored: Iterable[tuple[str, Any]]) -> list[str]:
    """Return the sentences about a history run from its tasks' XComs, by key."""
    values: dict[str, list[Any]] = defaultdict(list)
    for key, value in stored:
        values[key].append(value)
    return [*values[REFUSAL], *values[CLIPPED], loaded_text(values[LOADED])]


def loaded_text(loaded: Sequence[dict[str, Any]]) -> str:
    """Return by source which partitions were loaded and with what outcomes, as `LOADED` has it."""
    texts = []
    for source in sorted({row["source"] for row in loaded}):
        rows = [row for row in loaded if row["source"] == source]
        first, last = min(row["first"] for row in rows), max(row["last"] for row in rows)
        counts = sum((Counter(row["counts"]) for row in rows), Counter())
        texts.append(f"{source} {first} to {last}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return "; ".join(texts)
