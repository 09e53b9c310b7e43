"""Promote a challenger if its verdict allows: each decision is recorded before it is acted on.

A switch is one commit to `switches`. The models are copied to the lake before it, and MLflow's aliases
follow it. So a kill at any moment leaves either the old champion or the new one, and a rerun finishes the
rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import EvergreenError, ModelError
from include.judge.evidence import Evidence
from include.judge.judge import FORCED, NOT_ENOUGH, PROMOTES
from include.models import artifacts
from include.promote import approval, ledger, verdicts
from include.promote.approval import Blocker, require_person_and_reason
from include.promote.ledger import BASELINE_ONLY, CANARY, PROMOTED, REFRESHED, ROLLED_BACK, SHADOW
from include.references import Ref
from include.spec import UseCase
from include.storage.lake import Lake, Row

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

log = logging.getLogger(__name__)
FACTS = ("usecase", "partition", "version", "spec", "data", "code")


@dataclass(frozen=True)
class Promotion:
    """What `promote` did: it switched to the challenger, or something blocked it.

    Parameters
    ----------
    switch : the reference of the switch, None if nothing was switched.
    blocker : why nothing was switched, empty if something was.
    """

    switch: Ref | None
    blocker: str = ""


def promote(lake: Lake, spec: UseCase, attempt_key: str, *, registry: Registry) -> Promotion:
    """Promote a blessed or rubber-stamped challenger, from the next partition that isn't served yet.

    A refit of the recipe that serves replaces the champion at once. Another recipe goes on trial first if
    ``gate.rollout`` declares so. Where ``gate.approval`` declares so, a person has to approve it, who is
    named in the switch. If nothing may be switched and there is no champion, the best baseline serves, so
    that no row gets the constant. A rerun returns the switch of the first run.

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
    attempt = verdicts.attempt(lake, attempt_key)
    ledgers = read_ledgers(lake, spec)
    if not switch_for_request(ledgers.switches, attempt_key):
        if blocker := promotion_blocker(ledgers, attempt):
            baseline = set_baseline(lake, spec, attempt)
            return _blocked(spec, attempt, "; ".join(filter(None, (blocker.sentence, baseline))))
        copy_to_lake(lake, spec, attempt, registry)
    switch = _record_promotion(lake, spec, attempt)
    mirror_aliases(lake, spec, registry)
    if isinstance(switch, Blocker):
        return _blocked(spec, attempt, switch.sentence)
    return Promotion(switch_reference(lake, switch))


def _blocked(spec: UseCase, attempt: Row, blocker: str) -> Promotion:
    log.info("%s/%s: nothing is switched: %s", spec.name, attempt["partition"], blocker)
    return Promotion(None, blocker)


def set_baseline(lake: Lake, spec: UseCase, attempt: Row) -> str:
    """Let an attempt's best baseline serve if there is no champion, and no baseline of a newer training.

    That is the challenger itself, if it is a baseline that only lacks evidence. After a leak it is the prior,
    since another baseline may have learned the same column.

    Parameters
    ----------
    attempt : a row of `attempts` that may not be promoted, or not yet.

    Returns
    -------
    str
        What serves, and from when; empty if nothing was switched.
    """
    judged_on = Evidence.from_json(attempt["evidence"]).partition

    def decide_baseline(rows: list[Row]) -> list[Row] | None:
        return baseline_rows(spec, rows, attempt, ledger.next_unserved(lake, spec, judged_on))

    row = ledger.record_switch(lake, decide_baseline)
    if row is None:
        return ""
    leaks = verdicts.failed_leakage_checks(attempt["checks"])
    why = ", since other baselines may have learned what leaked" if leaks else ""
    return f"{row['recipe']} serves as the baseline from {row['effective_from']} on{why}"


def baseline_rows(spec: UseCase, rows: Sequence[Row], attempt: Row, effective_from: str) -> list[Row] | None:
    """Return the switch by which an attempt's best baseline serves, None for none; see `set_baseline`.

    Parameters
    ----------
    rows : of `switches`, oldest first.
    attempt : as in `set_baseline`.
    """
    evidence = Evidence.from_json(attempt["evidence"])
    leaks = verdicts.failed_leakage_checks(attempt["checks"])
    model, recipe = evidence.baseline_model, str(evidence.selection.get("baseline", ""))
    if leaks:
        model, recipe = str(evidence.selection.get("prior_model", "")), "prior"
    elif attempt["verdict"] == NOT_ENOUGH and evidence.recipe in [r.name for r in spec.training.baselines]:
        model, recipe = evidence.model, evidence.recipe
    serving = [(r["judged_on"], r["recipe"] == "prior") for r in rows if r["role"] == "baseline"]
    # of the same training, the prior takes over from a baseline that may have learned a leak
    is_newer = (evidence.partition, bool(leaks)) > max(serving, default=("", False))
    if ledger.live_champion(rows) is not None or not model or not is_newer:
        return None
    reason = f"there is no champion: {attempt['sentence']}"
    why = {"kind": BASELINE_ONLY, "by": "", "reason": reason, "attempt": attempt["key"], "request": ""}
    (row,) = switch_rows(evidence, ["baseline"], effective_from=effective_from, **why)
    return [{**row, "model": model, "recipe": recipe}]


