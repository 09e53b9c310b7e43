"""Settings that the DAGs share: retries, timeouts, schedules and the trigger form."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import Param, get_parsing_context

from evergreen.timetable import UseCaseTimetable
from include.spec import read_all

if TYPE_CHECKING:
    from include.spec import UseCase

# final errors fail at once; retries are for killed workers and servers that restart
TASK = {
    "owner": "evergreen",
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(hours=1),
}
# of the tasks that need MLflow: its outage of some minutes, such as an update, ends before the last retry.
# No partition waits for them, and a retry finds the fits of the tries before
NEEDS_MLFLOW: dict[str, Any] = {"retries": 4, "retry_delay": timedelta(seconds=30)}


def use_cases() -> list[UseCase]:
    """Return the use cases that a DAG file needs: all valid ones, and in a task's process only the task's.

    The id of each of their DAGs begins with the use case's name, followed by two underscores.
    """
    dag_id = get_parsing_context().dag_id
    return read_all(dag_id.rpartition("__")[0] if dag_id else None)[0]


def summary(doc: str | None) -> str:
    """Return the first line of a DAG's documentation, for the list of DAGs."""
    return (doc or "").partition("\n")[0]


def arguments(spec: UseCase, kind: str, doc: str | None) -> dict[str, Any]:
    """Return the arguments that all DAGs of a use case share.

    :param doc: the DAG's documentation as Markdown; its first line, with the problem, is the description.
    """
    return {
        "dag_id": f"{spec.name}__{kind}",
        "description": f"{summary(doc)} Predicted: {spec.problem.statement}",
        "doc_md": doc,
        "default_args": {**TASK, "owner": spec.problem.owner or "evergreen"},
        "tags": ["evergreen", *dict.fromkeys((spec.folder.name, spec.name)), kind],
    }


def scheduled(spec: UseCase, cron: str) -> dict[str, Any]:
    """Return the arguments of a scheduled DAG: its timetable, and its start and end dates.

    A DAG that is only triggered by hand must have no dates. The form sets the current time as logical date,
    and a run outside the dates has no task instances: it succeeds at once without doing anything.
    """
    zone = ZoneInfo(spec.schedule.timezone)
    end = spec.schedule.end
    return {
        "schedule": UseCaseTimetable(
            cron, timezone=spec.schedule.timezone, usecase=spec.name, batch=spec.schedule.batch
        ),
        "start_date": datetime.fromisoformat(spec.schedule.start).replace(tzinfo=zone),
        "end_date": datetime.fromisoformat(end).replace(hour=23, minute=59, tzinfo=zone) if end else None,
        "catchup": False,
    }


def example(spec: UseCase) -> str:
    """Return what a partition looks like; one of several a day with its local time, because it is in UTC."""
    if not spec.clock.sub_daily:
        return f"Such as {spec.clock.example}"
    _, first = spec.clock.around(spec.schedule.start)
    return f"{first} is {spec.clock.local_time(first):%Y-%m-%d %H:%M} in {spec.schedule.timezone}"


def partition_field(spec: UseCase, **more: Any) -> dict[str, Any]:
    """Return the form's fields of a DAG with partitions: the partition, and more."""
    date: dict[str, Any] = {} if spec.clock.sub_daily else {"format": "date"}
    partition = Param(
        None,
        type=["null", "string"],
        **date,
        title="Partition",
        description=f"{example(spec)}. Required for a single run; leave it empty in a backfill",
    )
    return {"partition": partition, **more}
