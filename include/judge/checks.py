"""The gate's checks: pure functions, listed in `CHECKS`. Any one of them can block a promotion.

A check whose figure is missing fails. Each check is needed: if one is disabled, a test fails
(tests/judge/test_mutations.py). To add a check, write a function and add one line to `CHECKS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from include.judge.context import (
    EVALUATE_AGAIN,
    Check,
    CheckContext,
    CheckFunction,
    check_requirement,
)
from include.judge.evidence import BASELINE_PREFIX, CHALLENGER, Fairness, Refit, Slice
from include.judge.groups import check_groups
from include.spec.gate import ENOUGH_ROWS, MIN_PARTITIONS, Gate
from include.stats.formatting import figure_and_limit
from include.stats.intervals import Gain, estimate_gain, partitions_needed

MIN_PAST_ATTEMPTS = 3  # earlier attempts that are needed to judge a model against its own history
LEAKAGE_CHECKS = ("single_feature", "all_features", "shuffled_labels", "past_attempts")  # keys of `CHECKS`
# columns in a message: how many, and from which share of the first
MAX_COLUMN_NAMES, IMPORTANT_SHARE = 5, 0.1
# Test rows of a class below which no feature is judged. One misplaced row of 50 moves the ROC-AUC by
# at most 0.02. A feature with a true ROC-AUC of 0.95 reaches 0.98 in 4 of 1000 draws of 50 rows, and in 250
# of 1000 draws of 6 rows.
MIN_CLASS_ROWS = 50
# Relative rounding error that is allowed when a loss is compared with itself, summed in another order.
ROUNDING_TOLERANCE = 1e-9
DATA_REMEDY = (
    "look for changed labels, units or missing rows in the training data; a person can force the model"
)
MIN_PAST_MOVES = 3  # earlier fits that are needed to judge how far one moved
MOVEMENT_ALPHA = 0.01  # share of sound fits that move further than the limit
MIN_SPREAD = 0.1  # of the logarithm of the movements: four equal ones by chance don't make the limit tight
REFIT_TOLERANCE = 0.01  # relative increase of the loss
TWIN_TOLERANCE = 0.01  # relative increase of the loss
ONNX_TOLERANCE = 1e-9  # of a prediction in double precision, relative to those above 1
# How many times the odds over all test partitions those of the newest are, to be more than luck or a day
# unlike others: at 3 times, an honest model was refused for a quiet day after a stormy one.
NEWEST_ODDS = 10
MIN_ODDS = 0.1  # so that a history of useless models doesn't block the first real progress


def enough_partitions(context: CheckContext) -> Sequence[Check]:
    """There are enough matured test partitions: as many as declared, or few that have many rows."""
    partitions, rows = len(context.evidence.losses.partitions), sum(context.evidence.losses.rows)
    needed, alternative = context.gate.min_partitions, ""
    if needed is None:
        needed, alternative = MIN_PARTITIONS, f", or 2 with {ENOUGH_ROWS} labeled rows"
    name, required = "matured test partitions", f"at least {needed}{alternative}"
    observed = f"{partitions} with {rows:,} rows" if alternative else str(partitions)
    if partitions >= needed or (alternative and partitions >= 2 and rows >= ENOUGH_ROWS):
        return [Check(name, required, observed, True)]
    serves = "the champion" if context.has_champion else "a baseline"
    labeled = context.evidence.facts.labeled
    if labeled is not None and labeled >= 2 * needed:
        note = f"{labeled} partitions have labels, but too few of the newest; {serves} serves until more have"
    else:
        there_are = "" if labeled is None else f" and there are {labeled}"
        note = (
            f"at most half of the labeled partitions are test partitions: {2 * needed} labeled ones are "
            f"enough{there_are}, and until then {serves} serves"
        )
    return [Check(name, required, observed, False, note)]


def unseen_partitions(context: CheckContext) -> Sequence[Check]:
    """The fit behind each test prediction was made before; evidence that doesn't state this fails."""
    first = min(context.evidence.losses.partitions, default="none")
    last = context.evidence.last_fitted
    required = f"after {last or 'not stated'}, when the last labels used for fitting were known"
    return [Check("first test partition", required, first, "" < last < first)]


