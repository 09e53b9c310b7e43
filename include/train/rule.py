"""A rule of thumb as a baseline: what a person would say who knows one number, which a model has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin


class Rule(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Says a column's value plus a constant, and the median that it was fitted on where there is no value.

    Parameters
    ----------
    column : a numeric feature, in the target's unit.
    plus : what is added to it.

    Attributes
    ----------
    median_ : of the target in `fit`.
    """

    def __init__(self, column: str = "", plus: float = 0.0) -> None:
        self.column = column
        self.plus = plus

    def fit(self, given: pd.DataFrame, actual: Any) -> Rule:
        """Keep the median; the rule itself learns nothing.

        Raises
        ------
        ValueError
            when ``plus`` isn't a finite number.
        """
        if not np.isfinite(float(self.plus)):
            raise ValueError(f"plus: a finite number is needed, found {self.plus}")
        self.median_ = float(np.median(actual))
        return self

    def predict(self, given: pd.DataFrame) -> NDArray[np.float64]:
        """Return one value a row, shape (n,)."""
        values = given[self.column].to_numpy(dtype=np.float64) + float(self.plus)
        return np.where(np.isfinite(values), values, self.median_)
