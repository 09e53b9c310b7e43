"""A bound between groups fails only where two groups are shown to break it, and the message names them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from include.judge.checks import fairness
from include.judge.context import Check, CheckContext
from include.judge.evidence import Fairness as Measured
from include.judge.evidence import GroupSums
from include.spec.gate import FairnessRequirement, FairnessRules, Gate, Requirement
from tests.promote.conftest import evidence, facts, losses

PARTITIONS = 24
DIFFERENCE = FairnessRequirement(metric="tpr_difference", at_most=0.1)
RATIO = FairnessRequirement(metric="tpr_ratio", at_least=0.8)


def group(random: np.random.Generator, rate: float, positives: int, wave: float = 0.0) -> GroupSums:
    """Return a group with this true positive rate, which differs by partition if there is a wave."""
    rates = np.clip(rate + wave * random.standard_normal(PARTITIONS), 0, 1)
    hits = tuple(int(n) for n in random.binomial(positives, rates))
    counts, none = (positives,) * PARTITIONS, (0,) * PARTITIONS
    return GroupSums(tuple(2 * n for n in counts), counts, hits, hits, none)


def check(requirement: Requirement, reference: str = "", **groups: GroupSums) -> Check:
    """Judge these groups of the column origin."""
    rules = FairnessRules(
        columns=("origin",),
        requirements=(requirement,),
        reference={"origin": reference} if reference else {},
    )
    measured = Measured("origin", {}, {}, groups)
    results = losses([0.5] * PARTITIONS)
    record = evidence(results, facts=facts(results, fairness=(measured,)))
    gate = Gate(objective="log_loss", fairness=rules)
    (result,) = fairness(CheckContext(record, gate, has_champion=False))
    return result


@pytest.mark.parametrize("wave", [0.0, 0.1])
@pytest.mark.parametrize(("requirement", "low"), [(DIFFERENCE, 0.5), (RATIO, 0.48)])
def test_groups_at_the_bound_fail_as_rarely_as_alpha(
    requirement: Requirement, low: float, wave: float
) -> None:
    """Of 400 pairs of groups that differ by exactly the bound, at most a share of alpha fails."""
    random = np.random.default_rng(3)
    failed = 0
    for _ in range(400):
        groups = {"JFK": group(random, 0.6, 12, wave), "EWR": group(random, low, 30, wave)}
        failed += not check(requirement, **groups).passed
    assert failed <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_many_equal_groups_do_not_fail_by_chance() -> None:
    """Of ten small groups with the same rate two always look different; at most a share of alpha fails."""
    random = np.random.default_rng(4)
    looks, failed = 0, 0
    for _ in range(100):
        groups = {f"g{i}": group(random, 0.5, 4) for i in range(10)}
        rates = [sum(sums.selected_positives) / sum(sums.positives) for sums in groups.values()]
        looks += max(rates) - min(rates) > 0.1
        failed += not check(DIFFERENCE, **groups).passed
    assert looks > 80
    assert failed <= 5


@pytest.mark.parametrize(
    ("requirement", "bound"), [(DIFFERENCE, "lower bound at most"), (RATIO, "upper bound at least")]
)
def test_groups_that_are_shown_to_differ_are_named(requirement: Requirement, bound: str) -> None:
    """The note has the two groups' rates and rows."""
    random = np.random.default_rng(5)
    groups = {name: group(random, rate, 40) for name, rate in {"EWR": 0.6, "JFK": 0.7, "LGA": 0.3}.items()}
    result = check(requirement, **groups)
    rates = {name: sum(g.selected_positives) / sum(g.positives) for name, g in groups.items()}
    assert not result.passed
    assert result.required.startswith(f"{bound} 0.")
    assert result.note == f"tpr of JFK {rates['JFK']:.4g} (960 rows) and LGA {rates['LGA']:.4g} (960 rows)"


def test_groups_are_compared_with_the_reference_only() -> None:
    """Two groups on both sides of the reference may differ from one another by more than the bound."""
    random = np.random.default_rng(6)
    groups = {name: group(random, rate, 60) for name, rate in {"EWR": 0.6, "JFK": 0.5, "LGA": 0.4}.items()}
    assert not check(DIFFERENCE, **groups).passed
    assert check(DIFFERENCE, reference="JFK", **groups).passed
    missing = check(DIFFERENCE, reference="BOS", **groups)
    assert (missing.passed, missing.observed) == (False, "missing")


def test_a_group_on_few_partitions_is_not_compared() -> None:
    """All its rows could share one cause. The note names it, and a single other group has no figure."""
    random = np.random.default_rng(7)
    whole, other = group(random, 0.6, 40), group(random, 0.6, 40)
    padding = (0,) * (PARTITIONS - 1)
    once = GroupSums((900, *padding), (500, *padding), (0, *padding), (0, *padding), (0.0, *padding))
    result = check(DIFFERENCE, EWR=whole, JFK=other, LGA=once)
    assert result.passed
    assert result.note.endswith("; on too few partitions to compare: LGA")
    result = check(DIFFERENCE, EWR=whole, LGA=once)
    assert (result.passed, result.observed) == (False, "missing")
    assert result.note.startswith("two groups with this rate are needed, but found EWR; ")


def test_a_group_without_an_event_is_not_certain() -> None:
    """None of 96 positives shows that a rate is below .1, and none of 12 doesn't, though all agree."""
    random = np.random.default_rng(8)
    larger = group(random, 0.2, 40)
    assert not check(DIFFERENCE, EWR=larger, LGA=group(random, 0.0, 4)).passed
    few = tuple(i % 2 for i in range(PARTITIONS))
    none = (0,) * PARTITIONS
    assert check(DIFFERENCE, EWR=larger, LGA=GroupSums((20,) * PARTITIONS, few, none, none, none)).passed


def test_rates_of_zero_have_no_ratio() -> None:
    """Groups that never select anybody are equal, and the ratio is missing."""
    random = np.random.default_rng(9)
    result = check(RATIO, EWR=group(random, 0.0, 40), JFK=group(random, 0.0, 40))
    assert (result.passed, result.observed) == (False, "missing")


@pytest.mark.parametrize(
    ("metric", "expected"), [("selection_rate", 0.25), ("fpr", 0.1), ("calibration", 0.05)]
)
def test_each_rate_is_of_its_own_rows(metric: str, expected: float) -> None:
    """Each rate divides its sums by the rows that define it."""
    same = (1,) * PARTITIONS
    plain = GroupSums(*(tuple(n * one for one in same) for n in (40, 20, 10, 10, 0)))
    other = GroupSums(*(tuple(n * one for one in same) for n in (40, 20, 20, 18, 2)))
    result = check(FairnessRequirement(metric=f"{metric}_difference", at_most=0.0), EWR=plain, JFK=other)
    assert float(result.observed.split(" ")[0]) == pytest.approx(expected)
    assert not result.passed
