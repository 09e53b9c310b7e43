"""A metric and an objective: a unit that is missing counts three times as much as one that is left over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def missing_share(actual: Array, predicted: Array) -> float:
    """Return the share of the units sold that weren't predicted; the best value is 0.0."""
    return float(np.maximum(actual - predicted, 0).sum() / actual.sum()) if actual.sum() else np.nan


def weighted_error(actual: Array, predicted: Array) -> Array:
    """Return each row's error, in units left over; the best value is 0.0."""
    return np.where(actual > predicted, 3, 1) * np.abs(actual - predicted)
