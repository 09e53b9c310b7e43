"""The gate's checks: pure functions, listed in `CHECKS`. Any one of them can block a promotion.

A check whose figure is missing fails. Each check is needed: if one is disabled, a test fails
(tests/judge/test_mutations.py). To add a check, write a function and add one line to `CHECKS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from include.judge.context import (
    EVALUATE_AGAIN,
    Check,
    CheckContext,
    CheckFunction,
    attempt_alpha,
    check_gain,
    check_requirement,
)
from include.judge.evidence import BASELINE, CHALLENGER, CHAMPION, Slice
from include.spec.gate import Gate
from include.stats.formatting import figure_and_limit
from include.stats.intervals import Gain, estimate_gain, partitions_needed

MIN_PAST_ATTEMPTS = 3  # earlier attempts that are needed to judge a model against its own history
SINGLE_FEATURE, SHUFFLED_LABELS = "strongest single feature", "gain of shuffled labels over the prior"
LOSS_REDUCTION = "loss reduction against the prior"
LEAKAGE_CHECKS = (SINGLE_FEATURE, SHUFFLED_LABELS, LOSS_REDUCTION)
# Test rows of a class below which no single feature is judged. One misplaced row of 50 moves the ROC-AUC by
# at most 0.02. A feature with a true ROC-AUC of 0.95 reaches 0.98 in 4 of 1000 draws of 50 rows, and in 250
# of 1000 draws of 6 rows.
MIN_CLASS_ROWS = 50
# Relative rounding error that is allowed when a loss is compared with itself, summed in another order.
ROUNDING_TOLERANCE = 1e-9
MIN_ODDS = 0.1  # so that a history of useless models doesn't block the first real progress


def enough_partitions(context: CheckContext) -> Sequence[Check]:
    """There are enough matured test partitions."""
    partitions = len(context.evidence.losses.partitions)
    needed = max(context.gate.min_partitions, partitions_needed(context.gate.block_partitions))
    return [Check("matured test partitions", f"at least {needed}", str(partitions), partitions >= needed)]


def unseen_partitions(context: CheckContext) -> Sequence[Check]:
    """No model was fitted or tuned on a test partition; evidence that doesn't state this fails."""
    first = min(context.evidence.losses.partitions, default="none")
    last = context.evidence.last_fitted
    required = f"after {last or 'not stated'}, when the last labels used for fitting were known"
    return [Check("first test partition", required, first, "" < last < first)]


def requirements(context: CheckContext) -> Sequence[Check]:
    """Every declared metric requirement is met."""
    metrics = context.evidence.metrics.get(CHALLENGER, {})
    return [check_requirement(metrics, requirement) for requirement in context.gate.requirements]


def coverage(context: CheckContext) -> Sequence[Check]:
    """The rows to score have few values (categories, ranges) that the model never saw in training."""
    name = "rows with values not seen in training"
    shares, limit = context.evidence.facts.coverage, context.gate.coverage
    if not shares:
        return [Check(name, f"at most {limit:g}", "missing", False, EVALUATE_AGAIN)]
    feature = max(shares, key=lambda feature: shares[feature])
    text, limit_text = figure_and_limit(shares[feature], limit)
    return [Check(name, f"at most {limit_text}", text, shares[feature] <= limit, feature)]


def single_feature(context: CheckContext) -> Sequence[Check]:
    """No single feature predicts the label almost perfectly, which would suggest leakage."""
    leakage, limit = context.evidence.facts.leakage, context.gate.leak.alone
    disabled = limit == 1  # no score is above 1, so the largest bound disables the check
    small_classes = [
        f"{name}, with {count} of at least {MIN_CLASS_ROWS} rows"
        for name, count in sorted(leakage.too_few_rows.items())
    ]
    not_judged = f"not judged for {', '.join(small_classes)}" if small_classes else ""
    any_value = "any, since gate.leak.alone is 1"
    scores = leakage.single_feature
    if not scores:
        required = any_value if disabled else f"below {limit:g}"
        observed = "not judged" if not_judged else "missing"
        return [Check(SINGLE_FEATURE, required, observed, bool(not_judged), not_judged or EVALUATE_AGAIN)]
    feature = max(scores, key=lambda name: scores[name])
    text, limit_text = figure_and_limit(scores[feature], limit)
    passed = disabled or scores[feature] < limit
    remedy = (
        "if it is only known after the decision, remove it from features in usecase.yaml; otherwise raise "
        "gate.leak.alone (1 disables this check)"
    )
    note = "; ".join(part for part in (feature, "" if passed else remedy, not_judged) if part)
    return [Check(SINGLE_FEATURE, any_value if disabled else f"below {limit_text}", text, passed, note)]


