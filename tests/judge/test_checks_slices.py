"""A slice that is significantly worse blocks a challenger; noise in many slices doesn't."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from include.evaluate.slices import measure_slices
from include.judge.checks import slices
from include.judge.context import Check, CheckContext
from include.judge.evidence import Slice
from include.spec import UseCase
from include.spec.gate import Gate, Slices
from include.stats.intervals import estimate_gain
from tests.promote.conftest import evidence, facts, losses, partitions
from tests.train import visits

COUNT, ROWS = 28, 100
COUNTS = (ROWS,) * COUNT
PLACES = ("north", "south", "east", "west")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic with slices by place."""
    spec = visits.usecase(tmp_path_factory.mktemp("slices"))
    rules = Slices(columns=("place",), min_rows=500)
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"slices": rules})})


def _check(measured_slices: tuple[Slice, ...], gate: Gate) -> Check:
    record = losses(np.full(COUNT, 0.5), np.full(COUNT, 0.6), prior=np.full(COUNT, 0.7))
    record = evidence(record, facts=facts(record, slices=measured_slices))
    (check,) = slices(CheckContext(record, gate, has_champion=True))
    return check


def _pair(random: np.random.Generator, worse: dict[str, float]) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Return rows of four places, and losses with the given increase for the challenger."""
    count = 400 * COUNT
    place = random.choice(PLACES, count)
    rows = pa.table(
        {
            "partition": np.repeat(partitions(COUNT), 400),
            "place": place,
            "distance": random.exponential(5, count),
            "earlier": random.poisson(1, count).astype(float),
        }
    )
    rival = random.exponential(0.5, count)
    increase = np.select([place == name for name in worse], list(worse.values()), 0.0) if worse else 0.0
    return rows, {"champion": rival, "challenger": rival + random.normal(0, 0.1, count) + increase}


@pytest.mark.full
def test_noise_in_a_hundred_slices_is_refused_as_rarely_as_is_said(clinic: UseCase) -> None:
    """Of 300 challengers with 100 equal slices and no tolerance, at most a share of alpha is refused."""
    gate = clinic.gate.model_copy(update={"slices": Slices(tolerance=0.0)})
    random = np.random.default_rng(6)
    rival = tuple(0.5 * rows for rows in COUNTS)
    refused = uncorrected = 0
    for _ in range(300):
        noise = 0.02 * random.standard_normal((100, COUNT))
        measured_slices = tuple(
            Slice(f"s = {i}", False, COUNTS, tuple((0.5 + one) * ROWS), rival) for i, one in enumerate(noise)
        )
        refused += not _check(measured_slices, gate).passed
        uncorrected += any(
            estimate_gain(part.challenger, rival, COUNTS, gate.block_partitions, gate.alpha).low > 0
            for part in measured_slices
        )
    assert refused <= binom.ppf(0.999, 300, gate.alpha), refused
    assert uncorrected > 0.9 * 300  # each at alpha, as if it were alone: nobody would ever be promoted


def test_a_worse_declared_group_is_refused_by_its_name(clinic: UseCase) -> None:
    """A challenger that is better overall and worse for one declared group is refused; the group is named."""
    rows, measured_slices = _pair(
        np.random.default_rng(7), {"north": -0.1, "south": -0.1, "east": -0.1, "west": 0.05}
    )
    assert measured_slices["challenger"].mean() < measured_slices["champion"].mean() - 0.05
    measured = measure_slices(clinic, rows, rows, measured_slices, partitions(COUNT), "champion")
    check = _check(measured, clinic.gate)
    assert not check.passed
    assert check.observed.startswith("place = west loses 0.0")
    assert check.observed.count("loses") == 1
    assert "required none that loses 2 % more than with champion" in check.sentence()


def test_equal_groups_pass(clinic: UseCase) -> None:
    """At least 19 of 20 challengers that differ only by noise pass."""
    passed = 0
    for seed in range(20):
        rows, measured_slices = _pair(np.random.default_rng(seed), {})
        check = _check(
            measure_slices(clinic, rows, rows, measured_slices, partitions(COUNT), "champion"), clinic.gate
        )
        passed += bool(check.passed)
        assert not check.passed or check.observed == "none of 12"  # each of four places, distances and counts
    assert passed >= 19


def test_what_is_within_the_tolerance_passes(clinic: UseCase) -> None:
    """A loss increase within the tolerance passes, and fails without tolerance."""
    rows, measured_slices = _pair(np.random.default_rng(8), {"west": 0.008})
    measured = measure_slices(clinic, rows, rows, measured_slices, partitions(COUNT), "champion")
    strict = clinic.gate.model_copy(update={"slices": Slices(columns=("place",), tolerance=0.0)})
    assert _check(measured, clinic.gate).passed
    assert "place = west" in _check(measured, strict).observed


def test_a_declared_column_whose_groups_are_all_small_is_refused(clinic: UseCase) -> None:
    """A declared column without a single judgeable slice fails the check."""
    rows, measured_slices = _pair(np.random.default_rng(9), {})
    few = clinic.gate.model_copy(update={"slices": Slices(columns=("place",), min_rows=4000)})
    spec = clinic.model_copy(update={"gate": few})
    check = _check(measure_slices(spec, rows, rows, measured_slices, partitions(COUNT), "champion"), few)
    assert not check.passed
    assert check.observed == "none of place"