def requirements(context: CheckContext) -> Sequence[Check]:
    """Every declared metric requirement is met."""
    metrics = context.evidence.metrics.get(CHALLENGER, {})
    return [check_requirement(metrics, requirement) for requirement in context.gate.requirements]


def unseen_values(context: CheckContext) -> Sequence[Check]:
    """The rows to score have few values (categories, ranges) that the model never saw in training.

    A challenger may lack as many of a feature's values as the champion, which serves with that gap already.
    """
    name, limit = "rows with values not seen in training", context.gate.max_unseen
    facts = context.evidence.facts
    shares, champion_shares = facts.unseen_shares, facts.champion_unseen_shares
    if not shares:
        return [Check(name, f"at most {limit:g}", "missing", False, EVALUATE_AGAIN)]
    limits = {feature: max(limit, champion_shares.get(feature, 0.0)) for feature in shares}
    failed = [feature for feature in shares if not shares[feature] <= limits[feature]]
    feature = max(failed or shares, key=lambda feature: shares[feature])
    text, limit_text = figure_and_limit(shares[feature], limits[feature])
    whose = ", as with the champion" if limits[feature] > limit else ""
    return [Check(name, f"at most {limit_text}{whose}", text, not failed, feature)]


def single_feature(context: CheckContext) -> Sequence[Check]:
    """No single feature predicts the label almost perfectly, which would suggest leakage."""
    remedy = "if it is only known after the decision, remove it from features in usecase.yaml"
    leakage = context.evidence.facts.leakage
    scores = _with_newest(context, leakage.single_feature, leakage.newest.single_feature)
    return [_no_leak(context, "strongest single feature", scores, remedy)]


def all_features(context: CheckContext) -> Sequence[Check]:
    """No model of all features predicts the label almost perfectly, as several that reveal it together do."""
    facts = context.evidence.facts
    # of the challenger only if none of our models revealed it
    importance = facts.leakage.revealing or facts.leakage.newest.revealing or facts.importance
    columns = sorted(importance, key=lambda name: -importance[name])[:MAX_COLUMN_NAMES]
    top = importance[columns[0]] if columns else 0.0
    names = ", ".join(name for name in columns if importance[name] >= IMPORTANT_SHARE * top > 0)
    which = (
        f"the columns with the largest permutation importance are {names}; if they" if names else "if some"
    )
    remedy = f"{which} are only known after the decision, remove them from features in usecase.yaml"
    scores = _with_newest(context, facts.leakage.all_features, facts.leakage.newest.all_features)
    return [_no_leak(context, "all features together", scores, remedy)]


def _with_newest(
    context: CheckContext, scores: Mapping[str, float], newest: Mapping[str, float]
) -> dict[str, float]:
    """Return scores with those of the newest test partitions that are far above the score of all of them.

    What is nearly as high over all partitions is high on few of them by luck.
    """
    since = context.evidence.facts.leakage.newest.first
    jumps = {
        f"{name} on the test partitions since {since}": score
        for name, score in newest.items()
        if _odds(score) > NEWEST_ODDS * _odds(scores.get(name, 0.0))
    }
    return {**scores, **jumps}


def _no_leak(context: CheckContext, name: str, scores: Mapping[str, float], remedy: str) -> Check:
    """Compare the highest score with gate.leak.max_score; scores are missing for classes with few rows."""
    limit, evidence = context.gate.leak.max_score, context.evidence
    disabled = limit == 1  # no score is above 1, so the largest bound disables the check
    small_classes = [
        f"{label}, with {count} of at least {MIN_CLASS_ROWS} rows"
        for label, count in sorted(evidence.facts.leakage.too_few_rows.items())
    ]
    not_judged = f"not judged for {', '.join(small_classes)}" if small_classes else ""
    any_value = "any, since gate.leak.max_score is 1"
    if not scores:
        required = any_value if disabled else f"below {limit:g}"
        observed = "not judged" if not_judged else "missing"
        return Check(name, required, observed, bool(not_judged), not_judged or EVALUATE_AGAIN)
    highest = max(scores, key=lambda key: scores[key])
    text, limit_text = figure_and_limit(scores[highest], limit)
    measure = "R²" if "r2" in evidence.metrics.get(CHALLENGER, {}) else "ROC-AUC"
    passed = disabled or scores[highest] < limit
    reasons = [remedy, "otherwise raise gate.leak.max_score (1 disables this check)"]
    if copied := evidence.facts.leakage.copied_rows:
        rows = sum(evidence.losses.rows)
        reasons.insert(0, f"{copied} of {rows} test rows are copies of earlier rows, with their label")
    note = "; ".join(part for part in (highest, *([] if passed else reasons), not_judged) if part)
    required = any_value if disabled else f"below {limit_text}"
    return Check(name, required, f"{measure} {text}", passed, note)


