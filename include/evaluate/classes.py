"""What a classifier of several classes gets right.

A row is taken for the class with the highest probability, of two alike for the first.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

Array = NDArray[np.float64]


def confusion(actual: Array, predicted: Array) -> NDArray[np.int64]:
    """Return how many rows of each actual class were taken for each class, shape (k, k).

    Parameters
    ----------
    actual : each row's class by its place, 0 to k - 1, shape (n,).
    predicted : probabilities, shape (n, k).
    """
    classes = predicted.shape[1]
    pairs = actual.astype(np.int64) * classes + predicted.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def by_class(counts: NDArray[np.int64]) -> dict[str, Array]:
    """Return precision, recall and F1 of each class, shape (k,) each.

    NaN where no row was taken for the class (precision), where it has no row (recall), or neither (F1).
    """
    hits, came, taken = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"precision": hits / taken, "recall": hits / came, "f1": 2 * hits / (came + taken)}


def accuracy(actual: Array, predicted: Array) -> float:
    """Return the share of rows whose likeliest class is theirs."""
    return float((predicted.argmax(axis=1) == actual).mean())


def balanced_accuracy(actual: Array, predicted: Array) -> float:
    """Return the mean recall of the classes that have rows, as scikit-learn does."""
    return float(np.nanmean(by_class(confusion(actual, predicted))["recall"]))


def macro(family: str, actual: Array, predicted: Array) -> float:
    """Return the plain mean over all classes, NaN when one of them has no such figure."""
    return float(by_class(confusion(actual, predicted))[family].mean())


def macro_roc_auc(actual: Array, predicted: Array) -> float:
    """Return the mean over the classes of each one's ROC-AUC against all others; NaN: one has no row."""
    if len(np.unique(actual)) < predicted.shape[1]:
        return math.nan
    return float(np.mean([sk.roc_auc_score(actual == code, of) for code, of in enumerate(predicted.T)]))


def top(actual: Array, predicted: Array) -> tuple[Array, Array]:
    """Return whether each row's likeliest class is its own, 1 or 0, and that class's probability."""
    return (predicted.argmax(axis=1) == actual).astype(np.float64), predicted.max(axis=1)
