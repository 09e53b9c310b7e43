"""Advance the rollout: take the steps that live losses decide, and replace a champion that a baseline beats.

`next_step` decides, and is pure. The losses are looked at every ``look_every`` matured partitions, and the
k-th look has its share of alpha. So the chance of a wrong step stays as declared, however often a partition
is monitored.

Each step is one commit to the ledger. Only the newest served partition takes steps: an older one that is run
again or backfilled would decide from what was known then, and those decisions were made long ago.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from include.errors import StaleDecision
from include.features.labels import labels, matured
from include.judge.evidence import CHAMPION, Evidence
from include.models import outputs
from include.monitor.losses import loss_series
from include.promote import ledger, verdicts
from include.promote.ledger import CANARY, PROMOTED, REPLACED, SHADOW, WATCH, WITHDRAWN, Trial
from include.promote.promotion import mirror_aliases, switch_rows, switched_roles
from include.promote.rollback import rollback
from include.references import Ref
from include.score import predictions
from include.score.pipeline import SHADOWS
from include.spec import UseCase
from include.spec.gate import Gate
from include.stats.intervals import estimate_gain, partitions_needed
from include.stats.metrics import has_loss, row_losses
from include.storage import schemas
from include.storage.lake import Lake, Row, Where
from include.train import walks
from include.train.fits import Fit, accepted_fits, champion_recipe, newest_fits
from include.train.recipes import recipe_names
from include.train.selection import choose_replacement
from include.train.walks import Walks

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

log = logging.getLogger(__name__)
AUTOMATIC = "evergreen"  # who switches when no person does
INCUMBENT_SUFFIX = " of the incumbent"  # of the incumbent's columns in a join
PROMOTE, WITHDRAW, WAIT = "forward", "back", "stay"  # steps, by the words of the task's note


@dataclass(frozen=True)
class RolloutStep:
    """The step to take, and why, in a sentence."""

    step: str
    reason: str


@dataclass(frozen=True)
class TrialLosses:
    """The objective's losses of the two models of a trial, on the same rows of its matured partitions.

    Parameters
    ----------
    partitions : ascending, shape (n,).
    rows : labeled rows of each partition that both have predicted, shape (n,).
    candidate, incumbent : each partition's sum of the model's row losses, shape (n,).
    """

    partitions: tuple[str, ...]
    rows: tuple[int, ...]
    candidate: tuple[float, ...]
    incumbent: tuple[float, ...]


def not_newest_text(newest: str) -> str:
    """Return why an older partition than the newest scored one takes no step."""
    return f"the rollout advances only on the newest scored partition, {newest}"


def advance(
    lake: Lake, spec: UseCase, partition: str, *, registry: Callable[[], Registry] | None = None
) -> Ref:
    """Take the due steps of each trial on a partition, and replace a champion that a baseline beats.

    Parameters
    ----------
    registry : returns the registry whose aliases follow a switch; only called if there was one.

    Returns
    -------
    Ref
        ``rows`` is the number of steps that were taken; the note has the state of each trial.

    Raises
    ------
    ModelError
        when the champion is worse than the one before it, which can't be loaded.
    """
    served = ledger.served_partitions(lake)
    table = f"{lake.uri}/tables/switches"
    if served and partition < served[-1]:
        note = not_newest_text(served[-1])
        return Ref(table, partition, note=note)
    if spec.end and spec.clock.shift(partition, 1) > spec.end:
        note = f"no step is taken after the schedule's last partition: schedule.end is {spec.schedule.end}"
        return Ref(table, partition, note=note)
    notes, steps = [], 0
    for trial in ledger.trials_on(ledger.switches(lake), spec, partition):
        where: Where = {"product": "predictions", "partition": spec.clock.keys(trial.since, partition)}
        scored = lake.rows("partitions", where)
        trial_partitions = sum(row["rows"] > 0 for row in scored)
        losses = live_losses(lake, spec, trial, partition)
        decision = next_step(trial.kind, losses, trial_partitions, spec.gate)
        if decision.step != WAIT and _take_step(lake, spec, trial, decision):
            steps += 1
        notes.append(f"{trial}: {decision.step}, {decision.reason}")
    if replacement := replace_broken(lake, spec, partition):
        log.warning("%s: %s", spec.name, replacement)
        notes, steps = [*notes, replacement], steps + 1
    champions = ledger.champions(ledger.switches(lake))
    if registry is not None and any(row["effective_from"] >= partition for row in champions):
        # also after a switch whose run was killed before this, on this partition or the last
        mirror_aliases(lake, spec, registry())
    return Ref(table, partition, rows=steps, note="; ".join(notes) or "nothing is on trial")


def next_step(kind: str, losses: TrialLosses, served: int, gate: Gate) -> RolloutStep:
    """Return the step of the first look at the live losses that decides, or else whether to wait.

    Parameters
    ----------
    kind : of the trial. A watch has no step forward: it just ends.
    served : partitions of the trial that have been scored, also those that one of the models couldn't score.
    """
    rules, count = gate.rollout, len(losses.partitions)
    for look in range(1, count // rules.look_every + 1):
        if step := _look(kind, losses, look, gate):
            return step
    if served >= rules.patience and kind != WATCH:
        return RolloutStep(WITHDRAW, f"undecided after {served} partitions, {count} of them matured")
    return RolloutStep(WAIT, f"{count} of at least {_min_partitions(gate)} matured partitions")


def _look(kind: str, losses: TrialLosses, look: int, gate: Gate) -> RolloutStep | None:
    """Return the step that one look at the first partitions decides, None if it decides nothing."""
    rules, count = gate.rollout, look * gate.rollout.look_every
    if count < partitions_needed(gate.block_partitions):
        return None
    alpha, rows = _look_alpha(rules.alpha, look), losses.rows[:count]
    candidate, incumbent = losses.candidate[:count], losses.incumbent[:count]
    basis = f"over {count} partitions, look {look}, level {1 - alpha:.6g}"
    worse = estimate_gain(candidate, incumbent, rows, gate.block_partitions, alpha)
    if worse.low > 0:
        return RolloutStep(WITHDRAW, f"loses {worse} more {gate.objective} a row than the incumbent {basis}")
    if kind == WATCH or count < _min_partitions(gate):
        return None
    margin = -rules.margin * _mean(incumbent, rows)
    better = estimate_gain(incumbent, candidate, rows, gate.block_partitions, alpha)
    if better.low > margin:
        text, bound = better.interval_and_limit(margin)
        return RolloutStep(PROMOTE, f"{gate.objective} gain {text}, required > {bound} {basis}")
    return None


def _look_alpha(alpha: float, look: int) -> float:
    """Return the share of alpha of the k-th look: 6 alpha / (pi^2 k^2). All shares sum to alpha."""
    return 6 * alpha / (math.pi * look) ** 2


def _min_partitions(gate: Gate) -> int:
    return max(gate.rollout.partitions, partitions_needed(gate.block_partitions))


def _mean(sums: Sequence[float], rows: Sequence[int]) -> float:
    return sum(sums) / sum(rows)


def live_losses(lake: Lake, spec: UseCase, trial: Trial, partition: str) -> TrialLosses:
    """Return the losses of candidate and incumbent by partition, as known on ``partition``.

    Only labeled rows count that both models have scored from the same features.
    """
    partitions = [key for key in matured(lake, spec, partition) if key >= trial.since]
    keys, target = [*spec.key, "partition"], spec.problem.target
    candidate, incumbent = (
        _predictions_by(lake, spec, partitions, str(row["model"]))
        for row in (trial.candidate, trial.incumbent)
    )
    actual_rows = labels(lake, spec, partitions, as_of=partition)
    rows = candidate.join(incumbent, [*keys, "row_digest"], join_type="inner", right_suffix=INCUMBENT_SUFFIX)
    rows = rows.join(actual_rows.filter(actual_rows[target].is_valid()), keys, join_type="inner")
    rows = rows.filter(pa.array(has_loss(spec, rows[target].to_numpy())))
    rows = rows.sort_by([(name, "ascending") for name in ("partition", *spec.key)])
    row_partitions = np.asarray(rows["partition"].to_pylist(), dtype=object)
    actual = rows[target].to_numpy()
    positions = {key: np.flatnonzero(row_partitions == key) for key in sorted(set(row_partitions))}

    def sums(suffix: str) -> tuple[float, ...]:
        each = row_losses(spec.objective, actual, outputs.from_columns(spec, rows, suffix))
        return tuple(float(each[own].sum()) for own in positions.values())

    counts = tuple(len(own) for own in positions.values())
    return TrialLosses(tuple(positions), counts, candidate=sums(""), incumbent=sums(INCUMBENT_SUFFIX))


def _predictions_by(lake: Lake, spec: UseCase, partitions: Sequence[str], model: str) -> pa.Table:
    """Return a model's prediction for each row of the partitions, served or as a shadow."""
    values = spec.problem.outputs
    columns = [*spec.key, "partition", "row_digest", *values]
    where = {"partition": list(partitions), "model": model}
    tables = [lake.read(table, where, columns) for table in ("predictions", SHADOWS)] if partitions else []
    schema = pa.schema([predictions.predictions_schema(spec).field(name) for name in columns])
    rows = pa.concat_tables([schemas.align_to_schema(table, schema) for table in (None, *tables)])
    # a canary has some rows in both tables, with equal predictions
    unique = rows.group_by([name for name in columns if name not in values])
    unique = unique.aggregate([(name, "min") for name in values])
    return unique.rename_columns({f"{name}_min": name for name in values})


