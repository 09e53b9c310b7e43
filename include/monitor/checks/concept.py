"""Concept drift: whether the champion's loss exceeds the loss that its own predictions imply.

A probability implies an expected loss, so rows that are merely harder raise no alarm, but labels that follow
another rule do. A regression is expected to lose what it lost on the gate's test partitions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from include.judge.evidence import CHALLENGER
from include.models import outputs
from include.monitor.checks.degradation import (
    UNPAIRED_FACTOR,
    look_alpha,
    look_window,
    promotion_test_rows,
)
from include.monitor.context import PartitionContext
from include.monitor.findings import Finding, Outcome
from include.monitor.losses import LossSeries, expected_own_loss
from include.spec import UseCase
from include.stats.formatting import figure_and_limit
from include.stats.intervals import mean_and_variance, partitions_needed
from include.stats.metrics import row_losses
from include.storage.lake import Lake

Array = NDArray[np.float64]
MAX_RATIO = 1e100  # of loss to expectation, so that it stays finite
BETS = (0.25, 0.5, 1.0)  # shares of the stake; the mixture detects small and large changes


def check_concept(context: PartitionContext) -> list[Finding]:
    """Check the champion's losses, as known on the partition, against its own expectation."""
    champion, live, spec = context.champion, context.losses, context.spec
    if champion is None or live is None:
        return []
    lasting = check_lasting_loss(spec, live, _gate_losses(context.lake, spec, champion))
    return [lasting, check_calibration(spec, live)] if spec.problem.kind == "binary" else [lasting]


def check_calibration(spec: UseCase, live: LossSeries) -> Finding:
    """Judge the observed rate minus the predicted rate, in [-1, 1], with the partitions as the sample.

    It is judged on the same looks as the losses: see `include.monitor.checks.degradation`.
    """
    look, subject = look_window(spec, live, UNPAIRED_FACTOR), "calibration"
    partitions = live.partitions[look]
    if not partitions:
        return Finding("concept", subject, None, None, "not enough", _too_few(live))
    block = UNPAIRED_FACTOR * spec.gate.block_partitions
    difference = mean_and_variance(live.observed[look] - live.predicted[look], live.rows[look], block)
    reach = float(stdtrit(difference.blocks - 1, 1 - look_alpha(spec) / 2)) * math.sqrt(difference.variance)
    outcome: Outcome = "alarm" if abs(difference.mean) > reach else "ok"
    figure, bound = figure_and_limit(abs(difference.mean), reach, 4, "{:.#f}")
    sign = "-" if difference.mean < 0 else "+"
    note = f"the observed rate minus the predicted rate is {sign}{figure} over {len(partitions)} matured"
    note += f" partitions, {partitions[0]} to {partitions[-1]}; chance explains up to {bound}"
    return Finding("concept", subject, difference.mean, reach, outcome, note)


def check_lasting_loss(spec: UseCase, live: LossSeries, gate: tuple[Array, Array] | None) -> Finding:
    """Judge whether the loss lastingly exceeds its expectation, by a sequential test on blocks of partitions.

    Parameters
    ----------
    gate : the loss on the gate's test partitions and the loss expected there, by partition, each of shape
        (n,); None if their rows are gone.

    Notes
    -----
    A block's ratio is its loss over its expectation. The upper bound of the gate's own ratio counts as no
    change; the bound may be wrong with half of ``monitoring.false_alarms_per_year``. Then a bet on a larger
    ratio, 1 - b + b * ratio / bound, has a mean of at most 1 on each block, whatever the distribution
    (Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by betting). The sum of the
    bets that begin on every block, R = (R + 1) * bet, minus the number of blocks is a supermartingale. So it
    reaches n / q within n blocks with a chance of at most q (Shin, Ramdas and Rinaldo 2024, E-detectors: a
    nonparametric framework for sequential change detection). This requires independent blocks, hence blocks
    of `gate.block_partitions` partitions. tests/monitor/test_concept.py counts the false alarms where
    partitions resemble each other.
    """
    block, chance = spec.gate.block_partitions, spec.monitoring.false_alarms_per_year / 2
    subject, limit = f"{spec.gate.objective} against its expectation", 365 / block / chance
    if gate is None or len(gate[0]) < partitions_needed(block):
        note = "the rows of the gate's test partitions are gone or too few"
        return Finding("concept", subject, None, limit, "not enough", note)
    ratios = _block_ratios(spec, live)
    if not len(ratios) or not all(part.sum() > 0 for part in gate):
        note = (
            _too_few(live)
            if not len(ratios)
            else "the model's loss or its expectation is 0 on the gate's partitions"
        )
        return Finding("concept", subject, None, limit, "not enough", note)
    bound = max_loss_ratio(spec, gate)
    stake = float(e_detector(ratios / bound, 10 * limit)[-1])
    outcome: Outcome = "alarm" if stake >= limit else "ok"
    note = (
        f"loss over expectation is {ratios[-1]:.3f} on the last {block} matured partitions, expected at most "
        f"{bound:.3f} by the gate; "
    )
    text, alarm = figure_and_limit(stake, limit, 3)
    note += (
        f"the evidence for a change after {len(ratios) * block} partitions is {text}, an alarm from {alarm}"
    )
    return Finding("concept", subject, stake, limit, outcome, note)


