"""No group pays for the others, and of a hundred noisy slices none that looks worse stands in the way."""

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

NIGHTS, ROWS = 28, 100
COUNTS = (ROWS,) * NIGHTS
PLACES = ("north", "south", "east", "west")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic, whose places are declared to be slices."""
    spec = visits.usecase(tmp_path_factory.mktemp("slices"))
    rules = Slices(columns=("place",), min_rows=500)
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"slices": rules})})


def _check(found: tuple[Slice, ...], gate: Gate) -> Check:
    made = losses(np.full(NIGHTS, 0.5), np.full(NIGHTS, 0.6), prior=np.full(NIGHTS, 0.7))
    made = evidence(made, facts=facts(made, slices=found))
    (check,) = slices(CheckContext(made, gate, 1, True))
    return check


def _pair(random: np.random.Generator, worse: dict[str, float]) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Return rows of four places, and losses of which the challenger's are larger where it is said."""
    count = 400 * NIGHTS
    place = random.choice(PLACES, count)
    rows = pa.table(
        {
            "partition": np.repeat(partitions(NIGHTS), 400),
            "place": place,
            "distance": random.exponential(5, count),
            "earlier": random.poisson(1, count).astype(float),
        }
    )
    then = random.exponential(0.5, count)
    more = np.select([place == name for name in worse], list(worse.values()), 0.0) if worse else 0.0
    return rows, {"champion": then, "challenger": then + random.normal(0, 0.1, count) + more}


def test_noise_in_a_hundred_slices_is_refused_as_rarely_as_is_said(clinic: UseCase) -> None:
    """Of 300 challengers that are equal on 100 slices, at no tolerance, no more than alpha are refused."""
    gate = clinic.gate.model_copy(update={"slices": Slices(tolerance=0.0)})
    random = np.random.default_rng(6)
    then = tuple(0.5 * rows for rows in COUNTS)
    refused = plain = 0
    for _ in range(300):
        noise = 0.02 * random.standard_normal((100, NIGHTS))
        found = tuple(
            Slice(f"s = {i}", False, COUNTS, tuple((0.5 + one) * ROWS), then) for i, one in enumerate(noise)
        )
        refused += not _check(found, gate).passed
        plain += any(
            estimate_gain(part.challenger, then, COUNTS, gate.block_partitions, gate.alpha).low > 0
            for part in found
        )
    assert refused <= binom.ppf(0.999, 300, gate.alpha), refused
    assert plain > 0.9 * 300  # each at alpha, as if it were alone: nobody would ever be promoted


def test_a_worse_declared_group_is_refused_by_its_name(clinic: UseCase) -> None:
    """A challenger that is better on the whole and worse for one declared group is refused, and told why."""
    rows, found = _pair(np.random.default_rng(7), {"north": -0.1, "south": -0.1, "east": -0.1, "west": 0.05})
    assert found["challenger"].mean() < found["champion"].mean() - 0.05
    measured = measure_slices(clinic, rows, rows, found, partitions(NIGHTS), "champion")
    check = _check(measured, clinic.gate)
    assert not check.passed
    assert check.observed.startswith("place = west loses 0.0")
    assert check.observed.count("loses") == 1
    assert "required none that loses 2 % more than with champion" in check.sentence()


def test_equal_groups_pass(clinic: UseCase) -> None:
    """Twenty challengers that differ by nothing but noise pass on every slice, or all but one do."""
    passed = 0
    for seed in range(20):
        rows, found = _pair(np.random.default_rng(seed), {})
        check = _check(measure_slices(clinic, rows, rows, found, partitions(NIGHTS), "champion"), clinic.gate)
        passed += bool(check.passed)
        assert not check.passed or check.observed == "none of 12"  # each of four places, distances and counts
    assert passed >= 19


def test_what_is_within_the_tolerance_passes(clinic: UseCase) -> None:
    """A group may lose a little more than before, which a gate without tolerance refuses."""
    rows, found = _pair(np.random.default_rng(8), {"west": 0.008})
    measured = measure_slices(clinic, rows, rows, found, partitions(NIGHTS), "champion")
    strict = clinic.gate.model_copy(update={"slices": Slices(columns=("place",), tolerance=0.0)})
    assert _check(measured, clinic.gate).passed
    assert "place = west" in _check(measured, strict).observed


def test_a_declared_column_whose_groups_are_all_small_is_refused(clinic: UseCase) -> None:
    """What nobody could measure isn't taken for good: a declared column needs one slice at least."""
    rows, found = _pair(np.random.default_rng(9), {})
    few = clinic.gate.model_copy(update={"slices": Slices(columns=("place",), min_rows=4000)})
    spec = clinic.model_copy(update={"gate": few})
    check = _check(measure_slices(spec, rows, rows, found, partitions(NIGHTS), "champion"), few)
    assert not check.passed
    assert check.observed == "none of place"