def _record_promotion(lake: Lake, spec: UseCase, attempt: Row) -> Row | Blocker:
    """Record the switch to an attempt's challenger unless it is recorded; return it, or what blocks it."""
    key = attempt["key"]

    def decide_promotion(rows: list[Row]) -> list[Row] | Row | Blocker:
        if switch := switch_for_request(rows, key):
            return switch
        ledgers = read_ledgers(lake, spec, rows)
        if blocker := promotion_blocker(ledgers, attempt):
            return blocker
        answer = approval.answer_to(ledgers.approvals, key)
        reason = f"{attempt['sentence']}; {approval.answer_text(answer)}" if answer else attempt["sentence"]
        kind = switch_kind(spec, Evidence.from_json(attempt["evidence"]), rows)
        by = answer["by"] if answer else ""
        return _attempt_switch(lake, spec, attempt, kind, by=by, reason=reason, request=key)

    return ledger.record_switch(lake, decide_promotion)


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
    """Promote a challenger whatever the gate said; the verdict stays recorded, with who forced it and why.

    Parameters
    ----------
    request : what asks for it, as a run's id. The same request again returns its first switch.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    ModelError
        when the challenger or its baseline can't be loaded; nothing is switched then.
    """
    require_person_and_reason(f"{spec.name}: a forced promotion", by, reason)
    attempt = verdicts.attempt(lake, attempt_key)
    if row := _switch_to_attempt(lake, spec, ledger.switches(lake), attempt, request):
        mirror_aliases(lake, spec, registry)
        return switch_reference(lake, row, "nothing to do: ")
    copy_to_lake(lake, spec, attempt, registry)
    forced = verdicts.record_forced(lake, attempt, by, reason)
    why = {"by": by, "reason": f"{reason}; the gate said: {attempt['sentence']}", "request": request}

    def decide_forced(rows: list[Row]) -> list[Row] | Row:
        switch = _switch_to_attempt(lake, spec, rows, attempt, request)
        return switch or _attempt_switch(lake, spec, forced, FORCED, **why)

    row = ledger.record_switch(lake, decide_forced)
    mirror_aliases(lake, spec, registry)
    return switch_reference(lake, row)


def _switch_to_attempt(lake: Lake, spec: UseCase, rows: list[Row], attempt: Row, request: str) -> Row | None:
    """Return the switch that a request recorded, or the live champion's if it is the attempt's model.

    The latter only if it takes effect as early as a switch now would.
    """
    if switch := switch_for_request(rows, request):
        return switch
    champion = ledger.live_champion(rows)
    if champion is None or champion["model"] != attempt["model"]:
        return None
    return None if ledger.could_serve_earlier(lake, spec, champion) else champion


def _attempt_switch(lake: Lake, spec: UseCase, attempt: Row, kind: str, **why: str) -> list[Row]:
    """Return the rows of a switch to an attempt's challenger: to serve with its baseline, or as shadow."""
    evidence = Evidence.from_json(attempt["evidence"])
    effective_from = ledger.next_unserved(lake, spec, evidence.partition)
    return switch_rows(
        evidence,
        switched_roles(kind),
        kind=kind,
        attempt=attempt["key"],
        effective_from=effective_from,
        **why,
    )


def switch_kind(spec: UseCase, evidence: Evidence, rows: Sequence[Row]) -> str:
    """Return the kind of the switch to a challenger that may be promoted."""
    # without a champion there is nothing to compare a challenger with, so it serves at once
    on_trial = spec.gate.rollout.kind != "immediate" and ledger.live_champion(rows) is not None
    return REFRESHED if evidence.is_refresh else SHADOW if on_trial else PROMOTED


def switched_roles(kind: str) -> list[str]:
    """Return the roles that a switch to a challenger fills."""
    return ["challenger"] if kind in (SHADOW, CANARY) else ["champion", "baseline"]


