"""The input and the result of a gate check, and the comparison that most checks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from include.judge.evidence import Evidence
from include.spec.gate import Gate, Requirement
from include.stats.formatting import figure_and_limit

EVALUATE_AGAIN = "clear `evaluate.measure` in Airflow to evaluate again"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Parameters
    ----------
    name : what was measured.
    passed : None if there was too little evidence to run it.
    blocking : whether the challenger is rejected if it fails; otherwise a failure is only reported.
    key : the name of the check's function in its registry, which `include.judge.judge.judge` adds.
    """

    name: str
    required: str
    observed: str
    passed: bool | None
    note: str = ""
    blocking: bool = True
    key: str = ""

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
    has_champion : whether there is a champion.
    """

    evidence: Evidence
    gate: Gate
    has_champion: bool


CheckFunction = Callable[[CheckContext], Sequence[Check]]


def requirement_text(requirement: Requirement, value: float | None) -> tuple[str, str]:
    """Return a value and its declared limit as text."""
    side, limit = requirement.side, requirement.limit
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
    passed = bool(math.isfinite(value) and requirement.is_met(value))
    return Check(name, limit_text, text, passed, blocking=requirement.hard)
