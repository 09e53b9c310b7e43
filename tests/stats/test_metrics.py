"""Each metric is scikit-learn's, or by hand where it has none; what the rows can't give is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from include.errors import MissingMetric
from include.spec import load
from include.spec.gate import Requirement
from include.spec.metrics import (
    METRICS,
    OBJECTIVES,
    Costs,
    default_metrics,
    find_objective,
    greater_is_better,
    metric_names,
    metrics_of_kind,
    validate_metric,
    validate_objective,
)
from include.stats.metrics import metric_row_losses, metric_value, metric_values, row_losses

KINDS = ("binary", "regression", "multiclass")
chance = st.floats(0, 1).map(lambda value: round(value, 3))
labeled = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), chance), min_size=1, max_size=60)
valued = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=60)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return actual and predicted."""
    return np.array([a for a, _ in pairs]), np.array([p for _, p in pairs])


@pytest.mark.full
@given(labeled)
def test_binary_metrics_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    """On rows of both classes, some of them chosen, each figure is the library's."""
    actual, predicted = columns([*pairs, (0.0, 0.5), (1.0, 0.5)])
    chosen = predicted >= 0.5
    expected = {
        "roc_auc": sk.roc_auc_score(actual, predicted),
        "average_precision": sk.average_precision_score(actual, predicted),
        "log_loss": sk.log_loss(actual, predicted),
        "brier": sk.brier_score_loss(actual, predicted),
        "calibration_gap": abs(predicted.mean() - actual.mean()),
        "precision@0.5": sk.precision_score(actual, chosen),
        "recall@0.5": sk.recall_score(actual, chosen),
        "f1@0.5": sk.f1_score(actual, chosen),
    }
    found = metric_values(default_metrics("binary"), actual, predicted)
    assert set(found) == set(default_metrics("binary"))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@given(valued)
def test_regression_metrics_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    """Where the actual values differ each figure is the library's."""
    actual, predicted = columns([*pairs, (-1.0, 0.0), (1.0, 0.0)])
    expected = {
        "rmse": sk.root_mean_squared_error(actual, predicted),
        "mae": sk.mean_absolute_error(actual, predicted),
        "r2": sk.r2_score(actual, predicted),
        "quantile_loss@0.9": sk.mean_pinball_loss(actual, predicted, alpha=0.9),
    }
    assert metric_values(default_metrics("regression"), actual, predicted) == pytest.approx(expected)


@given(labeled, st.sampled_from([0.05, 0.25, 0.5, 0.9]))
def test_the_parameter_is_the_threshold(pairs: list[tuple[float, float]], threshold: float) -> None:
    """A row is chosen from the threshold on; what the rows can't give is missing where the library warns."""
    actual, predicted = columns(pairs)
    chosen = predicted >= threshold
    named = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    expected = {f"{n}@{threshold}": of(actual, chosen, zero_division=np.nan) for n, of in named.items()}
    found = metric_values(list(expected), actual, predicted)
    assert found == pytest.approx({name: value for name, value in expected.items() if not np.isnan(value)})


def test_a_row_at_the_threshold_is_chosen() -> None:
    """By hand: of three rows from 0.3 on two are 1, of three ones two are chosen."""
    actual, predicted = np.array([1.0, 0, 1, 1, 0]), np.array([0.3, 0.3, 0.9, 0.29, 0.1])
    assert metric_value("precision@0.3", actual, predicted) == pytest.approx(2 / 3)
    assert metric_value("recall@0.3", actual, predicted) == pytest.approx(2 / 3)
    assert metric_value("f1@0.3", actual, predicted) == pytest.approx(2 / 3)
    assert metric_value("precision@0.31", actual, predicted) == 1.0
    assert metric_value("f1@0.95", actual, predicted) == 0.0  # ones there are, but none is chosen


@given(labeled, st.sampled_from([0.1, 0.5, 0.75]))
def test_recall_at_a_precision_is_the_best_of_all_thresholds(
    pairs: list[tuple[float, float]], least: float
) -> None:
    """It is what trying each prediction as threshold finds, and 0 where none of them is precise enough."""
    actual, predicted = columns([*pairs, (1.0, 0.4)])
    tried = [0.0]
    for threshold in predicted:
        chosen = actual[predicted >= threshold]
        if chosen.mean() >= least:
            tried.append(chosen.sum() / actual.sum())
    assert metric_value(f"recall_at_precision@{least}", actual, predicted) == pytest.approx(max(tried))


