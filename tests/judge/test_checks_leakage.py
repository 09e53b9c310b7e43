"""A challenger that is too good to be true is refused with the reason; one whose figures are missing too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.judge.checks import (
    LEAKAGE_CHECKS,
    MIN_PAST_ATTEMPTS,
    past_attempts,
    shuffled_labels,
    single_feature,
)
from include.judge.context import Check, CheckContext
from include.judge.evidence import Leakage
from include.spec import load
from tests.promote.conftest import evidence, losses

GATE = load("flight_delay").gate
COUNT = 28
NIGHT = 0.5 + 0.05 * np.random.default_rng(4).standard_normal(COUNT)
share = st.floats(0.001, 0.9)


def case(leak: Leakage, **baselines: np.ndarray) -> CheckContext:
    """Return what the checks see of these figures; the prior is a baseline unless others are given."""
    made = evidence(losses(NIGHT - 0.05, **(baselines or {"prior": NIGHT})))
    return CheckContext(replace(made, facts=replace(made.facts, leakage=leak)), GATE, 1, False)


def said(checks: object) -> Check:
    """Return the only check of a rule."""
    (check,) = checks  # type: ignore[misc]
    return check


def noise(gain: np.ndarray | float) -> Leakage:
    """Return losses of a fit on shuffled labels that gains so much a row over the prior, by partition."""
    return Leakage(shuffled_losses=tuple((NIGHT - gain) * 100))


# one feature alone


def test_a_feature_that_decides_the_label_is_named() -> None:
    """From the declared figure on it is refused, and the sentence names the strongest feature."""
    least = GATE.leak.alone
    found = said(single_feature(case(Leakage(single_feature={"distance": 0.6, "delay_code": least}))))
    assert not found.passed
    assert found.sentence() == (
        f"strongest single feature {least:g}, required below {least:g} "
        "(delay_code; if it is only known after the decision, remove it from features in usecase.yaml; "
        "otherwise raise gate.leak.alone (1 disables this check))"
    )


def test_a_passed_check_suggests_no_leak() -> None:
    """The note of a check that passed names the strongest feature and nothing to be done about it."""
    found = said(
        single_feature(case(Leakage(single_feature={"distance": 0.6, "temp": GATE.leak.alone - 0.01})))
    )
    assert (found.passed, found.note) == (True, "temp")


def test_the_remedy_for_a_feature_that_tells_all_can_be_followed() -> None:
    """A figure of 1 can't be below any bound: with the bound at 1 the check is off, and says so."""
    perfect = case(Leakage(single_feature={"delay_code": 1.0}))
    assert not said(single_feature(perfect)).passed
    leak = GATE.leak.model_copy(update={"alone": 1.0})
    found = said(single_feature(replace(perfect, gate=GATE.model_copy(update={"leak": leak}))))
    assert (found.passed, found.required) == (True, "any, since gate.leak.alone is 1")


def test_a_class_of_too_few_rows_is_named_and_not_judged() -> None:
    """Beside classes with enough rows it is noted; where no class has enough, nothing is refused for it."""
    note = "not judged for rare, with 6 of at least 50 rows"
    found = said(single_feature(case(Leakage(single_feature={"distance": 0.6}, too_few_rows={"rare": 6}))))
    assert (found.passed, found.note) == (True, f"distance; {note}")
    found = said(single_feature(case(Leakage(single_feature={"distance": 1.0}, too_few_rows={"rare": 6}))))
    assert not found.passed
    found = said(single_feature(case(Leakage(too_few_rows={"rare": 6}))))
    assert (found.passed, found.observed, found.note) == (True, "not judged", note)


def test_features_that_nobody_looked_at_are_no_pass() -> None:
    """Without figures the check fails."""
    found = said(single_feature(case(Leakage())))
    assert (found.passed, found.observed) == (False, "missing")


# shuffled labels


