"""Estimators that a use case brings: classes with scikit-learn's fit, predict and predict_proba.

One gets the columns as a linear model does, as a dense array: missing numbers filled, one scale, one-hot
categories. A class with ``takes_raw = True`` gets the features as they are: a frame with float64 and NaN, and
texts as objects with None.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from include.extensions import CodeReference
from include.spec import UseCase
from include.spec.stages import Recipe


def estimator_code(spec: UseCase, recipe: Recipe) -> CodeReference | None:
    """Return the Python that a recipe names as its estimator; None for a name that isn't one of code."""
    return spec.code(f"training.{recipe.name}", "estimators", recipe.estimator)


def load_class(spec: UseCase, code: CodeReference) -> type[Any]:
    """Return the class of an estimator.

    Raises
    ------
    SpecError
        if it can't be imported, or isn't a class with the methods that the kind of problem needs.
    """
    value: type[Any] = code.load()
    methods = ("fit", "predict", *(["predict_proba"] if spec.problem.codes else []))
    missing = [name for name in methods if not hasattr(value, name)]
    if missing or not isinstance(value, type):
        what = "a class" if isinstance(value, type) else f"a {type(value).__name__}"
        without = f" without {', '.join(missing)}" if missing else ""
        code.fail(f"a class with {', '.join(methods)}", f"{what}{without}", value)
    return value


def build(spec: UseCase, code: CodeReference, recipe: Recipe) -> BaseEstimator:
    """Return an estimator, unfitted, with the declared params and the spec's seed as its ``random_state``.

    Raises
    ------
    SpecError
        for params that its constructor doesn't take, or whatever the constructor raises.
    """
    declared = load_class(spec, code)
    parameters = inspect.signature(declared).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if unknown := sorted(set(recipe.params) - set(parameters)) if not takes_any else []:
        code.fail(f"params of {', '.join(parameters) or 'none'}", ", ".join(unknown), declared)
    seed = {"random_state": spec.training.seed} if "random_state" in parameters else {}
    estimator = code.call(
        "a constructor that takes the params", lambda: declared(**{**seed, **recipe.params})
    )
    return estimator if hasattr(estimator, "__sklearn_tags__") else Adapter(estimator)


class Adapter(BaseEstimator):  # type: ignore[misc]
    """Lets a pipeline end with an object that isn't derived from scikit-learn's BaseEstimator.

    Parameters
    ----------
    estimator : the object.

    Attributes
    ----------
    classes_ : of `fit`, sorted, shape (k,).
    """

    def __init__(self, estimator: Any = None) -> None:
        self.estimator = estimator

    def fit(self, rows: pd.DataFrame | NDArray[np.float64], actual: NDArray[np.float64]) -> Adapter:
        """Fit the object on rows, shape (n, any), and their labels, shape (n,)."""
        self.estimator.fit(rows, actual)
        self.classes_ = getattr(self.estimator, "classes_", np.unique(actual))
        return self

    def predict(self, rows: pd.DataFrame | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one value for each row, shape (n,)."""
        return np.asarray(self.estimator.predict(rows))

    def predict_proba(self, rows: pd.DataFrame | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n, k)."""
        return np.asarray(self.estimator.predict_proba(rows))
