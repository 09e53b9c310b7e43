"""The monitor operators: check the partition, request a training if it must, and send its alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, DownstreamTasksSkipped

from evergreen.alert_channels import notify
from evergreen.assets import product
from evergreen.links import OverviewLink, ReportLink, report_address
from evergreen.operators.base import EvergreenOperator, log_champion, start_run
from evergreen.run_note import RESULT
from include.references import Ref, digest_json

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.spec import UseCase
    from include.storage.lake import Lake


class MonitorOperator(EvergreenOperator):
    """Compare the partition with the model's reference, and matured predictions with their labels.

    Reads profiles, predictions and labels. Writes performance, findings and the decision.
    The event of the decisions' asset carries the decision. Tasks that act on decisions and directly follow
    are skipped if they have nothing to do, without starting a process for each.
    """

    operator_extra_links = (OverviewLink(), ReportLink())

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the partition's findings; fail if the partition has no predictions."""
        from include.monitor.pipeline import monitor

        with self.open_partition(context) as (lake, spec, partition):
            log_champion(lake, partition)
            ref = monitor(lake, spec, partition)
            self.add_event_metadata(context, "findings", lake, "findings", ref)
            decisions = lake.rows("decisions", {"partition": partition})
            for decision in decisions:
                decided = Ref(f"{lake.uri}/tables/decisions", partition, digest_json(decision), rows=1)
                self.add_event_metadata(context, "decisions", lake, "decisions", decided)
                extra = {name: decision[name] for name in ("partition", "decision", "cause")}
                context["outlet_events"][product(self.usecase, "decisions")].extra.update(extra)
            if not lake.rows("partitions", {"product": "predictions", "partition": partition}):
                raise AirflowFailException(
                    f"{self.usecase} {partition}: nothing was predicted; {ref.note}; "
                    "see the log of score.predict, then clear that task"
                )
            reference = self.to_xcom(ref)
            followers = [task for task in self.downstream_list if isinstance(task, DecisionOperator)]
            idle = [
                task.task_id
                for decision in decisions
                for task in followers
                if not task.acts_on(decision, lake, spec, is_backfill=_is_backfill(context))
            ]
            if idle:
                context["ti"].xcom_push(RESULT, reference)  # the exception ends the task without a result
                raise DownstreamTasksSkipped(tasks=idle)
            return reference


class DecisionOperator(EvergreenOperator):
    """An operator that acts on the decision that the monitor published for the partition."""

    def acts_on(self, decision: dict[str, Any], lake: Lake, spec: UseCase, *, is_backfill: bool) -> bool:
        """Return whether there may be something to do; `execute` may still skip the task with a reason."""
        raise NotImplementedError

    def decision(self, lake: Lake, partition: str) -> dict[str, Any]:
        """Return the partition's row of `decisions`; skip the task if there is none."""
        rows = lake.rows("decisions", {"partition": partition})
        if not rows:
            self.skip_task("no decision was published")
        return rows[0]


class RequestTrainingOperator(DecisionOperator):
    """Trigger the training DAG once for the partition's cause, if its decision has one.

    The cause names the run, so it trains once, however many partitions request it, in whatever order they are
    monitored. A backfilled partition never trains.
    """

    def acts_on(self, decision: dict[str, Any], lake: Lake, spec: UseCase, *, is_backfill: bool) -> bool:
        """Return whether the decision has a cause, and the run isn't a backfill's."""
        return bool(decision["cause"]) and not is_backfill

    def execute(self, context: Context) -> None:
        """Trigger the training, or skip with the reason."""
        with self.open_partition(context) as (lake, spec, partition):
            decision = self.decision(lake, partition)
            cause = decision["cause"]
            if not self.acts_on(decision, lake, spec, is_backfill=_is_backfill(context)):
                why = "a backfilled partition never trains; " if cause else ""
                self.skip_task(f"{why}{decision['reason']}")
            # after the skips, since it imports the checks, for longer than a skipped task takes otherwise
            from include.monitor.policy import other_causes

            runs = [f"cause__{other}" for other in other_causes(lake, spec, partition, cause)]
        dag_id = f"{self.usecase}__training"
        if runs and context["ti"].get_dr_count(dag_id, run_ids=runs):
            self.skip_task(f"another partition started this training already; {decision['reason']}")
        start_run(dag_id, f"cause__{cause}", {"partition": partition, "cause": cause})


class AlertOperator(DecisionOperator):
    """Send the partition's alerts, once, to each connection under `alerts.to`.

    Reads the decision and the silences; writes who was notified. An alert that a person acknowledged or muted
    isn't sent. A backfilled partition sends none: the next one that isn't backfilled sends those that are
    still in alarm and that nobody was notified of. If a recipient can't be reached, the task is retried, then
    fails, and with it the run, but no other task. Each try notifies only those who were missed.
    """

    def acts_on(self, decision: dict[str, Any], lake: Lake, spec: UseCase, *, is_backfill: bool) -> bool:
        """Return whether there are alerts to send; a backfill sends none.

        Without recipients a lasting alert is not looked at again: its first partition's task says so.
        """
        from include.monitor import alerts, policy

        if is_backfill:
            return False
        own = alerts.message(self.usecase, decision, report="")
        return bool(own) or (bool(spec.alerts.to) and policy.has_unsent(lake, spec, decision))

    def execute(self, context: Context) -> None:
        """Send, or skip with the reason."""
        with self.open_partition(context) as (lake, spec, partition):
            self._send(context, lake, spec, partition, self.decision(lake, partition))

    def _send(
        self, context: Context, lake: Lake, spec: UseCase, partition: str, decision: dict[str, Any]
    ) -> None:
        """Send a decision's alerts, or skip."""
        from include.monitor import alerts, policy
        from include.monitor.silences import AlertLog, silence_text

        if _is_backfill(context):
            self.skip_task(f"a backfilled partition sends no alerts; {decision['reason']}")
        log = AlertLog(lake)
        decision = policy.with_unsent(
            lake, spec, decision, is_silenced=lambda key: log.silenced_by(key, partition) is not None
        )
        reason = decision["reason"]
        message = alerts.message(self.usecase, decision, report_address(self.usecase, partition))
        if not message:
            self.skip_task(f"nothing to alert; {reason}")
        if not spec.alerts.to:
            self.skip_task(f"no recipients are declared under alerts.to; {reason}")
        keys = [alerts.alert_key(item) for item in message["findings"]]
        silenced = {key: row for key in keys if (row := log.silenced_by(key, partition))}
        if all(key in silenced for key in keys):
            self.skip_task(f"nobody is notified: {'; '.join(map(silence_text, silenced.values()))}")
        outcome, missed = notify(lake, spec, message, context, silenced)
        if missed:
            raise AirflowException(f"could not notify {', '.join(missed)}: {outcome}")
        self.log.info("%s", outcome)


def _is_backfill(context: Context) -> bool:
    return bool(context["dag_run"].run_type == "backfill")
