"""A recipe's options do what they promise, on what was known, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.pipeline import Pipeline

from include.errors import SpecError
from include.features.labels import training_set
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.metrics import find_objective
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train import fitting
from include.train.fitting import chosen_params, fit_recipe, target
from include.train.recent_intercept import fit_value_shift
from include.train.split import partitions_of
from tests.train import visits

SMALL: dict[str, dict[str, Any]] = {
    "xgboost": {"n_estimators": 30},
    "hist_gradient_boosting": {"max_iter": 30, "min_samples_leaf": 10},
    "random_forest": {"n_estimators": 5},
    "mlp": {"max_iter": 5},
}
LEARNERS = {
    "binary": ("logistic_regression", "random_forest", "hist_gradient_boosting", "xgboost", "mlp"),
    "regression": ("ridge", "random_forest", "hist_gradient_boosting", "xgboost", "mlp"),
}
LEARNERS["multiclass"] = LEARNERS["binary"]
BOOSTING = ("hist_gradient_boosting", "xgboost")
Rows = Callable[[str], tuple[UseCase, pa.Table]]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Return the declaration and the training set of a kind of problem."""
    folder, known = tmp_path_factory.mktemp("fit"), dict[str, tuple[UseCase, pa.Table]]()

    def rows(kind: str) -> tuple[UseCase, pa.Table]:
        if kind not in known:
            spec = visits.usecase(folder, kind)
            lake = Lake(spec.name, str(folder / "lake"))
            visits.fill(lake, spec)
            known[kind] = spec, training_set(lake, spec, visits.LAST)
        return known[kind]

    return rows


def recipe(estimator: str, **options: Any) -> Recipe:
    """Return a recipe that is quickly fitted."""
    return Recipe(name="tried", estimator=estimator, **{"params": SMALL.get(estimator, {}), **options})


def cases() -> list[Any]:
    """Return each estimator with each option that makes sense."""
    found: list[Any] = []
    for kind, names in LEARNERS.items():
        for name in names:
            every: list[dict[str, Any]] = [{"half_life": 5}, {"recent_intercept": 5}]
            if kind == "regression":
                every += [{"target": "log1p"}, {"target": "log1p", "recent_intercept": 5}]
            else:
                every += [{"calibration": "isotonic"}, {"calibration": "sigmoid", "half_life": 5}]
            if name in BOOSTING:
                searched = {"learning_rate": (0.3, 0.05)}
                every += [{"early_stopping": 5, "search": searched}]
                every += [] if kind == "multiclass" else [{"monotone": {"distance": 1}}]
            marks = [pytest.mark.full] if kind == "multiclass" else []  # the same code, for longer
            found += [pytest.param(kind, name, options, marks=marks) for options in every]
    return found


def later(spec: UseCase, rows: pa.Table, first: str) -> tuple[pa.Table, pa.Table]:
    """Return the rows before a partition, and those from it on."""
    is_later = pc.greater_equal(rows["partition"], first)
    return rows.filter(pc.invert(is_later)), rows.filter(is_later)


def loss(spec: UseCase, estimator: Pipeline, rows: pa.Table) -> float:
    """Return a model's mean loss, by the objective."""
    predictions = artifacts.predict(estimator, rows, spec)
    return float(row_losses(spec.gate.objective, target(spec, rows), predictions).mean())


def with_target(spec: UseCase, rows: pa.Table, values: Any) -> pa.Table:
    """Return rows with other labels."""
    place = rows.column_names.index(spec.problem.target)
    return rows.set_column(place, spec.problem.target, pa.array(np.asarray(values, dtype=float)))


