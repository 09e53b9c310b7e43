"""An ONNX file predicts what its model predicts, for every built-in estimator, kind of problem and input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.export import columns, models, trees
from include.export.convert import largest_difference, open_session, predict_onnx, to_onnx
from include.export.graph import Graph
from include.judge.checks import ONNX_TOLERANCE
from include.models import artifacts, outputs
from include.spec import UseCase
from include.spec.stages import Recipe
from include.train.estimators import scaled_columns
from include.train.fitting import fit_recipe
from tests.export.models import (
    BUILT_IN,
    PLACES,
    ROWS,
    VARIANTS,
    Case,
    case,
    declare,
    export,
    fitted,
    labeled_rows,
)
from tests.train import visits

EXTREMES = (0.0, -0.0, 1e300, -1e300, 1e38, 4e38, 5e-324, np.inf, -np.inf, np.nan, None)
NUMBERS = st.one_of(
    st.sampled_from(EXTREMES), st.floats(-1e300, 1e300), st.floats(-200, 200), st.integers(-5, 20).map(float)
)
TEXTS = st.one_of(st.sampled_from([*PLACES, "a", "b", "new"]), st.text(max_size=3))
# the largest number that each estimator takes; others take infinity
LARGEST = {"random_forest": 3e38, "ridge": 1.7e308, "logistic_regression": 1.7e308, "mlp": 1.7e308}
STEADY = {**LARGEST, "mlp": 1e12}  # beyond, the sums of a network's layers may cancel to their last digits
BOOSTING = case("binary", "hist_gradient_boosting", max_iter=12, min_samples_leaf=5)
FOREST = case("binary", "random_forest", n_estimators=7, min_samples_leaf=3)
LOGISTIC = case("binary", "logistic_regression")

exported = cache(export)


def thresholds(model: Any) -> tuple[float, ...]:
    """Return values at which the trees of a model split."""
    values = [tree.tree_.threshold for tree in getattr(model, "estimators_", [])]
    values += [tree.nodes["num_threshold"] for trees in getattr(model, "_predictors", []) for tree in trees]
    return tuple(np.unique(np.concatenate([*values, np.zeros(1)])).tolist())


def _around(threshold: float) -> st.SearchStrategy[float]:
    neighbors = (threshold, np.nextafter(threshold, -np.inf), np.nextafter(threshold, np.inf))
    return st.sampled_from([*map(float, neighbors), float(np.float32(threshold))])


def table(spec: UseCase, rows: list[tuple[Any, ...]]) -> pa.Table:
    """Return rows of three numbers and two texts."""
    arrays = zip(*rows, strict=True)
    types = [pa.float64()] * 3 + [pa.string()] * 2
    pairs = zip(spec.features.columns, arrays, types, strict=True)
    return pa.table({name: pa.array(values, kind) for name, values, kind in pairs})


@pytest.mark.full
@pytest.mark.parametrize("of", [*BUILT_IN, *VARIANTS], ids=str)
@given(data=st.data())
def test_the_file_predicts_what_the_model_predicts(of: Case, data: st.DataObject) -> None:
    """Within 1e-9, for missing and unseen values, extremes, and values at thresholds."""
    both = exported(of)
    numbers = st.one_of(NUMBERS, st.sampled_from(thresholds(both.estimator[-1])).flatmap(_around))
    drawn = data.draw(st.lists(st.tuples(*[numbers] * 3, *[TEXTS] * 2), min_size=1, max_size=15))
    accepted = [row for row in drawn if _largest(row) <= STEADY.get(of[1], np.inf)]
    rows = table(both.spec, accepted or [(1.0, 2.0, 3.0, "", "a")])
    assert largest_difference(both.onnx(rows), both.own(rows)) <= ONNX_TOLERANCE


MULTICLASS = [of for of in BUILT_IN if of[0] == "multiclass"]


@cache
def of_four_classes() -> UseCase:
    """Return the declaration with a fourth class in the middle."""
    changes = {"[early, on_time, late]": "[early, missed, on_time, late]"}
    changes |= {"{early: 0.2, on_time: 0.5, late: 0.3}": "{early: 0.2, missed: 0, on_time: 0.5, late: 0.3}"}
    features = {"[distance, earlier]": "[distance, earlier, fee]", "[place]": "[place, ward]"}
    return visits.usecase(Path(mkdtemp()), "multiclass", **changes, **features)


@pytest.mark.full
@pytest.mark.parametrize("known", [(0, 3), (1, 2), (0, 2, 3)])
@pytest.mark.parametrize("of", MULTICLASS, ids=str)
def test_a_class_without_a_training_row_has_its_small_probability_in_the_file_too(
    of: Case, known: tuple[int, ...]
) -> None:
    """Every declared class has its column, in the declared order, whichever of them a model was fitted on."""
    spec, rows = of_four_classes(), labeled_rows(declare("multiclass"))
    target = spec.problem.target
    codes = pa.array(np.array(known, float)[rows[target].to_numpy().astype(int) % len(known)])
    rows = rows.set_column(rows.column_names.index(target), target, codes)
    model = fit_recipe(spec, Recipe(name="tried", estimator=of[1], params=dict(of[2])), rows)
    own, written = artifacts.predict(model, rows, spec), predict_onnx(to_onnx(model, spec), rows, spec)
    assert largest_difference(written, own) <= ONNX_TOLERANCE
    for values in (own, written):
        rest = np.delete(values, known, axis=1)
        assert rest == pytest.approx(outputs.UNSEEN / rest.shape[1])


def _largest(row: tuple[Any, ...]) -> float:
    return max(abs(number) for number in (0.0, *row[:3]) if number is not None and not np.isnan(number))


@pytest.mark.full
@pytest.mark.parametrize("of", BUILT_IN, ids=str)
@pytest.mark.parametrize("number", [np.inf, -np.inf, 1e300])
def test_what_the_model_refuses_is_not_predicted(of: Case, number: float) -> None:
    """A number that scikit-learn refuses gives NaN, and the rows beside it keep their predictions."""
    both = exported(of)
    rows = table(both.spec, [(1.0, number, 3.0, "p1", "a"), (1.0, 2.0, None, None, "b")])
    refused = number > LARGEST.get(of[1], np.inf) or abs(number) > LARGEST.get(of[1], np.inf)
    if refused:
        with pytest.raises(ModelError):
            both.own(rows)
        assert np.isnan(both.onnx(rows)[0]).all()
    kept = slice(int(refused), None)
    difference = largest_difference(both.onnx(rows)[kept], both.own(rows.slice(int(refused))))
    assert difference <= ONNX_TOLERANCE


@pytest.mark.parametrize("estimator", ["logistic_regression", "hist_gradient_boosting", "random_forest"])
@pytest.mark.parametrize(("kind", "of"), [("integer", pa.int64()), ("date", pa.date32())])
def test_a_key_that_is_a_category_is_given_as_its_text(
    estimator: str, kind: str, of: pa.DataType, tmp_path: Path
) -> None:
    """A key that is also a categorical feature keeps its type, and the file knows its values as texts."""
    changes = {
        "visit: {type: string": f"visit: {{type: {kind}",
        "categorical: [place]": "categorical: [visit]",
    }
    spec = visits.usecase(tmp_path, **changes)
    random = np.random.default_rng(4)
    visit = random.integers(1, 30, ROWS)
    numbers = {name: random.normal(0, 1, ROWS) for name in spec.features.numeric}
    key = pa.array(visit, pa.int32() if kind == "date" else of).cast(of)
    labels = (random.random(ROWS) < 0.2 + 0.5 * (visit % 2)).astype(float)
    rows = pa.table({**numbers, "visit": key, spec.problem.target: labels})
    model = fit_recipe(spec, Recipe(name="tried", estimator=estimator), rows)
    values, expected = predict_onnx(to_onnx(model, spec), rows, spec), artifacts.predict(model, rows, spec)
    assert largest_difference(values, expected) <= ONNX_TOLERANCE


def test_a_node_without_a_category_sends_missing_values_its_way() -> None:
    """A split by missing values alone has an empty set of categories, which TreeEnsemble doesn't have."""
    for missing_left, expected in ((1, [2.0, 2.0, 1.0]), (0, [2.0, 2.0, 2.0])):
        tree = trees.Tree(
            leaf=np.array([False, True, True]),
            feature=np.zeros(3, int),
            threshold=np.zeros(3),
            missing_left=np.full(3, missing_left),
            left=np.array([1, 0, 0]),
            right=np.array([2, 0, 0]),
            value=np.array([0.0, 1.0, 2.0]),
            members={0: np.zeros(0)},
        )
        graph = Graph()
        data = graph.model({"code": True}, trees.write_trees(graph, [tree], "code", 1), 1, {})
        codes = {"code": np.array([[0.0], [7.0], [np.nan]])}
        assert open_session(data).run(None, codes)[0].ravel().tolist() == expected


