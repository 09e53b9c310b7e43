"""Fits a model's intercept again on the newest partitions, so that it follows a level that moves.

A model that learns from all of the past predicts its average level, and follows a season or a trend of the
labels late. A model of the newest partitions alone follows, and forgets the rest. Here only the level is
learned from the newest partitions: one number for each class, or one for a regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from sklearn.base import BaseEstimator

from include.spec.metrics import Objective
from include.stats.metrics import row_losses

Array = NDArray[np.float64]
# A penalty on the shift, so that few rows hardly move it: about the information of 20 rows of even classes,
# and for a regression the share of 20 rows that aren't shifted.
PENALTY, PRIOR_ROWS = 5.0, 20
LARGEST_LOG = 3.0  # the largest change of a prediction's logarithm


class _Shifted(BaseEstimator):  # type: ignore[misc]
    """A model that is fitted already."""

    def fit(self, rows: Any, actual: Any = None) -> _Shifted:
        """Return itself: scikit-learn takes nothing without this method for an estimator."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Return True."""
        return True


class ShiftedClassifier(_Shifted):
    """A fitted classifier with another intercept.

    Parameters
    ----------
    model : the fitted classifier.
    shift : added to the logarithm of each class's probability, shape (k,).
    """

    def __init__(self, model: Any, shift: Array) -> None:
        self.model = model
        self.shift = shift

    @property
    def classes_(self) -> Any:
        """The classes of the model, shape (k,)."""
        return self.model.classes_

    def predict_proba(self, rows: Any) -> Array:
        """Return the probability of each class, shape (n, k)."""
        weighted = self.model.predict_proba(rows) * np.exp(self.shift)
        return np.asarray(weighted / weighted.sum(axis=1, keepdims=True))

    def predict(self, rows: Any) -> Any:
        """Return the most probable class of each row, shape (n,)."""
        return self.classes_[np.argmax(self.predict_proba(rows), axis=1)]


class ShiftedRegressor(_Shifted):
    """A fitted regressor with another intercept.

    Parameters
    ----------
    model : the fitted regressor.
    factor, shift : a prediction is multiplied by the one, and then the other is added.
    """

    def __init__(self, model: Any, factor: float, shift: float) -> None:
        self.model = model
        self.factor = factor
        self.shift = shift

    def predict(self, rows: Any) -> Array:
        """Return the value of each row, shape (n,)."""
        return np.asarray(self.model.predict(rows) * self.factor + self.shift)


def fit_class_shift(probabilities: Array, codes: NDArray[np.intp]) -> Array:
    """Return the shift with the lowest log loss, less for few rows, shape (k,).

    Parameters
    ----------
    probabilities : what a model predicts of the newest rows, shape (n, k).
    codes : the column of each row's class, shape (n,).
    """
    counts = np.bincount(codes, minlength=probabilities.shape[1])

    def loss_and_gradient(shift: Array) -> tuple[float, Array]:
        weighted = probabilities * np.exp(shift)
        sums = weighted.sum(axis=1)
        loss = float(np.log(sums).sum() - counts @ shift + PENALTY / 2 * shift @ shift)
        return loss, (weighted / sums[:, None]).sum(axis=0) - counts + PENALTY * shift

    bounds = [(-LARGEST_LOG, LARGEST_LOG)] * len(counts)
    start = np.zeros(len(counts))
    return np.asarray(minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def fit_value_shift(
    objective: Objective, actual: Array, predicted: Array, *, offset: float | None
) -> tuple[float, float]:
    """Return the factor and the shift with the lowest loss, less for few rows.

    Parameters
    ----------
    actual, predicted : the labels of the newest rows, and what a model predicts of them, shape (n,).
    offset : the logarithm of the prediction plus this is shifted; None: the prediction itself.
    """
    share = len(actual) / (len(actual) + PRIOR_ROWS)
    if offset is None:
        low, high = float((actual - predicted).min()), float((actual - predicted).max())
        step = _lowest(lambda step: row_losses(objective, actual, predicted + step), low, high)
        return 1.0, share * step

    def losses(step: float) -> Array:
        return row_losses(objective, actual, (predicted + offset) * np.exp(step) - offset)

    factor = float(np.exp(share * _lowest(losses, -LARGEST_LOG, LARGEST_LOG)))
    return factor, offset * (factor - 1)


def _lowest(losses: Callable[[float], Array], low: float, high: float) -> float:
    """Return the step with the lowest mean loss, 0 if none has a lower one than no step."""

    def mean(step: float) -> float:
        return float(losses(step).mean())

    step = low
    if low < high:
        options = {"xatol": 1e-6 * (high - low)}
        step = float(minimize_scalar(mean, bounds=(low, high), method="bounded", options=options).x)
    return step if mean(step) < mean(0.0) else 0.0  # losses may be infinite whatever the step
