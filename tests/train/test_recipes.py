"""A recipe is a name with parameters, and what it makes copes with what a partition brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.errors import SpecError
from include.models import artifacts, outputs
from include.references import digest_bytes
from include.spec import UseCase, load
from include.spec.stages import Candidate
from include.train.fit import fit_recipe
from include.train.recipes import ESTIMATORS, build_estimator
from tests.train import visits

PAIRS = [(kind, name) for kind, names in ESTIMATORS.items() for name in names]


def rows(count: int, places: list[str | None]) -> pa.Table:
    """Return rows with the clinic's features."""
    random = np.random.default_rng(3)
    return pa.table(
        {
            "distance": random.random(count),
            "earlier": pa.array([None if i % 7 == 0 else float(i % 5) for i in range(count)], pa.float64()),
            "place": pa.array([places[i % len(places)] for i in range(count)], pa.string()),
        }
    )


def came(spec: UseCase, count: int) -> np.ndarray:
    """Return labels: each of three classes in turn, or a one in three rows."""
    turn = np.arange(count) % 3
    return turn.astype(float) if spec.problem.classes else (turn == 0).astype(float)


def small(name: str) -> Candidate:
    """Return a recipe that is quickly fitted."""
    sizes: dict[str, dict[str, object]] = {
        "hist_gradient_boosting": {"max_iter": 5},
        "random_forest": {"n_estimators": 5},
        "rule": {"column": "distance", "plus": -5},
    }
    return Candidate(name="tried", estimator=name, params=sizes.get(name, {}))


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_each_recipe_survives_storage_and_what_it_never_saw(kind: str, name: str, tmp_path: Path) -> None:
    """A new category, an unknown one and missing numbers give finite predictions, the same from its copy."""
    spec = visits.usecase(tmp_path, kind)
    fitted = rows(200, ["north", "south", None])
    estimator = build_estimator(spec, small(name)).fit(artifacts.model_input(fitted, spec), came(spec, 200))
    data = artifacts.serialize(estimator)
    copy = artifacts.deserialize(data, digest_bytes(data))
    nulls = {"distance": pa.nulls(9, pa.float64()), "earlier": pa.nulls(9, pa.float64())}
    for partition in (rows(50, ["moon", None]), pa.table({**nulls, "place": pa.nulls(9, pa.string())})):
        found = artifacts.predict(estimator, partition, spec)
        assert found.shape == outputs.predictions_shape(spec, partition.num_rows)
        assert artifacts.predict(copy, partition, spec).tobytes() == found.tobytes()


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_column_without_any_value_can_be_fitted(kind: str, name: str, tmp_path: Path) -> None:
    """A numeric or categorical column that is empty all through training is no error."""
    spec = visits.usecase(tmp_path, kind)
    empty = rows(100, [None]).set_column(0, "distance", pa.nulls(100, pa.float64()))
    empty = empty.append_column(spec.problem.target, pa.array(came(spec, 100)))
    estimator = fit_recipe(spec, small(name), empty)
    assert len(artifacts.predict(estimator, empty.slice(0, 10), spec)) == 10


def test_many_categories_fit_boosting(tmp_path: Path) -> None:
    """More categories than boosting has codes for share one, and it can be fitted."""
    spec = visits.usecase(tmp_path)
    many = rows(6000, [f"p{i}" for i in range(600)])
    actual = (np.arange(6000) % 3 == 0).astype(float)
    estimator = build_estimator(spec, small("hist_gradient_boosting")).fit(
        artifacts.model_input(many, spec), actual
    )
    assert artifacts.predict(estimator, many, spec).shape == (6000,)


def test_rule_is_its_column_plus_a_constant(tmp_path: Path) -> None:
    """It says the column's value plus the constant, and the target's median where there is no value."""
    spec = visits.usecase(tmp_path, "regression")
    recipe = Candidate(name="tried", estimator="rule", params={"column": "earlier", "plus": -5})
    fitted = rows(8, ["north"])
    estimator = build_estimator(spec, recipe).fit(
        artifacts.model_input(fitted, spec), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 60.0]
    )
    assert artifacts.predict(estimator, fitted, spec).tolist() == [4.5, -4, -3, -2, -1, -5, -4, 4.5]
    again = build_estimator(spec, recipe).fit(artifacts.model_input(fitted, spec), [4.5] * 8)
    assert artifacts.serialize(again) == artifacts.serialize(estimator)


@pytest.mark.parametrize("params", [{}, {"column": "place"}, {"column": "lateness"}])
def test_rule_over_a_column_that_is_no_numeric_feature_is_refused(
    params: dict[str, object], tmp_path: Path
) -> None:
    """A rule without a column, over a category or over the target, is answered by the columns that do."""
    spec = visits.usecase(tmp_path, "regression")
    with pytest.raises(SpecError, match=r"params.column: a numeric feature, one of distance, earlier, found"):
        build_estimator(spec, Candidate(name="tried", estimator="rule", params=params))


def test_rule_with_a_constant_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """What is added must be a finite number."""
    spec = visits.usecase(tmp_path, "regression")
    few = rows(8, ["north"]).append_column("lateness", pa.array([1.0] * 8))
    for plus in ("five", float("nan")):
        recipe = Candidate(name="tried", estimator="rule", params={"column": "earlier", "plus": plus})
        with pytest.raises(SpecError, match=r"parameters with which rule can be fitted"):
            fit_recipe(spec, recipe, few)


def test_unknown_estimator_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """A name that isn't a recipe, or is one of the other kind of problem, is answered by the valid names."""
    spec = visits.usecase(tmp_path)
    valid = "prior, logistic_regression, hist_gradient_boosting, random_forest"
    with pytest.raises(SpecError, match=rf"training\.tried.*one of {valid}.*found ridge"):
        build_estimator(spec, Candidate(name="tried", estimator="ridge"))


@pytest.mark.parametrize("name", ["learning_rates", "random_state", "n_jobs"])
def test_unknown_parameter_is_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    """A parameter that the estimator lacks, or that is set here, is answered by the valid ones."""
    spec = visits.usecase(tmp_path)
    wrong = Candidate(name="tried", estimator="hist_gradient_boosting", params={name: 1})
    with pytest.raises(SpecError, match=rf"l2_regularization, learning_rate.*found {name}"):
        build_estimator(spec, wrong)


def test_shipped_recipes_can_be_built() -> None:
    """Every baseline and candidate of the flights is a recipe with parameters that exist."""
    spec = load("flight_delay")
    for candidate in (*spec.training.baselines, *spec.training.candidates):
        assert build_estimator(spec, candidate).steps[-1][0] == "model"
