"""Options that make no sense are refused with the remedy, before anything is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from include.errors import SpecError
from include.spec.stages import Recipe
from include.train.estimators import build_estimator
from include.validate.pipeline import errors
from tests.train import visits

REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "a regression's calibration": (
        "regression",
        "ridge",
        {"calibration": "sigmoid"},
        r"calibration: expected a binary or multiclass problem, but found regression.*remove the option",
    ),
    "the prior's calibration": (
        "binary",
        "prior",
        {"calibration": "sigmoid"},
        r"calibration: expected an estimator that learns from the features, but found prior",
    ),
    "a class's logarithm": (
        "binary",
        "xgboost",
        {"target": "log1p"},
        r"target: expected a regression, but found binary",
    ),
    "a rule's logarithm": (
        "regression",
        "rule",
        {"params": {"column": "distance"}, "target": "log1p"},
        r"target: expected an estimator that learns from the features, but found rule",
    ),
    "a logarithm of a logarithm": (
        "regression",
        "hist_gradient_boosting",
        {"params": {"loss": "poisson"}, "target": "log1p"},
        r"target: expected a loss that doesn't take the logarithm itself, but found loss poisson",
    ),
    "a searched logarithm of a logarithm": (
        "regression",
        "xgboost",
        {"search": {"objective": ("reg:squarederror", "count:poisson")}, "target": "log1p"},
        r"target: .*found objective count:poisson.*remove the option or the objective",
    ),
    "a rule's weights": (
        "regression",
        "rule",
        {"params": {"column": "distance"}, "half_life": 3},
        r"half_life: expected an estimator that is fitted on weighted rows, but found rule",
    ),
    "the prior's intercept": (
        "binary",
        "prior",
        {"recent_intercept": 7},
        r"recent_intercept: expected a recipe that learns more than the level.*found prior.*declare window",
    ),
    "an intercept of the whole window": (
        "binary",
        "logistic_regression",
        {"recent_intercept": 7, "window": 7},
        r"recent_intercept: expected fewer than the window of 7 partitions, but found 7",
    ),
    "a forest's constraint": (
        "binary",
        "random_forest",
        {"monotone": {"distance": 1}},
        r"monotone: expected hist_gradient_boosting or xgboost, but found random_forest",
    ),
    "a constraint of several classes": (
        "multiclass",
        "xgboost",
        {"monotone": {"distance": 1}},
        r"monotone: expected a binary problem or a regression, but found multiclass",
    ),
    "a constraint declared twice": (
        "binary",
        "xgboost",
        {"monotone": {"distance": 1}, "params": {"monotone_constraints": "(0,0,1)"}},
        r"monotone: expected the constraints once, but found monotone_constraints too",
    ),
    "a forest's rounds": (
        "binary",
        "random_forest",
        {"early_stopping": 3},
        r"early_stopping: expected hist_gradient_boosting or xgboost, but found random_forest",
    ),
    "more held out than there is": (
        "binary",
        "xgboost",
        {"early_stopping": 7, "window": 7},
        r"early_stopping: expected fewer than the window of 7 partitions, but found 7.*hold out fewer",
    ),
    "random rows held out": (
        "binary",
        "hist_gradient_boosting",
        {"early_stopping": 3, "params": {"early_stopping": True}},
        r"early_stopping: expected partitions that are held out in time.*remove the parameter",
    ),
    "rounds chosen twice": (
        "binary",
        "xgboost",
        {"early_stopping": 3, "search": {"n_estimators": (10, 20)}},
        r"early_stopping: expected n_estimators, as the most rounds, under params, but found",
    ),
    "a forest in a file": (
        "binary",
        "random_forest",
        {"external_memory": 1000},
        r"external_memory: expected xgboost, but found random_forest",
    ),
    "a file with early stopping": (
        "binary",
        "xgboost",
        {"external_memory": 1000, "early_stopping": 3},
        r"external_memory: expected no early_stopping, which needs all rows in memory.*remove one of the two",
    ),
    "a forest on workers": (
        "binary",
        "random_forest",
        {"engine": "dask"},
        r"engine: expected xgboost for dask, but found random_forest; remove the option, or use xgboost",
    ),
    **{
        f"workers and {option}": (
            "regression",
            "xgboost",
            {"engine": "dask", option: value},
            rf"engine: expected no {option} with dask, .*found {option}; remove one of the two",
        )
        for option, value in {"target": "log1p", "early_stopping": 3, "external_memory": 1000}.items()
    },
    "exact splits on workers": (
        "binary",
        "xgboost",
        {"engine": "dask", "params": {"tree_method": "exact"}},
        r"engine: expected tree_method hist for dask, .*found tree_method exact; remove the option or the",
    ),
    "a searched quantile on workers": (
        "regression",
        "xgboost",
        {"engine": "dask", "search": {"objective": ("reg:squarederror", "reg:quantileerror")}},
        r"engine: expected an objective whose leaves aren't quantiles.*found objective reg:quantileerror",
    ),
    "an unknown parameter": (
        "binary",
        "logistic_regression",
        {"search": {"depth": (1, 2)}},
        r"search: expected parameters of logistic_regression: C, class_weight.*found depth",
    ),
    "a reserved parameter": (
        "binary",
        "xgboost",
        {"search": {"n_jobs": (1, 2)}},
        r"search: expected parameters of xgboost: .*found n_jobs",
    ),
    "a parameter under both": (
        "regression",
        "ridge",
        {"search": {"alpha": (1, 2)}, "params": {"alpha": 1}},
        r"search: expected each parameter under params or under search, but found alpha under both",
    ),
    "nothing to choose from": (
        "regression",
        "ridge",
        {"search": {"alpha": (1,)}},
        r"search: expected two values or more of a parameter, but found one of each.*move it to params",
    ),
    "the prior's search": (
        "binary",
        "prior",
        {"search": {"constant": (0, 1)}},
        r"search: expected an estimator that learns from the features, but found prior",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_option_that_makes_no_sense_is_refused_with_its_remedy(case: str, tmp_path: Path) -> None:
    """The sentence names the recipe, the option, what it requires and what was found."""
    kind, name, declared, message = REFUSED[case]
    spec = visits.usecase(tmp_path, kind)
    with pytest.raises(SpecError, match=r"training\.tried\." + message):
        build_estimator(spec, Recipe(name="tried", estimator=name, **declared))


def test_validate_reports_such_an_option(tmp_path: Path) -> None:
    """Before anything is loaded the declaration's author reads what to change."""
    spec = visits.usecase(
        tmp_path, **{"estimator: random_forest,": "estimator: random_forest, monotone: {distance: 1},"}
    )
    (problem,) = errors(spec)
    assert "training.forest.monotone: expected hist_gradient_boosting or xgboost" in problem