def test_a_precision_that_no_threshold_reaches_has_no_recall() -> None:
    """The one stands below a nought, so nothing is found at a precision above a half: 0, and not missing."""
    actual, predicted = np.array([0.0, 1.0]), np.array([0.9, 0.8])
    assert metric_value("recall_at_precision@0.5", actual, predicted) == 1.0
    assert metric_value("recall_at_precision@0.6", actual, predicted) == 0.0


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=10, max_size=80))
def test_calibration_error_is_that_of_scikit_learns_bins(actuals: list[float]) -> None:
    """Without ties the bins hold as many rows each, and the error is the mean of their gaps."""
    actual = np.array(actuals[: len(actuals) // 10 * 10])
    predicted = np.random.default_rng(3).permutation(len(actual)) / len(actual)
    rate, mean = calibration_curve(actual, predicted, n_bins=10, strategy="quantile")
    assert len(rate) == 10
    assert metric_value("calibration_error", actual, predicted) == pytest.approx(np.abs(rate - mean).mean())


def test_calibration_error_sees_what_the_gap_does_not() -> None:
    """Half the rows are predicted too high, half too low: the means agree, the bins don't; ties share one."""
    actual = np.array([0.0] * 50 + [1.0] * 50)
    predicted = np.array([0.2] * 50 + [0.8] * 50)
    assert metric_value("calibration_gap", actual, predicted) == pytest.approx(0)
    assert metric_value("calibration_error", actual, predicted) == pytest.approx(0.2)
    assert metric_value("calibration_error", actual, np.full(100, 0.5)) == pytest.approx(0)


@given(labeled, st.randoms(use_true_random=False))
def test_no_binary_metric_depends_on_the_order_of_ties(
    pairs: list[tuple[float, float]], random: object
) -> None:
    """The same rows in another order have the same figures, within 0 and 1 but for the log loss."""
    pairs = [(actual, round(predicted, 1)) for actual, predicted in pairs]
    found = metric_values(default_metrics("binary"), *columns(pairs))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    assert metric_values(default_metrics("binary"), *columns(pairs)) == pytest.approx(found)
    assert all(0 <= value <= 1 + 1e-12 for name, value in found.items() if name != "log_loss")


def test_the_top_share_counts_the_highest_predictions() -> None:
    """Of 20 rows the two highest count, of a tie at the edge what fits, of 15 rows one and a half."""
    predicted = np.arange(20) / 20
    actual = (np.arange(20) == 19).astype(float)
    assert metric_value("precision_top@0.1", actual, predicted) == 0.5
    assert metric_value("precision_top@0.25", actual, predicted) == 0.2
    assert metric_value("precision_top@0.1", actual, np.full(20, 0.3)) == pytest.approx(0.05)
    assert metric_value("precision_top@0.1", actual[5:], predicted[5:]) == pytest.approx(2 / 3)
    assert metric_value("precision_top@0.1", actual[-1:], predicted[-1:]) == 1.0


def wrong_costs_1(labels: int) -> Costs:
    """Return the costs of naming the label: a wrong name costs 1."""
    return tuple(tuple(float(place != code) for place in range(labels)) for code in range(labels))


@pytest.mark.full
@pytest.mark.parametrize(
    "objective", [f"{one.name}@0.9" if one.parameter else one.name for one in OBJECTIVES]
)
@given(pairs=labeled)
def test_losses_are_finite_and_average_to_the_metric(
    objective: str, pairs: list[tuple[float, float]]
) -> None:
    """Each row's loss is finite and never negative, even of a prediction that was sure and wrong."""
    actual, predicted = columns(pairs)
    found = row_losses(replace(find_objective(objective), costs=wrong_costs_1(2)), actual, predicted)
    assert found.shape == actual.shape
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    if objective == "squared_error":
        assert metric_value("rmse", actual, predicted) == pytest.approx(math.sqrt(found.mean()))
    else:
        metric = "mae" if objective == "absolute_error" else objective
        value = metric_value(metric, actual, predicted, costs=wrong_costs_1(2))
        assert value == pytest.approx(found.mean())


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(1e-3, 1e3)), min_size=1, max_size=60))
def test_poisson_deviance_is_that_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    """Of counts and positive predictions."""
    actual, predicted = columns(pairs)
    found = metric_value("poisson_deviance", actual.astype(float), predicted)
    assert found == pytest.approx(sk.mean_poisson_deviance(actual, predicted), abs=1e-9)


