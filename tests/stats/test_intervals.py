"""The interval is the bootstrap's, without its noise, and errs as rarely as it says on a dozen partitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import binom

from include.stats.intervals import estimate_gain, gain_bounds, gain_sequence

Matrix = NDArray[np.float64]
LEVELS = (0.05, 0.0304, 0.0076)  # alpha as it is, and shares of it as of two looks at a rollout


def _blocks(partitions: int, block: int, draws: int) -> NDArray[np.int64]:
    """Return the partitions that each draw of a circular block bootstrap takes."""
    starts = np.random.default_rng(7).integers(0, partitions, (draws, partitions // block))
    return ((starts[:, :, None] + np.arange(block)) % partitions).reshape(draws, partitions)


def _independent(random: np.random.Generator, shape: tuple[int, int]) -> Matrix:
    return random.standard_normal(shape)


def _resembling(random: np.random.Generator, shape: tuple[int, int]) -> Matrix:
    """Each partition takes a fifth of what the partition before was."""
    noise = random.standard_normal((shape[0], shape[1] + 10))
    for partition in range(1, noise.shape[1]):
        noise[:, partition] += 0.2 * noise[:, partition - 1]
    return noise[:, 10:]


def _heavy(random: np.random.Generator, shape: tuple[int, int]) -> Matrix:
    """Now and then a partition that nobody foresaw."""
    return random.standard_t(3, shape)


def test_the_closed_form_is_the_bootstrap() -> None:
    """The spread that the formula gives is the one that drawing blocks of partitions gives."""
    random = np.random.default_rng(1)
    rows = random.integers(700, 1000, 24)
    worse, better = rows * random.normal(0.5, 0.05, 24), rows * random.normal(0.4, 0.05, 24)
    drawn = _blocks(24, 3, 40_000)
    means = (worse - better)[drawn].sum(1) / rows[drawn].sum(1)
    found = estimate_gain(worse, better, rows, 3, 0.05)
    error = (found.mean - found.low) / stdtrit(7, 0.95) / np.sqrt(8 / 7)
    assert error == pytest.approx(means.std(), rel=0.03)
    assert found.mean == pytest.approx((worse - better).sum() / rows.sum())


@pytest.mark.full
@pytest.mark.parametrize("partitions", [12, 28])
@pytest.mark.parametrize("kind", [_independent, _heavy])
def test_noise_passes_as_rarely_as_is_said(
    partitions: int, kind: Callable[[np.random.Generator, tuple[int, int]], Matrix]
) -> None:
    """Of 3000 pairs of equally good models, no more seem better than the level allows (binomial)."""
    random = np.random.default_rng(2)
    rows = random.integers(650, 1000, partitions)
    noise = kind(random, (3000, partitions)) * rows
    for alpha in LEVELS:
        passed = sum(estimate_gain(row, np.zeros(partitions), rows, 3, alpha).low > 0 for row in noise)
        assert passed <= binom.ppf(0.999, 3000, alpha), (alpha, passed)


@pytest.mark.parametrize("partitions", [12, 28])
def test_partitions_that_resemble_each_other_cost_little(partitions: int) -> None:
    """Where a partition takes a fifth of the one before.

    No level is exceeded by more than a quarter.

    With 1.5 (k - 1) degrees of freedom, which are right for independent partitions, up to 1.9 times
    the level is reached, most at the smallest ones.
    """
    random = np.random.default_rng(3)
    rows = random.integers(650, 1000, partitions).astype(float)
    noise = _resembling(random, (40_000, partitions)) * rows
    for alpha in (*LEVELS, 0.0019):
        _, low = gain_bounds(noise, np.broadcast_to(rows, noise.shape), 3, np.asarray(alpha))
        passed = int((low > 0).sum())
        assert passed <= binom.ppf(0.999, len(noise), 1.25 * alpha), (alpha, passed)


def test_many_windows_at_once_are_each_by_itself() -> None:
    """Each window's bound at its own level is the one that it has alone."""
    random = np.random.default_rng(6)
    rows = random.integers(600, 1000, (4, 3, 14))
    worse, better = rows * random.normal(0.5, 0.1, rows.shape), rows * random.normal(0.45, 0.1, rows.shape)
    levels = np.array([0.05, 0.0304, 0.0076])
    mean, low = gain_bounds(worse - better, rows.astype(float), 3, levels)
    for at in np.ndindex(4, 3):
        alone = estimate_gain(worse[at], better[at], rows[at], 3, levels[at[1]])
        assert (mean[at], low[at]) == pytest.approx((alone.mean, alone.low), rel=1e-9)


