"""Estimators: one of scikit-learn's that isn't built in, and one written from scratch, as a baseline."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import ExtraTreesRegressor

Array = NDArray[np.float64]


class ExtraTrees(ExtraTreesRegressor):  # type: ignore[misc]
    """Trees with random splits, faster than a forest; it gets numbers, prepared as for a linear model."""


class MeanByItem(BaseEstimator):  # type: ignore[misc]
    """The mean of the rows with the same value of a column; for a new value, of all rows."""

    takes_raw = True  # the features as they are: a frame with NaN and None

    def __init__(self, column: str = "item") -> None:
        self.column = column

    def fit(self, rows: pd.DataFrame, actual: Array) -> MeanByItem:
        """Store the means."""
        self.overall_ = float(actual.mean())
        self.means_ = pd.Series(actual).groupby(rows[self.column]).mean().to_dict()
        return self

    def predict(self, rows: pd.DataFrame) -> Array:
        """Return one value for each row, shape (n,)."""
        values = rows[self.column].map(self.means_).fillna(self.overall_)
        return np.asarray(values, dtype=np.float64)
