"""The rollout policy: from live losses and the declared rules to a step forward, back, or neither.

Pure functions. The losses are looked at every ``look_every`` matured partitions, and the k-th look has its
share of alpha. So the chance of a wrong step stays as declared, however often a
partition is monitored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.evidence import CHALLENGER, CHAMPION, Losses
from include.promote.trials import WATCH
from include.spec.gate import Gate
from include.stats.intervals import estimate_gain, partitions_needed

FORWARD, BACK, STAY = "forward", "back", "stay"


@dataclass(frozen=True)
class RolloutStep:
    """The step to take, and why, in a sentence."""

    step: str
    reason: str


def next_step(kind: str, losses: Losses, served: int, gate: Gate) -> RolloutStep:
    """Return the step of the first look at the live losses that decides, or else whether to wait.

    Parameters
    ----------
    kind : of the trial. A watch has no step forward: it just ends.
    losses : of the candidate (`CHALLENGER`) and the incumbent (`CHAMPION`) on the trial's matured partitions,
        the same rows for both.
    served : partitions of the trial that have been scored, also those that one of the models couldn't score.
    """
    rules, matured = gate.rollout, len(losses.partitions)
    for look in range(1, matured // rules.look_every + 1):
        if step := _look(kind, losses, look, gate):
            return step
    if served >= rules.patience and kind != WATCH:
        return RolloutStep(BACK, f"undecided after {served} partitions, {matured} of them matured")
    return RolloutStep(STAY, f"{matured} of at least {_min_partitions(gate)} matured partitions")


def _look(kind: str, losses: Losses, look: int, gate: Gate) -> RolloutStep | None:
    """Return the step that one look at the first partitions decides, None if it decides nothing."""
    rules, count = gate.rollout, look * gate.rollout.look_every
    if count < partitions_needed(gate.block_partitions):
        return None
    level, rows = _look_alpha(rules.alpha, look), losses.rows[:count]
    candidate, incumbent = losses.sums[CHALLENGER][:count], losses.sums[CHAMPION][:count]
    basis = f"over {count} partitions, look {look}, level {1 - level:.6g}"
    worse = estimate_gain(candidate, incumbent, rows, gate.block_partitions, level)
    if worse.low > 0:
        return RolloutStep(BACK, f"loses {worse} more {gate.objective} a row than the incumbent {basis}")
    if kind == WATCH or count < _min_partitions(gate):
        return None
    margin = -rules.margin * _mean(incumbent, rows)
    better = estimate_gain(incumbent, candidate, rows, gate.block_partitions, level)
    if better.low > margin:
        text, bound = better.interval_and_limit(margin)
        return RolloutStep(FORWARD, f"{gate.objective} gain {text}, required > {bound} {basis}")
    return None


def _look_alpha(alpha: float, look: int) -> float:
    """Return the share of alpha of the k-th look: 6 alpha / (pi^2 k^2). All shares sum to alpha."""
    return 6 * alpha / (math.pi * look) ** 2


def _min_partitions(gate: Gate) -> int:
    return max(gate.rollout.partitions, partitions_needed(gate.block_partitions))


def _mean(sums: Sequence[float], rows: Sequence[int]) -> float:
    return sum(sums) / sum(rows)