@pytest.mark.full
@pytest.mark.parametrize(("kind", "name", "options"), cases())
def test_a_recipe_with_an_option_is_fitted_the_same_twice_and_stored(
    kind: str, name: str, options: dict[str, Any], clinic: Rows
) -> None:
    """The bytes of two fits are equal, and a loaded copy has the same predictions."""
    spec, rows = clinic(kind)
    rows = rows if kind != "regression" else with_target(spec, rows, np.abs(target(spec, rows)))
    estimator, again = (fit_recipe(spec, recipe(name, **options), rows) for _ in range(2))
    data = artifacts.serialize(estimator)
    assert artifacts.serialize(again) == data
    copy = artifacts.deserialize(data, digest_bytes(data))
    predictions = artifacts.predict(copy, rows, spec)
    assert predictions.tobytes() == artifacts.predict(estimator, rows, spec).tobytes()
    plain = fit_recipe(spec, recipe(name), rows)
    assert predictions.tobytes() != artifacts.predict(plain, rows, spec).tobytes()


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_calibration_lowers_the_loss_of_an_overconfident_model(kind: str, clinic: Rows) -> None:
    """A forest that knows its training rows by heart is calibrated on partitions that it hasn't seen."""
    spec, rows = clinic(kind)
    seen, unseen = later(spec, rows, "2024-03-20")
    plain, calibrated = (
        fit_recipe(spec, recipe("random_forest", **options), seen)
        for options in ({}, {"calibration": "sigmoid"})
    )
    assert loss(spec, calibrated, unseen) < 0.6 * loss(spec, plain, unseen)


def test_a_calibrated_model_is_stored_once(clinic: Rows) -> None:
    """The calibration adds a map to the file, and not a second model."""
    spec, rows = clinic("binary")
    plain, calibrated = (
        len(artifacts.serialize(fit_recipe(spec, recipe("hist_gradient_boosting", **options), rows)))
        for options in ({}, {"calibration": "sigmoid"})
    )
    assert calibrated < plain + 20_000


@pytest.mark.parametrize("name", LEARNERS["regression"])
def test_a_transformed_target_is_predicted_in_its_unit(name: str, clinic: Rows) -> None:
    """Predictions are as large as the labels, and an extreme row has a finite one."""
    spec, rows = clinic("regression")
    distance = pc.fill_null(rows["distance"], 5.0).to_numpy()
    rows = with_target(spec, rows, np.expm1(6 + distance / 10))
    estimator = fit_recipe(spec, recipe(name, target="log1p"), rows)
    predicted, actual = artifacts.predict(estimator, rows, spec), target(spec, rows)
    assert np.median(predicted) == pytest.approx(np.median(actual), rel=0.2)
    extreme = rows.slice(0, 1).set_column(rows.column_names.index("distance"), "distance", pa.array([1e12]))
    assert artifacts.predict(estimator, extreme, spec)[0] < 10 * actual.max()


def test_a_label_that_has_no_logarithm_is_refused(clinic: Rows) -> None:
    """The error gives the label and the remedy."""
    spec, rows = clinic("regression")
    with pytest.raises(SpecError, match=r"log1p needs labels above -1, but found -3; remove the option"):
        fit_recipe(spec, recipe("ridge", target="log1p"), with_target(spec, rows, [-3.0] * rows.num_rows))


@pytest.mark.parametrize("name", [*LEARNERS["regression"], "prior"])
def test_a_half_life_lets_new_partitions_weigh_more(name: str, clinic: Rows) -> None:
    """Where the target has risen in the newest partitions, predictions with a half-life are nearer to it."""
    spec, rows = clinic("regression")
    new = np.asarray(pc.greater_equal(rows["partition"], "2024-03-24"))
    rows = with_target(spec, rows, np.where(new, 100.0, 0.0))
    newest = rows.filter(pa.array(new)).drop_columns(["distance"])
    newest = newest.append_column("distance", pa.array([5.0] * newest.num_rows))
    means = [
        artifacts.predict(fit_recipe(spec, recipe(name, **options), rows), newest, spec).mean()
        for options in ({}, {"half_life": 2})
    ]
    assert means[0] + 10 < means[1]


