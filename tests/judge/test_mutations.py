"""Each check of the gate is needed: if one is disabled, a test of the gate fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from include.judge import checks
from include.judge.judge import BLESSED, Verdict
from tests.judge import test_judge as sentences

REFUSALS: list[Callable[[], None]] = [
    *(lambda case=case: sentences.test_each_check_refuses_by_itself(case) for case in sentences.CHECKS),  # type: ignore[misc]
    lambda: sentences.test_too_few_partitions_are_a_verdict_of_their_own(sentences.ENOUGH - 1),
    lambda: sentences.test_rows_that_were_fitted_are_no_evidence("2013-02-05"),
]


def _untrue() -> int:
    """Return how many of the tests fail."""
    count = 0
    for sentence in REFUSALS:
        try:
            sentence()
        except AssertionError:
            count += 1
    return count


def test_the_sentences_are_true_of_the_gate_as_it_is() -> None:
    """With every check enabled, no test fails."""
    assert _untrue() == 0


@pytest.mark.parametrize("name", [*checks.SUFFICIENCY_CHECKS, *checks.CHECKS])
def test_a_disabled_check_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one check disabled, a test notices a challenger that should be refused."""
    rules = checks.SUFFICIENCY_CHECKS if name in checks.SUFFICIENCY_CHECKS else checks.CHECKS
    monkeypatch.setitem(rules, name, lambda case: [])
    assert _untrue() >= 1


def test_a_gate_that_always_passes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a gate that always passes, every test of a refusal fails."""
    passed = Verdict(BLESSED, "blessed", ())
    monkeypatch.setattr(sentences, "judge", lambda *args, **kwargs: passed)
    assert _untrue() == len(REFUSALS)
