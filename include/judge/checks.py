"""The gate's checks, each a pure function that can refuse by itself; `judge` asks every one of them.

A check whose figure is missing fails. Disabling one makes a test fail: tests/judge/test_mutations.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from include.judge.context import (
    AGAIN,
    Check,
    CheckContext,
    Rule,
    attempt_alpha,
    check_gain,
    check_requirement,
)
from include.judge.evidence import BASELINE, CHALLENGER, CHAMPION, Slice
from include.spec.gate import Gate
from include.stats.formatting import figure_and_limit
from include.stats.intervals import Gain, estimate_gain, partitions_needed

EARLIER = 3  # attempts, from which on a model can be too good against its own history
ALONE, NOISE = "strongest single feature", "gain of shuffled labels over the prior"
SAVED = "share of the prior's loss that is saved"
# Test rows of a class, below which no feature is said to decide it alone. One misplaced row of 50 moves the
# ROC-AUC by at most 0.02. An honest feature of 0.95 reaches 0.98 in 4 of 1000 draws of 50 rows, in 250 of 6.
LEAST_ROWS = 50
LEAKS = (ALONE, NOISE, SAVED)  # names of the checks that see whether it is too good to be true
SLACK = 1e-9  # of a loss that is compared with itself on the same rows, for the order of its sum


def enough(case: CheckContext) -> Sequence[Check]:
    """Enough matured test partitions."""
    partitions = len(case.evidence.losses.partitions)
    needed = max(case.gate.min_partitions, partitions_needed(case.gate.block_partitions))
    return [Check("matured test partitions", f"at least {needed}", str(partitions), partitions >= needed)]


def unseen(case: CheckContext) -> Sequence[Check]:
    """No test partition was fitted or tuned on; a record that doesn't say so can't show it."""
    first = min(case.evidence.losses.partitions, default="none")
    last = case.evidence.last_fitted
    required = f"after the last fitted one, {last or 'not stated'}"
    return [Check("first test partition", required, first, "" < last < first)]


def requirements(case: CheckContext) -> Sequence[Check]:
    """Every declared figure is reached; one that isn't there fails and says which are."""
    metrics = case.evidence.metrics.get(CHALLENGER, {})
    return [check_requirement(metrics, rule) for rule in case.gate.requirements]


def baselines(case: CheckContext) -> Sequence[Check]:
    """It loses less than each baseline; the attempts are paid for here where there is no champion to beat."""
    names = sorted(name for name in case.evidence.losses.sums if name.startswith(BASELINE))
    level = case.gate.alpha if case.rival else attempt_alpha(case.gate.alpha, case.attempt)
    return [check_gain(case, name, level) for name in names or [BASELINE]]


def champion(case: CheckContext) -> Sequence[Check]:
    """It loses less than the champion, at the level that is left for this attempt."""
    if not case.rival:
        return []
    share = attempt_alpha(case.gate.alpha, case.attempt)
    return [check_gain(case, CHAMPION, share, f"attempt {case.attempt}")]


def slices(case: CheckContext) -> Sequence[Check]:
    """No slice is shown to lose more than it did with the rival, beyond the tolerance."""
    found, rules = case.evidence.facts.slices, case.gate.slices
    required = f"none that loses {100 * rules.tolerance:.4g} % more than with {case.evidence.facts.rival}"
    if found is None:
        return [Check("slices", required, "missing", False, AGAIN)]
    judged = [part for part in found if judgeable(part, case.gate)]
    there = {part.name.split(" ")[0] for part in judged if part.declared}
    lost = [column for column in rules.columns if column not in there]
    if lost:
        return [Check("slices", f"of {', '.join(rules.columns)}", f"none of {', '.join(lost)}", False)]
    worse = [
        (part, shown)
        for part in judged
        if (shown := _worse(part, case.gate, among(part, judged))) is not None
    ]
    text = "; ".join(_loses_more(part, shown, case.gate) for part, shown in worse[:5])
    return [Check("slices", required, text or f"none of {len(judged)}", not worse)]