def switch_rows(evidence: Evidence, roles: Sequence[str], **why: str) -> list[Row]:
    """Return one row of `switches` a role, for an attempt's challenger and its baseline.

    Parameters
    ----------
    why : ``kind``, ``by``, ``reason``, ``attempt``, ``request`` and ``effective_from``, as in `switches`.
    """
    models = {"champion": evidence.model, "challenger": evidence.model, "baseline": evidence.baseline_model}
    by_class = isinstance(evidence.constant, tuple)
    constant = {
        "constant": None if by_class else evidence.constant,
        "class_shares": json.dumps(evidence.constant) if by_class else "",
    }
    common = {"version": evidence.version, **constant, "judged_on": evidence.partition, **why}
    recipes = {"baseline": evidence.selection.get("baseline", "")}
    return [
        {**common, "role": role, "model": models[role], "recipe": recipes.get(role, evidence.recipe)}
        for role in roles
    ]


def switch_for_request(rows: Sequence[Row], request: str) -> Row | None:
    """Return the newest switch that a request recorded, None if it recorded none."""
    matches = [row for row in rows if request and row["request"] == request and row["role"] != "baseline"]
    return matches[-1] if matches else None


def switch_reference(lake: Lake, row: Row, note: str = "") -> Ref:
    """Return the reference of a switch; its note describes the switch, after ``note``."""
    version, by = f"v{row['version']}", f" by {row['by']}" if row["by"] else ""
    act = f"{ROLLED_BACK} to {version}" if row["kind"] == ROLLED_BACK else f"{version} {row['kind']}"
    note += f"{act}{by}, {row['role']} from {row['effective_from']} on: {row['reason']}"
    return Ref(f"{lake.uri}/tables/switches", row["effective_from"], row["model"], rows=1, note=note)


# what blocks a promotion


@dataclass(frozen=True)
class LedgerSnapshot:
    """The ledgers as they are now.

    Parameters
    ----------
    switches : rows of `switches`, oldest first.
    approval : what the gate asks a person about: ``none``, ``changes`` or ``all``. The verdicts are read only
        if it asks.
    verdicts : key, partition, verdict and number of each row of `attempts`.
    approvals : rows of `approvals`.
    """

    switches: list[Row]
    approval: str
    verdicts: list[Row]
    approvals: list[Row]

    def needs_approval(self, attempt: Row) -> bool:
        """Return whether the gate asks a person about an attempt."""
        if self.approval == "changes":
            return not Evidence.from_json(attempt["evidence"]).is_refresh
        return self.approval == "all"


def read_ledgers(lake: Lake, spec: UseCase, switches: list[Row] | None = None) -> LedgerSnapshot:
    """Read the ledgers; the switches only if they aren't given."""
    switches = ledger.switches(lake) if switches is None else switches
    approvals = lake.rows("approvals")
    if spec.gate.approval == "none":
        return LedgerSnapshot(switches, "none", [], approvals)
    attempts = lake.rows("attempts", columns=["key", "partition", "verdict", "recorded"])
    return LedgerSnapshot(switches, spec.gate.approval, attempts, approvals)


def promotion_blocker(ledgers: LedgerSnapshot, attempt: Row) -> Blocker | None:
    """Return why an attempt can't be promoted, None if it can.

    Parameters
    ----------
    attempt : a row of `attempts`; only `force` promotes a forced one.
    """
    if attempt["verdict"] not in PROMOTES:
        return Blocker(attempt["sentence"])
    newest, partition = ledger.newest_judged(ledgers.switches), attempt["partition"]
    if partition < newest:
        why = f"not promoted: it was evaluated on {partition}, but a champion was already on {newest}"
        return Blocker(why)
    history = ledger.champion_history(ledgers.switches)
    evidence, live = json.loads(attempt["evidence"]), history[-1]["model"] if history else ""
    rival = evidence["champion"]
    if live != rival:
        judged_against, serving = (_champion_name(ledgers.switches, model) for model in (rival, live))
        return Blocker(f"superseded: judged against {judged_against}, but {serving} serves: train again")
    if live and (evidence["model"], evidence["recipe"]) == (live, history[-1]["recipe"]):
        return Blocker(f"nothing new: it is the model that serves as v{history[-1]['version']}")
    challenger = ledger.challenger_on_trial(ledgers.switches, history[-1]) if history else None
    if challenger is not None:
        version, since = challenger["version"], challenger["effective_from"]
        return Blocker(f"v{version} is on trial since {since}: train again when the trial has ended")
    answer = approval.answer_to(ledgers.approvals, attempt["key"])
    if answer and answer["answer"] != approval.APPROVED:
        return Blocker(approval.answer_text(answer))  # also if the declaration has stopped asking since
    if not ledgers.needs_approval(attempt):
        return None
    return approval.missing_consent(ledgers.verdicts, ledgers.approvals, attempt)


