"""A recipe is a name with parameters, and what it makes copes with what a partition brings."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest
import skops.io
import xgboost

from include.errors import SpecError
from include.models import artifacts, outputs
from include.references import digest_bytes
from include.spec import UseCase, load
from include.spec.stages import Recipe
from include.train.estimators import ESTIMATORS, build_estimator
from include.train.fitting import fit_recipe
from tests.train import visits
from tests.warm import stand_in

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


def small(name: str) -> Recipe:
    """Return a recipe that is quickly fitted."""
    sizes: dict[str, dict[str, object]] = {
        "hist_gradient_boosting": {"max_iter": 5},
        "random_forest": {"n_estimators": 5},
        "mlp": {"max_iter": 5},
        "rule": {"column": "distance", "plus": -5},
        "xgboost": {"n_estimators": 5},
    }
    return Recipe(name="tried", estimator=name, params=sizes.get(name, {}))


@pytest.mark.full
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
    """A numeric or categorical column that is empty all through training isn't an error."""
    spec = visits.usecase(tmp_path, kind)
    empty = rows(100, [None]).set_column(0, "distance", pa.nulls(100, pa.float64()))
    empty = empty.append_column(spec.problem.target, pa.array(came(spec, 100)))
    estimator = fit_recipe(spec, small(name), empty)
    assert len(artifacts.predict(estimator, empty.slice(0, 10), spec)) == 10


@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_stored_model_has_the_types_of_its_declared_format_only(kind: str, name: str, tmp_path: Path) -> None:
    """An estimator's file needs no type beyond scikit-learn's and those that its format lists."""
    spec = visits.usecase(tmp_path, kind)
    fitted = rows(200, ["north", "south", None])
    estimator = build_estimator(spec, small(name)).fit(artifacts.model_input(fitted, spec), came(spec, 200))
    types = set(skops.io.get_untrusted_types(data=artifacts.serialize(estimator)))
    assert types <= set(artifacts.FORMATS[ESTIMATORS[kind][name].stored_as])


XGBOOST_DIGEST = """
from pathlib import Path
import sys
from tests.train import test_estimators as t, visits
from include.models import artifacts
from include.references import digest_bytes
kind = sys.argv[2]
spec = visits.usecase(Path(sys.argv[1]), kind)
rows = t.rows(200, ["north", "south", None])
model = t.build_estimator(spec, t.small("xgboost")).fit(artifacts.model_input(rows, spec), t.came(spec, 200))
print(digest_bytes(artifacts.serialize(model)))
"""


@pytest.mark.parametrize(
    "kind", ["binary", *(pytest.param(k, marks=pytest.mark.full) for k in ("regression", "multiclass"))]
)
def test_same_xgboost_fit_has_the_same_digest_in_another_process(kind: str, tmp_path: Path) -> None:
    """Neither the process nor loading and storing again changes the bytes."""
    command = [stand_in(), "-c", XGBOOST_DIGEST, str(tmp_path), kind]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    spec, fitted = visits.usecase(tmp_path, kind), rows(200, ["north", "south", None])
    model = build_estimator(spec, small("xgboost")).fit(artifacts.model_input(fitted, spec), came(spec, 200))
    data = artifacts.serialize(model)
    assert done.stdout == f"{digest_bytes(data)}\n"
    assert artifacts.serialize(artifacts.deserialize(data, digest_bytes(data))) == data


def test_xgboost_is_stored_as_a_booster_that_xgboost_itself_reads(tmp_path: Path) -> None:
    """The file has one entry in UBJ, and XGBoost alone predicts from it what the pipeline predicts."""
    spec = visits.usecase(tmp_path)
    fitted = rows(200, ["north", "south", None])
    estimator = build_estimator(spec, small("xgboost")).fit(
        artifacts.model_input(fitted, spec), came(spec, 200)
    )
    with ZipFile(io.BytesIO(artifacts.serialize(estimator))) as file:
        (entry,) = [name for name in file.namelist() if name.endswith(".bin")]
        booster = xgboost.Booster()
        booster.load_model(bytearray(file.read(entry)))
    codes = estimator.steps[0][1].transform(artifacts.model_input(fitted, spec))
    matrix = xgboost.DMatrix(codes, feature_types=["c", "q", "q"], enable_categorical=True)
    predictions = artifacts.predict(estimator, fitted, spec)  # in float64
    assert booster.predict(matrix).tolist() == pytest.approx(predictions.tolist(), rel=1e-6)