def shuffled_labels(context: CheckContext) -> Sequence[Check]:
    """Fitted on shuffled labels, the recipe is no better than the prior."""
    losses, shuffled_losses = context.evidence.losses, context.evidence.facts.leakage.shuffled_losses
    required = "not shown to be > 0"
    prior = losses.sums.get(f"{BASELINE}prior")
    if prior is None:
        return [Check(SHUFFLED_LABELS, required, "no baseline named prior", False, EVALUATE_AGAIN)]
    if len(shuffled_losses) != len(losses.partitions):
        return [Check(SHUFFLED_LABELS, required, "missing", False, EVALUATE_AGAIN)]
    gain = estimate_gain(
        prior, shuffled_losses, losses.rows, context.gate.block_partitions, context.gate.alpha
    )
    return [Check(SHUFFLED_LABELS, required, str(gain), gain.low <= 0)]


def past_attempts(context: CheckContext) -> Sequence[Check]:
    """The challenger doesn't reduce the prior's loss far more than every attempt before it."""
    leakage, factor = context.evidence.facts.leakage, context.gate.leak.history
    reduction, past = leakage.loss_reduction, leakage.past_loss_reductions
    if reduction is None:
        return [Check(LOSS_REDUCTION, "measured", "missing", False, EVALUATE_AGAIN)]
    if len(past) < MIN_PAST_ATTEMPTS:
        note = f"{len(past)} earlier attempts; this is judged from {MIN_PAST_ATTEMPTS} on"
        return [Check(LOSS_REDUCTION, "not far above earlier attempts", f"{reduction:.4g}", True, note)]
    max_odds = factor * max(_odds(share) for share in past)
    limit = max_odds / (1 + max_odds)
    text, limit_text = figure_and_limit(reduction, limit)
    required = f"at most {limit_text}, {factor:g} times the best earlier odds"
    return [Check(LOSS_REDUCTION, required, text, reduction <= limit)]


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


def fairness(context: CheckContext) -> Sequence[Check]:
    """Every declared difference between groups is within its bound."""
    rules = context.gate.fairness
    if rules is None:
        return []
    figures = {measured.column: measured.figures for measured in context.evidence.facts.fairness}
    return [
        check_requirement(figures.get(column, {}), requirement, f"{column} ")
        for column in rules.columns
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
        columns = ", ".join(gate.slices.columns)
        return [Check("slices", f"of {columns}", f"none of {', '.join(not_judged)}", False)]
    worse = [
        _loses_more(part, increase, gate)
        for part in judged
        if (increase := loss_increase(part, gate, alpha_shares(part, judged))).low > _tolerated(part, gate)
    ]
    return [Check("slices", required, "; ".join(worse[:5]) or f"none of {len(judged)}", not worse)]


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
    challenger, rival = ([sums[i] for i in partitions] for sums in (part.challenger, part.rival))
    return estimate_gain(challenger, rival, rows, gate.block_partitions, gate.alpha / shares)


def _tolerated(part: Slice, gate: Gate) -> float:
    """Return how much higher a slice's mean loss may be."""
    return gate.slices.tolerance * sum(part.rival) / sum(part.rows)


def _loses_more(part: Slice, increase: Gain, gate: Gate) -> str:
    text, limit_text = increase.interval_and_limit(_tolerated(part, gate))
    return f"{part.name} loses {text} more, tolerated {limit_text}"


def refit(context: CheckContext) -> Sequence[Check]:
    """A walk-forward's deployed model, refitted on the test rows, is no worse on them than the walk was."""
    if context.gate.evidence == "held_out":
        return []
    refit_loss, losses = context.evidence.facts.refit_loss, context.evidence.losses
    walk_loss = sum(losses.sums[CHALLENGER]) / sum(losses.rows)
    name = "loss of the refitted model"
    if refit_loss is None:
        return [Check(name, f"at most {walk_loss:.4g}, the walk's", "missing", False, "train again")]
    passed = refit_loss <= walk_loss * (1 + ROUNDING_TOLERANCE)
    text, limit_text = figure_and_limit(min(refit_loss, walk_loss) if passed else refit_loss, walk_loss)
    return [Check(name, f"at most {limit_text}, the walk's", text, passed)]


def baselines(context: CheckContext) -> Sequence[Check]:
    """The loss is lower than each baseline's; without a champion, this pays for the number of attempts."""
    names = sorted(name for name in context.evidence.losses.sums if name.startswith(BASELINE))
    alpha = context.gate.alpha
    if not context.has_champion:
        alpha = attempt_alpha(alpha, context.attempt)
    return [check_gain(context, name, alpha) for name in names or [BASELINE]]


def champion(context: CheckContext) -> Sequence[Check]:
    """The loss is lower than the champion's, at the level that is left for this attempt."""
    if not context.has_champion:
        return []
    alpha = attempt_alpha(context.gate.alpha, context.attempt)
    return [check_gain(context, CHAMPION, alpha, f"attempt {context.attempt}")]


SUFFICIENCY_CHECKS: dict[str, CheckFunction] = {
    "enough_partitions": enough_partitions,
    "unseen_partitions": unseen_partitions,
}
CHECKS: dict[str, CheckFunction] = {
    "requirements": requirements,
    "coverage": coverage,
    "single_feature": single_feature,
    "shuffled_labels": shuffled_labels,
    "past_attempts": past_attempts,
    "robustness": robustness,
    "serving": serving,
    "fairness": fairness,
    "slices": slices,
    "refit": refit,
    "baselines": baselines,
    "champion": champion,
}
