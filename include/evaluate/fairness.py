"""Whom a model serves worse: the rates of a sensitive column's groups beside each other, by fairlearn.

fairlearn gives a rate of 0 to a group that has no row to give it from, and no difference between one group
and itself. Both look like good news, so here both are missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from fairlearn.metrics import (
    MetricFrame,
    count,
    false_positive_rate,
    mean_prediction,
    selection_rate,
    true_positive_rate,
)
from numpy.typing import NDArray

from include.evaluate.slices import slice_column
from include.judge.evidence import Fairness
from include.spec import UseCase

Array = NDArray[np.float64]


def measure_fairness(
    spec: UseCase, columns: pa.Table, actual: Array, predicted: Array
) -> tuple[Fairness, ...]:
    """Return how the groups of each declared column fare, none where the gate declares no fairness.

    Groups are the parts of `include.evaluate.slices.slice_column` with at least ``gate.fairness.min_rows``
    rows. A rate that one of them can't give is missing there, and so is its figure.

    Parameters
    ----------
    columns : with the declared columns, shape (n, any), see `include.evaluate.measure.columns_of_rows`.
    actual : 0 or 1, shape (n,).
    predicted : probability of 1, shape (n,); from ``gate.fairness.threshold`` on a row is selected.

    Notes
    -----
    The differences and ratios are those of fairlearn's MetricFrame: largest less smallest, and smallest over
    largest, which no group has where the largest is 0.
    """
    rules = spec.gate.fairness
    if rules is None:
        return ()
    found = []
    for name in dict.fromkeys(rules.columns):
        parts = slice_column(columns[name])
        rows = np.bincount(parts.codes, minlength=len(parts.names))
        large = np.isin(parts.codes, np.flatnonzero(rows >= rules.min_rows))
        groups = np.array([_group(part) for part in parts.names], dtype=object)[parts.codes[large]]
        found.append(_fares(name, groups, actual[large], predicted[large], rules.threshold))
    return tuple(found)


def _group(part: str) -> str:
    """Return a group's name: the category itself, but one that is called ``missing`` keeps its sign."""
    return part if part == "= missing" else part.removeprefix("= ")


def _fares(
    column: str, groups: NDArray[np.object_], actual: Array, predicted: Array, threshold: float
) -> Fairness:
    """Return the record of one column, whose groups are named row by row."""
    if not len(groups):
        return Fairness(column, {}, {})
    rates = MetricFrame(
        metrics={"rows": count, "selection_rate": selection_rate, "tpr": _tpr, "fpr": _fpr},
        y_true=actual.astype(np.int64),
        y_pred=(predicted >= threshold).astype(np.int64),
        sensitive_features=groups,
    )
    lean = MetricFrame(
        metrics={"calibration": _calibration}, y_true=actual, y_pred=predicted, sensitive_features=groups
    )
    by = rates.by_group.join(lean.by_group)
    held = [name for name in by.columns if name != "rows" and by[name].notna().all()]
    figures = {}
    if len(by) > 1:
        figures = {f"{name}_difference": v for name, v in rates.difference().items() if name in held}
        figures |= {f"{name}_difference": v for name, v in lean.difference().items()}
        figures |= {f"{name}_ratio": v for name, v in rates.ratio().items() if name in held}
    return Fairness(column, {str(name): _finite(row) for name, row in by.iterrows()}, _finite(figures))


def _tpr(actual: Array, selected: Array) -> float:
    return float(true_positive_rate(actual, selected)) if (actual == 1).any() else math.nan


def _fpr(actual: Array, selected: Array) -> float:
    return float(false_positive_rate(actual, selected)) if (actual == 0).any() else math.nan


def _calibration(actual: Array, predicted: Array) -> float:
    return float(mean_prediction(actual, predicted) - actual.mean())


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