def test_a_constraint_on_a_column_that_is_no_number_is_refused_with_those_that_are(tmp_path: Path) -> None:
    """A category can't rise."""
    declared = {
        "estimator: random_forest,": "estimator: xgboost, monotone: {place: 1},",
        "params: {n_estimators: 10, min_samples_leaf: 5}": "params: {}",
    }
    with pytest.raises(
        SpecError, match=r"training\.forest\.monotone: 'place' isn't a numeric feature.*distance, earlier"
    ):
        visits.usecase(tmp_path, **declared)


def test_validate_reports_an_engine_that_the_estimator_lacks(tmp_path: Path) -> None:
    """Before a cluster is asked for anything."""
    spec = visits.usecase(
        tmp_path, **{"estimator: random_forest,": "estimator: random_forest, engine: dask,"}
    )
    (problem,) = errors(spec)
    assert "training.forest.engine: expected xgboost for dask, but found random_forest" in problem


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"estimator: random_forest,": "estimator: random_forest, workers: 3,"},
            r"candidates\.1: workers: they are those of engine: dask",
        ),
        ({"  seed: 7": "  seed: 7\n  dask_connection: dask"}, r"dask_connection: no recipe has engine: dask"),
    ],
)
def test_a_cluster_that_no_recipe_uses_is_refused(
    changes: dict[str, str], message: str, tmp_path: Path
) -> None:
    """It would have no effect."""
    with pytest.raises(SpecError, match=message):
        visits.usecase(tmp_path, **changes)


def test_a_budget_without_a_search_is_refused(tmp_path: Path) -> None:
    """It would have no effect."""
    declared = {"estimator: random_forest,": "estimator: random_forest, search_fits: 5,"}
    with pytest.raises(
        SpecError, match=r"candidates\.1: search_fits: it limits search, which isn't declared"
    ):
        visits.usecase(tmp_path, **declared)
