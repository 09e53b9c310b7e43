"""Monitor: what the night's data and the matured labels say, and whether to train and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from evergreen.links import OverviewLink, ReportLink, report_address
from evergreen.operators.base import EvergreenOperator, carry_champion, connect, night_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.environment import Endpoint
    from include.monitor.alerts import Message


class MonitorOperator(EvergreenOperator):
    """Compare the night with the model's reference, and matured predictions with what came true.

    Reads profiles, predictions and labels; writes performance, findings, the decision and the drift report,
    and of the newest night, unless it is backfilled, the page on the year.
    """

    operator_extra_links = (OverviewLink(), ReportLink())

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the reference of the night's findings; a night without predictions ends red."""
        from include.history.draw import redraw
        from include.monitor.run import monitor

        lake, spec = self.open()
        with self.one_try():
            night = night_of(context)
            carry_champion(lake, night)
            ref = monitor(lake, spec, night)
        if context["dag_run"].run_type != "backfill":
            redraw(lake, spec, night)
        if not lake.rows("partitions", {"product": "predictions", "night": night}):
            raise AirflowFailException(f"{self.usecase} {night}: nothing was predicted; {ref.note}")
        return self.handed(ref)


class AskTrainingOperator(EvergreenOperator):
    """Start the training once for the night's cause, if its decision asks for one.

    The cause names the run, so however many nights find it, it trains once; a backfilled night never does.
    """

    def execute(self, context: Context) -> None:
        """Trigger the training, or skip with the reason."""
        lake, _ = self.open()
        with self.one_try():
            night = night_of(context)
        found = lake.rows("decisions", {"night": night})
        if not found or found[0]["decision"] != "retrain":
            raise AirflowSkipException(found[0]["reason"] if found else "no decision was taken")
        if context["dag_run"].run_type == "backfill":
            raise AirflowSkipException(f"a backfilled night never trains; {found[0]['reason']}")
        raise DagRunTriggerException(
            trigger_dag_id=f"{self.usecase}__training",
            dag_run_id=f"cause__{found[0]['cause']}",
            conf={"partition": night, "cause": found[0]["cause"]},
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
    """Tell the night's alerts, once, to each connection under `alerts.to`; a backfilled night tells nobody.

    Reads the decision; writes who was told. What can't be sent is a warning and skips the task: run again, it
    tells those who weren't told.
    """

    def execute(self, context: Context) -> None:
        """Send, or skip with the reason."""
        from include.monitor import alerts

        lake, spec = self.open()
        with self.one_try():
            night = night_of(context)
        found = lake.rows("decisions", {"night": night})
        if not found:
            raise AirflowSkipException("no decision was taken")
        said = alerts.message(self.usecase, found[0], report_address(self.usecase, night))
        if not said:
            raise AirflowSkipException(f"nothing to tell; {found[0]['reason']}")
        if context["dag_run"].run_type == "backfill":
            raise AirflowSkipException(f"a backfilled night tells nobody; {found[0]['reason']}")
        if not spec.alerts.to:
            raise AirflowSkipException(f"alerts.to of the spec names nobody; {found[0]['reason']}")
        self.log.info("%s", said["sentence"])
        became = alerts.tell(lake, said, spec.alerts.to, self._send(context))
        for name, what in became.items():
            (self.log.warning if what.startswith("failed") else self.log.info)("%s: %s", name, what)
        if failed := [name for name, what in became.items() if what.startswith("failed")]:
            raise AirflowSkipException(f"could not tell {', '.join(failed)}: the log has why; run this again")

    def _send(self, context: Context) -> Callable[[str, Message], None]:
        def send(name: str, said: Message) -> None:
            from airflow.sdk import Connection

            from include.monitor.alerts import post

            kind = str(Connection.get(name).conn_type)
            if kind == "smtp":
                _mail(connect(name), said, context)
            else:
                post(connect(name), said, slack=kind.startswith("slack"))

        return send


def _mail(endpoint: Endpoint, said: Message, context: Context) -> None:
    """Send a message by Airflow's own notifier; the connection's extra says from_email and to."""
    from html import escape

    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    from include.errors import SettingError
    from include.monitor.alerts import lines

    if not endpoint.extra.get("to"):
        raise SettingError(
            f"connection {endpoint.name}",
            required='"to" and "from_email" in its extra',
            found="none",
            remedy='as {"from_email": "evergreen@example.org", "to": "team@example.org"}',
        )
    text = "<br>".join(escape(line) for line in lines(said))
    notifier = SmtpNotifier(
        to=endpoint.extra["to"], subject=said["sentence"][:200], html_content=text, smtp_conn_id=endpoint.name
    )
    notifier.notify(context)