def suspected_leaks(context: CheckContext) -> dict[str, Check]:
    """Return the checks for leaks that would fail, by key, as not judged: the evidence is too small for it.

    They are a warning, and decide nothing.
    """
    leakage = context.evidence.facts.leakage
    results = {
        "single_feature": single_feature(context) if leakage.single_feature else [],
        "all_features": all_features(context) if leakage.all_features else [],
    }
    failed = {key: check for key, of_key in results.items() for check in of_key if check.passed is False}
    return {key: replace(check, passed=None) for key, check in failed.items()}


def shuffled_labels(context: CheckContext) -> Sequence[Check]:
    """Fitted on shuffled labels, the recipe is no better than a constant."""
    losses, shuffled_losses = context.evidence.losses, context.evidence.facts.leakage.shuffled_losses
    name, required = "gain of shuffled labels over a constant", "lower bound at most 0"
    # of the same constant as the shuffled labels': the prior's walk follows the label rate
    constant = context.evidence.facts.leakage.constant_losses or losses.sums.get(f"{BASELINE_PREFIX}prior")
    if constant is None:
        return [Check(name, required, "no baseline named prior", False, EVALUATE_AGAIN)]
    if len(shuffled_losses) != len(losses.partitions):
        return [Check(name, required, "missing", False, EVALUATE_AGAIN)]
    gain = estimate_gain(
        constant, shuffled_losses, losses.rows, context.gate.block_partitions, context.gate.alpha
    )
    rounding = ROUNDING_TOLERANCE * sum(constant) / sum(losses.rows)
    return [Check(name, required, str(gain), gain.low <= rounding)]


def past_attempts(context: CheckContext) -> Sequence[Check]:
    """The challenger doesn't reduce the prior's loss far more than every attempt before it."""
    leakage, factor = context.evidence.facts.leakage, context.gate.leak.max_odds_ratio
    name, reduction, past = (
        "loss reduction against the prior",
        leakage.loss_reduction,
        leakage.past_loss_reductions,
    )
    if reduction is None:
        return [Check(name, "measured", "missing", False, EVALUATE_AGAIN)]
    if len(past) < MIN_PAST_ATTEMPTS:
        note = f"{len(past)} earlier attempts; this is judged from {MIN_PAST_ATTEMPTS} on"
        return [Check(name, "not far above earlier attempts", f"{reduction:.4g}", True, note)]
    max_odds = factor * max(_odds(share) for share in past)
    limit = max_odds / (1 + max_odds)
    text, limit_text = figure_and_limit(reduction, limit)
    required = f"at most {limit_text}, {factor:g} times the best earlier odds"
    if reduction <= limit:
        return [Check(name, required, text, True)]
    note = (
        "a column may reveal the label since lately; if all are honest and the newest partitions are just "
        "easier, force the model or raise gate.leak.max_odds_ratio"
    )
    return [Check(name, required, text, False, note)]


def _odds(share: float) -> float:
    """Return the odds of a share, at least `MIN_ODDS`."""
    return max(share / max(1 - share, ROUNDING_TOLERANCE), MIN_ODDS)


