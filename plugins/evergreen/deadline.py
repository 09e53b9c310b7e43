"""The deadline of predictions: an Airflow deadline on each batch run, and the alert when it is missed.

The scheduler creates the deadline with the run, and the triggerer runs the callback. So the alert is sent
even if the executor is full or the run never starts a task. Every process imports this module with the
plugin, so it must stay light.
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
    """The declared hour of a scheduled run's partition; backfills and manual runs have no deadline.

    :param cron: the schedule of the partitions.
    :param timezone: of the schedule and of the hour.
    :param by: the hour, as ``09:00``.
    """

    required_kwargs = frozenset({"dag_id", "run_id"})  # what Airflow passes to `_evaluate_with`

    def __init__(self, cron: str = "0 0 * * *", timezone: str = "UTC", by: str = "23:59") -> None:
        self.cron, self.timezone, self.by = cron, timezone, by

    def serialize_reference(self) -> dict[str, Any]:
        """Return the arguments for the scheduler."""
        own = {"cron": self.cron, "timezone": self.timezone, "by": self.by}
        return {**super().serialize_reference(), **own}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> PredictionsDue:
        """Return the reference from its serialized arguments."""
        return cls(reference_data["cron"], reference_data["timezone"], reference_data["by"])

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str) -> datetime | None:
        """Return the moment or None, in the scheduler; an error here would prevent the run's creation."""
        from airflow.models import DagRun
        from sqlalchemy import select

        run_type, partition = session.execute(
            select(DagRun.run_type, DagRun.partition_key).where(
                DagRun.dag_id == dag_id, DagRun.run_id == run_id
            )
        ).one()
        if str(run_type) != "scheduled" or not partition:
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
        callback=AsyncCallback(notify_overdue, kwargs={"usecase": spec.name, "to": [*spec.alerts.to]}),
    )


async def notify_overdue(usecase: str, to: list[str], context: dict[str, Any]) -> str:
    """Notify `alerts.to`, once, that a partition's predictions are overdue, and return the outcome.

    :param to: the recipients when the run began, for a declaration that can't be read now.
    """
    return await asyncio.to_thread(_notify, usecase, to, context)


def _notify(usecase: str, to: list[str], context: dict[str, Any]) -> str:
    from evergreen.alert_channels import sender
    from evergreen.links import usecase_address
    from include.errors import SpecError, StoreUnavailable
    from include.monitor import alerts
    from include.spec import load
    from include.storage.lake import Lake

    partition, page = str(context["dag_run"]["partition_key"]), usecase_address(usecase)
    spec, deadline, reason = None, "their deadline", ""
    try:
        spec = load(usecase)
        to, deadline = [*spec.alerts.to], alerts.deadline_text(spec, partition)
    except SpecError as error:  # a likely reason for missing predictions
        reason = str(error)
    send = sender(context, spec)
    try:
        lake = Lake(usecase)
        if partition in lake.published("predictions"):
            outcome = f"{usecase} {partition}: the predictions are published; no alert is sent"
            log.info("%s", outcome)
            return outcome
        message = alerts.deadline_message(usecase, partition, page, deadline, reason)
        results = alerts.send_alerts(lake, message, to, send)
    except StoreUnavailable:  # another likely reason; whom it reached isn't recorded then
        message = alerts.deadline_message(usecase, partition, page, deadline, "the lake can't be read")
        results = {name: alerts.try_to_send(send, name, message) for name in to}
    sent = [f"{name}: {result}" for name, result in results.items()]
    outcome = "; ".join([message["sentence"], *(sent or ["no recipients are declared under alerts.to"])])
    log.warning("%s", outcome)
    return outcome
