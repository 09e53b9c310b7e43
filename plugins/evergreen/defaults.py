"""Retries, timeouts and the trigger form, set once for every DAG."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import Param

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
    zone = ZoneInfo(spec.schedule.timezone)
    end = spec.schedule.end
    return {
        "dag_id": f"{spec.name}__{clock}",
        "description": spec.problem.statement,
        "start_date": datetime.fromisoformat(spec.schedule.start).replace(tzinfo=zone),
        "end_date": datetime.fromisoformat(end).replace(hour=23, minute=59, tzinfo=zone) if end else None,
        "catchup": False,
        "default_args": {**TASK, "owner": spec.problem.owner or "evergreen"},
        "tags": ["evergreen", spec.name, clock],
    }


def night_field(**more: Any) -> dict[str, Any]:
    """Return the form's field for the night of a run that a person starts."""
    night = Param(
        None,
        type=["null", "string"],
        format="date",
        title="Night",
        description="The partition, as 2013-03-01; leave it empty in a backfill",
    )
    return {"partition": night, **more}
