"""The approval task: a person reads the verdict and approves or rejects it; no answer in time means no."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.triggers.hitl import HITLTrigger
from airflow.sdk import Param
from airflow.sdk.exceptions import TaskAwaitingInput

from evergreen.links import OverviewLink, verdict_page
from evergreen.operators.base import EvergreenOperator
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.storage.lake import Row

APPROVE, REJECT = "Approve", "Reject"
FIRST_ASKED = "first_asked"  # when the question was first asked; Airflow's task state keeps it across retries


class ApproveOperator(EvergreenOperator, HITLOperator):
    """Ask a person under *Required actions* whether to promote, and record the answer in the ledger.

    The task is skipped unless approval is the only thing that the promotion waits for. While it waits it
    occupies no worker slot. The promote task reads the ledger, so an answer by the command line counts as
    well. A task that runs again finds the answer in the ledger or in Airflow and doesn't ask twice.

    :param verdict: the verdict's reference.
    :param hours: after which no answer means no.
    """

    template_fields = ("verdict",)
    operator_extra_links = (OverviewLink(),)

    def __init__(self, *, verdict: Any, hours: float, **kwargs: Any) -> None:
        reason = Param("", type="string", title="Why", description="Required; it is recorded with the answer")
        kwargs["params"] = {"reason": reason}  # without the DAG's own params, which don't belong in this form
        kwargs["response_timeout"] = timedelta(hours=hours)  # else it would be the DAG's execution_timeout
        super().__init__(
            subject="Approve the challenger?", options=[APPROVE, REJECT], defaults=REJECT, **kwargs
        )
        self.verdict, self.hours = verdict, hours

    def execute(self, context: Context) -> Any:
        """Ask, unless it was answered or needs no answer; Airflow then calls `execute_complete`."""
        from include.promote import approval, verdicts
        from include.promote.promotion import promotion_blocker, read_ledgers, set_baseline

        with self.open_use_case() as (lake, spec):
            attempt = verdicts.attempt(lake, self.verdict["id"])
            ledgers = read_ledgers(lake, spec)
            if answer := approval.answer_to(ledgers.approvals, attempt["key"]):
                return self._result(answer)
            if first_asked := context["task_state_store"].get(FIRST_ASKED):
                return self._wait_again(context, self._deadline(first_asked))
            blocker = promotion_blocker(ledgers, attempt)
            if blocker is None or not blocker.waits:
                why = blocker.sentence if blocker else "nothing blocks the promotion"
                self.skip_task(f"no approval is needed: {why}")
            set_baseline(lake, spec, attempt)  # without a champion the baseline serves until the answer
            return self._ask(context, attempt)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Record the answer in the ledger; if it has no reason, ask again."""
        from include.promote import approval, verdicts

        response = super().execute_complete(context, event)
        key, user = self.verdict["id"], response["responded_by_user"]
        at = response["responded_at"].astimezone(UTC)
        reason = str(response["params_input"].get("reason") or "").strip()
        answer = approval.APPROVED if response["chosen_options"] == [APPROVE] else approval.REJECTED
        by = user["name"] if user is not None else ""
        if user is None:
            answer, reason = approval.EXPIRED, f"no answer within {self.hours:g} h"
        with self.open_use_case() as (lake, spec):
            if not reason:
                self.log.warning("Ignored %s's answer because it gave no reason; asking again", by)
                return self._ask(context, verdicts.attempt(lake, key))
            return self._result(approval.record_answer(lake, spec, key, answer, by, reason, at))

    def _ask(self, context: Context, attempt: Row) -> Any:
        """Ask the question; its deadline counts from when it was first asked."""
        store, now = context["task_state_store"], datetime.now(UTC)
        first_asked = store.get(FIRST_ASKED, now.isoformat())
        deadline = self._deadline(first_asked)
        self.response_timeout = max(deadline - now, timedelta(seconds=1))
        self.subject, self.body = attempt["sentence"], self._body(attempt, deadline)
        try:
            return HITLOperator.execute(self, context)
        except TaskAwaitingInput:
            store.set(FIRST_ASKED, first_asked)  # only now is there a question for a retry to wait for
            raise

    def _wait_again(self, context: Context, deadline: datetime) -> None:
        """Wait for the answer to the question that an earlier try asked; there may be one already.

        Asking again would discard that answer. A worker can't read it, but a trigger can.
        """
        self.defer(
            trigger=HITLTrigger(
                ti_id=context["ti"].id,
                options=self.options,
                params=self.serialized_params,
                defaults=self.defaults,
                timeout_datetime=deadline,
            ),
            method_name="execute_complete",
        )

    def _deadline(self, first_asked: Any) -> datetime:
        return datetime.fromisoformat(first_asked) + timedelta(hours=self.hours)

    def _body(self, attempt: Row, deadline: datetime) -> str:
        """Return what the person reads, as Markdown: the checks, and a link to the report."""
        from include.judge.judge import checks_of
        from include.reports.html import Line, Table, markdown_table

        partition = attempt["partition"]
        report = verdict_page(self.usecase, partition, attempt["key"])
        rows: list[Line] = [
            [
                check.key,
                check.name,
                check.required,
                check.observed + (f" ({check.note})" if check.note else ""),
                check.outcome,
            ]
            for check in checks_of(attempt["checks"])
        ]
        return (
            f"Version {attempt['version']}, trained on {partition}. "
            f"[The whole report]({report}). No answer by {deadline:%Y-%m-%d %H:%M} UTC means no.\n\n"
        ) + markdown_table(Table(["check", "of", "required", "found", ""], rows))

    def _result(self, answer: Row) -> dict[str, Any]:
        from include.promote.approval import answer_text

        return self.to_xcom(Ref(answer["attempt"], self.verdict["partition"], note=answer_text(answer)))
