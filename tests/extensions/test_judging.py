"""A use case's own gate checks, metrics and objective decide as the built-in ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include.errors import SpecError
from include.evaluate.pipeline import evaluate
from include.judge.custom_checks import custom_checks
from include.judge.evidence import Evidence
from include.judge.judge import BLESSED, NOT_BLESSED, NOT_ENOUGH, checks_of, judge
from include.models.registry import Registry
from include.promote.verdicts import judge_and_record
from include.reports.wording import better_direction
from include.spec import UseCase
from include.spec.metrics import greater_is_better
from include.stats.metrics import all_metric_values, row_losses
from include.storage.lake import Lake
from include.train.pipeline import train
from include.train.recipes import recipe_key
from include.validate.pipeline import errors
from tests.extensions.conftest import Declare
from tests.promote.conftest import evidence, losses
from tests.train import visits

COSTS = """
import numpy as np


def cost(actual, predicted):
    \"\"\"A missed visit costs 5, a call 1.\"\"\"
    called = predicted >= 0.2
    return float(np.mean(called + 5 * ((actual == 1) & ~called)))


def share_called(actual, predicted):
    return np.mean(predicted >= 0.2) if len(actual) > 1 else np.nan


def weighted(actual, predicted):
    return np.where(actual == 1, 5, 1) * np.square(actual - predicted)
"""
CHECKS = """
from include.judge.context import Check


def enough_rows(context):
    rows = sum(context.evidence.losses.rows)
    return [Check("labeled test rows", "at least 100", str(rows), rows >= 100)]
"""
GATE = "gate: {objective: log_loss,"
OWN = {
    GATE: 'gate: {objective: "costs:weighted", checks: ["checks:enough_rows"], requirements: '
    '[{metric: "costs:cost", at_most: 2}, {metric: "costs:share_called", at_least: 0.1}],'
}


def own(declare: Declare, costs: str = COSTS, checks: str = CHECKS) -> UseCase:
    """Return the clinic with its own objective, metrics and check."""
    return declare(OWN, costs=costs, checks=checks)


def test_an_objective_loses_by_row_and_metrics_are_measured(declare: Declare) -> None:
    """Both are called with labels and predictions; a metric that the rows can't give is missing."""
    spec = own(declare)
    assert errors(spec) == []
    actual, predicted = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.5, 0.1, 0.1])
    assert row_losses(spec.objective, actual, predicted).tolist() == pytest.approx([1.25, 0.25, 4.05, 0.01])
    values = all_metric_values(spec, actual, predicted)
    assert (values["costs:cost"], values["costs:share_called"]) == (7 / 4, 0.5)
    assert values["roc_auc"] == 0.5
    assert "costs:share_called" not in all_metric_values(spec, actual[:1], predicted[:1])


def test_the_side_of_its_first_bound_is_a_metrics_direction(declare: Declare) -> None:
    """`at_most` means that less is better; an objective is a loss."""
    spec = own(declare)
    assert not greater_is_better("costs:cost", spec)
    assert greater_is_better("costs:share_called", spec)
    assert better_direction("costs:weighted", spec) == "less"


@pytest.mark.parametrize(
    ("old", "new", "path", "problem"),
    [
        (
            "np.where(actual == 1, 5, 1)",
            "-1",
            "gate.objective",
            "2 of 2 losses that are negative",
        ),
        ("* np.square(actual - predicted)", ".sum()", "gate.objective", "shape () for 2 rows"),
        ("called = predicted", "called = forecast", "gate.requirements", "NameError: name 'forecast'"),
        ("def cost", "def costs", "gate.requirements", "only costs, share_called, weighted"),
    ],
)
def test_a_function_that_fails_is_reported(
    declare: Declare, old: str, new: str, path: str, problem: str
) -> None:
    """`validate` calls each with two rows, and names the key and the place."""
    spec = own(declare, COSTS.replace(old, new))
    (sentence,) = errors(spec)
    assert f"missed_visits: {path}: expected" in sentence
    assert problem in sentence
    assert f"{spec.folder}/costs.py" in sentence


def test_another_objective_makes_the_walks_anew(declare: Declare) -> None:
    """Every recipe's key has the bytes of the use case's own objective, since its walk has the losses."""
    recipe = own(declare).training.candidates[0]
    keys = [recipe_key(own(declare, text), recipe) for text in (COSTS, COSTS, COSTS + "\n")]
    assert keys[0] == keys[1] != keys[2]


def test_a_gate_check_blocks(declare: Declare) -> None:
    """It is judged like the others, and not judged where there are too few partitions."""
    spec = own(declare, checks=CHECKS.replace("100", "100_000", 2))
    record = evidence(losses([0.5] * 10, None, prior=[0.7] * 10))
    gate = spec.gate.model_copy(update={"requirements": ()})
    verdict = judge(record, gate, champion=True, custom=custom_checks(spec))
    assert verdict.verdict == NOT_BLESSED
    assert "labeled test rows 1000, required at least 100_000" in verdict.sentence
    assert verdict.checks[-1].name == "labeled test rows"
    assert checks_of(verdict.checks_json()) == verdict.checks
    assert judge(record, gate, champion=True, custom=custom_checks(own(declare))).verdict == BLESSED
    few = evidence(losses([0.5] * 2, None, prior=[0.7] * 2))
    verdict = judge(few, gate, champion=True, custom=custom_checks(spec))
    assert (verdict.verdict, verdict.checks[-1].name) == (NOT_ENOUGH, "checks:enough_rows")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[Check(", "[str(", "TypeError"),
        ("rows >= 100)]", "'yes')]", "passed='yes'"),
        (
            'return [Check("labeled test rows", "at least 100", str(rows), rows >= 100)]',
            "return ['no']",
            "type str",
        ),
    ],
)
def test_a_check_that_returns_no_check_is_refused(declare: Declare, old: str, new: str, problem: str) -> None:
    """What can't be recorded isn't a verdict."""
    spec = own(declare, checks=CHECKS.replace(old, new))
    record = evidence(losses([0.5] * 10, None, prior=[0.7] * 10))
    with pytest.raises(SpecError, match=r"gate\.checks: expected a function of a CheckContext") as caught:
        judge(record, spec.gate, champion=True, custom=custom_checks(spec))
    assert problem in caught.value.found


@pytest.mark.full
def test_a_training_is_judged_by_all_of_them(declare: Declare, registry: Registry, tmp_path: Path) -> None:
    """From the walks to the recorded verdict: losses, requirements and the check."""
    spec = own(declare)
    lake = Lake(spec.name, str(tmp_path / "lake"))
    visits.fill(lake, spec)
    run = train(lake, spec, visits.LAST, registry=registry)
    ref = evaluate(lake, spec, visits.LAST, run.id, registry=registry)
    figures = Evidence.from_json(lake.get(ref.id) or b"").metrics["challenger"]
    assert {"costs:cost", "costs:share_called", "log_loss"} <= set(figures)
    verdict = judge_and_record(lake, spec, ref.id)
    by_name = {check.name: check for check in verdict.checks}
    assert by_name["costs:cost"].required == "at most 2"
    assert by_name["labeled test rows"].passed
