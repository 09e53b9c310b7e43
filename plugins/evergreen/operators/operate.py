"""The operate operator: manual actions from the form, whose reason is recorded in a ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from evergreen.links import description_links
from evergreen.operators.base import EvergreenOperator
from evergreen.operators.upkeep import back_up
from include.references import Ref

if TYPE_CHECKING:
    from airflow.sdk import Context

    from include.spec import UseCase
    from include.storage.lake import Lake

FIELDS: dict[str, tuple[str, ...]] = {  # the form's fields of each action, beside Why
    "verify": (),
    "back up": (),
    "roll back": ("version",),
    "force": ("attempt",),
    "withdraw": ("partition",),
    "acknowledge": ("alert",),
    "mute": ("alert", "partition"),
}
ACTIONS = list(FIELDS)


class OperateOperator(EvergreenOperator):
    """Run the action that the form selects: from `verify` to `mute`."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a reference to the action's result; a refusal is logged first and is the run's note."""
        with self.refusals_noted(context), self.open_use_case() as (lake, spec):
            return self.to_xcom(self._run_action(context, lake, spec))

    def _run_action(self, context: Context, lake: Lake, spec: UseCase) -> Ref:
        form = context["params"]
        by = context["dag_run"].triggering_user_name or ""
        self._refuse_other_fields(form)
        if form["action"] == "verify":
            return self._verify(lake, spec)
        if form["action"] == "back up":
            return back_up([lake])
        if not by:
            raise AirflowFailException(
                f"{form['action']}: expected a person, but found nobody; log in and trigger this from the UI"
            )
        acts = {"roll back": self._roll_back, "force": self._force, "withdraw": self._withdraw}
        acts |= {"acknowledge": self._acknowledge, "mute": self._mute}
        return acts[form["action"]](lake, spec, form, by, context["run_id"])

    @staticmethod
    def _required(form: Any, name: str, title: str) -> str:
        """Return the value of a field that the action needs; refuse the action if it is empty."""
        value = (form[name] or "").strip()
        if not value:
            raise AirflowFailException(
                f"{form['action']}: expected {title}, but found an empty field; "
                f"trigger again and fill in {title}"
            )
        return str(value)

    @staticmethod
    def _refuse_other_fields(form: Any) -> None:
        """Refuse an action with a field that it would ignore, such as a version in another field."""
        own = FIELDS[form["action"]]
        ignored = [name for name in form if name not in ("action", "reason", *own)]
        filled = [name for name in ignored if str(form[name] or "").strip()]
        if filled:
            required = " and ".join(name.title() for name in ("why", *own))
            raise AirflowFailException(
                f"{form['action']}: expected no field but {required}, but found "
                f"{', '.join(name.title() for name in filled)}; trigger again and leave "
                f"{'it' if len(filled) == 1 else 'them'} empty"
            )

    @staticmethod
    def _verify(lake: Lake, spec: UseCase) -> Ref:
        from include.ops.verify import verify

        result = verify(lake, spec)
        if result.differences:
            raise AirflowFailException("; ".join(result.differences[:5]))
        return Ref(lake.uri, "all", note=result.note)

    def _roll_back(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str) -> Ref:
        from include.models.registry import Registry
        from include.promote.rollback import rollback

        to, reason = (form["version"] or "").strip() or None, self._required(form, "reason", "Why")
        return rollback(lake, spec, to, by, reason, registry=Registry(), request=request)

    def _force(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str) -> Ref:
        from include.models.registry import Registry
        from include.promote import ledger
        from include.promote.approval import find_attempt
        from include.promote.promotion import force, switch_for_request
        from include.reports.verdict import draw_forced

        reason, attempt = self._required(form, "reason", "Why"), self._required(form, "attempt", "Attempt")
        row, registry = find_attempt(lake, attempt), Registry()
        ref = force(lake, spec, row["key"], by, reason, registry=registry, request=request)
        if switch_for_request(ledger.switches(lake), request):  # else it serves already, by an earlier run
            forced = ledger.forced_key(row["key"])
            links = description_links(self.usecase, row["partition"], forced, self.dag_id, request)
            draw_forced(lake, spec, row["key"], registry, links)
        return ref

    def _withdraw(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str) -> Ref:
        from include.ops.withdrawal import withdraw

        reason = self._required(form, "reason", "Why")
        partition = self._required(form, "partition", "Partition")
        return withdraw(lake, spec, partition, by, reason, now=datetime.now(UTC))

    def _acknowledge(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str) -> Ref:
        return self._silence(lake, spec, form, by, request, until="")

    def _mute(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str) -> Ref:
        until = self._required(form, "partition", "Partition")
        return self._silence(lake, spec, form, by, request, until)

    def _silence(self, lake: Lake, spec: UseCase, form: Any, by: str, request: str, until: str) -> Ref:
        from include.monitor.silences import TABLE, record_silence, silence_text

        reason, alert = self._required(form, "reason", "Why"), self._required(form, "alert", "Alert")
        now = datetime.now(UTC)
        row = record_silence(lake, spec, alert, by, reason, at=now, until=until, request=request)
        return Ref(f"{lake.uri}/tables/{TABLE}", row["partition"], rows=1, note=silence_text(row))