@pytest.mark.parametrize(
    ("kind", "activation", "options"),
    [
        *product(["binary", "multiclass", "regression"], ["identity", "logistic", "tanh", "relu"], [{}]),
        ("regression", "tanh", {"loss": "poisson"}),
    ],
)
def test_a_neural_network_is_written(kind: str, activation: str, options: dict[str, str]) -> None:
    """scikit-learn's perceptron with each activation, on the training's rows, new texts and large numbers."""
    spec, rows = declare(kind), labeled_rows(declare(kind))
    network = MLPRegressor if kind == "regression" else MLPClassifier
    sizes = {"hidden_layer_sizes": (7, 5), "max_iter": 20, "random_state": 7}
    model = network(activation=activation, **sizes, **options)
    columns = scaled_columns(spec.features.numeric, spec.features.categorical)
    pipeline = Pipeline([("columns", columns), ("model", model)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it hasn't converged
        pipeline.fit(artifacts.model_input(rows, spec), rows[spec.problem.target].to_numpy())
    extremes = table(spec, [(1e12, -1e12, None, "new", ""), (-0.0, 5e-324, 1e6, None, None)])
    rows = pa.concat_tables([rows.select(list(spec.features.columns)), extremes])
    values = predict_onnx(to_onnx(pipeline, spec), rows, spec)
    assert largest_difference(values, artifacts.predict(pipeline, rows, spec)) <= ONNX_TOLERANCE


@pytest.mark.parametrize("estimator", ["ridge", "mlp", "random_forest", "hist_gradient_boosting"])
def test_a_model_of_the_logarithm_predicts_in_the_unit(estimator: str) -> None:
    """A transformed target is transformed back in the file, and a row that is refused stays NaN."""
    spec, rows = declare("regression"), labeled_rows(declare("regression"), 200)
    candidate = Recipe(name="tried", estimator=estimator, target="log1p")
    pipeline = fit_recipe(spec, candidate, rows)
    values = predict_onnx(to_onnx(pipeline, spec), rows, spec)
    assert largest_difference(values, artifacts.predict(pipeline, rows, spec)) <= ONNX_TOLERANCE
    if estimator != "hist_gradient_boosting":
        infinite = rows.slice(0, 1).set_column(0, "distance", pa.array([np.inf]))
        assert np.isnan(predict_onnx(to_onnx(pipeline, spec), infinite, spec)).all()


@pytest.mark.parametrize(
    ("kind", "estimator", "options"),
    [
        ("binary", "logistic_regression", {}),
        ("multiclass", "hist_gradient_boosting", {}),
        ("regression", "random_forest", {}),
        ("regression", "ridge", {"target": "log1p"}),
        ("regression", "rule", {"params": {"column": "distance"}}),
    ],
)
def test_a_recent_intercept_is_written(kind: str, estimator: str, options: dict[str, Any]) -> None:
    """The file shifts predictions as the model does, and differs from that without the option."""
    spec = declare(kind)
    rows = labeled_rows(spec, 200)
    keys = pa.array([f"2024-01-{1 + place // 20:02d}" for place in range(rows.num_rows)])
    rows = rows.append_column("partition", keys)
    plain, recent = (
        fit_recipe(spec, Recipe(name="tried", estimator=estimator, **options, **more), rows)
        for more in ({}, {"recent_intercept": 2})
    )
    values = predict_onnx(to_onnx(recent, spec), rows, spec)
    assert largest_difference(values, artifacts.predict(recent, rows, spec)) <= ONNX_TOLERANCE
    assert largest_difference(values, artifacts.predict(plain, rows, spec)) > 1e-3


def test_a_transformed_model_without_a_converter_is_refused() -> None:
    """The error names it."""
    spec, rows = declare("regression"), labeled_rows(declare("regression"), 200)
    candidate = Recipe(name="tried", estimator="xgboost", params={"n_estimators": 2}, target="log1p")
    with pytest.raises(ModelError, match="expected a model with a converter, but found XGBoostRegressor"):
        to_onnx(fit_recipe(spec, candidate, rows), spec)


def test_every_estimator_is_covered() -> None:
    """Each built-in estimator of scikit-learn has a converter for each of its kinds of problem."""
    names = {"prior", "hist_gradient_boosting", "random_forest"}
    expected = {
        "binary": names | {"logistic_regression", "mlp"},
        "multiclass": names | {"logistic_regression", "mlp"},
        "regression": names | {"rule", "ridge", "mlp"},
    }
    for kind, estimators in expected.items():
        assert estimators <= {name for own, name, _ in BUILT_IN if own == kind}


def test_training_rows_are_compared_by_more_than_a_constant() -> None:
    """The models of these tests depend on each feature, so that no part of a file is left unused."""
    rows = labeled_rows(declare("binary"))
    for of in (BOOSTING, FOREST, LOGISTIC):
        both = exported(of)
        whole = both.onnx(rows)
        for name in both.spec.features.columns:
            turned = rows[name].take(np.arange(rows.num_rows)[::-1])
            other = both.onnx(rows.set_column(rows.column_names.index(name), name, turned))
            assert np.abs(other - whole).max() > 1e-3, (of, name)


def _without_missing(encoder: Any, place: int) -> tuple[Any, Any]:
    texts, results = encoder_table(encoder, place)
    return texts[:-1], np.delete(results, -2, axis=0)


encoder_table, codes = columns.encoder_table, models._codes


def _flipped(tree: Callable[..., trees.Tree]) -> Callable[..., trees.Tree]:
    def flip(*args: Any) -> trees.Tree:
        one = tree(*args)
        return trees.Tree(**{**vars(one), "missing_left": 1 - one.missing_left})

    return flip


MUTATIONS: dict[str, tuple[Case, Any, str, Any]] = {
    "missing values of boosting go the other way": (
        BOOSTING,
        models,
        "_boosted_tree",
        _flipped(models._boosted_tree),
    ),
    "missing values of a forest go the other way": (
        FOREST,
        models,
        "_forest_tree",
        _flipped(models._forest_tree),
    ),
    "a value at the threshold goes right": (BOOSTING, trees, "AT_MOST", 1),
    "a set of categories lacks one": (BOOSTING, models, "_codes", lambda words: codes(words)[1:]),
    "a missing text is an unknown one": (LOGISTIC, columns, "encoder_table", _without_missing),
    "numbers aren't scaled": (LOGISTIC, columns, "_write_scaler", None),
    "missing numbers stay missing": (LOGISTIC, columns, "_write_imputer", None),
    "no forest is in single precision": (FOREST, models, "FLOAT", models.DOUBLE),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_of_the_converter_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter with one mistake writes a file that differs on rows like those of the training."""
    of, module, attribute, mutant = MUTATIONS[name]
    both = exported(of)
    rows = _rows_at_thresholds(both.spec, thresholds(fitted(of)[-1]))
    assert largest_difference(both.onnx(rows), both.own(rows)) <= ONNX_TOLERANCE
    if attribute.startswith("_write_"):
        step = next(kind for kind, write in columns.NUMBERS.items() if write.__name__ == attribute)
        monkeypatch.setitem(columns.NUMBERS, step, lambda graph, step, matrix: matrix)
    else:
        monkeypatch.setattr(module, attribute, mutant)
    mutated = export(of)
    assert not largest_difference(mutated.onnx(rows), both.own(rows)) <= ONNX_TOLERANCE


def _rows_at_thresholds(spec: UseCase, at: tuple[float, ...]) -> pa.Table:
    """Return the training's rows, then rows with each threshold as a number, or the next one above it."""
    values = [value for threshold in at for value in (threshold, float(np.nextafter(threshold, np.inf)))]
    rows = [(value, value, value, "p3", "a") for value in values if abs(value) < 1e30]
    return pa.concat_tables([labeled_rows(spec).select(list(spec.features.columns)), table(spec, rows)])
