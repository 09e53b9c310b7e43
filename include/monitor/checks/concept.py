"""Whether what is predicted still means what it meant: the loss beside what the model expected of itself.

A probability says how much it expects to lose, so harder rows alone are no alarm; labels that follow another
rule are. A regression expects what it lost on the gate's test partitions.
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
from include.monitor.checks.degradation import WIDE, look_alpha, look_window, promotion_test_rows
from include.monitor.findings import Finding, Outcome
from include.monitor.losses import LossSeries, expected_own_loss, loss_series
from include.monitor.state import State
from include.spec import UseCase
from include.stats.formatting import figure_and_limit
from include.stats.intervals import mean_and_variance, partitions_needed
from include.stats.metrics import row_losses
from include.storage.lake import Lake

Array = NDArray[np.float64]
MOST = 1e100  # of a ratio, so that it stays a number
BETS = (0.25, 0.5, 1.0)  # shares of the stake; a mixture, so that small and large changes are found


def check_concept(lake: Lake, spec: UseCase, partition: str, state: State) -> list[Finding]:
    """Return what the champion's own expectation says of it, as known on a partition."""
    champion = state.champion(partition)
    if champion is None or state.vacancy(partition):
        return []
    live = loss_series(lake, champion, partition)
    found = [check_lasting_loss(spec, live, _gate(lake, spec, champion))]
    return [*found, check_calibration(spec, live)] if spec.problem.kind == "binary" else found


def check_calibration(spec: UseCase, live: LossSeries) -> Finding:
    """Judge how far the observed rate is from the predicted one, with the partitions as the sample.

    It is looked at as `include.monitor.checks.degradation` looks; the figure is the rate's difference, in
    [-1, 1].
    """
    seen, subject = look_window(spec, live, WIDE), "calibration"
    if not live.partitions[seen]:
        return Finding("concept", subject, None, None, "not enough", _few(live))
    apart = mean_and_variance(
        live.observed[seen] - live.predicted[seen], live.rows[seen], WIDE * spec.gate.block_partitions
    )
    reach = float(stdtrit(apart.blocks - 1, 1 - look_alpha(spec) / 2)) * math.sqrt(apart.variance)
    outcome: Outcome = "alarm" if abs(apart.mean) > reach else "ok"
    shown = live.partitions[seen]
    most, bound = figure_and_limit(abs(apart.mean), reach, 4, "{:.#f}")
    sign = "-" if apart.mean < 0 else "+"
    note = f"{sign}{most} of the rows are 1 beyond what was predicted, over {len(shown)} matured partitions,"
    note += f" {shown[0]} to {shown[-1]}; chance explains {bound}"
    return Finding("concept", subject, apart.mean, reach, outcome, note)


def check_lasting_loss(spec: UseCase, live: LossSeries, gate: tuple[Array, Array] | None) -> Finding:
    """Judge, block of partitions after block, whether the loss is above what was expected: a sequential test.

    Parameters
    ----------
    gate : the loss on the gate's test partitions, and what was expected there, by partition, each of shape
        (n,).

    Notes
    -----
    Loss over expectation is a block's ratio. The gate's own ratio, at its upper bound, is the most that is no
    change: its bound may be wrong with half of ``monitoring.false_alarms_per_year``. Then a bet on more, 1 -
    b + b * ratio / bound, has a mean of at most 1 on each block whatever the distribution (Waudby-Smith and
    Ramdas 2024, Estimating means of bounded random variables by betting). Bets that begin on every block are
    added up: R = (R + 1) * bet, which less the number of blocks is a supermartingale. So it reaches n / q in
    n blocks at most with a chance of q (Shin, Ramdas and Rinaldo 2024, E-detectors: a nonparametric framework
    for sequential change detection). That is so of independent blocks: hence `gate.block_partitions`
    partitions together, and `python -m pytest tests/monitor/test_concept.py` counts the alarms where
    partitions resemble each other.
    """
    block, chance = spec.gate.block_partitions, spec.monitoring.false_alarms_per_year / 2
    subject, limit = f"{spec.gate.objective} beside its own expectation", 365 / block / chance
    if gate is None or len(gate[0]) < partitions_needed(block):
        note = "the rows of the gate's test partitions are gone, or too few"
        return Finding("concept", subject, None, limit, "not enough", note)
    ratios = _blocks(spec, live)
    if not len(ratios) or not all(part.sum() > 0 for part in gate):
        note = (
            _few(live) if not len(ratios) else "on the gate's partitions the model lost or expected nothing"
        )
        return Finding("concept", subject, None, limit, "not enough", note)
    bound = max_loss_ratio(spec, gate)
    stake = float(e_detector(ratios / bound, 10 * limit)[-1])
    outcome: Outcome = "alarm" if stake >= limit else "ok"
    note = (
        f"loss over expectation {ratios[-1]:.3f} on the last {block} matured partitions, by the gate's "
        "at most "
    )
    text, alarm = figure_and_limit(stake, limit, 3)
    note += f"{bound:.3f}; the evidence for a change after {len(ratios) * block} partitions is {text}, "
    note += f"an alarm from {alarm}"
    return Finding("concept", subject, stake, limit, outcome, note)


