"""The input and the result of a gate check, and the two comparisons that most checks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from include.judge.evidence import CHALLENGER, CHAMPION, Evidence
from include.spec.gate import Gate, Requirement
from include.stats.formatting import figure_and_limit
from include.stats.intervals import estimate_gain

EVALUATE_AGAIN = "evaluate again"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Parameters
    ----------
    passed : None if there was too little evidence to run it.
    blocking : whether the challenger is rejected if it fails; otherwise a failure is only reported.
    """

    name: str
    required: str
    observed: str
    passed: bool | None
    note: str = ""
    blocking: bool = True

    @property
    def outcome(self) -> str:
        """The result in words."""
        if self.passed is None:
            return "not judged"
        return "passed" if self.passed else "failed" if self.blocking else "not met (not blocking)"

    def sentence(self) -> str:
        """Return the observed value and the required one as a sentence."""
        text = f"{self.name} {self.observed}, required {self.required}"
        return f"{text} ({self.note})" if self.note else text


@dataclass(frozen=True)
class CheckContext:
    """Everything that a check may use.

    Parameters
    ----------
    attempt : number of attempts since the last promotion, this one included; starts at 1.
    has_champion : whether there is a champion that the challenger must beat.
    """

    evidence: Evidence
    gate: Gate
    attempt: int
    has_champion: bool


CheckFunction = Callable[[CheckContext], Sequence[Check]]


def attempt_alpha(alpha: float, attempt: int) -> float:
    """Return the share of alpha that the k-th attempt may spend: 6 alpha / (pi^2 k^2).

    The shares of all attempts sum to alpha. A loop that retries until something passes therefore promotes
    noise with a probability of at most alpha between two promotions, however long it runs.
    """
    if attempt < 1:
        raise ValueError(f"attempts are numbered from 1, found {attempt}")
    return 6 * alpha / (math.pi * attempt) ** 2


def requirement_text(requirement: Requirement, value: float | None) -> tuple[str, str]:
    """Return a value and its declared limit as text."""
    side, limit = (
        ("at most", requirement.at_most)
        if requirement.at_least is None
        else ("at least", requirement.at_least)
    )
    assert limit is not None  # a requirement has exactly one of the two
    if value is None:
        return "missing", f"{side} {limit:g}"
    integer_digits = len(f"{abs(value):.0f}")  # so that thousands aren't printed as 1e+03
    text, limit_text = figure_and_limit(value, limit, max(integer_digits, 4))
    return text, f"{side} {limit_text}"


def check_requirement(figures: Mapping[str, float], requirement: Requirement, prefix: str = "") -> Check:
    """Check a declared requirement against the measured figures; a missing figure fails.

    Only a hard requirement is blocking.
    """
    name, value = f"{prefix}{requirement.metric}", figures.get(requirement.metric)
    text, limit_text = requirement_text(requirement, value)
    if value is None:
        available = ", ".join(sorted(figures)) or "none"
        note = f"the evaluation has {available}"
        return Check(name, limit_text, text, False, note, blocking=requirement.hard)
    low = -math.inf if requirement.at_least is None else requirement.at_least
    high = math.inf if requirement.at_most is None else requirement.at_most
    passed = bool(math.isfinite(value) and low <= value <= high)
    return Check(name, limit_text, text, passed, blocking=requirement.hard)


def check_gain(context: CheckContext, model: str, alpha: float, note: str = "") -> Check:
    """Check that the challenger has a lower loss than another model, by more than chance explains."""
    evidence, gate, losses = context.evidence, context.gate, context.evidence.losses
    label = model.replace(":", " ").strip()
    if model == CHAMPION:
        label = f"{CHAMPION} {evidence.champion[:8]}".strip()
    name = f"{gate.objective} gain over {label}"
    if model not in losses.sums:
        return Check(name, "its losses on the same rows", "missing", False, evidence.note or EVALUATE_AGAIN)
    min_gain = gate.min_gain * sum(losses.sums[model]) / sum(losses.rows) if model == CHAMPION else 0.0
    gain = estimate_gain(
        losses.sums[model], losses.sums[CHALLENGER], losses.rows, gate.block_partitions, alpha
    )
    text, limit_text = gain.interval_and_limit(min_gain)
    return Check(name, f"> {limit_text} at level {1 - alpha:.6g}", text, bool(gain.low > min_gain), note)
