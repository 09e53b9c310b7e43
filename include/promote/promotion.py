"""Judge a challenger and let it serve: what is decided is written first, and only then acted on.

A switch is one commit to `deployments`. The models lie in the lake before it and MLflow's aliases follow it,
so a kill at any moment leaves either the old champion or the new one, and a rerun finishes what is left.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import EvergreenError, ModelError, NotPublished, StaleDecision
from include.judge.evidence import Evidence
from include.judge.judge import FORCED, Verdict, checks_of, judge
from include.models import artifacts
from include.models.registry import Registry
from include.promote import approval, ledger
from include.promote.approval import require_person_and_reason
from include.promote.ledger import PROMOTED, Row
from include.references import Ref
from include.spec import UseCase
from include.storage.lake import Lake

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

FACTS = ("usecase", "partition", "version", "spec", "data", "code")


def copy_to_lake(lake: Lake, evidence: Evidence, registry: Registry) -> None:
    """Copy the challenger and its strongest baseline into the lake, and see that each loads from there.

    What is there already and loads is left alone, so a rerun needs no registry; what is damaged is replaced.

    Raises
    ------
    ModelError
        when the registry's copy has another digest or can't be loaded.
    """
    for role, digest in (("challenger", evidence.model), ("baseline", evidence.baseline_model)):
        facts = {"role": role, "prior": evidence.prior, "attempt": evidence.key}
        facts |= {name: getattr(evidence, name) for name in FACTS}
        lake.create(f"models/{digest}.json", json.dumps(facts, sort_keys=True).encode())
        try:
            artifacts.load_model(lake, digest)
        except ModelError:
            run = registry.run_of(evidence.usecase, evidence.version)
            data = registry.get(run, artifacts.model_key(digest), digest)
            artifacts.deserialize(data, digest)
            lake.replace(artifacts.model_key(digest), data)


WITHDRAWN = "withdrawn"  # the kind of the switch that ends a trial without a promotion


def switch_rows(evidence: Evidence, roles: Sequence[str], **why: str) -> list[Row]:
    """Return one row a role for an attempt's challenger, and for its baseline where that is a role.

    Parameters
    ----------
    why : ``kind``, ``by``, ``reason``, ``attempt``, ``request`` and ``effective``, as `deployments` has them.
    """
    models = {"champion": evidence.model, "challenger": evidence.model, "baseline": evidence.baseline_model}
    several = isinstance(evidence.prior, tuple)
    prior = {"prior": None, "priors": json.dumps(evidence.prior)} if several else {"prior": evidence.prior}
    common = {"version": evidence.version, **prior, "evidence": evidence.partition, **why}
    return [{**common, "role": role, "model": models[role]} for role in roles]


def switch_for_request(rows: Sequence[Row], request: str) -> Row | None:
    """Return the newest row that a request made for its model, if it was carried out."""
    done = [row for row in rows if request and row["request"] == request and row["role"] != "baseline"]
    return done[-1] if done else None


def switch_reference(lake: Lake, row: Row, note: str = "") -> Ref:
    """Return where a switch is recorded, with the sentence that says it."""
    who = f" by {row['by']}" if row["by"] else ""
    note += f"v{row['version']} {row['kind']}{who}, {row['role']} from {row['effective']} on: {row['reason']}"
    uri = f"{lake.uri}/tables/deployments"
    return Ref(uri=uri, partition=row["effective"], digest=row["model"], rows=1, note=note[:500])


@dataclass(frozen=True)
class LedgerSnapshot:
    """The ledgers as they stand.

    Parameters
    ----------
    switches : rows of `deployments`, oldest first.
    human : whether a person is asked; the verdicts aren't read where nobody is.
    verdicts : key, partition, verdict and number of each row of `attempts`.
    approvals : rows of `approvals`.
    """

    switches: list[Row]
    human: bool
    verdicts: list[Row]
    approvals: list[Row]


def read_ledgers(lake: Lake, spec: UseCase, switches: list[Row] | None = None) -> LedgerSnapshot:
    """Read the ledgers, but for the switches where they were read."""
    switches = ledger.switches(lake) if switches is None else switches
    approvals = lake.rows("approvals")
    if spec.gate.approval != "human":
        return LedgerSnapshot(switches, False, [], approvals)
    found = lake.read("attempts", columns=["key", "partition", "verdict", "recorded"])
    return LedgerSnapshot(switches, True, [] if found is None else found.to_pylist(), approvals)


def promotion_blocker(books: LedgerSnapshot, attempt: Row) -> str:
    """Return why an attempt may not be switched to as the ledgers stand, empty when it may.

    Parameters
    ----------
    attempt : a row of `attempts`; a forced one is switched to by `include.promote.promotion.force` alone.
    """
    if attempt["verdict"] not in approval.ASKABLE:
        return str(attempt["sentence"])
    newest, partition = ledger.newest_evidence(books.switches), attempt["partition"]
    if partition < newest:
        return f"recorded, not deployed: its evidence is of {partition}, a champion's is of {newest}"
    line = ledger.succession(books.switches)
    now, then = line[-1]["model"] if line else "", json.loads(attempt["evidence"])["champion"]
    if now != then:
        return f"superseded: judged against {then[:8] or 'no champion'}, now {now[:8]} serves"
    tried = [row for row in books.switches if row["role"] == "challenger"][-1:]
    if line and tried and tried[0]["kind"] != WITHDRAWN and tried[0]["switch"] > line[-1]["switch"]:
        since = tried[0]["effective"]
        return f"v{tried[0]['version']} is on trial since {since}: train again when that has ended"
    said = approval.answer_to(books.approvals, attempt["key"])
    if said and said["answer"] != approval.APPROVED:
        return approval.answer_text(said)  # a no stays one when the declaration asks nobody any more
    return approval.missing_consent(books.verdicts, books.approvals, attempt) if books.human else ""


def awaiting_approval(lake: Lake, spec: UseCase) -> Row | None:
    """Return the attempt that waits for approval: at most one, since a newer one supersedes it."""
    now = read_ledgers(lake, spec)
    rows = reversed(ledger.attempts(lake)) if now.human else ()
    return next((row for row in rows if promotion_blocker(now, row) == approval.WAITS), None)


def approval_status(books: LedgerSnapshot, attempt: Row) -> str:
    """Return what is to be told of an attempt's approval, empty where nobody is asked.

    An approval that came to nothing says why, unless the attempt has served since.
    """
    if not books.human or attempt["verdict"] not in approval.ASKABLE:
        return ""
    row = approval.answer_to(books.approvals, attempt["key"])
    why = "" if switch_for_request(books.switches, attempt["key"]) else promotion_blocker(books, attempt)
    said = approval.answer_text(row) if row else ""
    return "; ".join(part for part in dict.fromkeys((said, why)) if part)


log = logging.getLogger(__name__)


def mirror_aliases(lake: Lake, spec: UseCase, registry: Registry) -> bool:
    """Put the aliases ``champion`` and ``previous`` right where they differ; False when the registry can't.

    A failure is logged and no error: the switch stands, and the next to call this puts the aliases right.
    """
    line = ledger.succession(ledger.switches(lake))
    serves = bool(line) and line[-1]["kind"] != ledger.STEPPED_DOWN
    wanted = {"champion": line[-1]["version"] if serves else ""}
    wanted["previous"] = line[-2]["version"] if len(line) > 1 else ""
    try:
        found = registry.aliases(spec.name)
        for alias, version in wanted.items():
            if found.get(alias, "") != version:
                registry.set_alias(spec.name, alias, version)
    except EvergreenError as error:
        log.warning("%s: aliases not mirrored, left to the next that looks: %s", spec.name, error)
        return False
    return True


SHADOW = "shadow"  # the kind of the step in which a challenger is scored beside the champion


def judge_and_record(lake: Lake, spec: UseCase, evaluation_key: str) -> Verdict:
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
                f"{spec.name}/{evidence.partition}: evidence",
                required=f"of declaration {spec.digest[:12]}",
                found=evidence.spec[:12],
                remedy="the use case was changed meanwhile: train again",
            )
        champion = ledger.champion_to_beat(lake, evidence.partition, evidence.key) is not None
        return judge(evidence, spec.gate, number, champion=champion)

    row = ledger.record_attempt(lake, evidence, verdict)
    return Verdict(row["verdict"], row["sentence"], checks_of(row["checks"]))


def promote(lake: Lake, spec: UseCase, attempt_key: str, *, registry: Registry) -> Ref | None:
    """Let a blessed or rubber-stamped challenger serve from the next unserved partition.

    None where it may not.

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
    now = read_ledgers(lake, spec)
    if not switch_for_request(now.switches, attempt_key):
        if why := promotion_blocker(now, attempt):
            log.info("%s/%s: %s", spec.name, attempt["partition"], why)
            return None
        copy_to_lake(lake, Evidence.from_json(attempt["evidence"]), registry)
    row = _switch_to(lake, spec, attempt)
    mirror_aliases(lake, spec, registry)
    return switch_reference(lake, row) if row else None


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
    require_person_and_reason(f"{spec.name}: a forced promotion", by, reason)
    attempt = ledger.attempt(lake, attempt_key)
    if row := _forced(ledger.switches(lake), attempt, request):
        mirror_aliases(lake, spec, registry)
        return switch_reference(lake, row, "already so: ")
    copy_to_lake(lake, Evidence.from_json(attempt["evidence"]), registry)
    forced = ledger.record_forced(lake, attempt, by, reason)
    why = {"by": by, "reason": f"{reason}; the gate said: {attempt['sentence']}", "request": request}

    def decide(rows: list[Row]) -> list[Row] | Row:
        return _forced(rows, attempt, request) or _step(lake, spec, forced, FORCED, **why)

    row = ledger.record_switch(lake, decide)
    assert row is not None
    mirror_aliases(lake, spec, registry)
    return switch_reference(lake, row)


