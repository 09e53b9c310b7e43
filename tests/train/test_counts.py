"""Counts and quantiles are declared by a candidate's own parameters and an objective, and trained as such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.errors import SpecError
from include.features.labels import training_set
from include.models import artifacts
from include.models.registry import Registry
from include.storage.lake import Lake
from include.train.fits import read_fits
from include.train.fitting import target
from include.train.pipeline import train
from include.train.recipes import recipe_key
from include.train.record import PATH, TrainingRecord
from include.validate.pipeline import errors
from tests.train import visits

FOREST = "estimator: random_forest, params: {n_estimators: 10, min_samples_leaf: 5}"
COUNTS = {
    'sql: "minutes"': 'sql: "greatest(round(minutes / 10), 0)"',
    "objective: squared_error": "objective: poisson_deviance",
    "params: {max_iter: 15, min_samples_leaf: 10}": "params: {max_iter: 15, loss: poisson}",
    FOREST: "estimator: xgboost, params: {n_estimators: 15, objective: 'count:poisson'}",
}
QUANTILE = {
    "objective: squared_error": "objective: quantile_loss@0.9, "
    "requirements: [{metric: coverage, at_least: 0.8}, {metric: coverage, at_most: 0.97}]",
    "params: {max_iter: 15, min_samples_leaf: 10}": "params: {max_iter: 40, loss: quantile, quantile: 0.9}",
    FOREST: "estimator: xgboost, "
    "params: {n_estimators: 40, objective: 'reg:quantileerror', quantile_alpha: 0.9}",
}


def trained(clinic: Path, registry: Registry, changes: dict[str, str]) -> tuple[Any, Lake, TrainingRecord]:
    """Return a use case, its lake and what a training left."""
    spec = visits.usecase(clinic / "usecases", "regression", **changes)
    assert errors(spec) == []
    lake = Lake(spec.name, str(clinic / "lake"))
    run = train(lake, spec, visits.LAST, registry=registry).id
    return spec, lake, TrainingRecord.from_json(registry.get(run, PATH))


@pytest.mark.full
def test_counts_are_predicted_above_0_and_judged_by_their_deviance(clinic: Path, registry: Registry) -> None:
    """Both boostings take the loss as a parameter, and a network isn't given a scaled target."""
    network = "{name: net, estimator: mlp, params: {max_iter: 20, loss: poisson}}"
    spec, lake, record = trained(
        clinic,
        registry,
        {
            **COUNTS,
            "{name: linear, estimator: ridge}": f"{{name: linear, estimator: ridge}}\n    - {network}",
        },
    )
    assert record.selection.losses["boosting"] < record.selection.losses["prior"]
    rows = training_set(lake, spec, visits.LAST)
    for fit in read_fits(lake):
        if fit.recipe in ("boosting", "forest", "net"):
            assert (artifacts.predict(artifacts.load_model(lake, fit.model), rows, spec) > 0).all()


def test_labels_below_0_are_no_counts(clinic: Path, registry: Registry) -> None:
    """The training says which label, and what to do."""
    changes = {"objective: squared_error": "objective: poisson_deviance"}
    with pytest.raises(
        SpecError, match=r"labels of at least 0 .* as lateness, but found -.*correct labels.sql"
    ):
        trained(clinic, registry, changes)


@pytest.mark.full
def test_a_quantile_is_exceeded_by_its_share_of_the_labels(clinic: Path, registry: Registry) -> None:
    """About nine of ten labels are below the predictions of each candidate and of the prior."""
    from include.features.labels import training_set

    spec, lake, record = trained(clinic, registry, QUANTILE)
    rows = training_set(lake, spec, visits.LAST)
    actual = target(spec, rows)
    assert record.constant == pytest.approx(np.quantile(actual, 0.9))
    newest = [fit for fit in read_fits(lake) if fit.partition == visits.LAST]
    for fit in newest:
        predictions = artifacts.predict(artifacts.load_model(lake, fit.model), rows, spec)
        if fit.recipe != "linear":  # which is fitted to the mean
            assert (actual <= predictions).mean() == pytest.approx(0.9, abs=0.05)
    assert record.selection.losses["boosting"] < record.selection.losses["prior"]
    covered = {row["recipe"]: [] for row in lake.rows("walks")}  # of partitions that no fit had seen
    for row in lake.rows("walks"):
        covered[row["recipe"]].append(json.loads(row["metrics"])["coverage"])
    for name in ("prior", "boosting", "forest"):
        assert np.mean(covered[name]) == pytest.approx(0.9, abs=0.12)
    assert np.mean(covered["linear"]) < 0.7  # the mean isn't such a quantile

    mean = spec.model_copy(update={"gate": spec.gate.model_copy(update={"objective": "squared_error"})})
    prior = spec.training.baselines[0]
    assert recipe_key(mean, prior) != recipe_key(spec, prior)