def raised(spec: UseCase, rows: pa.Table, since: str) -> pa.Table:
    """Return rows whose labels from a partition on are of another level, whatever their features."""
    new, random = np.asarray(pc.greater_equal(rows["partition"], since)), np.random.default_rng(3)
    labels = target(spec, rows)
    if not spec.problem.codes:
        return with_target(spec, rows, np.where(new, labels + 50, labels))
    moved = new & (random.random(rows.num_rows) < 0.6)
    return with_target(spec, rows, np.where(moved, max(spec.problem.codes), labels))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("binary", {}), ("multiclass", {}), ("regression", {}), ("regression", {"target": "log1p"})],
)
def test_a_recent_intercept_follows_a_level_that_has_moved(
    kind: str, options: dict[str, Any], clinic: Rows
) -> None:
    """A linear model of all rows predicts the average level; with the option, that of the newest ones."""
    spec, rows = clinic(kind)
    rows = raised(spec, with_target(spec, rows, np.abs(target(spec, rows))), "2024-03-18")
    seen, unseen = later(spec, rows, "2024-03-24")
    name = "ridge" if kind == "regression" else "logistic_regression"
    plain, recent = (
        fit_recipe(spec, recipe(name, **options, **more), seen) for more in ({}, {"recent_intercept": 5})
    )
    assert loss(spec, recent, unseen) < 0.9 * loss(spec, plain, unseen)
    if spec.problem.classes:
        assert artifacts.predict(recent, unseen, spec).sum(axis=1) == pytest.approx(1.0)


def test_predictions_that_no_factor_makes_better_keep_their_level() -> None:
    """A count that was predicted as 0 has an infinite Poisson deviance, whatever the factor."""
    actual, predicted = np.array([1.0, 2.0, 0.0]), np.zeros(3)
    objective = find_objective("poisson_deviance")
    assert fit_value_shift(objective, actual, predicted, offset=0.0) == (1.0, 0.0)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_few_recent_rows_hardly_move_the_intercept(kind: str, clinic: Rows) -> None:
    """One row of another level is no evidence of one."""
    spec, rows = clinic(kind)
    first = rows.filter(pc.equal(rows["partition"], partitions_of(rows)[-1])).slice(0, 1)
    older, _ = later(spec, rows, partitions_of(rows)[-1])
    rows = pa.concat_tables([older, with_target(spec, first, [1.0 if kind == "binary" else 500.0])])
    name = "ridge" if kind == "regression" else "logistic_regression"
    values = [
        artifacts.predict(fit_recipe(spec, recipe(name, **options), rows), older, spec)
        for options in ({}, {"recent_intercept": 1})
    ]
    assert np.abs(values[1] - values[0]).max() < (0.05 if kind == "binary" else 25)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["binary", "regression"])
@pytest.mark.parametrize("name", BOOSTING)
def test_a_monotone_feature_moves_predictions_one_way(name: str, kind: str, sign: int, clinic: Rows) -> None:
    """Along the feature a prediction only rises, or only falls, also where another column is empty."""
    spec, rows = clinic(kind)
    nothing = pa.nulls(rows.num_rows, pa.float64())
    rows = rows.set_column(rows.column_names.index("distance"), "distance", nothing)
    rows = with_target(spec, rows, target(spec, rows) if sign == 1 else 1 - target(spec, rows))
    estimator = fit_recipe(spec, recipe(name, monotone={"earlier": sign}), rows)
    row = rows.slice(0, 1)
    values = [
        row.set_column(row.column_names.index("earlier"), "earlier", pa.array([value]))
        for value in np.linspace(-1, 8, 40)
    ]
    predictions = artifacts.predict(estimator, pa.concat_tables(values), spec)
    steps = [sign * (after - before) for before, after in pairwise(predictions)]
    assert min(steps) >= 0
    assert max(steps) > 0


