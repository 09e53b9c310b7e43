"""The leakage checks refuse a challenger that is too good to be true, or whose figures are missing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.judge.checks import (
    CHECKS,
    LEAKAGE_CHECKS,
    MIN_PAST_ATTEMPTS,
    all_features,
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
LOSSES = 0.5 + 0.05 * np.random.default_rng(4).standard_normal(COUNT)
share = st.floats(0.001, 0.9)


def case(leak: Leakage, **baselines: np.ndarray) -> CheckContext:
    """Return a check context with these figures; the prior is the default baseline."""
    record = evidence(losses(LOSSES - 0.05, **(baselines or {"prior": LOSSES})))
    return CheckContext(replace(record, facts=replace(record.facts, leakage=leak)), GATE, has_champion=False)


def only(checks: object) -> Check:
    """Return the only result of a check."""
    (check,) = checks  # type: ignore[misc]
    return check


def noise(gain: np.ndarray | float) -> Leakage:
    """Return losses of a fit on shuffled labels with this gain per row over the prior."""
    return Leakage(shuffled_losses=tuple((LOSSES - gain) * 100))


# one feature alone


def test_a_feature_that_decides_the_label_is_named() -> None:
    """A score at the declared bound is refused, and the sentence names the feature and a remedy."""
    least = GATE.leak.max_score
    check = only(single_feature(case(Leakage(single_feature={"distance": 0.6, "delay_code": least}))))
    assert not check.passed
    assert check.sentence() == (
        f"strongest single feature ROC-AUC {least:g}, required below {least:g} "
        "(delay_code; if it is only known after the decision, remove it from features in usecase.yaml; "
        "otherwise raise gate.leak.max_score (1 disables this check))"
    )


def test_a_passed_check_suggests_no_leak() -> None:
    """The note of a passed check names the strongest feature without a remedy."""
    check = only(
        single_feature(case(Leakage(single_feature={"distance": 0.6, "temp": GATE.leak.max_score - 0.01})))
    )
    assert (check.passed, check.note) == (True, "temp")


def test_the_remedy_for_a_feature_that_tells_all_can_be_followed() -> None:
    """With the bound at 1 the check is disabled, and says so."""
    perfect = case(Leakage(single_feature={"delay_code": 1.0}))
    assert not only(single_feature(perfect)).passed
    leak = GATE.leak.model_copy(update={"max_score": 1.0})
    check = only(single_feature(replace(perfect, gate=GATE.model_copy(update={"leak": leak}))))
    assert (check.passed, check.required) == (True, "any, since gate.leak.max_score is 1")


def test_a_class_of_too_few_rows_is_named_and_not_judged() -> None:
    """A class with too few rows is noted and never a reason to refuse."""
    note = "not judged for rare, with 6 of at least 50 rows"
    check = only(single_feature(case(Leakage(single_feature={"distance": 0.6}, too_few_rows={"rare": 6}))))
    assert (check.passed, check.note) == (True, f"distance; {note}")
    check = only(single_feature(case(Leakage(single_feature={"distance": 1.0}, too_few_rows={"rare": 6}))))
    assert not check.passed
    check = only(single_feature(case(Leakage(too_few_rows={"rare": 6}))))
    assert (check.passed, check.observed, check.note) == (True, "not judged", note)


def test_a_model_that_decides_the_label_names_its_features_and_the_remedy() -> None:
    """The sentence names the features that this model needs, not those that matter to the challenger."""
    revealing = {"a": 0.5, "b": 0.04, "c": 0.9, "d": -0.1}
    perfect = case(Leakage(all_features={"challenger": 0.5, "a linear model": 0.9996}, revealing=revealing))
    facts = replace(perfect.evidence.facts, importance={"d": 0.9})
    check = only(all_features(replace(perfect, evidence=replace(perfect.evidence, facts=facts))))
    assert not check.passed
    assert check.sentence() == (
        "all features together ROC-AUC 0.9996, required below 0.98 (a linear model; the columns with the "
        "largest permutation importance are c, a; if they are only known after the decision, remove them "
        "from features in usecase.yaml; otherwise raise gate.leak.max_score (1 disables this check))"
    )


def test_a_refusal_names_the_score_of_a_regression_and_counts_copied_rows() -> None:
    """Test rows that were in training too may be why; a check that passes doesn't mention them."""
    leak = Leakage(single_feature={"a": 0.99}, all_features={"challenger": 0.6}, copied_rows=70)
    context = case(leak)
    context = replace(context, evidence=replace(context.evidence, metrics={"challenger": {"r2": 0.9}}))
    check = only(single_feature(context))
    assert check.observed == "R² 0.99"
    assert check.note.startswith("a; 70 of 2800 test rows are copies of earlier rows, with their label; if")
    assert only(all_features(context)).note == "challenger"


