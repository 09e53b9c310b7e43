"""Small fitted models of each estimator and kind of problem, beside their ONNX files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
from onnxruntime import InferenceSession
from sklearn.pipeline import Pipeline

from include.export.convert import convertible, open_session, session_input, to_onnx
from include.models import artifacts
from include.spec import UseCase
from include.spec.stages import Recipe
from include.train.fitting import fit_recipe
from tests.train import visits

# texts that only look missing, and so many that some share a code or a column
PLACES = ("", "nan", "None", "null", "ä", " a", *(f"p{number}" for number in range(40)), None)
ROWS = 600
Case = tuple[str, str, tuple[tuple[str, Any], ...]]  # kind of problem, estimator, parameters


@cache
def declare(kind: str) -> UseCase:
    """Return a declaration with three numbers and two categories."""
    features = {"numeric: [distance, earlier]": "numeric: [distance, earlier, fee]"}
    features |= {"categorical: [place]": "categorical: [place, ward]"}
    return visits.usecase(Path(mkdtemp()), kind, **features)


def case(kind: str, estimator: str, **params: Any) -> Case:
    """Return a case."""
    return kind, estimator, tuple(params.items())


SMALL: dict[str, dict[str, Any]] = {
    "rule": {"column": "distance", "plus": 2.5},
    "hist_gradient_boosting": {"max_iter": 12, "min_samples_leaf": 5},
    "random_forest": {"n_estimators": 7, "min_samples_leaf": 3},
}
BUILT_IN = [
    case(kind, name, **SMALL.get(name, {})) for kind in visits.KINDS for name in convertible(declare(kind))
]
VARIANTS = [
    *(
        case("regression", "hist_gradient_boosting", max_iter=5, loss=loss)
        for loss in ("poisson", "gamma", "absolute_error")
    ),
    case("regression", "hist_gradient_boosting", max_iter=5, loss="quantile", quantile=0.9),
    # trees of one leaf
    case("binary", "hist_gradient_boosting", max_iter=2, min_samples_leaf=ROWS),
    case("multiclass", "hist_gradient_boosting", max_iter=2, min_samples_leaf=ROWS),
    case("regression", "random_forest", n_estimators=2, min_samples_leaf=ROWS),
    case("binary", "random_forest", n_estimators=3, criterion="entropy", class_weight="balanced"),
]


def labeled_rows(spec: UseCase, count: int = ROWS) -> pa.Table:
    """Return rows of which each feature matters, with labels; one value in ten is missing."""
    random = np.random.default_rng(11)
    numbers = {"distance": random.exponential(5, count), "earlier": random.poisson(2.0, count).astype(float)}
    numbers |= {"fee": np.round(random.normal(0, 100, count), 1)}
    places = np.array(PLACES, object)[random.integers(0, len(PLACES), count)].tolist()
    wards = np.array(["a", "b", None], object)[random.integers(0, 3, count)].tolist()
    late = numbers["distance"] + 3 * numbers["earlier"] + 0.02 * numbers["fee"] + random.normal(0, 3, count)
    late += [5.0 * (sum((place or "?").encode()) % 3) for place in places]
    late += [4.0 * (ward == "a") for ward in wards]
    labels = {
        "binary": (late > np.median(late)).astype(float),
        "regression": late - late.min() + 0.1,
        "multiclass": np.digitize(late, np.quantile(late, [0.3, 0.7])).astype(float),
    }
    for values in numbers.values():
        values[random.random(count) < 0.1] = np.nan
    columns: dict[str, Any] = {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    columns |= {"place": pa.array(places, pa.string()), "ward": pa.array(wards, pa.string())}
    return pa.table({**columns, spec.problem.target: labels[spec.problem.kind]})


@dataclass(frozen=True)
class Exported:
    """A fitted model beside its ONNX file."""

    spec: UseCase
    estimator: Pipeline
    session: InferenceSession

    def onnx(self, rows: pa.Table) -> artifacts.Values:
        """Return the file's predictions."""
        values: artifacts.Values = self.session.run(None, session_input(rows, self.spec))[0]
        return values

    def own(self, rows: pa.Table) -> artifacts.Values:
        """Return the model's predictions."""
        return artifacts.predict(self.estimator, rows, self.spec)


@cache
def fitted(of: Case) -> Pipeline:
    """Return a case's fitted pipeline."""
    kind, estimator, params = of
    spec, candidate = declare(kind), Recipe(name="tried", estimator=estimator, params=dict(params))
    return fit_recipe(spec, candidate, labeled_rows(spec))


def export(of: Case) -> Exported:
    """Return a case's model and a file that is written now."""
    spec = declare(of[0])
    return Exported(spec, fitted(of), open_session(to_onnx(fitted(of), spec)))
