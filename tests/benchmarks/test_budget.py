"""What each stage costs stays within the budget, and a stage that has become slower is named."""

from __future__ import annotations

import json

import pytest

from benchmarks.budget import BUDGET, exceeded
from benchmarks.memory import apart

BEFORE = {"score": {"cpu": 2.0, "peak_mb": 300.0}, "monitor": {"cpu": 5.0, "peak_mb": 310.0}}


@pytest.mark.full
def test_each_stage_is_within_its_budget() -> None:
    """In a process of its own, by CPU time in loops and by memory."""
    assert exceeded(json.loads(BUDGET.read_text()), apart("budget", "measure")) == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("cpu", 8.1, "monitor: expected cpu of at most 8 (1.6 times the budget's 5), but found 8.1"),
        (
            "peak_mb",
            404,
            "monitor: expected peak_mb of at most 403 (1.3 times the budget's 310), but found 404",
        ),
    ],
)
def test_a_stage_that_costs_more_is_named(name: str, value: float, sentence: str) -> None:
    """One that costs as much as it may is not."""
    now = {**BEFORE, "monitor": {**BEFORE["monitor"], name: value}}
    assert exceeded(BEFORE, now) == [sentence]
    assert exceeded(BEFORE, {**BEFORE, "monitor": {"cpu": 8.0, "peak_mb": 403.0}}) == []


def test_a_new_stage_needs_a_budget() -> None:
    """A stage without one isn't passed over."""
    (problem,) = exceeded(BEFORE, {**BEFORE, "erase": {"cpu": 1.0, "peak_mb": 1.0}})
    assert problem == "budget: expected the stages erase, monitor, score, but found monitor, score"
