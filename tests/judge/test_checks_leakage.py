"""A challenger that is too good to be true is refused with the reason; one whose figures are missing too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.judge.checks import EARLIER, LEAKS, decided_alone, history, learns_from_noise
from include.judge.context import Check, CheckContext
from include.judge.evidence import Leak
from include.spec import load
from tests.promote.conftest import evidence, losses

GATE = load("flight_delay").gate
COUNT = 28
NIGHT = 0.5 + 0.05 * np.random.default_rng(4).standard_normal(COUNT)
share = st.floats(0.001, 0.9)


def case(leak: Leak, **baselines: np.ndarray) -> CheckContext:
    """Return what the checks see of these figures; the prior is a baseline unless others are given."""
    made = evidence(losses(NIGHT - 0.05, **(baselines or {"prior": NIGHT})))
    return CheckContext(replace(made, facts=replace(made.facts, leak=leak)), GATE, 1, False)


def said(checks: object) -> Check:
    """Return the only check of a rule."""
    (check,) = checks  # type: ignore[misc]
    return check


def noise(gain: np.ndarray | float) -> Leak:
    """Return losses of a fit on shuffled labels that gains so much a row over the prior, by partition."""
    return Leak(shuffled=tuple((NIGHT - gain) * 100))


# one feature alone


def test_a_feature_that_decides_the_label_is_named() -> None:
    """From the declared figure on it is refused, and the sentence names the strongest feature."""
    least = GATE.leak.alone
    found = said(decided_alone(case(Leak(alone={"distance": 0.6, "delay_code": least}))))
    assert not found.passed
    assert found.sentence() == (
        f"strongest single feature {least:g}, required below {least:g} "
        "(delay_code; remove it from features in usecase.yaml if it tells what came after the decision, "
        "else raise gate.leak.alone; 1 switches this check off)"
    )


def test_a_passed_check_suggests_no_leak() -> None:
    """The note of a check that passed names the strongest feature and nothing to be done about it."""
    found = said(decided_alone(case(Leak(alone={"distance": 0.6, "temp": GATE.leak.alone - 0.01}))))
    assert (found.passed, found.note) == (True, "temp")


def test_the_remedy_for_a_feature_that_tells_all_can_be_followed() -> None:
    """A figure of 1 can't be below any bound: with the bound at 1 the check is off, and says so."""
    perfect = case(Leak(alone={"delay_code": 1.0}))
    assert not said(decided_alone(perfect)).passed
    leak = GATE.leak.model_copy(update={"alone": 1.0})
    found = said(decided_alone(replace(perfect, gate=GATE.model_copy(update={"leak": leak}))))
    assert (found.passed, found.required) == (True, "any, since gate.leak.alone is 1")


def test_a_class_of_too_few_rows_is_named_and_not_judged() -> None:
    """Beside classes with enough rows it is noted; where no class has enough, nothing is refused for it."""
    note = "not judged for rare, with 6 of at least 50 rows"
    found = said(decided_alone(case(Leak(alone={"distance": 0.6}, too_few={"rare": 6}))))
    assert (found.passed, found.note) == (True, f"distance; {note}")
    found = said(decided_alone(case(Leak(alone={"distance": 1.0}, too_few={"rare": 6}))))
    assert not found.passed
    found = said(decided_alone(case(Leak(too_few={"rare": 6}))))
    assert (found.passed, found.found, found.note) == (True, "not judged", note)


def test_features_that_nobody_looked_at_are_no_pass() -> None:
    """Without figures the check fails."""
    found = said(decided_alone(case(Leak())))
    assert (found.passed, found.found) == (False, "missing")


# shuffled labels


def test_a_recipe_that_learns_from_shuffled_labels_is_refused() -> None:
    """A gain that chance doesn't explain; one that varies more than it amounts to is chance."""
    wave = np.tile([1.0, -1.0, 0.4, -0.4], COUNT // 4)
    assert not said(learns_from_noise(case(noise(0.02 + 0.01 * wave)))).passed
    assert said(learns_from_noise(case(noise(0.001 + 0.05 * wave)))).passed
    assert said(learns_from_noise(case(noise(-0.01 + 0.01 * wave)))).passed


def test_no_gain_at_all_is_none() -> None:
    """The prior's own losses, to the bit, are no gain."""
    assert said(learns_from_noise(case(noise(0.0)))).passed


@pytest.mark.parametrize(
    ("leak", "baselines", "found"),
    [
        (Leak(), {"prior": NIGHT}, "missing"),
        (Leak(shuffled=(50.0,) * (COUNT - 1)), {"prior": NIGHT}, "missing"),
        (noise(-0.01), {"logistic": NIGHT}, "no baseline named prior"),
    ],
)
def test_what_was_not_compared_partition_by_partition_is_no_pass(
    leak: Leak, baselines: dict[str, np.ndarray], found: str
) -> None:
    """No losses, losses of other partitions, or no prior to compare with."""
    check = said(learns_from_noise(case(leak, **baselines)))
    assert (check.passed, check.found) == (False, found)


# its own history


def test_far_more_than_ever_before_is_refused() -> None:
    """By hand: three times the odds 0.25 of the best share 0.2 are 0.75, a share of 3 in 7."""
    earlier = (0.1, 0.2, 0.15)
    found = said(history(case(Leak(saved=0.43, history=earlier))))
    assert not found.passed
    assert found.required == "at most 0.4286, 3 times the best odds before"
    assert said(history(case(Leak(saved=0.42, history=earlier)))).passed


@pytest.mark.parametrize("earlier", [(), (0.1,), (0.1,) * (EARLIER - 1)])
def test_a_short_history_forbids_nothing(earlier: tuple[float, ...]) -> None:
    """Before there are three attempts nothing is ordinary, and the note says so."""
    found = said(history(case(Leak(saved=0.9, history=earlier))))
    assert found.passed
    assert found.note == f"{len(earlier)} earlier attempts, judged from 3 on"


def test_what_was_not_measured_is_no_pass() -> None:
    """A missing share isn't a share of nought."""
    assert said(history(case(Leak(history=(0.1,) * EARLIER)))).passed is False


def test_a_useless_past_forbids_no_first_progress() -> None:
    """After attempts that saved nothing a share of 2 % passes, and one of half the loss doesn't."""
    worthless = (-0.1, 0.0, -0.02)
    assert said(history(case(Leak(saved=0.02, history=worthless)))).passed
    assert not said(history(case(Leak(saved=0.5, history=worthless)))).passed


@given(st.lists(share, min_size=EARLIER, max_size=8))
def test_as_good_as_the_best_before_is_never_too_good(earlier: list[float]) -> None:
    """Whatever the past, its best again passes, and what saves everything never does."""
    assert said(history(case(Leak(saved=max(earlier), history=tuple(earlier))))).passed
    assert not said(history(case(Leak(saved=1.0, history=tuple(earlier))))).passed


def test_the_checks_that_set_no_bar_are_those_of_the_sentinel() -> None:
    """By these names an attempt's recorded checks say that it was too good to be true."""
    rules = (decided_alone, learns_from_noise, history)
    assert tuple(said(rule(case(Leak()))).name for rule in rules) == LEAKS
