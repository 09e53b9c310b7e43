"""Each metric is scikit-learn's, or by hand where it has none; what the rows can't give is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from include.errors import MissingMetric
from include.evaluate.metrics import loss, measure, measured
from include.spec.metrics import METRICS, OBJECTIVES

chance = st.floats(0, 1).map(lambda value: round(value, 3))
labelled = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), chance), min_size=1, max_size=60)
valued = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=60)


def columns(pairs: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return actual and predicted."""
    return np.array([a for a, _ in pairs]), np.array([p for _, p in pairs])


@given(labelled)
def test_binary_metrics_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    """On rows of both classes each figure is the library's."""
    actual, predicted = columns([*pairs, (0.0, 0.5), (1.0, 0.5)])
    expected = {
        "roc_auc": sk.roc_auc_score(actual, predicted),
        "average_precision": sk.average_precision_score(actual, predicted),
        "log_loss": sk.log_loss(actual, predicted),
        "brier": sk.brier_score_loss(actual, predicted),
        "calibration_gap": abs(predicted.mean() - actual.mean()),
    }
    found = measured(METRICS["binary"], actual, predicted)
    assert set(found) == set(METRICS["binary"])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@given(valued)
def test_regression_metrics_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    """Where the actual values differ each figure is the library's."""
    actual, predicted = columns([*pairs, (-1.0, 0.0), (1.0, 0.0)])
    expected = {
        "rmse": sk.root_mean_squared_error(actual, predicted),
        "mae": sk.mean_absolute_error(actual, predicted),
        "r2": sk.r2_score(actual, predicted),
    }
    assert measured(METRICS["regression"], actual, predicted) == pytest.approx(expected)


@given(labelled, st.randoms(use_true_random=False))
def test_top_decile_does_not_depend_on_the_order_of_ties(
    pairs: list[tuple[float, float]], random: object
) -> None:
    """The same rows in another order have the same precision, within 0 and 1."""
    found = measure("precision_top_decile", *columns(pairs))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    assert measure("precision_top_decile", *columns(pairs)) == pytest.approx(found)
    assert 0 <= found <= 1


def test_top_decile_counts_the_highest_tenth() -> None:
    """Of 20 rows the two highest count, and of a tie at the edge the share that fits."""
    predicted = np.arange(20) / 20
    actual = (np.arange(20) == 19).astype(float)
    assert measure("precision_top_decile", actual, predicted) == 0.5
    assert measure("precision_top_decile", actual, np.full(20, 0.3)) == pytest.approx(0.05)


@pytest.mark.parametrize("objective", [name for names in OBJECTIVES.values() for name in names])
@given(pairs=labelled)
def test_losses_are_finite_and_average_to_the_metric(
    objective: str, pairs: list[tuple[float, float]]
) -> None:
    """Each row's loss is finite and never negative, even of a prediction that was sure and wrong."""
    actual, predicted = columns(pairs)
    found = loss(objective, actual, predicted)
    assert found.shape == actual.shape
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    same = {"log_loss": "log_loss", "brier": "brier", "absolute_error": "mae"}
    if objective in same:
        assert measure(same[objective], actual, predicted) == pytest.approx(found.mean())
    else:
        assert measure("rmse", actual, predicted) == pytest.approx(math.sqrt(found.mean()))


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "r2"])
def test_metric_of_one_class_is_missing(metric: str) -> None:
    """Where all actual values are equal, what compares them is missing, and never NaN or zero."""
    with pytest.raises(
        MissingMetric, match=rf"{metric}: required two different actual values, found 1 in 5 rows"
    ):
        measure(metric, np.zeros(5), np.linspace(0, 1, 5))


@pytest.mark.parametrize("kind", list(METRICS))
def test_no_rows_have_no_metrics(kind: str) -> None:
    """Without rows nothing is measured, and nothing crashes."""
    assert measured(METRICS[kind], np.empty(0), np.empty(0)) == {}