def _take_step(lake: Lake, spec: UseCase, trial: Trial, decision: RolloutStep) -> bool:
    """Take a step; False if somebody else switched meanwhile, and then the next partition decides again."""
    log.info("%s: %s: %s, %s", spec.name, trial, decision.step, decision.reason)
    if trial.kind == WATCH:
        request = f"watch of switch {trial.candidate['switch']}"
        try:
            rollback(
                lake, spec, None, AUTOMATIC, decision.reason, request=request, instead_of=trial.candidate
            )
        except StaleDecision as error:
            log.warning("%s: %s", spec.name, error)
            return False
        return True
    switch = ledger.record_switch(lake, lambda rows: _challenger_switch(lake, spec, trial, decision, rows))
    return switch is not None


def _challenger_switch(
    lake: Lake, spec: UseCase, trial: Trial, decision: RolloutStep, rows: list[Row]
) -> list[Row] | Row | None:
    """Return the rows of a challenger's step.

    A killed run may have recorded the step: then its row. None if the challenger isn't on trial any more.
    """
    newest, candidate = [row for row in rows if row["role"] != "baseline"][-1], trial.candidate
    if newest["switch"] != candidate["switch"]:
        is_step = newest["attempt"] == candidate["attempt"] and newest["kind"] == _kind(spec, trial, decision)
        return newest if is_step else None
    effective_from = ledger.next_unserved(lake, spec, str(candidate["judged_on"]))
    attempt = verdicts.attempt(lake, str(candidate["attempt"]))
    return step_rows(spec, trial, decision, Evidence.from_json(attempt["evidence"]), effective_from)


