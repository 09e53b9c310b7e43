"""The step of a trial: from live losses and the declared rules to forward, back or neither, and no act.

The losses are looked at every so many matured partitions, and the k-th look may spend its share of alpha, as
the gate's attempts do: however often a partition is monitored, a wrong step is as rare as declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.context import attempt_alpha
from include.judge.evidence import CHALLENGER, CHAMPION, Losses
from include.promote.trials import WATCH_ROLE
from include.spec.gate import Gate
from include.stats.intervals import estimate_gain, partitions_needed

FORWARD, BACK, STAY = "forward", "back", "stay"


@dataclass(frozen=True)
class RolloutStep:
    """What is to be done, and why, in a sentence."""

    step: str
    reason: str


def next_step(kind: str, losses: Losses, served: int, gate: Gate) -> RolloutStep:
    """Return the first step that the looks at the live losses ask for.

    Parameters
    ----------
    kind : of the trial. A watch has no step forward: when it is over nothing follows.
    losses : of the candidate (`CHALLENGER`) and the incumbent (`CHAMPION`) on the trial's matured partitions,
        the same rows for both.
    served : partitions of the trial that have been scored, whether both models could score them or not.
    """
    rules, matured = gate.rollout, len(losses.partitions)
    for look in range(1, matured // rules.look_every + 1):
        if found := _look(kind, losses, look, gate):
            return found
    least = _partitions(gate)
    if served >= rules.patience and kind != WATCH_ROLE:
        return RolloutStep(BACK, f"undecided after {served} partitions, {matured} of them matured")
    return RolloutStep(STAY, f"{matured} of at least {least} matured partitions")


def _partitions(gate: Gate) -> int:
    return max(gate.rollout.partitions, partitions_needed(gate.block_partitions))


def _look(kind: str, losses: Losses, look: int, gate: Gate) -> RolloutStep | None:
    """Return what one look at the first partitions asks for, if anything."""
    rules, count = gate.rollout, look * gate.rollout.look_every
    if count < partitions_needed(gate.block_partitions):
        return None
    level, rows = attempt_alpha(rules.alpha, look), losses.rows[:count]
    new, old = losses.sums[CHALLENGER][:count], losses.sums[CHAMPION][:count]
    over = f"over {count} partitions, look {look}, level {1 - level:.6g}"
    worse = estimate_gain(new, old, rows, gate.block_partitions, level)
    if worse.low > 0:
        return RolloutStep(BACK, f"loses {worse} more {gate.objective} a row than the incumbent {over}")
    if kind == WATCH_ROLE or count < _partitions(gate):
        return None
    margin = -rules.margin * _mean(old, rows)
    better = estimate_gain(old, new, rows, gate.block_partitions, level)
    if better.low > margin:
        text, bound = better.interval_and_limit(margin)
        return RolloutStep(FORWARD, f"{gate.objective} gain {text}, required > {bound} {over}")
    return None


def _mean(sums: Sequence[float], rows: Sequence[int]) -> float:
    return sum(sums) / sum(rows)
