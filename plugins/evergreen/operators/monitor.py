"""Monitor: what the partition's data and the matured labels say, and whether to train and whom to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, DagRunTriggerException

from evergreen.assets import product
from evergreen.links import OverviewLink, ReportLink, report_address
from evergreen.operators.base import EvergreenOperator, log_champion, partition_of
from evergreen.send import sender

if TYPE_CHECKING:
    from airflow.sdk import Context

WAITING = ["null", "scheduled", "queued", "up_for_retry"]  # "null": not scheduled yet


class MonitorOperator(EvergreenOperator):
    """Compare the partition with the model's reference, and matured predictions with what came true.

    Reads profiles, predictions and labels; writes performance, findings, the decision, the drift report and
    the page on the year. The event of the decisions' asset carries the decision.
    """

    operator_extra_links = (OverviewLink(), ReportLink())

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the partition's findings; a partition without predictions ends red."""
        from include.monitor.pipeline import monitor
        from include.reports.history import redraw_history

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            partition = partition_of(context, spec)
            log_champion(lake, partition)
            ref = monitor(lake, spec, partition)
        for decided in lake.rows("decisions", {"partition": partition}):
            said = {name: decided[name] for name in ("partition", "decision", "cause")}
            context["outlet_events"][product(self.usecase, "decisions")].extra.update(said)
        if context["dag_run"].run_type != "backfill" or not _others_wait(context):
            redraw_history(lake, spec)
        if not lake.rows("partitions", {"product": "predictions", "partition": partition}):
            raise AirflowFailException(f"{self.usecase} {partition}: nothing was predicted; {ref.note}")
        return self.to_xcom(ref)


def _others_wait(context: Context) -> bool:
    """Tell whether this task has yet to begin in other runs of its DAG.

    A backfill's runs exist from its beginning, so whichever of them publishes last sees none waiting, in any
    order and however many run at once. Those that overlap with it draw as well, all others don't.
    """
    task = context["ti"]
    return task.get_ti_count(dag_id=task.dag_id, task_ids=[task.task_id], states=WAITING) > 0


class AskTrainingOperator(EvergreenOperator):
    """Start the training once for the partition's cause, if its decision asks for one.

    The cause names the run, so however many partitions find it, it trains once; a backfilled partition never
    does.
    """

    def execute(self, context: Context) -> None:
        """Trigger the training, or skip with the reason."""
        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            partition = partition_of(context, spec)
        found = lake.rows("decisions", {"partition": partition})
        if not found or not found[0]["cause"]:
            self.skip_task(found[0]["reason"] if found else "no decision was taken")
        if context["dag_run"].run_type == "backfill":
            self.skip_task(f"a backfilled partition never trains; {found[0]['reason']}")
        raise DagRunTriggerException(
            trigger_dag_id=f"{self.usecase}__training",
            dag_run_id=f"cause__{found[0]['cause']}",
            conf={"partition": partition, "cause": found[0]["cause"]},
            logical_date=None,
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=["success"],
            failed_states=["failed"],
            poke_interval=60,
            deferrable=False,
        )


class AlertOperator(EvergreenOperator):
    """Tell the partition's alerts, once, to each connection under `alerts.to`.

    A backfilled partition tells nobody.

    Reads the decision; writes who was told. What can't be sent is a warning and skips the task: run again, it
    tells those who weren't told.
    """

    def execute(self, context: Context) -> None:
        """Send, or skip with the reason."""
        from include.monitor import alerts

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            partition = partition_of(context, spec)
        found = lake.rows("decisions", {"partition": partition})
        if not found:
            self.skip_task("no decision was taken")
        said = alerts.message(self.usecase, found[0], report_address(self.usecase, partition))
        if not said:
            self.skip_task(f"nothing to tell; {found[0]['reason']}")
        if context["dag_run"].run_type == "backfill":
            self.skip_task(f"a backfilled partition tells nobody; {found[0]['reason']}")
        if not spec.alerts.to:
            self.skip_task(f"alerts.to of the spec names nobody; {found[0]['reason']}")
        self.log.info("%s", said["sentence"])
        became = alerts.send_alerts(lake, said, spec.alerts.to, sender(context))
        for name, what in became.items():
            (self.log.warning if what.startswith("failed") else self.log.info)("%s: %s", name, what)
        if failed := [name for name, what in became.items() if what.startswith("failed")]:
            self.skip_task(f"could not tell {', '.join(failed)}: the log has why; run this again")
