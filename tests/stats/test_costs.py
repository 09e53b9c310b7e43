"""Each prediction's action is the one with the lowest expected cost, and its loss is what that costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from include.spec import Problem
from include.stats.metrics import action_costs, best_actions, metric_value

prices = st.integers(0, 1000).map(lambda cents: cents / 100)
shares = st.floats(0, 1)


def problem(costs: dict[Any, dict[str, float]], classes: tuple[str, ...] = ()) -> Problem:
    """Return a problem with costs, binary unless it has classes."""
    kind = "multiclass" if classes else "binary"
    return Problem(kind=kind, classes=classes, statement="s", target="late", costs=costs)


@given(table=st.lists(prices, min_size=4, max_size=4), share=shares)
def test_two_actions_of_a_binary_problem_differ_by_a_threshold(table: list[float], share: float) -> None:
    """The closed form says on which side of the threshold a probability is, in either order of actions."""
    false_alarm, calm, missed, warned = table
    assume(false_alarm > calm)
    assume(missed > warned)
    threshold = (false_alarm - calm) / (false_alarm - calm + missed - warned)
    assume(abs(share - threshold) > 1e-9)
    for names in (("wait", "warn"), ("warn", "wait")):
        costs = {"wait": (calm, missed), "warn": (false_alarm, warned)}
        declared = problem({code: {name: costs[name][code] for name in names} for code in (0, 1)})
        assert declared.threshold == pytest.approx(threshold)
        (place,) = best_actions(np.array([share]), declared.cost_matrix)
        assert declared.actions[place] == ("warn" if share > threshold else "wait")


@given(
    table=st.lists(st.lists(prices, min_size=4, max_size=4), min_size=3, max_size=3),
    odds=st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=20),
)
def test_no_other_action_has_a_lower_expected_cost(table: list[list[float]], odds: list[list[float]]) -> None:
    """Of several classes and four actions, none is expected to cost less than the one that is taken."""
    predicted = np.array(odds) / np.array(odds).sum(axis=1, keepdims=True)
    costs = tuple(map(tuple, table))
    taken, expected = best_actions(predicted, costs), predicted @ np.array(table)
    assert (expected[np.arange(len(odds)), taken] <= expected.min(axis=1) + 1e-9).all()
    alone = [best_actions(row[None], costs)[0] for row in predicted]
    assert taken.tolist() == alone  # whatever is decided beside it
    for code in range(3):
        losses = action_costs(np.full(len(odds), float(code)), predicted, costs)
        assert losses.tolist() == [table[code][place] for place in taken]


def test_the_metric_is_what_the_actions_cost_per_row() -> None:
    """By hand: waiting for a late one costs 5, a warning 1 whatever happens, and the threshold is 0.2."""
    costs = problem({0: {"wait": 0, "warn": 1}, 1: {"wait": 5, "warn": 1}}).cost_matrix
    actual, predicted = np.array([0.0, 1, 0, 1]), np.array([0.1, 0.1, 0.3, 0.9])
    assert action_costs(actual, predicted, costs).tolist() == [0, 5, 1, 1]
    assert metric_value("cost", actual, predicted, costs=costs) == 7 / 4


def test_of_actions_that_cost_the_same_the_first_is_taken() -> None:
    """At the threshold itself the first that is declared is taken."""
    costs = problem({0: {"warn": 1, "wait": 0}, 1: {"warn": 0, "wait": 1}}).cost_matrix
    assert best_actions(np.array([0.5]), costs).tolist() == [0]


CLASSES = ("early", "on_time", "late")
WRONG: list[tuple[Any, tuple[str, ...], str]] = [
    ({0: {"wait": 0, "warn": -1}, 1: {"wait": 5, "warn": 1}}, (), "greater than or equal to 0"),
    ({0: {"wait": 0, "warn": float("nan")}, 1: {"wait": 5, "warn": 1}}, (), "finite number"),
    ({0: {"wait": 0, "warn": float("inf")}, 1: {"wait": 5, "warn": 1}}, (), "finite number"),
    ({0: {"wait": 0, "warn": 1}}, (), "a row for each actual label, 0, 1, but found 0"),
    ({0: {"wait": 0, "warn": 1}, 2: {"wait": 5, "warn": 1}}, (), "found 0, 2"),
    ({"early": {"wait": 0, "warn": 1}, "late": {"wait": 5, "warn": 1}}, CLASSES, "on_time, late, but f"),
    ({0: {"wait": 0, "warn": 1}, 1: {"wait": 5}}, (), "costs.1: at least two actions, the same ones"),
    ({0: {"wait": 0}, 1: {"wait": 5}}, (), r"the same ones as of the first label \(wait\), but found wait"),
    ({0: {}, 1: {}}, (), "costs.0: at least two actions, .*, but found none"),
    ({0: {True: 0, "warn": 1}, 1: {"wait": 5, "warn": 1}}, (), "True isn't a valid name: quote yes"),
    ({0: {"wait": 0, "warn": 1}, 1: {"wait": 1, "warn": 1}}, (), "found warn, which never costs less"),
    ({0: {"wait": 0, "call": 0}, 1: {"wait": 1, "call": 1}}, (), "found wait, which never costs less"),
]  # fmt: skip


@pytest.mark.parametrize(("costs", "classes", "message"), WRONG)
def test_costs_that_make_no_sense_are_refused(costs: Any, classes: tuple[str, ...], message: str) -> None:
    """A negative cost, a missing one, another label, and an action that is never the best one."""
    with pytest.raises(ValueError, match=message):
        problem(costs, classes)


def test_a_regression_has_no_costs_of_actions() -> None:
    """There are no probabilities from which a cost could be expected."""
    costs = {0: {"wait": 0, "warn": 1}, 1: {"wait": 5, "warn": 1}}
    with pytest.raises(
        ValueError, match="only binary and multiclass problems have them, but found kind regress"
    ):
        Problem(kind="regression", statement="s", target="late", costs=costs)
