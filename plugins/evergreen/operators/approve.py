"""Approve: a person is shown the verdict and says yes or no; silence means no."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

from evergreen.links import OverviewLink, inside
from evergreen.operators.base import EvergreenOperator
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.promote.ledger import Row

APPROVE, REJECT = "Approve", "Reject"
ASKED = "asked"  # when the question was put first, kept by Airflow over the task's tries


class ApproveOperator(EvergreenOperator, HITLOperator):
    """Ask whether a verdict may act, under *Required actions*, and write the answer to the ledger.

    Asked is only what promotes and nothing stands in the way of; else the task is skipped. While it waits it
    holds no worker. The task after it reads the ledger, so an answer by the command line counts as well, and
    a task that is run again finds the answer there, or in Airflow, and doesn't ask twice.

    :param verdict: the verdict's reference.
    :param hours: after which silence means no.
    """

    template_fields = ("verdict",)
    operator_extra_links = (OverviewLink(),)

    def __init__(self, *, verdict: Any, hours: float, **kwargs: Any) -> None:
        reason = Param("", type="string", title="Why", description="Kept in the ledger; an answer needs it")
        kwargs["params"] = {"reason": reason}  # the DAG's own fields came in here and are none of this form's
        kwargs["response_timeout"] = timedelta(hours=hours)  # or it would be the DAGs' execution_timeout
        super().__init__(
            subject="Approve the challenger?", options=[APPROVE, REJECT], defaults=REJECT, **kwargs
        )
        self.verdict, self.hours = verdict, hours

    def execute(self, context: Context) -> Any:
        """Ask, unless the answer is there or nobody need be asked; the answer comes to `execute_complete`."""
        from include.promote import approval, ledger
        from include.promote.promotion import promotion_blocker, read_ledgers

        lake, spec = self.open()
        with self.no_retry_on_final_errors():
            attempt = ledger.attempt(lake, self.verdict["uri"])
        now = read_ledgers(lake, spec)
        if row := approval.answer_to(now.approvals, attempt["key"]):
            return self._done(row)
        if asked := context["task_state_store"].get(ASKED):
            return self._look_again(context, self._until(asked))
        if (why := promotion_blocker(now, attempt)) != approval.WAITS:
            self.skip_task(f"nobody is asked: {why or 'nothing stands in its way'}")
        return self._ask(context, attempt)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Write the answer to the ledger; one without a reason is none, and is asked for again."""
        from include.promote import approval, ledger

        said = super().execute_complete(context, event)
        lake, spec = self.open()
        key, user, at = self.verdict["uri"], said["responded_by_user"], said["responded_at"].astimezone(UTC)
        reason = str(said["params_input"].get("reason") or "").strip()
        if user is None:
            silence = f"no answer within {self.hours:g} h"
            return self._done(approval.record_answer(lake, spec, key, approval.EXPIRED, "", silence, at))
        if not reason:
            self.log.warning("%s gave no reason, which is no answer: asked again", user["name"])
            return self._ask(context, ledger.attempt(lake, key))
        word = approval.APPROVED if said["chosen_options"] == [APPROVE] else approval.REJECTED
        return self._done(approval.record_answer(lake, spec, key, word, user["name"], reason, at))

    def _ask(self, context: Context, attempt: Row) -> Any:
        """Put the question, with what is left of the hours since it was put first."""
        store, now = context["task_state_store"], datetime.now(UTC)
        first = store.get(ASKED, now.isoformat())
        until = self._until(first)
        self.response_timeout = max(until - now, timedelta(seconds=1))
        self.subject, self.body = attempt["sentence"], self._body(attempt, until)
        try:
            return HITLOperator.execute(self, context)
        except TaskAwaitingInput:
            store.set(ASKED, first)  # only now is there a question that a try after this one could find
            raise

    def _look_again(self, context: Context, until: datetime) -> None:
        """Wait for the answer to the question that an earlier try put, which may have been given already.

        Asking again would make Airflow forget that answer. A worker can't read it, but a trigger can.
        """
        self.defer(
            trigger=HITLTrigger(
                ti_id=context["ti"].id,
                options=self.options,
                params=self.serialized_params,
                defaults=self.defaults,
                timeout_datetime=until,
            ),
            method_name="execute_complete",
        )

    def _until(self, first: Any) -> datetime:
        return datetime.fromisoformat(first) + timedelta(hours=self.hours)

    def _body(self, attempt: Row, until: datetime) -> str:
        """Return what the person reads, as Markdown: the checks, and the way to the report."""
        from include.judge.judge import checks_of
        from include.reports.html import escape_markdown
        from include.reports.paths import page_place

        partition = attempt["partition"]
        report = inside(f"/report/{quote(self.usecase)}/{quote(page_place(partition, attempt['key']))}")
        lines = [
            f"Version {attempt['version']}, trained on {partition}, attempt {attempt['attempt']}. "
            f"[The whole report]({report}). No answer by {until:%Y-%m-%d %H:%M} UTC means no.",
            "",
            "| check | required | found | |",
            "|---|---|---|---|",
        ]
        for one in checks_of(attempt["checks"]):
            found = f"{one.found} ({one.note})" if one.note else one.found
            cells = (one.name, one.required, found, "passed" if one.passed else "not passed")
            lines.append("| " + " | ".join(map(escape_markdown, cells)) + " |")
        return "\n".join(lines)

    def _done(self, row: Row) -> dict[str, Any]:
        from include.promote.approval import answer_text

        return self.to_xcom(Ref(row["attempt"], self.verdict["partition"], note=answer_text(row)))