def _champion_name(switches: Sequence[Row], model: str) -> str:
    """Return a champion's version and recipe, ``no champion`` for no model."""
    for row in reversed(ledger.champions(switches)):
        if row["model"] == model:
            return f"version {row['version']}" + (f" ({row['recipe']})" if row["recipe"] else "")
    return model[:8] or "no champion"


def awaiting_approval(lake: Lake, spec: UseCase) -> Row | None:
    """Return the attempt that waits for approval: at most one, since a newer one supersedes it."""
    ledgers = read_ledgers(lake, spec)
    rows = reversed(verdicts.attempts(lake)) if ledgers.approval != "none" else ()
    return next((row for row in rows if (why := promotion_blocker(ledgers, row)) and why.waits), None)


def switch_blocker(ledgers: LedgerSnapshot, attempt: Row) -> Blocker | None:
    """Return why there is no switch to an attempt that passed the gate; None if there is one."""
    keys = (attempt["key"], ledger.forced_key(attempt["key"]))
    switched = any(row["attempt"] in keys and row["role"] != "baseline" for row in ledgers.switches)
    if switched or attempt["verdict"] not in PROMOTES:
        return None
    return promotion_blocker(ledgers, attempt)


def attempt_outcome(ledgers: LedgerSnapshot, attempt: Row) -> str:
    """Return a person's answer to an attempt that passed the gate, and what blocks its switch."""
    answer = ""
    if attempt["verdict"] in PROMOTES and ledgers.needs_approval(attempt):
        row = approval.answer_to(ledgers.approvals, attempt["key"])
        answer = approval.answer_text(row) if row else ""
    blocker = switch_blocker(ledgers, attempt)
    return "; ".join(text for text in dict.fromkeys((answer, blocker.sentence if blocker else "")) if text)


# before and after the switch


def copy_to_lake(lake: Lake, spec: UseCase, attempt: Row, registry: Registry) -> None:
    """Copy an attempt's challenger and its strongest baseline into the lake, and check that each loads.

    A model that is there and loads is left alone, so a rerun needs no registry. A damaged one is replaced.

    Raises
    ------
    ModelError
        when the registry's copy has another digest or can't be loaded.
    """
    evidence = Evidence.from_json(attempt["evidence"])
    for role, digest in (("challenger", evidence.model), ("baseline", evidence.baseline_model)):
        facts = {"role": role, "constant": evidence.constant, "attempt": evidence.key}
        facts |= {name: getattr(evidence, name) for name in FACTS}
        lake.create(f"models/{digest}.json", json.dumps(facts, sort_keys=True).encode())
        try:
            artifacts.load_model(lake, digest, spec)
        except ModelError:
            run = registry.run_of(evidence.usecase, evidence.version)
            data = registry.get(run, artifacts.model_key(digest), digest)
            artifacts.deserialize(data, digest, spec)
            lake.replace(artifacts.model_key(digest), data)


def mirror_aliases(lake: Lake, spec: UseCase, registry: Registry) -> bool:
    """Set MLflow's aliases ``champion`` and ``previous`` where they differ; False if the registry fails.

    The champion's version is also tagged with the first partition that it may serve. A failure is only
    logged: the switch stands, and the next call sets the aliases.
    """
    history = ledger.champion_history(ledger.switches(lake))
    # a recipe that replaced a worse one is another model than the version's
    serves = bool(history) and ledger.was_judged(lake, history[-1])
    aliases = {"champion": history[-1]["version"] if serves else ""}
    aliases["previous"] = history[-2]["version"] if len(history) > 1 else ""
    try:
        current = registry.aliases(spec.name)
        for alias, version in aliases.items():
            if current.get(alias, "") != version:
                if alias == "champion":  # before the alias, so that a call after a kill finds it to do
                    since = history[-1]["effective_from"] if history else ""
                    registry.mark_serving(spec.name, version, since, current.get(alias, ""))
                registry.set_alias(spec.name, alias, version)
    except EvergreenError as error:
        log.warning("%s: MLflow's aliases aren't set; the next run tries again: %s", spec.name, error)
        return False
    return True
