"""Judge a challenger, let it serve, or go back: what is decided is written first, and only then acted on.

A switch is one commit to `deployments`. The models lie in the lake before it and MLflow's aliases follow it,
so a kill at any moment leaves either the old champion or the new one, and a rerun finishes what is left.
"""

from __future__ import annotations

import json
import logging

from include import models
from include.errors import EvergreenError, NotPublished, StaleDecision
from include.lake import Lake
from include.promote import ledger
from include.promote.carry import bring
from include.promote.evidence import Evidence
from include.promote.grow import Row
from include.promote.judge import FORCED, PROMOTES, Verdict, checks_of, judge
from include.promote.ledger import PROMOTED, ROLLED_BACK
from include.promote.mirror import mirror
from include.refs import Ref
from include.registry import Registry
from include.spec import UseCase

log = logging.getLogger(__name__)


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


def obstacle(rows: list[Row], attempt: Row) -> str:
    """Return why an attempt may not be switched to as the ledger stands, empty when it may.

    Parameters
    ----------
    rows : `ledger.switches`.
    attempt : a row of `attempts`.
    """
    if attempt["verdict"] not in PROMOTES:
        return str(attempt["sentence"])
    if attempt["verdict"] == FORCED:
        return ""
    newest, night = ledger.newest_evidence(rows), attempt["night"]
    if night < newest:
        return f"recorded, not deployed: its evidence is of {night}, a champion's is of {newest}"
    line = ledger.succession(rows)
    now, then = line[-1]["model"] if line else "", json.loads(attempt["evidence"])["champion"]
    if now != then:
        return f"superseded: judged against {then[:8] or 'no champion'}, now {now[:8]} serves"
    return ""


def promote(lake: Lake, spec: UseCase, attempt_key: str, *, registry: Registry) -> Ref | None:
    """Let a blessed or rubber-stamped challenger serve from the next unserved night; None where it may not.

    Parameters
    ----------
    attempt_key : `Evidence.key`, or the key of a forced verdict.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    ModelError
        when the challenger or its baseline can't be loaded; nothing is switched then.
    """
    attempt = ledger.attempt(lake, attempt_key)
    rows = ledger.switches(lake)
    if not _asked(rows, attempt_key):
        if why := obstacle(rows, attempt):
            log.info("%s/%s: %s", spec.name, attempt["night"], why)
            return None
        bring(lake, Evidence.from_json(attempt["evidence"]), registry)
    row = _switch_to(lake, spec, attempt)
    mirror(lake, spec, registry)
    return _ref(lake, row) if row else None


def force(lake: Lake, spec: UseCase, attempt_key: str, by: str, reason: str, *, registry: Registry) -> Ref:
    """Let a challenger serve whatever the gate said, which stays recorded beside who forced it, and why."""
    _named(f"{spec.name}: a forced promotion", by, reason)
    attempt = ledger.attempt(lake, attempt_key)
    bring(lake, Evidence.from_json(attempt["evidence"]), registry)
    row = _switch_to(lake, spec, ledger.record_forced(lake, attempt, by, reason), by)
    assert row is not None  # nothing stands in the way of force
    mirror(lake, spec, registry)
    return _ref(lake, row)


def rollback(
    lake: Lake,
    spec: UseCase,
    to: str | None,
    by: str,
    reason: str,
    *,
    registry: Registry | None = None,
    request: str = "",
) -> Ref:
    """Let an earlier champion serve again, from the next unserved night on.

    Parameters
    ----------
    to : a version that was champion before; None for the one that the live champion replaced.
    request : what asks, as a run's id; the same request again finds what it did and does nothing.

    Raises
    ------
    NotPublished
        when there is no such earlier champion.
    ModelError
        when it can't be loaded from the lake; nothing is switched then.
    StaleDecision
        when ``to`` is None and somebody else switched meanwhile: look again which champion is meant.
    """
    _named(f"{spec.name}: a rollback", by, reason)
    seen = ledger.switches(lake)
    if row := _asked(seen, request):
        return _ref(lake, row, "already carried out: ")
    target = _target(lake, spec, seen, to)
    if (live := ledger.champions(seen)[-1])["model"] == target["model"]:
        return _ref(lake, live, "nothing to do: ")
    models.fetch(lake, target["model"])

    why = {"kind": ROLLED_BACK, "by": by, "reason": reason, "request": request}
    back = _go_back(lake, spec, target, live if to is None else None, why)
    if registry is not None:
        mirror(lake, spec, registry)
    return _ref(lake, back)


