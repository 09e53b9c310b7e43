"""What a model is worth, in numbers; a number that the rows can't give is missing, and never zero or NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from include.errors import MissingMetric

Array = NDArray[np.float64]
EPSILON = float(np.finfo(np.float64).eps)


def loss(objective: str, actual: Array, predicted: Array) -> Array:
    """Return each row's loss; the best value is 0.0.

    Parameters
    ----------
    objective : ``log_loss`` (predictions are clipped to [eps, 1 - eps], as scikit-learn does), ``brier``,
        ``squared_error`` or ``absolute_error``.
    actual : 0 or 1, or the value in the target's unit, shape (n,).
    predicted : the probability of 1, or the value, shape (n,).

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    if objective == "log_loss":
        sure = np.clip(predicted, EPSILON, 1 - EPSILON)
        return np.asarray(-(actual * np.log(sure) + (1 - actual) * np.log1p(-sure)), dtype=np.float64)
    if objective in ("brier", "squared_error"):
        return np.square(predicted - actual)
    return np.abs(predicted - actual)


def precision_top_decile(actual: Array, predicted: Array) -> float:
    """Return the share of ones in the tenth with the highest predictions, in [0, 1]; the best value is 1.0.

    Rows that tie at the tenth's edge count with the share that fits in, so their order doesn't matter.
    """
    size = math.ceil(len(actual) / 10)
    edge = np.sort(predicted)[-size]
    above, at = predicted > edge, predicted == edge
    share = (size - int(above.sum())) / int(at.sum())
    return float((actual[above].sum() + share * actual[at].sum()) / size)


def calibration_gap(actual: Array, predicted: Array) -> float:
    """Return how far the mean prediction is from the observed rate, in [0, 1]; the best value is 0.0."""
    return float(abs(predicted.mean() - actual.mean()))


_MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "roc_auc": lambda actual, predicted: float(sk.roc_auc_score(actual, predicted)),
    "average_precision": lambda actual, predicted: float(sk.average_precision_score(actual, predicted)),
    "log_loss": lambda actual, predicted: float(loss("log_loss", actual, predicted).mean()),
    "brier": lambda actual, predicted: float(loss("brier", actual, predicted).mean()),
    "precision_top_decile": precision_top_decile,
    "calibration_gap": calibration_gap,
    "rmse": lambda actual, predicted: float(np.sqrt(loss("squared_error", actual, predicted).mean())),
    "mae": lambda actual, predicted: float(loss("absolute_error", actual, predicted).mean()),
    "r2": lambda actual, predicted: float(sk.r2_score(actual, predicted)),
}
_NEED_TWO = frozenset({"roc_auc", "average_precision", "r2"})  # different actual values


def measure(metric: str, actual: Array, predicted: Array) -> float:
    """Return one metric of `include.spec.metrics`.

    Raises
    ------
    MissingMetric
        when the rows can't give it: there are none, or only one class where it takes two.
    """
    required = "two different actual values" if metric in _NEED_TWO else "at least one row"
    different = len(np.unique(actual))
    if different < (2 if metric in _NEED_TWO else 1):
        raise MissingMetric(metric, required=required, found=f"{different} in {len(actual)} rows")
    return _MEASURES[metric](actual, predicted)


def measured(names: Sequence[str], actual: Array, predicted: Array) -> dict[str, float]:
    """Return those of the named metrics that the rows can give."""
    found: dict[str, float] = {}
    for name in names:
        try:
            found[name] = measure(name, actual, predicted)
        except MissingMetric:
            continue
    return found