def fairness(case: CheckContext) -> Sequence[Check]:
    """Every declared difference between groups is within its bound."""
    rules = case.gate.fairness
    if rules is None:
        return []
    found = {one.column: one for one in case.evidence.facts.fairness}
    checks = []
    for column in rules.columns:
        figures = found[column].figures if column in found else {}
        checks += [check_requirement(figures, rule, f"{column} ") for rule in rules.requirements]
    return checks


def robustness(case: CheckContext) -> Sequence[Check]:
    """Nothing crashes it, and no harm to one feature costs more than declared."""
    cases, most = case.evidence.facts.edge_cases, case.gate.robustness
    if not cases:
        return [Check("edge cases", "measured", "missing", False, AGAIN)]
    broke = [f"{one.name}: {one.note}" for one in cases if not one.held]
    held = f"{len(cases) - len(broke)} of {len(cases)}"
    holds = Check("edge cases that hold", "all", "; ".join([held, *broke[:3]]), not broke)
    if most is None:
        return [holds]
    rises = {one.name: one.rise for one in cases if one.rise is not None}
    name = max(rises, key=lambda case: rises[case], default="none was measured")
    rise, risen = rises.get(name, math.inf), "rise of the loss in the worst edge case"
    text, bound = figure_and_limit(rise, most)
    return [holds, Check(risen, f"at most {bound}", text, rise <= most, name)]


def serving(case: CheckContext) -> Sequence[Check]:
    """A fresh process predicts the same to the bit, and as fast as declared."""
    found = case.evidence.facts.serving
    if found is None:
        return [Check("a fresh process", "predicts the same", "missing", False, AGAIN)]
    same = Check(
        "a fresh process", "predicts the same", "the same" if found.same else "not", found.same, found.note
    )
    return [same, *(check_requirement(found.figures, rule) for rule in case.gate.serving)]


def decided_alone(case: CheckContext) -> Sequence[Check]:
    """No feature alone nearly decides the label."""
    leak, most = case.evidence.facts.leak, case.gate.leak.alone
    off = most == 1  # no figure is above 1, so as a bound it would refuse what no other bound lets pass
    classes = sorted(leak.too_few.items())
    rows = [f"{name}, with {count} of at least {LEAST_ROWS} rows" for name, count in classes]
    few = f"not judged for {', '.join(rows)}" if rows else ""
    anything = "any, since gate.leak.alone is 1"
    if not leak.alone:
        required = anything if off else f"below {most:g}"
        return [Check(ALONE, required, "not judged" if few else "missing", bool(few), few or AGAIN)]
    name = max(leak.alone, key=lambda feature: leak.alone[feature])
    value = leak.alone[name]
    text, bound = figure_and_limit(value, most)
    passed = off or value < most
    remedy = "remove it from features in usecase.yaml if it tells what came after the decision, "
    remedy += "else raise gate.leak.alone; 1 switches this check off"
    note = "; ".join(part for part in (name, "" if passed else remedy, few) if part)
    return [Check(ALONE, anything if off else f"below {bound}", text, passed, note)]


def learns_from_noise(case: CheckContext) -> Sequence[Check]:
    """Fitted on shuffled labels the recipe is no better than the prior."""
    losses, kept = case.evidence.losses, case.evidence.facts.leak.shuffled
    prior = losses.sums.get(f"{BASELINE}prior")
    if len(kept) != len(losses.partitions) or prior is None:
        found = "missing" if prior is not None else "no baseline named prior"
        return [Check(NOISE, "not shown to be > 0", found, False, AGAIN)]
    shown = estimate_gain(prior, kept, losses.rows, case.gate.block_partitions, case.gate.alpha)
    return [Check(NOISE, "not shown to be > 0", str(shown), shown.low <= 0)]


def history(case: CheckContext) -> Sequence[Check]:
    """It doesn't save far more of the prior's loss than any attempt before it."""
    leak, times = case.evidence.facts.leak, case.gate.leak.history
    if leak.saved is None:
        return [Check(SAVED, "measured", "missing", False, AGAIN)]
    if len(leak.history) < EARLIER:
        note = f"{len(leak.history)} earlier attempts, judged from {EARLIER} on"
        return [Check(SAVED, "not far above history", f"{leak.saved:.4g}", True, note)]
    odds = times * max(_odds(share) for share in leak.history)
    most = odds / (1 + odds)
    text, bound = figure_and_limit(leak.saved, most)
    required = f"at most {bound}, {times:g} times the best odds before"
    return [Check(SAVED, required, text, leak.saved <= most)]