@pytest.mark.full
@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
@pytest.mark.parametrize("name", BOOSTING)
def test_early_stopping_chooses_fewer_rounds_and_then_learns_from_all_rows(
    name: str, kind: str, clinic: Rows
) -> None:
    """The rounds are those with the lowest loss on the newest partitions, which the model then sees too."""
    spec, rows = clinic(kind)
    most = "max_iter" if name == "hist_gradient_boosting" else "n_estimators"
    few = recipe(name, early_stopping=8, params={most: 300, "learning_rate": 0.3})
    estimator = fit_recipe(spec, few, rows)
    chosen = chosen_params(estimator)
    assert 1 <= chosen[most] < 100
    same = recipe(name, params={"learning_rate": 0.3, **chosen})
    expected = artifacts.predict(fit_recipe(spec, same, rows), rows, spec)
    assert artifacts.predict(estimator, rows, spec).tobytes() == expected.tobytes()
    seen, unseen = later(spec, rows, partitions_of(rows)[-8])
    by_rounds = {
        rounds: loss(
            spec, fit_recipe(spec, recipe(name, params={"learning_rate": 0.3, most: rounds}), seen), unseen
        )
        for rounds in (1, chosen[most], 300)
    }
    assert min(by_rounds, key=lambda rounds: by_rounds[rounds]) == chosen[most]