def test_a_recipe_that_learns_from_shuffled_labels_is_refused() -> None:
    """A gain that chance doesn't explain; one that varies more than it amounts to is chance."""
    wave = np.tile([1.0, -1.0, 0.4, -0.4], COUNT // 4)
    assert not said(shuffled_labels(case(noise(0.02 + 0.01 * wave)))).passed
    assert said(shuffled_labels(case(noise(0.001 + 0.05 * wave)))).passed
    assert said(shuffled_labels(case(noise(-0.01 + 0.01 * wave)))).passed


def test_no_gain_at_all_is_none() -> None:
    """The prior's own losses, to the bit, are no gain."""
    assert said(shuffled_labels(case(noise(0.0)))).passed


@pytest.mark.parametrize(
    ("leak", "baselines", "found"),
    [
        (Leakage(), {"prior": NIGHT}, "missing"),
        (Leakage(shuffled_losses=(50.0,) * (COUNT - 1)), {"prior": NIGHT}, "missing"),
        (noise(-0.01), {"logistic": NIGHT}, "no baseline named prior"),
    ],
)
def test_what_was_not_compared_partition_by_partition_is_no_pass(
    leak: Leakage, baselines: dict[str, np.ndarray], found: str
) -> None:
    """No losses, losses of other partitions, or no prior to compare with."""
    check = said(shuffled_labels(case(leak, **baselines)))
    assert (check.passed, check.observed) == (False, found)


# its own history


def test_far_more_than_ever_before_is_refused() -> None:
    """By hand: three times the odds 0.25 of the best share 0.2 are 0.75, a share of 3 in 7."""
    earlier = (0.1, 0.2, 0.15)
    found = said(past_attempts(case(Leakage(loss_reduction=0.43, past_loss_reductions=earlier))))
    assert not found.passed
    assert found.required == "at most 0.4286, 3 times the best earlier odds"
    assert said(past_attempts(case(Leakage(loss_reduction=0.42, past_loss_reductions=earlier)))).passed


@pytest.mark.parametrize("earlier", [(), (0.1,), (0.1,) * (MIN_PAST_ATTEMPTS - 1)])
def test_a_short_history_forbids_nothing(earlier: tuple[float, ...]) -> None:
    """Before there are three attempts nothing is ordinary, and the note says so."""
    found = said(past_attempts(case(Leakage(loss_reduction=0.9, past_loss_reductions=earlier))))
    assert found.passed
    assert found.note == f"{len(earlier)} earlier attempts; this is judged from 3 on"


def test_what_was_not_measured_is_no_pass() -> None:
    """A missing share isn't a share of nought."""
    assert said(past_attempts(case(Leakage(past_loss_reductions=(0.1,) * MIN_PAST_ATTEMPTS)))).passed is False


def test_a_useless_past_forbids_no_first_progress() -> None:
    """After attempts that saved nothing a share of 2 % passes, and one of half the loss doesn't."""
    worthless = (-0.1, 0.0, -0.02)
    assert said(past_attempts(case(Leakage(loss_reduction=0.02, past_loss_reductions=worthless)))).passed
    assert not said(past_attempts(case(Leakage(loss_reduction=0.5, past_loss_reductions=worthless)))).passed


@given(st.lists(share, min_size=MIN_PAST_ATTEMPTS, max_size=8))
def test_as_good_as_the_best_before_is_never_too_good(earlier: list[float]) -> None:
    """Whatever the past, its best again passes, and what saves everything never does."""
    assert said(
        past_attempts(case(Leakage(loss_reduction=max(earlier), past_loss_reductions=tuple(earlier))))
    ).passed
    assert not said(
        past_attempts(case(Leakage(loss_reduction=1.0, past_loss_reductions=tuple(earlier))))
    ).passed


def test_the_checks_that_set_no_bar_are_those_of_the_sentinel() -> None:
    """By these names an attempt's recorded checks say that it was too good to be true."""
    rules = (single_feature, shuffled_labels, past_attempts)
    assert tuple(said(rule(case(Leakage()))).name for rule in rules) == LEAKAGE_CHECKS
