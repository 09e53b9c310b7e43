"""The costs of actions are an objective and a metric like any other, from training to the verdict."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from include.errors import SpecError
from include.evaluate.pipeline import evaluate
from include.judge.evidence import CHALLENGER, Evidence
from include.models import outputs
from include.models.registry import Registry
from include.monitor.checks.live_performance import promotion_test_rows
from include.monitor.estimates import expected_metrics, learn_calibration
from include.monitor.losses import self_expected_loss
from include.promote import ledger
from include.promote.promotion import promote
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.pipeline import train
from include.train.recipes import recipe_key
from tests.train import visits

COSTS = {
    "binary": "costs: {0: {wait: 0, call: 1}, 1: {wait: 6, call: 2}}",
    "multiclass": "costs: {early: {none: 0, text: 1, call: 3}, on_time: {none: 0, text: 1, call: 3}, "
    "late: {none: 8, text: 4, call: 3}}",
}
BY_COST = {"objective: log_loss": "objective: cost, requirements: [{metric: cost, at_most: 2.1}]"}


def declare(folder: Path, kind: str, **changes: str) -> UseCase:
    """Declare the clinic with the costs of its actions."""
    return visits.usecase(folder, kind, **{"statement: s": f"statement: s, {COSTS[kind]}", **changes})


@pytest.mark.full
@pytest.mark.parametrize("kind", ["binary", pytest.param("multiclass", marks=pytest.mark.full)])
def test_a_training_is_judged_by_what_its_actions_cost(kind: str, clinic: Path, registry: Registry) -> None:
    """The recipe, the gate's comparison and its requirement count in costs, and so do live figures."""
    spec = declare(clinic / "usecases", kind, **BY_COST)
    lake = Lake(spec.name, str(clinic / "lake"))
    run = train(lake, spec, visits.LAST, registry=registry).id
    evidence_key = evaluate(lake, spec, visits.LAST, run, registry=registry).id
    evidence = Evidence.from_json(lake.get(evidence_key) or b"")
    losses = evidence.losses
    means = {name: sum(sums) / sum(losses.rows) for name, sums in losses.sums.items()}
    assert means[CHALLENGER] == pytest.approx(evidence.metrics[CHALLENGER]["cost"])
    assert means[CHALLENGER] < means["baseline:prior"]

    verdict = judge_and_record(lake, spec, evidence_key)
    assert verdict.promotes, verdict.sentence
    (required,) = [check for check in verdict.checks if check.name == "cost"]
    assert required.passed
    promote(lake, spec, PurePosixPath(evidence_key).stem, registry=registry)
    champion = ledger.serving(lake, "2024-03-31").champion
    assert champion
    rows = promotion_test_rows(lake, champion)
    assert rows is not None
    actual, predicted = rows["actual"].to_numpy(), outputs.from_single_column(rows[CHALLENGER])
    each = row_losses(spec.objective, actual, predicted)
    # what the probabilities imply, and an estimate without labels, are close to what the actions cost
    assert (self_expected_loss(spec, predicted) or 0) / len(each) == pytest.approx(each.mean(), rel=0.2)
    estimate = expected_metrics(spec, learn_calibration(spec, actual, predicted), predicted)
    assert estimate["cost"] == pytest.approx(each.mean(), rel=0.2)


def test_other_costs_are_another_walk_only_where_they_are_the_objective(tmp_path: Path) -> None:
    """A recipe's recorded losses are never mixed with those by other costs."""
    dearer = {"wait: 6": "wait: 60"}
    by_cost = [
        declare(tmp_path / "a", "binary", **BY_COST),
        declare(tmp_path / "b", "binary", **BY_COST, **dearer),
    ]
    by_log_loss = [declare(tmp_path / "c", "binary"), visits.usecase(tmp_path / "d", "binary")]
    assert len({recipe_key(spec, spec.training.baselines[1]) for spec in by_cost}) == 2
    assert len({recipe_key(spec, spec.training.baselines[1]) for spec in by_log_loss}) == 1


def test_a_dearer_mistake_changes_actions_and_not_probabilities(tmp_path: Path) -> None:
    """The same probabilities cost more, though fewer of the dear mistakes are made."""
    specs = [
        declare(tmp_path / wait, "binary", **BY_COST, **{"wait: 6": wait}) for wait in ("wait: 6", "wait: 60")
    ]
    probabilities = np.linspace(0.01, 0.3, 30)
    missed = [row_losses(spec.objective, np.ones(30), probabilities) for spec in specs]
    assert [(losses > 2).sum() for losses in missed] == [20, 1]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"objective: log_loss": "objective: cost"}, "gate.objective"),
        (
            {"objective: log_loss": "objective: log_loss, requirements: [{metric: cost, at_most: 1}]"},
            "gate.requirements",
        ),
    ],
)
def test_costs_that_are_not_declared_can_not_be_counted(
    change: dict[str, str], path: str, tmp_path: Path
) -> None:
    """The error says where the costs are missing, with an example."""
    with pytest.raises(
        SpecError, match=rf"{path}: cost needs problem\.costs, .* as \{{0: \{{wait: 0, warn: 1"
    ):
        visits.usecase(tmp_path, "binary", **change)


def test_a_regression_is_told_its_own_objectives(tmp_path: Path) -> None:
    """Costs of actions aren't an objective of a regression, whatever is declared."""
    with pytest.raises(SpecError, match="'cost' doesn't fit regression; use squared_error"):
        visits.usecase(tmp_path, "regression", **{"objective: squared_error": "objective: cost"})


def test_a_feature_named_as_the_actions_column_is_refused(tmp_path: Path) -> None:
    """The column of the predictions would be ambiguous."""
    with pytest.raises(SpecError, match="'action' is a column of the predictions; use another name"):
        declare(tmp_path, "binary", **{"numeric: [distance": "numeric: [action"})
