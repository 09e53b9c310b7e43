"""The gate: from evidence and policy to a verdict. It reads no ledger and no clock, and acts on nothing.

A challenger passes when there is evidence enough and every check of `include.judge.checks` lets it pass.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from include.judge import checks
from include.judge.context import Check, CheckContext
from include.judge.evidence import Evidence
from include.spec.gate import Gate

BLESSED = "blessed"
NOT_BLESSED = "not blessed"
NOT_ENOUGH = "not enough evidence"
RUBBER_STAMPED = "rubber-stamped"
FORCED = "forced"
PROMOTES = (BLESSED, RUBBER_STAMPED, FORCED)


@dataclass(frozen=True)
class Verdict:
    """What the gate says, in a word, in a sentence, and check by check."""

    verdict: str
    sentence: str
    checks: tuple[Check, ...]

    @property
    def promotes(self) -> bool:
        """Whether it lets the challenger replace the champion."""
        return self.verdict in PROMOTES

    def checks_json(self) -> str:
        """Return the checks as the ledger keeps them."""
        return json.dumps([asdict(check) for check in self.checks], allow_nan=False)


def checks_of(text: str) -> tuple[Check, ...]:
    """Read what `Verdict.checks_json` wrote."""
    return tuple(Check(**check) for check in json.loads(text))


def judge(evidence: Evidence, gate: Gate, attempt: int, *, champion: bool) -> Verdict:
    """Return the verdict on a challenger.

    Only the comparison with the champion is paid for by the attempts: all checks must pass together, so noise
    can't replace a model that serves unless it passes that one, however lucky it was with a baseline.

    Parameters
    ----------
    evidence : losses, metrics and facts on rows that neither model was fitted or tuned on.
    gate : the spec's policy.
    attempt : which attempt since the last promotion this is, from 1.
    champion : whether a champion serves, which the challenger then has to beat.
    """
    case = CheckContext(evidence, gate, attempt, champion or bool(evidence.champion))
    thin = [check for rule in checks.THIN.values() for check in rule(case)]
    if not all(check.passed for check in thin):
        left = [Check(name, "enough evidence", "not judged", None) for name in checks.RULES]
        return Verdict(NOT_ENOUGH, _sentence(NOT_ENOUGH, [c for c in thin if not c.passed]), (*thin, *left))
    found = {name: tuple(rule(case)) for name, rule in checks.RULES.items()}
    every = (*thin, *(check for some in found.values() for check in some))
    failed = [check for check in every if not check.passed]
    if failed:
        return Verdict(NOT_BLESSED, _sentence(NOT_BLESSED, failed), every)
    if case.rival:
        return Verdict(BLESSED, _sentence(BLESSED, found["champion"]), every)
    head = f"{RUBBER_STAMPED}: no champion to compare with"
    return Verdict(RUBBER_STAMPED, _sentence(head, found["baselines"]), every)


def _sentence(head: str, found: Sequence[Check]) -> str:
    return f"{head}: " + "; ".join(check.sentence() for check in found)