def test_a_label_below_0_has_no_poisson_deviance() -> None:
    """It isn't a count, so the metric is missing; a prediction below 0 has a large one."""
    with pytest.raises(MissingMetric, match="labels of at least 0"):
        metric_value("poisson_deviance", np.array([-1.0, 2.0]), np.array([1.0, 1.0]))
    assert metric_value("poisson_deviance", np.array([3.0]), np.array([-2.0])) > 100


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "r2"])
def test_metric_of_one_class_is_missing(metric: str) -> None:
    """Where all actual values are equal, what compares them is missing, and never NaN or zero."""
    with pytest.raises(
        MissingMetric, match=rf"{metric}: expected two different actual values, but found 1 in 5 rows"
    ):
        metric_value(metric, np.full(5, 0.1 if metric == "r2" else 0.0), np.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("metric", "actual", "required"),
    [
        ("precision@0.5", 1.0, "a row that is predicted at the threshold or above"),
        ("recall@0.5", 0.0, "a row that is 1"),
        ("recall_at_precision@0.5", 0.0, "a row that is 1"),
        ("f1@0.5", 0.0, "a row that is 1 or is predicted at the threshold or above"),
    ],
)
def test_metric_of_no_such_row_is_missing(metric: str, actual: float, required: str) -> None:
    """With nothing chosen there is no precision, with nothing to find no recall, and the error says so."""
    with pytest.raises(MissingMetric, match=f"{metric}: expected {required}, but found none in 5 rows"):
        metric_value(metric, np.full(5, actual), np.full(5, 0.4))


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_have_no_metrics(kind: str) -> None:
    """Without rows nothing is measured, and nothing crashes."""
    assert metric_values(default_metrics(kind), np.empty(0), np.empty(0)) == {}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in metrics_of_kind(kind)])
def test_each_metric_that_may_be_declared_is_measured(kind: str, name: str) -> None:
    """No family is known by name only, with a parameter at either end of its range."""
    actual, predicted = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.5, 1.0])
    classes, ends = ("a", "b", "c"), ("0.001", "0.999")
    if kind == "multiclass":
        actual, predicted, ends = np.arange(3.0), np.eye(3), classes
    for metric in [f"{name}@{end}" for end in ends] if metrics_of_kind(kind)[name].parameter else [name]:
        validate_metric(kind, metric, classes)
        known, costs = (classes, wrong_costs_1(3)) if kind == "multiclass" else ((), wrong_costs_1(2))
        assert np.isfinite(metric_value(metric, actual, predicted, known, costs=costs))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in metrics_of_kind(kind)])
def test_each_metric_improves_in_its_registered_direction(kind: str, name: str) -> None:
    """Perfect predictions beat bad ones in the direction that the registry states, on the page as well."""
    entry = metrics_of_kind(kind)[name]
    actual = perfect = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    bad = np.array([0.9, 0.3, 0.7, 0.2, 0.8, 0.6])
    classes: tuple[str, ...] = ()
    if kind == "multiclass":
        actual, perfect, classes = np.array([0.0, 1.0, 2.0, 2.0]), np.eye(3)[[0, 1, 2, 2]], ("a", "b", "c")
        bad = np.array([[0.1, 0.4, 0.5], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.2, 0.3, 0.5]])
    metric = f"{name}@{'c' if classes else entry.default}" if entry.parameter else name
    costs = wrong_costs_1(len(classes) or 2)
    best, worse = (metric_value(metric, actual, values, classes, costs=costs) for values in (perfect, bad))
    assert best > worse if entry.greater_is_better else best < worse
    assert greater_is_better(metric, load("flight_delay")) == entry.greater_is_better