def step_rows(
    spec: UseCase, trial: Trial, decision: RolloutStep, evidence: Evidence, effective_from: str
) -> list[Row]:
    """Return the rows of a challenger's step.

    Parameters
    ----------
    evidence : of the challenger's attempt.
    """
    kind, reason = _kind(spec, trial, decision), f"{trial}: {decision.reason}"
    if kind == WITHDRAWN:
        changes = {"kind": kind, "by": AUTOMATIC, "reason": reason, "effective_from": effective_from}
        return [{**trial.candidate, **changes, "request": ""}]
    return switch_rows(
        evidence,
        switched_roles(kind),
        kind=kind,
        by=str(trial.candidate["by"]),
        reason=f"{trial.candidate['reason']}; {reason}",
        attempt=evidence.key,
        request=evidence.key,
        effective_from=effective_from,
    )


def _kind(spec: UseCase, trial: Trial, decision: RolloutStep) -> str:
    """Return the kind of the switch that a challenger's step is."""
    if decision.step == WITHDRAW:
        return WITHDRAWN
    return CANARY if trial.kind == SHADOW and spec.gate.rollout.kind == CANARY else PROMOTED


def replace_broken(lake: Lake, spec: UseCase, partition: str) -> str:
    """Replace a champion that is shown to be worse than a baseline.

    The newest fit of the best recipe serves next. Neither an approval, nor a trial, nor a training is
    waited for: the losses are those of live labels.

    Parameters
    ----------
    partition : the newest served partition; labels count as far as they are known by then.

    Returns
    -------
    str
        What was switched and why, also if an earlier run switched it; empty if nothing was.
    """
    walks.extend(lake, spec, partition)
    switches = ledger.switches(lake)
    champion = ledger.live_champion(switches)
    if champion is None:
        return ""
    if champion["kind"] == REPLACED and champion["effective_from"] > partition:
        return _replacement_text(champion)  # by an earlier run of this partition
    known_walks, serving_recipe = _with_champion(lake, spec, switches, champion, partition)
    is_stand_in = bool(ledger.replaced_since(ledger.champions(switches)))
    choice = choose_replacement(spec, known_walks, serving_recipe, is_stand_in=is_stand_in)
    if choice is None:
        return ""
    judged = verdicts.judged_trainings(lake)  # one that failed on its way is no reason to wait
    fits = [fit for fit in accepted_fits(lake) if fit.partition in judged]
    fit = newest_fits(fits, recipe_names(spec), spec.clock.shift(partition, 1)).get(choice.recipe)
    if fit is None:
        return ""
    attempt = verdicts.attempt(lake, judged[fit.partition])
    lost = known_walks.newest(spec.monitoring.window)
    why = f"v{champion['version']} lost {lost.mean(serving_recipe):.4g} a row on the last "
    why += f"{len(lost.partitions)} matured partitions, {choice.recipe} {lost.mean(choice.recipe):.4g}; "
    why += choice.reason

    def decide_replacement(rows: list[Row]) -> list[Row] | None:
        live = ledger.live_champion(rows)
        if live is None or live["switch"] != champion["switch"]:
            return None  # a concurrent switch stands
        evidence = Evidence.from_json(attempt["evidence"])
        effective_from = ledger.next_unserved(lake, spec, partition)
        return replacement_rows(rows, champion, evidence, fit, choice.recipe, effective_from, why)

    switch = ledger.record_switch(lake, decide_replacement)
    return _replacement_text(switch) if switch else ""


