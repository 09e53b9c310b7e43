"""What a check sees, what it says, and the two questions that most of them ask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from include.judge.evidence import CHALLENGER, CHAMPION, Evidence
from include.spec.gate import Gate, Requirement
from include.stats.formatting import figure_and_limit
from include.stats.intervals import estimate_gain

AGAIN = "evaluate again"


@dataclass(frozen=True)
class Check:
    """One thing that was asked: ``passed`` is None where the evidence was too thin to answer."""

    name: str
    required: str
    found: str
    passed: bool | None
    note: str = ""

    def sentence(self) -> str:
        """Return what was found beside what was required."""
        text = f"{self.name} {self.found}, required {self.required}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class CheckContext:
    """What a check sees.

    Parameters
    ----------
    attempt : which attempt since the last promotion this is, from 1.
    rival : whether there is a champion, which the challenger has to beat.
    """

    evidence: Evidence
    gate: Gate
    attempt: int
    rival: bool


Rule = Callable[[CheckContext], Sequence[Check]]


def attempt_alpha(alpha: float, attempt: int) -> float:
    """Return the share of alpha that the k-th attempt may spend: 6 alpha / (pi^2 k^2).

    The shares of all attempts sum to alpha, so a loop that retries until something passes promotes noise with
    a chance of at most alpha between two promotions, however long it runs.
    """
    if attempt < 1:
        raise ValueError(f"attempts are numbered from 1, found {attempt}")
    return 6 * alpha / (math.pi * attempt) ** 2


def required(rule: Requirement, value: float | None) -> tuple[str, str]:
    """Return a figure as text, and what is required of it."""
    side, limit = ("at most", rule.at_most) if rule.at_least is None else ("at least", rule.at_least)
    assert limit is not None  # a requirement has one of the two
    if value is None:
        return "missing", f"{side} {limit:g}"
    whole = len(f"{abs(value):.0f}")  # digits before the point: thousands are not 1e+03
    text, bound = figure_and_limit(value, limit, max(whole, 4))
    return text, f"{side} {bound}"


def check_requirement(figures: Mapping[str, float], rule: Requirement, of: str = "") -> Check:
    """Check one requirement against the figures that there are."""
    name, value = f"{of}{rule.metric}", figures.get(rule.metric)
    text, bound = required(rule, value)
    if value is None:
        there = ", ".join(sorted(figures)) or "none"
        return Check(name, bound, text, False, f"the evaluation has {there}")
    low = -math.inf if rule.at_least is None else rule.at_least
    high = math.inf if rule.at_most is None else rule.at_most
    return Check(name, bound, text, bool(math.isfinite(value) and low <= value <= high))


def check_gain(case: CheckContext, name: str, alpha: float, note: str = "") -> Check:
    """Check that the challenger loses less than another model, by more than chance explains."""
    evidence, gate, losses = case.evidence, case.gate, case.evidence.losses
    label = name.replace(":", " ").strip()
    if name == CHAMPION:
        label = f"{CHAMPION} {evidence.champion[:8]}".strip()
    title = f"{gate.objective} gain over {label}"
    if name not in losses.sums:
        return Check(title, "its losses on the same rows", "missing", False, evidence.note or AGAIN)
    least = gate.min_gain * sum(losses.sums[name]) / sum(losses.rows) if name == CHAMPION else 0.0
    shown = estimate_gain(
        losses.sums[name], losses.sums[CHALLENGER], losses.rows, gate.block_partitions, alpha
    )
    text, bound = shown.interval_and_limit(least)
    return Check(title, f"> {bound} at level {1 - alpha:.6g}", text, bool(shown.low > least), note)