@pytest.fixture
def fitted_until(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The last partition and the parameters of each fit, in order."""
    calls: list[tuple[str, dict[str, Any]]] = []
    real = fitting._fit_all

    def fit_all(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Any) -> Pipeline:
        calls.append((max(rows["partition"].to_pylist()), recipe.params))
        return real(spec, recipe, rows, actual)

    monkeypatch.setattr(fitting, "_fit_all", fit_all)
    return calls


def test_a_search_is_judged_on_partitions_that_its_fits_have_not_seen(
    clinic: Rows, fitted_until: list[tuple[str, dict[str, Any]]]
) -> None:
    """Each combination is fitted without the newest partitions, and the best of them once more on all."""
    spec, rows = clinic("regression")
    estimator = fit_recipe(spec, recipe("ridge", search={"alpha": (1e6, 1.0, 1e5)}), rows)
    keys = partitions_of(rows)
    held_out = keys[-spec.training.test]
    assert chosen_params(estimator) == {"alpha": 1.0}
    assert [params["alpha"] for _, params in fitted_until] == [1e6, 1.0, 1e5, 1.0]
    assert all(until < held_out for until, _ in fitted_until[:-1])
    assert fitted_until[-1][0] == keys[-1]


def test_a_search_keeps_to_its_budget(clinic: Rows, fitted_until: list[tuple[str, dict[str, Any]]]) -> None:
    """Of more combinations than that, a choice by the seed is tried, each once."""
    spec, rows = clinic("regression")
    searched = {"alpha": (1.0, 2.0, 3.0, 4.0), "fit_intercept": (True, False)}
    fit_recipe(spec, recipe("ridge", search=searched, search_fits=3), rows)
    tried = [tuple(sorted(params.items())) for _, params in fitted_until[:-1]]
    assert len(tried) == len(set(tried)) == 3


OPTIONS: dict[str, dict[str, Any]] = {
    "search": {"search": {"learning_rate": (0.1, 0.3)}},
    "early_stopping": {"early_stopping": 2},
    "calibration": {"calibration": "isotonic"},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_history_of_one_partition_has_nothing_to_hold_out(option: str, clinic: Rows) -> None:
    """The first values, all rounds and no calibration are used."""
    spec, rows = clinic("binary")
    _, last = later(spec, rows, partitions_of(rows)[-1])
    predictions = [
        artifacts.predict(fit_recipe(spec, recipe("xgboost", **options), last), last, spec)
        for options in (OPTIONS[option], {"params": {"n_estimators": 30, "learning_rate": 0.1}}, {})
    ]
    assert predictions[0].tobytes() == predictions[1 if option == "search" else 2].tobytes()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("binary", {"half_life": 5}),
        pytest.param("regression", {"monotone": {"distance": 1}}, marks=pytest.mark.full),
        pytest.param("multiclass", {}, marks=pytest.mark.full),
        ("binary", {"calibration": "sigmoid"}),
    ],
)
def test_batches_from_a_file_give_the_model_of_few_rows_and_leave_no_file(
    kind: str,
    options: dict[str, Any],
    clinic: Rows,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """From the declared number of rows on no more than a batch is ever in memory."""
    spec, rows = clinic(kind)
    real, sizes = artifacts.model_input, list[int]()

    def model_input(batch: pa.Table, *args: Any, **options: Any) -> Any:
        sizes.append(batch.num_rows)
        return real(batch, *args, **options)

    monkeypatch.setattr(artifacts, "model_input", model_input)
    monkeypatch.setattr("include.storage.spill.BATCH", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = fit_recipe(spec, recipe("xgboost", external_memory=rows.num_rows + 1, **options), rows)
    assert max(sizes) == rows.num_rows
    sizes.clear()
    estimator = fit_recipe(spec, recipe("xgboost", external_memory=rows.num_rows // 3, **options), rows)
    in_memory = rows.num_rows // 3 if "calibration" in options else 100  # of the held-out rows
    assert max(sizes) <= in_memory
    assert artifacts.serialize(estimator) == artifacts.serialize(whole)
    assert list(tmp_path.iterdir()) == []
    # a server that another test left running doesn't concern this one, whenever it is collected
    mine = [warning for warning in recwarn if not issubclass(warning.category, ResourceWarning)]
    assert [str(warning.message) for warning in mine] == []


@pytest.mark.parametrize("kind", ["binary", "regression", "multiclass"])
def test_the_prior_is_fitted_without_reading_the_features(
    kind: str, clinic: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training set that is larger than memory is fitted too, and it is the same model."""
    spec, rows = clinic(kind)
    prior = spec.training.baselines[0]
    read = fitting.build_estimator(spec, prior).fit(artifacts.model_input(rows, spec), target(spec, rows))
    if spec.problem.classes:
        setattr(read, artifacts.DECLARED, list(spec.problem.classes))
    monkeypatch.setattr(artifacts, "model_input", None)
    assert artifacts.serialize(fit_recipe(spec, prior, rows)) == artifacts.serialize(read)


def test_an_option_changes_the_key_of_a_recipe_and_none_leaves_it(tmp_path: Path) -> None:
    """Fits with different options are never taken for each other; those without any keep their key."""
    from include.train.recipes import recipe_key

    spec = visits.usecase(tmp_path)
    every: list[dict[str, Any]] = [
        {},
        {"calibration": "sigmoid"},
        {"calibration": "isotonic"},
        {"half_life": 3},
        {"recent_intercept": 3},
        {"monotone": {"distance": 1}},
        {"early_stopping": 3},
        {"external_memory": 1000},
        {"engine": "dask"},
        {"engine": "dask", "workers": 3},
        {"search": {"max_depth": (2, 3)}},
        {"search": {"max_depth": (2, 3)}, "search_fits": 2},
        {"target": "log1p"},
    ]
    keys = [recipe_key(spec, recipe("xgboost", **options)) for options in every]
    assert len(set(keys)) == len(every)
    assert recipe("xgboost").options == {}
    longer = spec.model_copy(update={"training": spec.training.model_copy(update={"test": 9})})
    changed = [
        keys[place] != recipe_key(longer, recipe("xgboost", **options)) for place, options in enumerate(every)
    ]
    assert changed == ["calibration" in options or "search" in options for options in every]


def test_a_searched_value_that_cannot_be_fitted_is_not_chosen(clinic: Rows) -> None:
    """The others decide; if there is no other, the recipe's error says why."""
    spec, rows = clinic("regression")
    searched = fit_recipe(spec, recipe("ridge", search={"alpha": [-1.0, 2.0]}), rows)
    assert chosen_params(searched) == {"alpha": 2.0}
    with pytest.raises(SpecError, match="alpha"):
        fit_recipe(spec, recipe("ridge", search={"alpha": [-1.0, -2.0]}), rows)