def max_loss_ratio(spec: UseCase, gate: tuple[Array, Array]) -> float:
    """Return the ratio of loss to expectation up to which nothing has changed: the gate's upper bound."""
    then, chance = (
        mean_and_variance(*gate, spec.gate.block_partitions),
        spec.monitoring.false_alarms_per_year / 2,
    )
    return then.mean + float(stdtrit(then.blocks - 1, 1 - chance)) * math.sqrt(then.variance)


def _blocks(spec: UseCase, live: LossSeries) -> Array:
    """Return the ratio of loss to expectation of each full block of partitions, oldest first."""
    block, full = spec.gate.block_partitions, len(live.partitions) // spec.gate.block_partitions
    both = (live.loss, _expected(spec, live.expected, live.rows))
    lost, own = (values[: full * block].reshape(full, block).sum(axis=1) for values in both)
    # a model that is sure of each row expects no loss
    least = 1 / MOST
    return np.where(lost > 0, np.minimum(lost / np.maximum(own, least), MOST), np.where(own > 0, 0.0, 1.0))


def e_detector(ratios: Array, most: float = MOST) -> Array:
    """Return the e-detector's value after each ratio; without a change their mean is at most 1.

    Parameters
    ----------
    most : of a stake: with more than that one block would be an alarm for years.
    """
    found, stakes = np.empty(len(ratios)), np.zeros(len(BETS))
    for place, ratio in enumerate(ratios):
        stakes = np.minimum((stakes + 1) * (1 + np.array(BETS) * (ratio - 1)), most)
        found[place] = stakes.mean()
    return found


def _expected(spec: UseCase, own: Array, rows: Array) -> Array:
    """Return a partition's expected loss up to a constant: its own, or of a regression its rows."""
    return rows if spec.problem.kind == "regression" else own


def _gate(lake: Lake, spec: UseCase, champion: Mapping[str, Any]) -> tuple[Array, Array] | None:
    """Return loss and expectation by partition of the evidence on which a champion was promoted."""
    rows = promotion_test_rows(lake, champion)
    if rows is None:
        return None
    predicted = outputs.from_single_column(rows[CHALLENGER])
    lost, of = (
        row_losses(spec.gate.objective, rows["actual"].to_numpy(), predicted),
        np.array(rows["partition"].to_pylist()),
    )
    places = [np.flatnonzero(of == partition) for partition in sorted(set(of))]
    own = [expected_own_loss(spec, predicted[place]) or 0.0 for place in places]
    sizes = np.array([len(place) for place in places], dtype=float)
    return np.array([lost[place].sum() for place in places]), _expected(spec, np.array(own), sizes)


def _few(live: LossSeries) -> str:
    return f"{len(live.partitions)} partitions of this champion have matured"
