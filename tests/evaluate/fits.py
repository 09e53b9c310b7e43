"""The clinic's rows, cut in fitted and later ones, and real models on them, without a registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from sklearn.pipeline import Pipeline

from include.features.labels import training_set
from include.models import artifacts
from include.spec import UseCase
from include.spec.stages import Recipe
from include.storage.lake import Lake
from include.train.estimators import ESTIMATORS, build_estimator
from include.train.fitting import target
from include.train.split import split
from tests.train import visits


@dataclass(frozen=True)
class Ward:
    """A use case, the rows that its models are fitted on, and the test rows with their labels."""

    spec: UseCase
    fitted: pa.Table
    rows: pa.Table
    actual: np.ndarray

    def fit(self, recipe: str = "random_forest", **params: object) -> Pipeline:
        """Fit one of the recipes as training does."""
        small: dict[str, dict[str, object]] = {
            "random_forest": {"n_estimators": 10},
            "hist_gradient_boosting": {"max_iter": 10},
            "mlp": {"max_iter": 5},
            "rule": {"column": "distance", "plus": -5},
            "xgboost": {"n_estimators": 10},
        }
        candidate = Recipe(name="a", estimator=recipe, params={**small.get(recipe, {}), **params})
        return build_estimator(self.spec, candidate).fit(
            artifacts.model_input(self.fitted, self.spec), target(self.spec, self.fitted)
        )


def ward(folder: Path, kind: str = "binary", **changes: str) -> Ward:
    """Return the clinic below a folder."""
    spec = visits.usecase(folder, kind, **changes)
    lake = Lake(spec.name, str(folder / "lake"))
    visits.fill(lake, spec)
    parts = split(training_set(lake, spec, visits.LAST), spec, visits.LAST)
    return Ward(spec, parts.train, parts.test, target(spec, parts.test))


ALL = [(kind, recipe) for kind, recipes in ESTIMATORS.items() for recipe in recipes]