@given(valued)
def test_a_regression_metric_that_can_be_estimated_is_the_mean_of_its_row_losses(
    pairs: list[tuple[float, float]],
) -> None:
    """Its mean, or the root of its mean, is the metric itself."""
    actual, predicted = columns(pairs)
    estimated = [entry for entry in METRICS if "regression" in entry.kinds and entry.can_be_estimated]
    assert len(estimated) == 5
    for entry in estimated:
        actual = np.abs(actual) if entry.name == "poisson_deviance" else actual
        metric = f"{entry.name}@{entry.default}" if entry.parameter else entry.name
        mean = metric_row_losses(metric, actual, predicted).mean()
        assert metric_value(metric, actual, predicted) == pytest.approx(
            math.sqrt(mean) if entry.root else mean
        )


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_always_measured_may_be_declared(kind: str) -> None:
    """Each default is a valid name of its kind."""
    for metric in default_metrics(kind):
        validate_metric(kind, metric)


@pytest.mark.parametrize(
    "metric",
    [
        *("f1", "f1@", "f1@0", "f1@0.0", "f1@1", "f1@1.5", "f1@-0.5", "f1@nan", "f1@0.50", "f1@.5"),
        *("f1@5e-1", "f1@0.5@0.5", "@0.5", "", "rmse", "roc_auc@0.5"),
    ],
)
def test_a_name_that_is_no_metric_is_refused(metric: str) -> None:
    """An unknown family, a parameter that is missing, out of range, spelled otherwise or not taken."""
    with pytest.raises(ValueError, match=r"isn't a binary metric; use roc_auc, .*precision@<threshold>"):
        validate_metric("binary", metric)


@pytest.mark.parametrize(
    ("objective", "added"),
    [("squared_error", ()), ("quantile_loss@0.25", ("quantile_loss@0.25",)), ("poisson_deviance",) * 2],
)
def test_an_objective_that_is_a_metric_is_measured(objective: str, added: str | tuple[str, ...]) -> None:
    """The loss by which models are compared is among the figures, and of no other problem."""
    spec = load("flight_delay")
    changed = spec.model_copy(
        update={
            "problem": spec.problem.model_copy(update={"kind": "regression"}),
            "gate": spec.gate.model_copy(update={"objective": objective, "requirements": ()}),
            "monitoring": spec.monitoring.model_copy(update={"requirements": ()}),
        }
    )
    added = (added,) if isinstance(added, str) else added
    assert metric_names(changed) == (*default_metrics("regression"), *added)
    assert not greater_is_better(objective, changed)


@pytest.mark.parametrize(
    "objective", ["quantile_loss", "quantile_loss@1", "quantile_loss@0.90", "squared_error@0.5", "log_loss"]
)
def test_a_name_that_is_no_objective_is_refused(objective: str) -> None:
    """An objective of another kind, or a parameter that is missing, out of range or not taken."""
    with pytest.raises(
        ValueError, match=r"doesn't fit regression; use squared_error, .*quantile_loss@<quantile>"
    ):
        validate_objective("regression", objective)


def test_a_required_metric_is_measured_once() -> None:
    """What gate and monitoring require is added to the kind's own, each name once."""
    spec = load("flight_delay")
    rules = (Requirement(metric="recall@0.3", at_least=0.2), Requirement(metric="brier", at_most=0.2))
    changed = spec.model_copy(
        update={
            "gate": spec.gate.model_copy(update={"requirements": rules}),
            "monitoring": spec.monitoring.model_copy(update={"requirements": rules[:1]}),
        }
    )
    assert metric_names(changed) == (*default_metrics("binary"), "recall@0.3")


def test_coverage_is_the_share_of_labels_at_or_below_the_prediction() -> None:
    """By hand: a label that equals the prediction is covered."""
    assert metric_value("coverage", np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 5])) == 0.75


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), quantile=st.floats(0.01, 0.99))
def test_the_quantile_of_the_labels_covers_its_share(values: list[float], quantile: float) -> None:
    """No fewer than the share, and without ties no more than a row beyond it."""
    actual = np.array(values)
    prediction = np.quantile(actual, quantile, method="inverted_cdf")
    share = metric_value("coverage", actual, np.full(len(actual), prediction))
    assert share >= quantile - 1e-9
    if len(set(values)) == len(values):
        assert share <= quantile + 1 / len(values) + 1e-9