def _odds(share: float) -> float:
    """Return what was saved over what was left, at least 0.1, so that a weak past forbids no progress."""
    return max(share / max(1 - share, SLACK), 0.1)


def coverage(case: CheckContext) -> Sequence[Check]:
    """What is scored was fitted on: categories and ranges."""
    found, most = case.evidence.facts.coverage, case.gate.coverage
    if not found:
        return [Check("rows of values never fitted on", f"at most {most:g}", "missing", False, AGAIN)]
    name = max(found, key=lambda feature: found[feature])
    text, bound = figure_and_limit(found[name], most)
    return [Check("rows of values never fitted on", f"at most {bound}", text, found[name] <= most, name)]


def refit(case: CheckContext) -> Sequence[Check]:
    """The model that a walk forward deploys has seen these rows, so it is no worse on them than the walk."""
    if case.gate.evidence == "held_out":
        return []
    found, losses = case.evidence.facts.refit, case.evidence.losses
    walked = sum(losses.sums[CHALLENGER]) / sum(losses.rows)
    if found is None:
        required = f"at most {walked:.4g}, the walk's"
        return [Check("loss of the refitted model", required, "missing", False, "train again")]
    passed = found <= walked * (1 + SLACK)
    text, bound = figure_and_limit(min(found, walked) if passed else found, walked)
    return [Check("loss of the refitted model", f"at most {bound}, the walk's", text, passed)]


THIN: dict[str, Rule] = {"enough": enough, "unseen": unseen}
RULES: dict[str, Rule] = {
    "requirements": requirements,
    "coverage": coverage,
    "decided_alone": decided_alone,
    "learns_from_noise": learns_from_noise,
    "history": history,
    "robustness": robustness,
    "serving": serving,
    "fairness": fairness,
    "slices": slices,
    "refit": refit,
    "baselines": baselines,
    "champion": champion,
}


def judgeable(part: Slice, gate: Gate) -> bool:
    """Tell whether a slice has enough rows, on enough partitions.

    On two blocks of them nothing can be shown.
    """
    partitions = sum(rows > 0 for rows in part.rows)
    enough = min(len(part.rows), 2 * partitions_needed(gate.block_partitions))
    return sum(part.rows) >= gate.slices.min_rows and partitions >= enough


def among(part: Slice, judged: Sequence[Slice]) -> int:
    """Return among how many slices one shares alpha: declared and automatic ones have half of it each.

    Where there is but one of the two kinds it has all of it.
    """
    kinds = len({one.declared for one in judged})
    return kinds * sum(one.declared == part.declared for one in judged)


def harm(part: Slice, gate: Gate, among: int) -> Gain:
    """Return how much more a slice loses than before; ``among`` so many the gate's alpha is shared."""
    partitions = [i for i, rows in enumerate(part.rows) if rows]
    rows = [part.rows[i] for i in partitions]
    now, then = ([values[i] for i in partitions] for values in (part.challenger, part.rival))
    return estimate_gain(now, then, rows, gate.block_partitions, gate.alpha / among)


def _worse(part: Slice, gate: Gate, among: int) -> Gain | None:
    """Return by how much a slice loses more than before, where that is shown to be beyond the tolerance."""
    shown = harm(part, gate, among)
    return shown if shown.low > _tolerated(part, gate) else None


def _tolerated(part: Slice, gate: Gate) -> float:
    """Return how much more a slice may lose a row."""
    return gate.slices.tolerance * sum(part.rival) / sum(part.rows)


def _loses_more(part: Slice, shown: Gain, gate: Gate) -> str:
    text, bound = shown.interval_and_limit(_tolerated(part, gate))
    return f"{part.name} loses {text} more, tolerated {bound}"