def test_a_network_fits_a_target_of_any_size(tmp_path: Path) -> None:
    """A target in millions is fitted as well as one in units, within the declared iterations."""
    spec = visits.usecase(tmp_path, "regression")
    fitted = rows(600, ["north", "south", None])
    frame, actual = artifacts.model_input(fitted, spec), fitted["distance"].to_numpy()
    recipe = Recipe(name="tried", estimator="mlp", params={"max_iter": 20})
    for size in (1, 1e6):
        estimator = build_estimator(spec, recipe).fit(frame, size * (3 + actual))
        errors = artifacts.predict(estimator, fitted, spec) - size * (3 + actual)
        assert errors.std() < 0.2 * (size * actual).std()


def test_many_categories_fit_boosting(tmp_path: Path) -> None:
    """More categories than boosting has codes for share one, and it can be fitted."""
    spec = visits.usecase(tmp_path)
    many = rows(6000, [f"p{i}" for i in range(600)])
    actual = (np.arange(6000) % 3 == 0).astype(float)
    for name in ("hist_gradient_boosting", "xgboost"):
        estimator = build_estimator(spec, small(name)).fit(artifacts.model_input(many, spec), actual)
        assert artifacts.predict(estimator, many, spec).shape == (6000,)


def test_rule_is_its_column_plus_a_constant(tmp_path: Path) -> None:
    """It says the column's value plus the constant, and the target's median where there is no value."""
    spec = visits.usecase(tmp_path, "regression")
    recipe = Recipe(name="tried", estimator="rule", params={"column": "earlier", "plus": -5})
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
    with pytest.raises(
        SpecError, match=r"params.column: a numeric feature, one of distance, earlier, but found"
    ):
        build_estimator(spec, Recipe(name="tried", estimator="rule", params=params))


def test_rule_with_a_constant_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """What is added must be a number; one that isn't finite is refused when the declaration is read."""
    spec = visits.usecase(tmp_path, "regression")
    few = rows(8, ["north"]).append_column("lateness", pa.array([1.0] * 8))
    recipe = Recipe(name="tried", estimator="rule", params={"column": "earlier", "plus": "five"})
    with pytest.raises(SpecError, match=r"parameters with which rule can be fitted"):
        fit_recipe(spec, recipe, few)


def test_unknown_estimator_is_refused_with_those_there_are(tmp_path: Path) -> None:
    """A name that isn't a recipe, or is one of the other kind of problem, is answered by the valid names."""
    spec = visits.usecase(tmp_path)
    valid = "prior, logistic_regression, mlp, hist_gradient_boosting, random_forest, xgboost"
    with pytest.raises(SpecError, match=rf"training\.tried.*one of {valid}.*found ridge"):
        build_estimator(spec, Recipe(name="tried", estimator="ridge"))


@pytest.mark.parametrize("name", ["learning_rates", "random_state", "n_jobs"])
def test_unknown_parameter_is_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    """A parameter that the estimator lacks, or that is set here, is answered by the valid ones."""
    spec = visits.usecase(tmp_path)
    wrong = Recipe(name="tried", estimator="hist_gradient_boosting", params={name: 1})
    with pytest.raises(SpecError, match=rf"l2_regularization, learning_rate.*found {name}"):
        build_estimator(spec, wrong)


def test_shipped_recipes_can_be_built() -> None:
    """Every baseline and candidate of the flights is a recipe with parameters that exist."""
    spec = load("flight_delay")
    for candidate in (*spec.training.baselines, *spec.training.candidates):
        assert build_estimator(spec, candidate).steps[-1][0] == "model"
