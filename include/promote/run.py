"""Judge a challenger and let it serve: what is decided is written first, and only then acted on.

A switch is one commit to `deployments`. The models lie in the lake before it and MLflow's aliases follow it,
so a kill at any moment leaves either the old champion or the new one, and a rerun finishes what is left.
"""

from __future__ import annotations

import logging

from include.errors import NotPublished, StaleDecision
from include.lake import Lake
from include.promote import approval, ledger
from include.promote.carry import bring
from include.promote.evidence import Evidence
from include.promote.grow import Row
from include.promote.judge import FORCED, Verdict, checks_of, judge
from include.promote.ledger import PROMOTED
from include.promote.mirror import mirror
from include.promote.obstacle import books, obstacle
from include.promote.person import named
from include.promote.switch import asked, reference, steps
from include.refs import Ref
from include.registry import Registry
from include.spec import UseCase

log = logging.getLogger(__name__)
SHADOW = "shadow"  # the kind of the step in which a challenger is scored beside the champion


def decide(lake: Lake, spec: UseCase, evaluation_key: str) -> Verdict:
    """Judge the evidence of an evaluation and record the verdict; a rerun returns the one that was recorded.

    Raises
    ------
    NotPublished
        when there is no such evaluation.
    StaleDecision
        when the declaration has changed since, so that its gate isn't the one the training was made for.
    """
    data = lake.get(evaluation_key)
    if data is None:
        where, remedy = f"{lake.uri}/{evaluation_key}", "run evaluate for that training first"
        raise NotPublished(f"{spec.name}: evidence", found="no such object", where=where, remedy=remedy)
    evidence = Evidence.from_json(data)

    def verdict(number: int) -> Verdict:
        if evidence.spec != spec.digest:
            raise StaleDecision(
                f"{spec.name}/{evidence.night}: evidence",
                required=f"of declaration {spec.digest[:12]}",
                found=evidence.spec[:12],
                remedy="the use case was changed meanwhile: train again",
            )
        champion = ledger.rival(lake, evidence.night, evidence.key) is not None
        return judge(evidence, spec.gate, number, champion=champion)

    row = ledger.record_attempt(lake, evidence, verdict)
    return Verdict(row["verdict"], row["sentence"], checks_of(row["checks"]))


def promote(lake: Lake, spec: UseCase, attempt_key: str, *, registry: Registry) -> Ref | None:
    """Let a blessed or rubber-stamped challenger serve from the next unserved night; None where it may not.

    With ``gate.approval: human`` it may once a person has approved it, who is named in the switch.

    Parameters
    ----------
    attempt_key : `Evidence.key`.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    ModelError
        when the challenger or its baseline can't be loaded; nothing is switched then.
    """
    attempt = ledger.attempt(lake, attempt_key)
    now = books(lake, spec)
    if not asked(now.switches, attempt_key):
        if why := obstacle(now, attempt):
            log.info("%s/%s: %s", spec.name, attempt["night"], why)
            return None
        bring(lake, Evidence.from_json(attempt["evidence"]), registry)
    row = _switch_to(lake, spec, attempt)
    mirror(lake, spec, registry)
    return reference(lake, row) if row else None


def force(
    lake: Lake,
    spec: UseCase,
    attempt_key: str,
    by: str,
    reason: str,
    *,
    registry: Registry,
    request: str = "",
) -> Ref:
    """Let a challenger serve whatever the gate said, which stays recorded beside who forced it, and why.

    Parameters
    ----------
    request : what asks, as a run's id; the same request again finds what it did and does nothing.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    ModelError
        when the challenger or its baseline can't be loaded; nothing is switched then.
    """
    named(f"{spec.name}: a forced promotion", by, reason)
    attempt = ledger.attempt(lake, attempt_key)
    if row := _forced(ledger.switches(lake), attempt, request):
        mirror(lake, spec, registry)
        return reference(lake, row, "already so: ")
    bring(lake, Evidence.from_json(attempt["evidence"]), registry)
    forced = ledger.record_forced(lake, attempt, by, reason)
    why = {"by": by, "reason": f"{reason}; the gate said: {attempt['sentence']}", "request": request}

    def decide(rows: list[Row]) -> list[Row] | Row:
        return _forced(rows, attempt, request) or _step(lake, spec, forced, FORCED, **why)

    row = ledger.switch(lake, decide)
    assert row is not None
    mirror(lake, spec, registry)
    return reference(lake, row)


def _forced(rows: list[Row], attempt: Row, request: str) -> Row | None:
    """Return the switch that a request to force an attempt made, or the live one if it is to its model."""
    live = [row for row in ledger.champions(rows)[-1:] if row["kind"] != ledger.STEPPED_DOWN]
    return asked(rows, request) or next((row for row in live if row["model"] == attempt["model"]), None)


def _switch_to(lake: Lake, spec: UseCase, attempt: Row) -> Row | None:
    """Write the switch to an attempt's challenger and its baseline, unless it was or may not be any more."""
    key = attempt["key"]

    def decide(rows: list[Row]) -> list[Row] | Row | None:
        if done := asked(rows, key):
            return done
        now = books(lake, spec, rows)
        if why := obstacle(now, attempt):
            log.info("%s/%s: %s", spec.name, attempt["night"], why)
            return None
        yes = approval.of(now.approvals, key)
        reason = f"{attempt['sentence']}; {approval.told(yes)}" if yes else attempt["sentence"]
        # where nobody serves, or whoever did has stepped down, there is nobody to be tried beside
        serves = [row for row in ledger.champions(rows)[-1:] if row["kind"] != ledger.STEPPED_DOWN]
        tried = spec.gate.rollout.kind != "immediate" and bool(serves)
        kind, by = SHADOW if tried else PROMOTED, yes["by"] if yes else ""
        return _step(lake, spec, attempt, kind, by=by, reason=reason, request=key)

    return ledger.switch(lake, decide)


def _step(lake: Lake, spec: UseCase, attempt: Row, kind: str, **why: str) -> list[Row]:
    """Return the rows of an attempt's first step: to serve with its baseline, or to be scored beside."""
    evidence = Evidence.from_json(attempt["evidence"])
    effective = ledger.next_unserved(lake, spec, evidence.night)
    roles = ["challenger"] if kind == SHADOW else ["champion", "baseline"]
    return steps(evidence, roles, kind=kind, attempt=attempt["key"], effective=effective, **why)
