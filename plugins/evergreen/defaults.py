"""Retries, timeouts and the trigger form, set once for every DAG."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import Param

from evergreen.timetable import UseCaseTimetable

if TYPE_CHECKING:
    from include.spec import UseCase

# what another try can't mend fails at once; these are for a killed worker and a registry that restarts
TASK = {
    "owner": "evergreen",
    "retries": 2,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "execution_timeout": timedelta(hours=1),
}


def arguments(spec: UseCase, clock: str) -> dict[str, Any]:
    """Return what the DAGs of a use case have in common."""
    return {
        "dag_id": f"{spec.name}__{clock}",
        "description": spec.problem.statement,
        "default_args": {**TASK, "owner": spec.problem.owner or "evergreen"},
        "tags": ["evergreen", spec.name, clock],
    }


def scheduled(spec: UseCase, cron: str) -> dict[str, Any]:
    """Return what a DAG has that runs by itself: its timetable, and from when to when.

    A DAG that only a person starts must have no dates: the form gives its run the present as logical date,
    and a run outside of them has no task instances. It is green at once, and nothing was done.
    """
    zone = ZoneInfo(spec.schedule.timezone)
    end = spec.schedule.end
    return {
        "schedule": UseCaseTimetable(cron, timezone=spec.schedule.timezone, usecase=spec.name),
        "start_date": datetime.fromisoformat(spec.schedule.start).replace(tzinfo=zone),
        "end_date": datetime.fromisoformat(end).replace(hour=23, minute=59, tzinfo=zone) if end else None,
        "catchup": False,
    }


def partition_field(**more: Any) -> dict[str, Any]:
    """Return the form's field for the partition of a run that a person starts."""
    partition = Param(
        None,
        type=["null", "string"],
        format="date",
        title="Partition",
        description="The partition, as 2013-03-01: required for a single run; leave it empty in a backfill",
    )
    return {"partition": partition, **more}