def test_the_bootstraps_own_quantile_would_promote_noise() -> None:
    """Quantiles of the draws aren't used.

    On twelve partitions they pass more than twice the noise they say.
    """
    random = np.random.default_rng(4)
    rows = random.integers(650, 1000, 12)
    noise = _independent(random, (1000, 12)) * rows
    drawn = _blocks(12, 3, 1000)
    weights = rows[drawn].sum(1)
    passed = {a: sum(np.quantile(n[drawn].sum(1) / weights, a) > 0 for n in noise) / 1000 for a in LEVELS}
    assert all(share > 2 * alpha for alpha, share in passed.items()), passed


def test_a_real_gain_is_seen() -> None:
    """At a level of 3 % a gain as large as one partition's noise mostly on 12 partitions.

    Nearly always on 28.
    """
    random = np.random.default_rng(5)
    for partitions, least in ((12, 0.7), (28, 0.98)):
        rows = random.integers(650, 1000, partitions)
        better = (1 + _independent(random, (1000, partitions))) * rows
        seen = (
            sum(estimate_gain(row, np.zeros(partitions), rows, 3, LEVELS[1]).low > 0 for row in better) / 1000
        )
        assert seen >= least, (partitions, seen)


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e3), st.integers(1, 1000)), min_size=6, max_size=30),
    st.integers(1, 3),
    st.floats(0.001, 0.4),
)
def test_what_must_hold_of_any_losses(rows: list[tuple[float, float, int]], block: int, alpha: float) -> None:
    """The bound lies below the mean and falls as the level rises; it is repeatable.

    No partition comes first.
    """
    worse, better, counts = (np.array(column) for column in zip(*rows, strict=True))
    found = estimate_gain(worse, better, counts, block, alpha)
    assert found.low <= found.mean
    assert estimate_gain(worse, better, counts, block, alpha / 2).low <= found.low
    assert estimate_gain(worse, better, counts, block, alpha) == found
    turned = estimate_gain(np.roll(worse, 1), np.roll(better, 1), np.roll(counts, 1), block, alpha)
    assert turned.low == pytest.approx(found.low, rel=1e-6, abs=1e-6)
    against = estimate_gain(better, worse, counts, block, alpha)
    assert against.mean == pytest.approx(-found.mean)
    assert not (against.low > 0 and found.low > 0)


# a sequence that is looked at after every partition


@pytest.mark.full
@pytest.mark.parametrize("kind", [_independent, _heavy])
def test_a_sequence_of_looks_errs_as_rarely_as_one(
    kind: Callable[[np.random.Generator, tuple[int, int]], Matrix],
) -> None:
    """Looked at each week for two years, the bound is ever above the true gain as rarely as alpha states."""
    noise = 0.3 + kind(np.random.default_rng(8), (400, 728))
    wrong = sum(
        any(gain_sequence(row[:look], 3, 0.05).low > 0.3 for look in range(7, 729, 7)) for row in noise
    )
    assert wrong <= binom.ppf(0.999, 400, 0.05), wrong
    repeated = sum(
        any(
            estimate_gain(row[:look] - 0.3, np.zeros(look), np.ones(look), 3, 0.05).low > 0
            for look in range(14, 729, 7)
        )
        for row in noise[:100]
    )
    assert repeated > 20  # of 100: a bound for one look isn't valid for many


def test_a_sequence_sees_a_real_gain() -> None:
    """A gain as large as one partition's noise is proven within a quarter."""
    noise = _independent(np.random.default_rng(9), (200, 90))
    assert sum(gain_sequence(1 + row, 3, 0.05).low > 0 for row in noise) >= 190


def test_few_blocks_prove_nothing() -> None:
    """Below five blocks there is a mean and no bound; without a partition there is neither."""
    few = gain_sequence([1.0] * 14, 3, 0.05)
    assert (few.mean, few.low) == (1.0, -np.inf)
    assert gain_sequence([1.0] * 15, 3, 0.05).low == 1.0
    assert np.isnan(gain_sequence([], 3, 0.05).mean)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=15, max_size=60),
    st.floats(0.01, 0.4),
    st.floats(-10, 10),
    st.floats(0.1, 10),
)
def test_what_must_hold_of_any_sequence(gains: list[float], alpha: float, shift: float, unit: float) -> None:
    """The bound lies below the mean, falls as the level rises, and moves with the gains' zero and unit."""
    bound = gain_sequence(gains, 3, alpha)
    assert bound.low <= bound.mean
    assert gain_sequence(gains, 3, alpha / 2).low <= bound.low + 1e-9
    moved = gain_sequence(list(unit * np.array(gains) + shift), 3, alpha)
    assert moved.low == pytest.approx(unit * bound.low + shift, rel=1e-6, abs=1e-6)