def robustness(context: CheckContext) -> Sequence[Check]:
    """No edge case breaks the model, and corrupting one feature raises the loss by no more than declared."""
    cases, limit = context.evidence.facts.edge_cases, context.gate.robustness
    if not cases:
        return [Check("edge cases", "measured", "missing", False, EVALUATE_AGAIN)]
    failures = [f"{case.name}: {case.note}" for case in cases if not case.passed]
    count = f"{len(cases) - len(failures)} of {len(cases)}"
    all_passed = Check("edge cases passed", "all", "; ".join([count, *failures[:3]]), not failures)
    if limit is None:
        return [all_passed]
    increases = {case.name: case.loss_increase for case in cases if case.loss_increase is not None}
    worst = max(increases, key=lambda name: increases[name], default="none was measured")
    increase = increases.get(worst, math.inf)
    text, limit_text = figure_and_limit(increase, limit)
    name = "loss increase in the worst edge case"
    return [all_passed, Check(name, f"at most {limit_text}", text, increase <= limit, worst)]


def serving(context: CheckContext) -> Sequence[Check]:
    """A fresh process gives bit-identical predictions, as fast as declared."""
    name, measured = "predictions in a fresh process", context.evidence.facts.serving
    if measured is None:
        return [Check(name, "identical", "missing", False, EVALUATE_AGAIN)]
    observed = "identical" if measured.identical else "different"
    return [
        Check(name, "identical", observed, measured.identical, measured.note),
        *(check_requirement(measured.figures, requirement) for requirement in context.gate.serving),
    ]


def onnx(context: CheckContext) -> Sequence[Check]:
    """If declared, the challenger's ONNX file predicts what the challenger predicts."""
    if not context.gate.onnx:
        return []
    name, measured = "difference of the ONNX file's predictions", context.evidence.facts.onnx
    if measured is None or measured.difference is None:
        note = measured.note if measured else EVALUATE_AGAIN
        return [Check(name, f"at most {ONNX_TOLERANCE:g}", "missing", False, note)]
    text, limit_text = figure_and_limit(measured.difference, ONNX_TOLERANCE, 2)
    return [Check(name, f"at most {limit_text}", text, measured.difference <= ONNX_TOLERANCE)]


def fairness(context: CheckContext) -> Sequence[Check]:
    """No difference between groups is shown to be beyond its bound."""
    rules = context.gate.fairness
    if rules is None:
        return []
    measured = {one.column: one for one in context.evidence.facts.fairness}
    return [
        check_groups(measured.get(column, Fairness(column, {}, {})), requirement, context.gate)
        for column in rules.compared
        for requirement in rules.requirements
    ]


def slices(context: CheckContext) -> Sequence[Check]:
    """No slice is shown to have a higher loss than with the rival, beyond the tolerance."""
    gate, measured = context.gate, context.evidence.facts.slices
    rival = context.evidence.facts.rival
    required = f"none that loses {100 * gate.slices.tolerance:.4g} % more than with {rival}"
    if measured is None:
        return [Check("slices", required, "missing", False, EVALUATE_AGAIN)]
    judged = [part for part in measured if judgeable(part, gate)]
    judged_columns = {part.name.split(" ")[0] for part in judged if part.declared}
    not_judged = [column for column in gate.slices.columns if column not in judged_columns]
    if not_judged:
        required = f"a slice with enough rows of each of {', '.join(gate.slices.columns)}"
        text = f"none of {', '.join(not_judged)}"
        return [Check("slices", required, text, False, blocking=not context.evidence.is_refresh)]
    worse = [
        _loses_more(part, increase, gate)
        for part in judged
        if (increase := loss_increase(part, gate, alpha_shares(part, judged))).low > _tolerated(part, gate)
    ]
    # a refit of the serving recipe is compared with a baseline, which doesn't serve
    blocking = not context.evidence.is_refresh
    text = "; ".join(worse[:5]) or f"none of {len(judged)}"
    return [Check("slices", required, text, not worse, blocking=blocking)]


def judgeable(part: Slice, gate: Gate) -> bool:
    """Tell whether a slice has enough rows, on enough partitions to estimate an interval."""
    partitions = sum(rows > 0 for rows in part.rows)
    needed = min(len(part.rows), 2 * partitions_needed(gate.block_partitions))
    return sum(part.rows) >= gate.slices.min_rows and partitions >= needed


