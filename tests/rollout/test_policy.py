"""A step is taken on enough live partitions and no sooner.

And looking often doesn't make a wrong one likely.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.promote.ledger import CANARY, SHADOW, WATCH
from include.rollout.pipeline import PROMOTE, WAIT, WITHDRAW, TrialLosses, next_step
from include.spec.gate import Gate, Rollout
from tests.promote.conftest import partitions

GATE = Gate(
    objective="log_loss",
    block_partitions=1,
    rollout=Rollout(partitions=14, look_every=7, patience=42, margin=0.01),
)


def _losses(candidate: np.ndarray, incumbent: np.ndarray) -> TrialLosses:
    sums = (tuple(map(float, losses * 50)) for losses in (candidate, incumbent))
    return TrialLosses(partitions(len(candidate)), (50,) * len(candidate), *sums)


def _noisy(count: int, gain: float, seed: int = 1) -> TrialLosses:
    random = np.random.default_rng(seed)
    partition = 0.5 + 0.1 * random.standard_normal(count)
    return _losses(partition - gain + 0.02 * random.standard_normal(count), partition)


@pytest.mark.parametrize("kind", [SHADOW, CANARY, WATCH])
@pytest.mark.parametrize(
    ("gain", "count", "step"),
    [(0.1, 13, WAIT), (0.1, 14, PROMOTE), (-0.1, 6, WAIT), (-0.1, 7, WITHDRAW), (0.0, 0, WAIT)],
)
def test_a_step_needs_its_partitions(kind: str, gain: float, count: int, step: str) -> None:
    """Forward after the declared partitions, back from the first look on; a watch has no forward."""
    expected = WAIT if kind == WATCH and step == PROMOTE else step
    assert next_step(kind, _noisy(count, gain), count, GATE).step == expected


@pytest.mark.parametrize(("kind", "step"), [(SHADOW, WITHDRAW), (CANARY, WITHDRAW), (WATCH, WAIT)])
def test_what_stays_undecided_goes_back(kind: str, step: str) -> None:
    """When patience is over without a decision a challenger goes; a watched champion stays."""
    noise = _noisy(42, -0.006)
    assert next_step(kind, noise, 41, GATE).step == WAIT
    found = next_step(kind, noise, 42, GATE)
    assert found.step == step
    assert kind == WATCH or "undecided after 42 partitions" in found.reason


def test_a_model_that_scores_no_partition_goes_back() -> None:
    """A challenger that can't score at all is withdrawn once the partitions have passed."""
    found = next_step(SHADOW, _losses(np.array([]), np.array([])), 42, GATE)
    assert (found.step, found.reason) == (WITHDRAW, "undecided after 42 partitions, 0 of them matured")


def test_looking_every_week_steps_wrongly_as_rarely_as_declared() -> None:
    """Of 600 watches over an equally good champion, looked at for 20 weeks, at most alpha go back."""
    wrong = sum(next_step(WATCH, _noisy(140, 0.0, seed), 140, GATE).step == WITHDRAW for seed in range(600))
    alpha = GATE.rollout.alpha
    assert wrong <= 600 * alpha + 3 * np.sqrt(600 * alpha * (1 - alpha))


def test_a_worse_champion_is_noticed() -> None:
    """A champion that loses 4 % more than the one before it, a partition's noise apart.

    Is sent back in weeks.
    """
    found = [next_step(WATCH, _noisy(35, -0.02, seed), 35, GATE).step for seed in range(50)]
    assert found.count(WITHDRAW) >= 45


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), max_size=40), st.integers(0, 20))
def test_later_partitions_change_no_decision(rows: list[tuple[float, float]], more: int) -> None:
    """What was decided after some partitions is decided after more of them: a missed look is made up for."""
    both = np.array([*rows, *[(1.0, 1.0)] * more]).reshape(-1, 2)
    early, late = both[: len(rows)], both
    now = next_step(SHADOW, _losses(early[:, 0], early[:, 1]), 0, GATE)
    if now.step != WAIT:
        assert next_step(SHADOW, _losses(late[:, 0], late[:, 1]), 0, GATE) == now