def _forced(rows: list[Row], attempt: Row, request: str) -> Row | None:
    """Return the switch that a request to force an attempt made, or the live one if it is to its model."""
    live = [row for row in ledger.champions(rows)[-1:] if row["kind"] != ledger.STEPPED_DOWN]
    return switch_for_request(rows, request) or next(
        (row for row in live if row["model"] == attempt["model"]), None
    )


def _switch_to(lake: Lake, spec: UseCase, attempt: Row) -> Row | None:
    """Write the switch to an attempt's challenger and its baseline, unless it was or may not be any more."""
    key = attempt["key"]

    def decide(rows: list[Row]) -> list[Row] | Row | None:
        if done := switch_for_request(rows, key):
            return done
        now = read_ledgers(lake, spec, rows)
        if why := promotion_blocker(now, attempt):
            log.info("%s/%s: %s", spec.name, attempt["partition"], why)
            return None
        yes = approval.answer_to(now.approvals, key)
        reason = f"{attempt['sentence']}; {approval.answer_text(yes)}" if yes else attempt["sentence"]
        # where nobody serves, or whoever did has stepped down, there is nobody to be tried beside
        serves = [row for row in ledger.champions(rows)[-1:] if row["kind"] != ledger.STEPPED_DOWN]
        tried = spec.gate.rollout.kind != "immediate" and bool(serves)
        kind, by = SHADOW if tried else PROMOTED, yes["by"] if yes else ""
        return _step(lake, spec, attempt, kind, by=by, reason=reason, request=key)

    return ledger.record_switch(lake, decide)


def _step(lake: Lake, spec: UseCase, attempt: Row, kind: str, **why: str) -> list[Row]:
    """Return the rows of an attempt's first step: to serve with its baseline, or to be scored beside."""
    evidence = Evidence.from_json(attempt["evidence"])
    effective = ledger.next_unserved(lake, spec, evidence.partition)
    roles = ["challenger"] if kind == SHADOW else ["champion", "baseline"]
    return switch_rows(evidence, roles, kind=kind, attempt=attempt["key"], effective=effective, **why)