def max_loss_ratio(spec: UseCase, gate: tuple[Array, Array]) -> float:
    """Return the ratio of loss to expectation that still counts as no change: the gate's upper bound."""
    ratio = mean_and_variance(*gate, spec.gate.block_partitions)
    chance = spec.monitoring.false_alarms_per_year / 2
    return ratio.mean + float(stdtrit(ratio.blocks - 1, 1 - chance)) * math.sqrt(ratio.variance)


def _block_ratios(spec: UseCase, live: LossSeries) -> Array:
    """Return the ratio of loss to expectation of each full block of partitions, oldest first."""
    block, full = spec.gate.block_partitions, len(live.partitions) // spec.gate.block_partitions
    series = (live.loss, _expected(spec, live.expected, live.rows))
    loss, expected = (values[: full * block].reshape(full, block).sum(axis=1) for values in series)
    # a model that is certain of each row expects no loss
    ratios = np.minimum(loss / np.maximum(expected, 1 / MAX_RATIO), MAX_RATIO)
    return np.where(loss > 0, ratios, np.where(expected > 0, 0.0, 1.0))


def e_detector(ratios: Array, max_stake: float = MAX_RATIO) -> Array:
    """Return the e-detector's value after each ratio; without a change the ratios' mean is at most 1.

    Parameters
    ----------
    max_stake : a larger one would keep the alarm on for years after a single block.
    """
    values, stakes = np.empty(len(ratios)), np.zeros(len(BETS))
    for place, ratio in enumerate(ratios):
        stakes = np.minimum((stakes + 1) * (1 + np.array(BETS) * (ratio - 1)), max_stake)
        values[place] = stakes.mean()
    return values


def _expected(spec: UseCase, own: Array, rows: Array) -> Array:
    """Return the partitions' expected losses up to a constant factor; a regression's are its rows."""
    return rows if spec.problem.kind == "regression" else own


def _gate_losses(lake: Lake, spec: UseCase, champion: Mapping[str, Any]) -> tuple[Array, Array] | None:
    """Return loss and expectation by partition of the evidence that promoted a champion, None if gone."""
    rows = promotion_test_rows(lake, champion)
    if rows is None:
        return None
    predicted = outputs.from_single_column(rows[CHALLENGER])
    losses = row_losses(spec.gate.objective, rows["actual"].to_numpy(), predicted)
    keys = np.array(rows["partition"].to_pylist())
    partitions = [np.flatnonzero(keys == key) for key in sorted(set(keys))]
    own = [expected_own_loss(spec, predicted[places]) or 0.0 for places in partitions]
    sizes = np.array([len(places) for places in partitions], dtype=float)
    return np.array([losses[places].sum() for places in partitions]), _expected(spec, np.array(own), sizes)


def _too_few(live: LossSeries) -> str:
    return f"{len(live.partitions)} partitions of this champion have matured"
