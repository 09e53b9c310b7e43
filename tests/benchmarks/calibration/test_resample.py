"""The sequences are put before the gate's own question, and a gate that isn't honest is found out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from benchmarks.calibration import resample
from benchmarks.calibration.pool import ALIKE, Pairs
from benchmarks.calibration.resample import FIXED, GATE, PLAIN, Drawn, draw, passes, rate
from include.judge import checks
from include.judge.context import CheckContext
from include.judge.evidence import CHALLENGER, CHAMPION, Evidence, Losses
from include.spec.gate import Gate

WINDOW, NIGHTS = 26, 241
ENOUGH = 2000  # sequences


def world(alike: bool = True, unlike: float = 0.002) -> tuple[Pairs, np.ndarray]:
    """Return models whose losses differ from partition to partition, and a little in truth as well."""
    random = np.random.default_rng(1)
    rows = random.integers(600, 1000, NIGHTS).astype(float)
    common = 0.5 + 0.1 * random.standard_normal(NIGHTS)
    true = unlike * random.standard_normal((ALIKE, 1))
    losses = (common + true + 0.01 * random.standard_normal((ALIKE, NIGHTS))) * rows
    return Pairs("planted", losses if alike else losses[:6] + rows * 0.01, losses, alike), rows


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """Sequences of that world."""
    pairs, rows = world()
    return draw(pairs, rows, WINDOW, ENOUGH, 7)


@pytest.mark.parametrize("least", [0.0, 0.005])
@pytest.mark.parametrize("block", [1, 3, 7])
def test_the_answer_is_the_gates_own(block: int, least: float) -> None:
    """Of random sequences, exactly those attempts pass that the gate's check of the champion lets pass."""
    pairs, rows = world()
    few = draw(pairs, rows, WINDOW, 12, 3)
    gate = Gate(objective="log_loss", block_partitions=block, min_gain=least)
    found = passes(few, gate, 0.01, recentred=False)[GATE]
    assert 0 < found.sum() < found.size
    better = few.challenger - 0.01 * few.level[:, None, None] * few.rows
    for (sequence, attempt), passed in np.ndenumerate(found):
        at = (sequence, attempt)
        case = CheckContext(
            _evidence(few.champion[at], better[at], few.rows[at]), gate, attempt + 1, has_champion=True
        )
        assert [check.passed for check in checks.champion(case)] == [bool(passed)]


def test_without_a_true_gain_the_mean_gain_is_zero(drawn: Drawn) -> None:
    """Recentred, what the pairs save adds up to nothing over many sequences; as they are, it doesn't."""
    rest = drawn.champion - drawn.challenger - drawn.true[..., None] * drawn.rows
    by_sequence = rest.sum(axis=(1, 2)) / drawn.rows.sum(axis=(1, 2))
    error = by_sequence.std() / np.sqrt(ENOUGH)
    assert abs(by_sequence.mean()) < 4 * error
    assert drawn.true.std() > 20 * error


def test_every_partition_is_drawn_as_often_and_keeps_its_weekday() -> None:
    """A week of the series is a week of the lake, all weeks begin alike, and no partition is left out."""
    series = resample._series(np.random.default_rng(2), 5000, 35, 45)
    assert series.shape == (5000, 45)
    steps = np.diff(series, axis=1) % 35
    assert (np.delete(steps, range(6, 44, 7), axis=1) == 1).all()
    assert (steps % 7 == 1).all()
    counts = np.bincount(series.ravel(), minlength=35)
    assert counts.min() > 0.9 * counts.mean()


def test_attempts_share_all_but_one_partition_and_nobody_meets_itself(drawn: Drawn) -> None:
    """The next partition's attempt sees the same partitions but the oldest, the same champion.

    Another challenger.
    """
    assert np.array_equal(drawn.rows[:, 1:, :-1], drawn.rows[:, :-1, 1:])
    assert np.array_equal(drawn.champion[:, 1:, :-1], drawn.champion[:, :-1, 1:])
    assert not (drawn.challenger[:, 1:, :-1] == drawn.challenger[:, :-1, 1:]).all(axis=2).any()
    assert not (drawn.champion == drawn.challenger).all(axis=2).any()


def test_a_gate_that_pays_for_attempts_keeps_its_alpha(drawn: Drawn) -> None:
    """With independent partitions the gate promotes noise in no more sequences than alpha; the others do."""
    found = passes(drawn, Gate(objective="log_loss"), 0.0)
    assert rate(found[GATE].any(axis=1)).low <= 0.05
    assert rate(found[FIXED].any(axis=1)).low > 0.2
    assert rate(found[PLAIN].any(axis=1)).low > 0.9


def test_a_gate_that_does_not_pay_is_found_out(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate with its alpha for each attempt, or one that lets all pass, is seen to promote noise."""
    gate = Gate(objective="log_loss")
    with monkeypatch.context() as patch:
        patch.setattr(resample, "attempt_alpha", lambda alpha, attempt: alpha)
        assert rate(passes(drawn, gate, 0.0)[GATE].any(axis=1)).low > 2 * gate.alpha
    monkeypatch.setattr(resample, "gain_bounds", lambda saved, *_: (saved.sum(-1), np.ones(saved.shape[:-1])))
    assert rate(passes(drawn, gate, 0.0)[GATE].any(axis=1)).share == 1


def test_other_champions_may_meet_every_challenger() -> None:
    """Champions of another kind have a pool of their own, and their true loss is known."""
    pairs, rows = world(alike=False)
    found = draw(pairs, rows, WINDOW, 200, 7)
    assert found.true.mean() == pytest.approx(0.01, abs=0.004)
    assert found.level.min() > found.champion.sum() / found.rows.sum() * 0.9


@pytest.mark.parametrize(("hits", "of"), [(0, 50), (50, 50), (3, 50), (61, 1000)])
def test_the_interval_is_clopper_and_pearsons(hits: int, of: int) -> None:
    """It is SciPy's exact one, also where nothing or everything passed."""
    found = rate(np.arange(of) < hits)
    exact = binomtest(hits, of).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert found.share == hits / of


def _evidence(champion: np.ndarray, challenger: np.ndarray, rows: np.ndarray) -> Evidence:
    sums = {CHAMPION: champion, CHALLENGER: challenger}
    losses = Losses(
        partitions=tuple(f"2024-01-{day + 1:02}" for day in range(len(rows))),
        rows=tuple(int(n) for n in rows),
        sums={name: tuple(float(value) for value in values) for name, values in sums.items()},
    )
    return Evidence(
        **dict.fromkeys(
            ("usecase", "partition", "spec", "data", "code", "version", "model", "baseline_model"), "x"
        ),
        prior=0.2,
        metrics={},
        losses=losses,
        champion="old",
        last_fitted="2023-12-31",
        fitted="2023-12-31",
        recipe="planted",
    )
