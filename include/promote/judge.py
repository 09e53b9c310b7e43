"""The gate: from evidence and policy to a verdict. It reads no ledger and no clock, and acts on nothing.

A challenger passes when there is evidence enough, when it reaches every requirement, and when its losses on
the same unseen rows are lower than each baseline's and the champion's by more than chance explains.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from include.promote.evidence import BASELINE, CHALLENGER, CHAMPION, Evidence
from include.promote.interval import gain, nights_needed
from include.spec.stages import Gate, Requirement

BLESSED = "blessed"
NOT_BLESSED = "not blessed"
NOT_ENOUGH = "not enough evidence"
RUBBER_STAMPED = "rubber-stamped"
FORCED = "forced"
PROMOTES = (BLESSED, RUBBER_STAMPED, FORCED)


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


def spent(alpha: float, attempt: int) -> float:
    """Return the share of alpha that the k-th attempt may spend: 6 alpha / (pi^2 k^2).

    The shares of all attempts sum to alpha, so a loop that retries until something passes promotes noise with
    a chance of at most alpha between two promotions, however long it runs.
    """
    if attempt < 1:
        raise ValueError(f"attempts are numbered from 1, found {attempt}")
    return 6 * alpha / (math.pi * attempt) ** 2


def judge(evidence: Evidence, gate: Gate, attempt: int, *, champion: bool) -> Verdict:
    """Return the verdict on a challenger.

    Only the comparison with the champion is paid for by the attempts: all checks must pass together, so noise
    can't replace a model that serves unless it passes that one, however lucky it was with a baseline.

    Parameters
    ----------
    evidence : losses and metrics on rows that neither model was fitted or tuned on.
    gate : the spec's policy.
    attempt : which attempt since the last promotion this is, from 1.
    champion : whether a champion serves, which the challenger then has to beat.
    """
    thin = [_enough(evidence, gate), _unseen(evidence)]
    judged = all(check.passed for check in thin)
    names = sorted(name for name in evidence.losses.sums if name.startswith(BASELINE))
    against = [_against(evidence, gate, name, gate.alpha, judged) for name in names or [BASELINE]]
    rival = champion or bool(evidence.champion)
    if rival:
        share = spent(gate.alpha, attempt)
        against.append(_against(evidence, gate, CHAMPION, share, judged, f"attempt {attempt}"))
    checks = (*thin, *(_reaches(evidence, rule) for rule in gate.requirements), *against)
    if not judged:
        return Verdict(NOT_ENOUGH, _sentence(NOT_ENOUGH, [c for c in thin if not c.passed]), checks)
    failed = [check for check in checks if not check.passed]
    if failed:
        return Verdict(NOT_BLESSED, _sentence(NOT_BLESSED, failed), checks)
    if rival:
        return Verdict(BLESSED, _sentence(BLESSED, [checks[-1]]), checks)
    head = f"{RUBBER_STAMPED}: no champion to compare with"
    return Verdict(RUBBER_STAMPED, _sentence(head, against), checks)


def _enough(evidence: Evidence, gate: Gate) -> Check:
    nights, needed = len(evidence.losses.nights), max(gate.min_partitions, nights_needed(gate.block))
    return Check("matured test nights", f"at least {needed}", str(nights), nights >= needed)


def _unseen(evidence: Evidence) -> Check:
    """Check that no test night was fitted or tuned on; a record that doesn't say so can't show it."""
    first = min(evidence.losses.nights, default="none")
    last = evidence.last_fitted
    required = f"after the last fitted one, {last or 'not stated'}"
    return Check("first test night", required, first, "" < last < first)


def _reaches(evidence: Evidence, rule: Requirement) -> Check:
    """Check one requirement; a figure that isn't there fails and says which are."""
    metrics = evidence.metrics.get(CHALLENGER, {})
    required = f"at least {rule.at_least:g}" if rule.at_least is not None else f"at most {rule.at_most:g}"
    if rule.metric not in metrics:
        there = ", ".join(sorted(metrics)) or "none"
        return Check(rule.metric, required, "missing", False, f"the evaluation has {there}")
    value = metrics[rule.metric]
    low = -math.inf if rule.at_least is None else rule.at_least
    high = math.inf if rule.at_most is None else rule.at_most
    reached = math.isfinite(value) and low <= value <= high
    return Check(rule.metric, required, f"{value:.4g}", bool(reached))


def _against(evidence: Evidence, gate: Gate, name: str, alpha: float, judged: bool, note: str = "") -> Check:
    """Check that the challenger loses less than another model, by more than chance explains."""
    losses, label = evidence.losses, name.replace(":", " ").strip()
    if name == CHAMPION:
        label = f"{CHAMPION} {evidence.champion[:8]}".strip()
    title = f"{gate.objective} gain over {label}"
    if name not in losses.sums:
        failed = False if judged else None
        return Check(
            title, "its losses on the same rows", "missing", failed, evidence.note or "evaluate again"
        )
    least = gate.min_gain * sum(losses.sums[name]) / sum(losses.rows) if name == CHAMPION and judged else 0.0
    required = f"> {least:.4g} at level {1 - alpha:.6g}"
    if not judged:
        return Check(title, required, "not judged", None, note)
    shown = gain(losses.sums[name], losses.sums[CHALLENGER], losses.rows, gate.block, alpha)
    return Check(title, required, str(shown), bool(shown.low > least), note)


def _sentence(head: str, checks: list[Check]) -> str:
    return f"{head}: " + "; ".join(check.sentence() for check in checks)