def test_features_that_nobody_looked_at_are_no_pass() -> None:
    """Missing scores fail the check."""
    check = only(single_feature(case(Leakage())))
    assert (check.passed, check.observed) == (False, "missing")


# shuffled labels


def test_a_recipe_that_learns_from_shuffled_labels_is_refused() -> None:
    """A significant gain is refused; a gain within the noise passes."""
    wave = np.tile([1.0, -1.0, 0.4, -0.4], COUNT // 4)
    assert not only(shuffled_labels(case(noise(0.02 + 0.01 * wave)))).passed
    assert only(shuffled_labels(case(noise(0.001 + 0.05 * wave)))).passed
    assert only(shuffled_labels(case(noise(-0.01 + 0.01 * wave)))).passed


def test_no_gain_at_all_is_none() -> None:
    """Losses equal to the prior's aren't a gain."""
    assert only(shuffled_labels(case(noise(0.0)))).passed


@pytest.mark.parametrize(
    ("leak", "baselines", "observed"),
    [
        (Leakage(), {"prior": LOSSES}, "missing"),
        (Leakage(shuffled_losses=(50.0,) * (COUNT - 1)), {"prior": LOSSES}, "missing"),
        (noise(-0.01), {"logistic": LOSSES}, "no baseline named prior"),
    ],
)
def test_what_was_not_compared_partition_by_partition_is_no_pass(
    leak: Leakage, baselines: dict[str, np.ndarray], observed: str
) -> None:
    """Missing losses, losses of other partitions, or a missing prior fail the check."""
    check = only(shuffled_labels(case(leak, **baselines)))
    assert (check.passed, check.observed) == (False, observed)


# its own history


def test_far_more_than_ever_before_is_refused() -> None:
    """By hand: three times the odds 0.25 of the best share 0.2 are 0.75, which is a share of 3/7."""
    earlier = (0.1, 0.2, 0.15)
    check = only(past_attempts(case(Leakage(loss_reduction=0.43, past_loss_reductions=earlier))))
    assert not check.passed
    assert check.required == "at most 0.4286, 3 times the best earlier odds"
    assert only(past_attempts(case(Leakage(loss_reduction=0.42, past_loss_reductions=earlier)))).passed


@pytest.mark.parametrize("earlier", [(), (0.1,), (0.1,) * (MIN_PAST_ATTEMPTS - 1)])
def test_a_short_history_forbids_nothing(earlier: tuple[float, ...]) -> None:
    """With fewer than three earlier attempts the check passes with a note."""
    check = only(past_attempts(case(Leakage(loss_reduction=0.9, past_loss_reductions=earlier))))
    assert check.passed
    assert check.note == f"{len(earlier)} earlier attempts; this is judged from 3 on"


def test_what_was_not_measured_is_no_pass() -> None:
    """A missing loss reduction fails and doesn't count as 0."""
    assert only(past_attempts(case(Leakage(past_loss_reductions=(0.1,) * MIN_PAST_ATTEMPTS)))).passed is False


def test_a_useless_past_forbids_no_first_progress() -> None:
    """After useless attempts, a reduction of 2 % passes and one of 50 % doesn't."""
    worthless = (-0.1, 0.0, -0.02)
    assert only(past_attempts(case(Leakage(loss_reduction=0.02, past_loss_reductions=worthless)))).passed
    assert not only(past_attempts(case(Leakage(loss_reduction=0.5, past_loss_reductions=worthless)))).passed


@given(st.lists(share, min_size=MIN_PAST_ATTEMPTS, max_size=8))
def test_as_good_as_the_best_before_is_never_too_good(earlier: list[float]) -> None:
    """The best earlier reduction always passes, and a reduction of 100 % never does."""
    assert only(
        past_attempts(case(Leakage(loss_reduction=max(earlier), past_loss_reductions=tuple(earlier))))
    ).passed
    assert not only(
        past_attempts(case(Leakage(loss_reduction=1.0, past_loss_reductions=tuple(earlier))))
    ).passed


def test_the_leakage_checks_are_these_four() -> None:
    """`LEAKAGE_CHECKS` has their keys in the registry."""
    functions = [single_feature, all_features, shuffled_labels, past_attempts]
    assert [CHECKS[key] for key in LEAKAGE_CHECKS] == functions
