"""Sequences of batch attempts, drawn from the pool, put before the gate's own question.

A sequence has one champion and a new challenger each partition, and a series of partitions made of whole
weeks, so that a partition keeps its neighbours and its weekday. Attempts of consecutive partitions share all
but one of their partitions, as they do in a lake. Every partition of the pool is equally likely, so a pair's
true gain is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from benchmarks.calibration.pool import ATTEMPTS, Pairs
from include.judge.context import attempt_alpha
from include.spec.gate import Gate
from include.stats.intervals import gain_bounds

Array = NDArray[np.float64]
Passes = NDArray[np.bool_]
WEEK = 7
GATE, FIXED, PLAIN = "the gate", "alpha at each attempt", "new >= old"


@dataclass(frozen=True)
class Rate:
    """A share of sequences, with the exact interval of 95 % (Clopper and Pearson 1934)."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.share:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Drawn:
    """S sequences of K attempts on w partitions.

    Parameters
    ----------
    champion, challenger, rows : sums by partition and labelled rows, shape (S, K, w).
    true : the pair's true gain per row, over all partitions of the pool, shape (S, K).
    level : the champion's mean loss over them, shape (S,).
    """

    champion: Array
    challenger: Array
    rows: Array
    true: Array
    level: Array


def draw(pairs: Pairs, rows: Array, window: int, sequences: int, seed: int) -> Drawn:
    """Draw sequences; the same seed gives the same ones."""
    random = np.random.default_rng(seed)
    partitions = len(rows) // WEEK * WEEK
    series = _series(random, sequences, partitions, window + ATTEMPTS - 1)
    window_index = series[:, np.arange(ATTEMPTS)[:, None] + np.arange(window)]
    models = np.tile(np.arange(len(pairs.challengers)), (sequences, 1))
    order = random.permuted(models, axis=1)[:, : ATTEMPTS + 1]
    one = order[:, 0] if pairs.alike else random.integers(0, len(pairs.champions), sequences)
    total = rows[:partitions].sum()
    champions, challengers = (
        each[:, :partitions].sum(axis=1) / total for each in (pairs.champions, pairs.challengers)
    )
    return Drawn(
        champion=pairs.champions[one[:, None, None], window_index],
        challenger=pairs.challengers[order[:, 1:, None], window_index],
        rows=rows[window_index],
        true=champions[one][:, None] - challengers[order[:, 1:]],
        level=champions[one],
    )


def passes(drawn: Drawn, gate: Gate, gain: float, *, recentred: bool = True) -> dict[str, Passes]:
    """Return which attempts each gate would promote, shape (S, K).

    Parameters
    ----------
    gain : what every challenger truly saves, as a share of the champion's mean loss.
    recentred : take the pair's own true gain away first; without it models stay as unlike as they are.
    """
    added = gain * drawn.level[:, None] - (drawn.true if recentred else 0.0)
    saved = drawn.champion - drawn.challenger + added[..., None] * drawn.rows
    shares = np.array([attempt_alpha(gate.alpha, attempt) for attempt in range(1, ATTEMPTS + 1)])
    mean, low = gain_bounds(saved, drawn.rows, gate.block_partitions, shares)
    _, fixed = gain_bounds(saved, drawn.rows, gate.block_partitions, np.asarray(gate.alpha))
    least = gate.min_gain * drawn.champion.sum(axis=-1) / drawn.rows.sum(axis=-1)
    return {GATE: low > least, FIXED: fixed > least, PLAIN: mean >= 0}


def rate(hits: Passes) -> Rate:
    """Return the share of hits, shape (S,), and its interval."""
    of, hit_count = len(hits), int(hits.sum())
    low = float(betaincinv(hit_count, of - hit_count + 1, 0.025)) if hit_count else 0.0
    high = float(betaincinv(hit_count + 1, of - hit_count, 0.975)) if hit_count < of else 1.0
    return Rate(hit_count / of, low, high)


def _series(random: np.random.Generator, sequences: int, partitions: int, length: int) -> NDArray[np.int64]:
    """Return partitions of the pool, by place: weeks that all begin on the same weekday, round the circle."""
    phase = random.integers(0, partitions, (sequences, 1))
    weeks = random.integers(0, partitions // WEEK, (sequences, -(-length // WEEK)))
    starts = phase + WEEK * weeks
    days = (starts[:, :, None] + np.arange(WEEK)) % partitions
    return np.asarray(days.reshape(sequences, -1)[:, :length], dtype=np.int64)