def _switch_to(lake: Lake, spec: UseCase, attempt: Row, by: str = "") -> Row | None:
    """Write the switch to an attempt's challenger and its baseline, unless it was or may not be any more."""
    evidence, key = Evidence.from_json(attempt["evidence"]), attempt["key"]

    def decide(rows: list[Row]) -> list[Row] | Row | None:
        if done := _asked(rows, key):
            return done
        if why := obstacle(rows, attempt):
            log.info("%s/%s: %s", spec.name, evidence.night, why)
            return None
        row = {
            "version": evidence.version,
            "prior": evidence.prior,
            "effective": ledger.next_unserved(lake, spec, evidence.night),
            "evidence": evidence.night,
            "kind": FORCED if attempt["verdict"] == FORCED else PROMOTED,
            "by": by,
            "reason": attempt["sentence"],
            "attempt": key,
            "request": key,
        }
        roles = {"champion": evidence.model, "baseline": evidence.baseline_model}
        return [{**row, "role": role, "model": model} for role, model in roles.items()]

    return ledger.switch(lake, decide)


def _go_back(lake: Lake, spec: UseCase, target: Row, expected: Row | None, why: Row) -> Row:
    """Write the switch back to a champion's row, unless the live one isn't the one expected any more."""

    def decide(rows: list[Row]) -> list[Row] | Row:
        now = ledger.champions(rows)[-1]
        if now["model"] == target["model"]:
            return now
        if expected is not None and now["model"] != expected["model"]:
            raise _overtaken(spec, expected, now)
        effective = ledger.next_unserved(lake, spec) or now["effective"]
        new = {**why, "effective": effective}
        return [{**row, **new} for row in rows if row["switch"] == target["switch"]]

    back = ledger.switch(lake, decide)
    assert back is not None
    return back


def _overtaken(spec: UseCase, seen: Row, now: Row) -> StaleDecision:
    return StaleDecision(
        f"{spec.name}: rollback",
        required=f"champion v{seen['version']}",
        found=f"v{now['version']}",
        remedy="somebody else switched meanwhile: look again, and name the version to go back to",
    )


def _target(lake: Lake, spec: UseCase, rows: list[Row], to: str | None) -> Row:
    """Return the champion to go back to."""
    line = ledger.succession(rows)
    earlier = {row["version"]: row for row in ledger.champions(rows)}
    if line and to in earlier:
        return earlier[to]
    if to is None and len(line) > 1:
        return line[-2]
    raise NotPublished(
        f"{spec.name}: rollback",
        required=f"version {to}, once champion" if to else "a champion before the live one",
        found=", ".join(f"v{version}" for version in earlier) or "no champion yet",
        where=f"{lake.uri}/tables/deployments",
        remedy="name one of those; until then the ladder's next rung serves what the champion can't",
    )


def _asked(rows: list[Row], request: str) -> Row | None:
    """Return the champion's row that a request made, if it was carried out."""
    return next((row for row in ledger.champions(rows) if request and row["request"] == request), None)


def _named(subject: str, by: str, reason: str) -> None:
    """Refuse what a person does without a name or a reason."""
    if not by.strip() or not reason.strip():
        found = f"by {by.strip() or 'nobody'}, reason {reason.strip() or 'none'}"
        raise EvergreenError(subject, required="by whom, and why", found=found, remedy="give both")


def _ref(lake: Lake, row: Row, note: str = "") -> Ref:
    """Return where a switch is recorded, with the sentence that says it."""
    who = f" by {row['by']}" if row["by"] else ""
    note += f"v{row['version']} {row['kind']}{who}, champion from {row['effective']} on: {row['reason']}"
    uri = f"{lake.uri}/tables/deployments"
    return Ref(uri=uri, partition=row["effective"], digest=row["model"], rows=1, note=note[:500])