def alpha_shares(part: Slice, judged: Sequence[Slice]) -> int:
    """Return the number of shares into which alpha is split for a slice (Bonferroni).

    Declared and automatic slices get half of alpha each; if there is only one kind, it gets all of it.
    """
    kinds = len({other.declared for other in judged})
    return kinds * sum(other.declared == part.declared for other in judged)


def loss_increase(part: Slice, gate: Gate, shares: int) -> Gain:
    """Return how much higher a slice's loss is than with the rival, at the gate's alpha over ``shares``."""
    partitions = [i for i, rows in enumerate(part.rows) if rows]
    rows = [part.rows[i] for i in partitions]
    challenger_walk, rival_walk = ([sums[i] for i in partitions] for sums in (part.challenger, part.rival))
    return estimate_gain(challenger_walk, rival_walk, rows, gate.block_partitions, gate.alpha / shares)


def _tolerated(part: Slice, gate: Gate) -> float:
    """Return how much higher a slice's mean loss may be."""
    return gate.slices.tolerance * sum(part.rival) / sum(part.rows)


def _loses_more(part: Slice, increase: Gain, gate: Gate) -> str:
    text, limit_text = increase.interval_and_limit(_tolerated(part, gate))
    return f"{part.name} loses {text} more, tolerated {limit_text}"


def recipe(context: CheckContext) -> Sequence[Check]:
    """The recipe is the one that the walks choose; with ``gate.prove`` its lower loss is proven."""
    selection, prove = context.evidence.selection, context.gate.prove
    chosen, serving = context.evidence.recipe, selection.get("serving", "")
    if not selection:
        return [Check("recipe", "chosen by its walk", "missing", False, EVALUATE_AGAIN)]
    checks = [Check("recipe", "chosen by its walk", chosen, True, selection["reason"])]
    checks += [
        Check(f"recipe {name}", "a fit", "none, so it can't be chosen", False, error, blocking=False)
        for name, error in selection.get("failed", {}).items()
    ]
    if prove and serving and serving != chosen:
        gain, name = selection.get("gain"), f"{context.gate.objective} gain over {serving}"
        required = f"> 0 at level {1 - context.gate.alpha:g}, at any time"
        text = f"{gain[0]:.4g} [{gain[1]:.4g}, inf)" if gain else "missing"
        checks.append(Check(name, required, text, bool(gain and gain[1] > 0)))
    return checks


def refit(context: CheckContext) -> Sequence[Check]:
    """On test rows that both saw, the new fit isn't shown to lose more than the recipe's previous fit."""
    measured = context.evidence.facts.refit
    if measured is None or len(measured.seen_rows) < partitions_needed(1) or not any(measured.seen_rows):
        return []
    excess = (measured.seen_now, measured.seen_before, measured.seen_rows)
    text, limit_text, passed = _excess_loss(
        *excess, REFIT_TOLERANCE, context.gate, _increase_by_growth(measured)
    )
    name = "loss over the previous fit, on rows that both have seen"
    share = f"{100 * REFIT_TOLERANCE:g} %"
    required = (
        f"lower bound at most {limit_text}, {share} of its loss plus what is expected as old rows weigh less"
    )
    return [_unless_changed(context, Check(name, required, text, passed, DATA_REMEDY))]


def _increase_by_growth(measured: Refit) -> float:
    """Return how much more a sound fit may lose per row because its older rows have less weight.

    A fit knows its own rows better than rows that it hasn't seen. With n rows the margin falls as 1 / n, as a
    row's weight does, half of it on its own rows. So the loss on them rises by half of the margin's relative
    change; twice that is allowed, since the margin is measured on few partitions. It is their median, so no
    single one decides.
    """
    partitions = zip(measured.seen_walk, measured.seen_before, measured.seen_rows, strict=False)
    margins = [(walk - own) / rows for walk, own, rows in partitions if walk is not None and rows]
    return measured.growth * max(float(np.median(margins)), 0.0) if margins else 0.0


