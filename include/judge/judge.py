"""The gate: a pure function from evidence and policy to a verdict. It reads no ledger and no clock.

A challenger is blessed if there is enough evidence and every blocking check in `include.judge.checks` passes.
A failed check that isn't blocking is named in the sentence. So are features that look like a leak before
there is enough evidence to judge them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from include.judge import checks
from include.judge.context import Check, CheckContext, CheckFunction
from include.judge.evidence import Evidence
from include.spec.gate import Gate

BLESSED = "blessed"
NOT_BLESSED = "not blessed"
NOT_ENOUGH = "not enough evidence"
RUBBER_STAMPED = "rubber-stamped"
FORCED = "forced"
PROMOTES = (BLESSED, RUBBER_STAMPED)  # unless a person has to approve it


@dataclass(frozen=True)
class Verdict:
    """The gate's decision: the verdict, a sentence that explains it, and the result of every check."""

    verdict: str
    sentence: str
    checks: tuple[Check, ...]

    @property
    def promotes(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.verdict in PROMOTES

    def checks_json(self) -> str:
        """Return the checks as JSON, as stored in the ledger."""
        return json.dumps([asdict(check) for check in self.checks], allow_nan=False)


def checks_of(text: str) -> tuple[Check, ...]:
    """Parse the output of `Verdict.checks_json`."""
    return tuple(Check(**check) for check in json.loads(text))


def judge(
    evidence: Evidence,
    gate: Gate,
    *,
    champion: bool,
    custom: Mapping[str, CheckFunction] = MappingProxyType({}),
) -> Verdict:
    """Return the verdict on a challenger.

    Parameters
    ----------
    evidence : losses, metrics and facts; see `include.evaluate.pipeline` for whose predictions they are of.
    gate : the spec's policy.
    champion : whether a champion is live.
    custom : the use case's custom checks by name, from `include.judge.custom_checks`.
    """
    functions = {**checks.CHECKS, **custom}
    context = CheckContext(evidence, gate, champion or bool(evidence.champion))
    sufficiency = _run(checks.SUFFICIENCY_CHECKS, context)
    if insufficient := [check for check in sufficiency if not check.passed]:
        leaks = checks.suspected_leaks(context)
        skipped = [
            replace(leaks.get(key) or Check(key, "enough evidence", "not judged", None), key=key)
            for key in functions
        ]
        warning = f"; {_sentence('warning', list(leaks.values()))}" if leaks else ""
        sentence = _sentence(NOT_ENOUGH, insufficient) + warning
        return Verdict(NOT_ENOUGH, sentence, (*sufficiency, *skipped))
    all_checks = (*sufficiency, *_run(functions, context))
    failed = [check for check in all_checks if not check.passed]
    if blocking := [check for check in failed if check.blocking]:
        return Verdict(NOT_BLESSED, _sentence(NOT_BLESSED, blocking), all_checks)
    not_met = f"; {_sentence('not met', failed)}" if failed else ""
    if context.has_champion:
        return Verdict(BLESSED, f"{BLESSED}: {evidence.selection.get('reason', '')}{not_met}", all_checks)
    head = f"{RUBBER_STAMPED}: no champion to compare with"
    return Verdict(RUBBER_STAMPED, f"{head}: {evidence.selection.get('reason', '')}{not_met}", all_checks)


def _run(functions: Mapping[str, CheckFunction], context: CheckContext) -> list[Check]:
    return [replace(check, key=key) for key, function in functions.items() for check in function(context)]


def _sentence(head: str, reasons: Sequence[Check]) -> str:
    return f"{head}: " + "; ".join(check.sentence() for check in reasons)
