"""Predictions by the declared hour: Airflow's deadline of a batch run, and who is told when it is over.

The scheduler makes the deadline with the run and the triggerer calls back, so neither a full executor nor a
run that never starts a task keeps it from being told. Every process imports this page with the plugin.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import BaseDeadlineReference, DeadlineAlert

from include.errors import EvergreenError
from include.spec.clock import Clock

if TYPE_CHECKING:
    from include.spec import UseCase

log = logging.getLogger(__name__)


class PredictionsDue(BaseDeadlineReference):
    """The declared hour of a scheduled run's partition; a backfill and a run by hand have none.

    :param cron: of the partitions.
    :param timezone: in which the hour is read.
    :param by: the hour, as ``09:00``.
    """

    required_kwargs = frozenset({"dag_id", "run_id"})  # what Airflow hands to `_evaluate_with`

    def __init__(self, cron: str = "0 0 * * *", timezone: str = "UTC", by: str = "23:59") -> None:
        self.cron, self.timezone, self.by = cron, timezone, by

    def serialize_reference(self) -> dict[str, Any]:
        """Return what the scheduler needs to know."""
        own = {"cron": self.cron, "timezone": self.timezone, "by": self.by}
        return {**super().serialize_reference(), **own}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> PredictionsDue:
        """Return the reference that was serialized."""
        return cls(reference_data["cron"], reference_data["timezone"], reference_data["by"])

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        """Return the moment, in the scheduler, or None: an error here would keep the run from being made."""
        from airflow.models import DagRun
        from sqlalchemy import select

        kind, partition = session.execute(
            select(DagRun.run_type, DagRun.partition_key).where(
                DagRun.dag_id == dag_id, DagRun.run_id == run_id
            )
        ).one()
        if str(kind) != "scheduled" or not partition:
            return None
        try:
            return Clock(self.cron, self.timezone).local(partition, self.by)
        except EvergreenError as error:
            log.warning("%s %s has no deadline: %s", dag_id, run_id, error)
            return None


def due(spec: UseCase) -> DeadlineAlert:
    """Return the deadline of a use case's partitions."""
    return DeadlineAlert(
        name=f"predictions by {spec.scoring.deadline}",
        reference=PredictionsDue(spec.schedule.batch, spec.schedule.timezone, spec.scoring.deadline),
        interval=timedelta(0),
        callback=AsyncCallback(tell_overdue, kwargs={"usecase": spec.name}),
    )


async def tell_overdue(usecase: str, context: dict[str, Any]) -> str:
    """Tell those of `alerts.to`, once, that a partition's predictions are overdue.

    Return what became of it.
    """
    return await asyncio.to_thread(_tell, usecase, context)


def _tell(usecase: str, context: dict[str, Any]) -> str:
    from evergreen.links import usecase_address
    from evergreen.send import sender
    from include.monitor import alerts
    from include.spec import load
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), load(usecase)
    partition = str(context["dag_run"]["partition_key"])
    said = alerts.overdue_message(lake, spec, partition, usecase_address(usecase))
    if not said:
        became = f"{usecase} {partition}: the predictions are published; nobody is told"
    elif not spec.alerts.to:
        became = f"{said['sentence']}; alerts.to of the spec names nobody"
    else:
        told = alerts.send_alerts(lake, said, spec.alerts.to, sender(context))
        became = "; ".join([said["sentence"], *(f"{name}: {what}" for name, what in told.items())])
    log.warning("%s", became)
    return became
