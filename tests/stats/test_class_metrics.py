"""Metrics of several classes are scikit-learn's; what the rows can't give is missing, and never zero."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from include.errors import MissingMetric
from include.spec.metrics import default_metrics, metrics_of_kind, validate_metric
from include.stats.metrics import confusion, metric_value, metric_values, row_losses

CLASSES = ("early", "on_time", "late")
FIGURES = [f"{family}@{name}" for family in ("precision", "recall", "f1") for name in CLASSES]
NAMES = [*default_metrics("multiclass"), *FIGURES]
share = st.integers(0, 20)
rows = st.lists(st.tuples(st.integers(0, 2), share, share, share), min_size=1, max_size=60)
EVERY = [(code, *(20 if code == place else 1 for place in range(3))) for code in range(3)]
Rows = list[tuple[int, ...]]


def columns(given: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return actual classes and probabilities; a row of nothing but noughts is unsure of all."""
    scores = np.array([row[1:] for row in given], dtype=float) + 1e-3
    return np.array([float(row[0]) for row in given]), scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.full
@given(rows)
def test_metrics_are_those_of_scikit_learn(given: Rows) -> None:
    """On rows of every class, each of which some row is taken for, each figure is the library's."""
    actual, said = columns([*given, *EVERY])
    taken = said.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(actual, taken),
        "balanced_accuracy": sk.balanced_accuracy_score(actual, taken),
        "macro_precision": sk.precision_score(actual, taken, average="macro"),
        "macro_recall": sk.recall_score(actual, taken, average="macro"),
        "macro_f1": sk.f1_score(actual, taken, average="macro"),
        "macro_roc_auc": sk.roc_auc_score(actual, said, multi_class="ovr", average="macro"),
        "log_loss": sk.log_loss(actual, said),
        "brier": sk.brier_score_loss(actual, said),
    }
    for family, of in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected |= {
            f"{family}@{n}": v for n, v in zip(CLASSES, of(actual, taken, average=None), strict=True)
        }
    found = metric_values(NAMES, actual, said, CLASSES)
    assert set(found) == set(NAMES)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@given(rows)
def test_what_the_rows_can_not_give_is_missing(given: Rows) -> None:
    """With classes absent nothing crashes: a figure is missing where the library has to make one up."""
    actual, said = columns(given)
    taken, found = said.argmax(axis=1), metric_values(NAMES, actual, said, CLASSES)
    named = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    expected = {}
    for family, of in named.items():
        each = of(actual, taken, labels=[0, 1, 2], average=None, zero_division=np.nan)
        expected |= {f"{family}@{name}": value for name, value in zip(CLASSES, each, strict=True)}
        expected[f"macro_{family}"] = float(np.mean(each))
    for name, value in expected.items():
        assert (name in found) == bool(np.isfinite(value)), name
        assert name not in found or found[name] == pytest.approx(value)
    assert ("macro_roc_auc" in found) == (len(set(actual)) == 3)
    always = {"accuracy", "balanced_accuracy", "log_loss", "brier", "calibration_error"}
    assert always <= set(found)
    ends = {"log_loss": np.inf, "brier": 2}
    assert all(0 <= value <= ends.get(name, 1 + 1e-12) for name, value in found.items())


@given(rows, st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_rows(given: Rows, random: object) -> None:
    """The same rows in another order have the same figures, ties among them."""
    found = metric_values(NAMES, *columns(given), CLASSES)
    random.shuffle(given)  # type: ignore[attr-defined]
    assert metric_values(NAMES, *columns(given), CLASSES) == pytest.approx(found)


@pytest.mark.parametrize("objective", ["log_loss", "brier"])
@given(given=rows)
def test_losses_are_finite_and_average_to_the_metric(objective: str, given: Rows) -> None:
    """Each row's loss is finite and never negative, even of one that was sure and wrong."""
    actual, said = columns(given)
    for probabilities in (said, np.eye(3)[said.argmax(axis=1)]):
        found = row_losses(objective, actual, probabilities)
        assert found.shape == actual.shape
        assert np.isfinite(found).all()
        assert (found >= 0).all()
        assert metric_value(objective, actual, probabilities, CLASSES) == pytest.approx(found.mean())


def test_the_likeliest_class_is_the_first_of_two_alike() -> None:
    """By hand: rows are counted by what they were and what they were taken for."""
    said = np.array([[0.4, 0.4, 0.2], [0.1, 0.45, 0.45], [0.2, 0.2, 0.6], [0.2, 0.2, 0.6]])
    assert confusion(np.array([0.0, 0, 2, 1]), said).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_calibration_is_that_of_the_likeliest_class() -> None:
    """Sure by 0.8 and right in 8 of 10 rows isn't an error; right in 5 of 10 it is 0.3."""
    said = np.tile([0.8, 0.15, 0.05], (10, 1))
    for right, error in ((8, 0.0), (5, 0.3)):
        actual = np.array([0.0] * right + [2.0] * (10 - right))
        assert metric_value("calibration_error", actual, said, CLASSES) == pytest.approx(error)


@pytest.mark.parametrize(
    ("metric", "required"),
    [
        ("recall@late", "a row of the class"),
        ("precision@late", "a row that is predicted as the class"),
        ("f1@late", "a row that is of the class or is predicted as it"),
        ("macro_recall", "rows of each class"),
        ("macro_roc_auc", "rows of each class"),
        ("macro_precision", "rows that are predicted as each class"),
    ],
)
def test_a_partition_of_one_class_says_what_it_lacks(metric: str, required: str) -> None:
    """Where all rows are early and taken for it, what asks for late ones is missing, with the counts."""
    said = np.tile([0.9, 0.05, 0.05], (5, 1))
    with pytest.raises(
        MissingMetric, match=f"expected {required}, but found 5 early, 0 on_time, 0 late in 5 rows"
    ):
        metric_value(metric, np.zeros(5), said, CLASSES)


def test_no_rows_have_no_metrics() -> None:
    """Without rows nothing is measured, and nothing crashes."""
    assert metric_values(NAMES, np.empty(0), np.empty((0, 3)), CLASSES) == {}


@pytest.mark.parametrize(
    "metric", ["recall", "recall@", "recall@never", "recall@0.5", "recall@Late", "accuracy@late", "roc_auc"]
)
def test_a_class_that_is_not_declared_is_refused(metric: str) -> None:
    """What follows the @ is a declared class, by its own spelling, and only where one is taken."""
    with pytest.raises(
        ValueError,
        match=r"isn't a multiclass metric; use accuracy, .*recall@<class>.*"
        r"; after an @ comes one of early, on_time, late",
    ):
        validate_metric("multiclass", metric, CLASSES)


def test_a_class_is_no_parameter_of_another_kind() -> None:
    """A number stays a number: binary's recall takes no class, even one that would be declared."""
    assert metrics_of_kind("binary")["recall"].parameter == "threshold"
    with pytest.raises(ValueError, match=r"after an @ comes a number between 0 and 1, such as 0\.25"):
        validate_metric("binary", "recall@late")
