"""Permutation importance is the increase of the loss when a feature's values are permuted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.errors import ModelError
from include.evaluate.measure import MAX_IMPORTANCE_ROWS, permutation_importance
from include.evaluate.robustness import sample_indices
from include.models import artifacts
from include.spec import UseCase
from include.stats.metrics import row_losses
from tests.evaluate.fits import Ward, ward


@pytest.fixture(scope="module", params=["binary", "regression"])
def clinic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ward:
    """Enough visits for a part of them, late by their distance alone; each had the same earlier ones."""
    base = ward(tmp_path_factory.mktemp("importance"), request.param)
    random = np.random.default_rng(3)

    def rows(count: int) -> pa.Table:
        distance = random.exponential(5, count)
        late = (distance > 5) if request.param == "binary" else 4 * distance
        return pa.table(
            {
                "partition": [f"2024-03-{1 + i % 20:02}" for i in range(count)],
                "distance": distance,
                "earlier": np.full(count, 2.0),
                "place": random.choice(["north", "south"], count),
                base.spec.problem.target: np.asarray(late, dtype=float),
            }
        )

    test = rows(MAX_IMPORTANCE_ROWS + 200)
    return replace(base, fitted=rows(400), rows=test, actual=test[base.spec.problem.target].to_numpy())


@pytest.mark.parametrize("recipe", ["random_forest", "hist_gradient_boosting"])
def test_what_alone_matters_leads_and_a_constant_is_nothing(clinic: Ward, recipe: str) -> None:
    """The decisive feature is far above noise, and a constant feature is exactly 0."""
    estimator = clinic.fit(recipe)
    importance = permutation_importance(estimator, clinic.spec, clinic.rows, clinic.actual)
    assert list(importance) == ["distance", "earlier", "place"]
    assert importance["earlier"] == 0.0
    assert importance["distance"] > 10 * abs(importance["place"])
    assert permutation_importance(estimator, clinic.spec, clinic.rows, clinic.actual) == importance


def test_importance_is_about_what_shuffling_by_hand_costs(clinic: Ward) -> None:
    """The figure is the mean increase of the declared objective, in its unit."""
    estimator, spec, rows = clinic.fit(), clinic.spec, clinic.rows
    order = np.random.default_rng(99).permutation(rows.num_rows)
    permuted = rows.set_column(rows.column_names.index("distance"), "distance", rows["distance"].take(order))
    before, after = (
        row_losses(spec.gate.objective, clinic.actual, artifacts.predict(estimator, table, spec)).mean()
        for table in (rows, permuted)
    )
    importance = permutation_importance(estimator, spec, rows, clinic.actual)["distance"]
    assert importance == pytest.approx(after - before, rel=0.1)


def test_a_feature_that_breaks_the_model_has_no_figure(clinic: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature on whose permuted values the model fails is left out, and only that one."""
    predict, sample = (
        artifacts.predict,
        sample_indices(clinic.rows, MAX_IMPORTANCE_ROWS, clinic.spec.training.seed),
    )
    original = clinic.rows["place"].take(sample).to_pylist()

    def fragile(estimator: Any, rows: pa.Table, spec: UseCase) -> np.ndarray:
        if rows["place"].to_pylist()[: len(original)] != original:
            raise ModelError("the model")
        return predict(estimator, rows, spec)

    monkeypatch.setattr(artifacts, "predict", fragile)
    assert list(permutation_importance(clinic.fit(), clinic.spec, clinic.rows, clinic.actual)) == [
        "distance",
        "earlier",
    ]


def test_no_rows_have_no_importance(clinic: Ward) -> None:
    """Without rows there is no importance, rather than 0."""
    assert permutation_importance(clinic.fit(), clinic.spec, clinic.rows.slice(0, 0), clinic.actual[:0]) == {}