def _unless_changed(context: CheckContext, check: Check) -> Check:
    """Return the check as passed if a fit has a reason to differ from those before it.

    The relation has changed; or a fit that was refused before has since predicted no worse than what serves.
    """
    measured = context.evidence.facts.refit or Refit()
    if check.passed:
        return replace(check, note="")
    if context.evidence.selection.get("relation_changed"):
        note = "the relation between features and label has changed, so a fit may differ from those before it"
    elif measured.refused and sum(measured.refused) <= sum(measured.serving[-len(measured.refused) :]):
        note = "a fit that was refused before has lost no more than the serving model since"
    else:
        return check
    return replace(check, passed=True, note=note)


def movement(context: CheckContext) -> Sequence[Check]:
    """The fit's predictions moved from the recipe's previous fit no further than earlier fits moved."""
    measured = context.evidence.facts.refit
    if measured is None or measured.moved is None or len(measured.past_moves) < MIN_PAST_MOVES:
        return []
    limit = movement_limit(measured.past_moves)
    text, limit_text = figure_and_limit(measured.moved, limit)
    name, required = "movement of the predictions", f"at most {limit_text}, as far as earlier fits moved"
    return [_unless_changed(context, Check(name, required, text, measured.moved <= limit, DATA_REMEDY))]


def movement_limit(past: Sequence[float]) -> float:
    """Return how far a sound fit moves at most, at level `MOVEMENT_ALPHA`.

    Parameters
    ----------
    past : how far earlier fits moved, shape (n,), n at least 2.

    Notes
    -----
    An upper prediction bound for the logarithm. G. J. Hahn, Factors for calculating two-sided prediction
    intervals for samples from a normal distribution, JASA 64, 1969, one-sided.
    """
    logs = np.log(np.maximum(past, 1e-12))
    spread = max(float(logs.std(ddof=1)), MIN_SPREAD)
    reach = float(stdtrit(len(logs) - 1, 1 - MOVEMENT_ALPHA)) * math.sqrt(1 + 1 / len(logs))
    return float(np.exp(logs.mean() + reach * spread))


def twin(context: CheckContext) -> Sequence[Check]:
    """A twin, fitted without the newest partitions, isn't shown to lose more on them than the champion."""
    measured = context.evidence.facts.refit
    if measured is None or len(measured.twin) < partitions_needed(1):
        return []
    excess = (measured.twin, measured.serving, measured.rows)
    text, limit_text, passed = _excess_loss(*excess, TWIN_TOLERANCE, context.gate)
    name = "loss of a twin over the serving model"
    required = f"lower bound at most {limit_text} on the newest {len(measured.rows)} partitions"
    return [Check(name, required, text, passed)]


def _excess_loss(
    losses: Sequence[float],
    reference: Sequence[float],
    rows: Sequence[int],
    tolerance: float,
    gate: Gate,
    allowance: float = 0.0,
) -> tuple[str, str, bool]:
    """Return by how much losses exceed a reference's, the tolerated excess, and whether no more is shown.

    Parameters
    ----------
    losses, reference, rows : sums of the losses and numbers of rows by partition, shape (n,).
    tolerance : relative to the reference's mean loss.
    allowance : tolerated in addition, per row.
    """
    tolerated = tolerance * sum(reference) / sum(rows) + allowance
    with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite fails
        excess = estimate_gain(losses, reference, rows, 1, gate.alpha)
    return (*excess.interval_and_limit(tolerated), bool(np.isfinite(excess.low)) and excess.low <= tolerated)


SUFFICIENCY_CHECKS: dict[str, CheckFunction] = {
    "enough_partitions": enough_partitions,
    "unseen_partitions": unseen_partitions,
}
CHECKS: dict[str, CheckFunction] = {
    "requirements": requirements,
    "unseen_values": unseen_values,
    "single_feature": single_feature,
    "all_features": all_features,
    "shuffled_labels": shuffled_labels,
    "past_attempts": past_attempts,
    "robustness": robustness,
    "serving": serving,
    "onnx": onnx,
    "fairness": fairness,
    "slices": slices,
    "recipe": recipe,
    "refit": refit,
    "movement": movement,
    "twin": twin,
}