def _replacement_text(switch: Row) -> str:
    return f"{switch['recipe']} replaces the champion from {switch['effective_from']} on: {switch['reason']}"


def replacement_rows(
    rows: Sequence[Row],
    champion: Row,
    evidence: Evidence,
    fit: Fit,
    recipe: str,
    effective_from: str,
    reason: str,
) -> list[Row]:
    """Return the rows of the switch to a recipe's fit instead of a champion that is worse than a baseline.

    Parameters
    ----------
    evidence : of the training that fitted it.
    """
    changes = {
        "kind": REPLACED,
        "by": AUTOMATIC,
        "reason": reason,
        "request": "",
        "effective_from": effective_from,
    }
    switched = switch_rows(evidence, ["champion", "baseline"], attempt=evidence.key, **changes)
    switched[0] |= {"model": fit.model, "recipe": recipe}
    # a challenger on trial has no incumbent any more
    challenger = ledger.challenger_on_trial(rows, champion)
    withdrawn = [] if challenger is None else [{**challenger, **changes, "kind": WITHDRAWN}]
    return [*switched, *withdrawn]


def _with_champion(
    lake: Lake, spec: UseCase, switches: Sequence[Row], champion: Row, partition: str
) -> tuple[Walks, str]:
    """Return the walks with what the champion lost live, and the name that it has there.

    Walks are of all entities. So beside a canary the champion's losses on the canary's share count as well.
    """
    live = loss_series(lake, [champion], partition)
    losses = dict(zip(live.partitions, (live.loss / live.rows).tolist(), strict=True))
    has_canary = any(row["kind"] == CANARY for row in switches)
    trials = [t for key in live.partitions if has_canary for t in ledger.trials_on(switches, spec, key)]
    for trial in {trial.since: trial for trial in trials if trial.kind == CANARY}.values():
        both = live_losses(lake, spec, trial, partition)
        losses |= dict(zip(both.partitions, np.divide(both.incumbent, both.rows), strict=True))
    return with_live_losses(walks.read(lake, spec, partition), champion_recipe(lake, spec, champion), losses)


def with_live_losses(known_walks: Walks, name: str, losses: Mapping[str, float]) -> tuple[Walks, str]:
    """Return the walks with what the champion lost live, and the name that it has there.

    The live losses count instead of its recipe's walk: a person may have rolled back to an old fit.

    Parameters
    ----------
    name : of the champion's recipe.
    losses : its loss per row, by partition.
    """
    own = np.array([losses.get(key, np.nan) for key in known_walks.partitions])
    if name in known_walks.recipes:
        merged = known_walks.losses.copy()
        column = known_walks.recipes.index(name)
        merged[:, column] = np.where(np.isfinite(own), own, merged[:, column])
        return Walks(known_walks.partitions, known_walks.recipes, known_walks.rows, merged), name
    names, columns = (*known_walks.recipes, CHAMPION), np.column_stack([known_walks.losses, own])
    return Walks(known_walks.partitions, names, known_walks.rows, columns), CHAMPION
