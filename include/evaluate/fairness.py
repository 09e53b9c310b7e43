"""Fairness: compare a model's rates between the groups of a sensitive column, using fairlearn.

fairlearn returns a rate of 0 for a group without rows that define it, and a difference of 0 if there is only
one group. Both look like good results, so both are missing here.
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
    """Return the group rates of each declared column, nothing if the gate declares no fairness.

    Groups are those of `include.evaluate.slices.slice_column` with at least ``gate.fairness.min_rows`` rows.
    A rate that is undefined for a group is missing there, and so are the figures that compare it.

    Parameters
    ----------
    columns : the declared columns, shape (n, any); see `include.evaluate.measure.columns_of_rows`.
    actual : 0 or 1, shape (n,).
    predicted : probability of 1, shape (n,); a row is selected from ``gate.fairness.threshold`` on.

    Notes
    -----
    Differences and ratios are those of fairlearn's MetricFrame: largest minus smallest, and smallest divided
    by largest, which is undefined if the largest is 0.
    """
    rules = spec.gate.fairness
    if rules is None:
        return ()
    results = []
    for name in dict.fromkeys(rules.columns):
        slices = slice_column(columns[name])
        rows = np.bincount(slices.codes, minlength=len(slices.names))
        large = np.isin(slices.codes, np.flatnonzero(rows >= rules.min_rows))
        groups = np.array([_group_name(group) for group in slices.names], dtype=object)[slices.codes[large]]
        results.append(_compare_groups(name, groups, actual[large], predicted[large], rules.threshold))
    return tuple(results)


def _group_name(slice_name: str) -> str:
    """Return the category itself; a category that is called ``missing`` keeps its ``=`` to stay distinct."""
    return slice_name if slice_name == "= missing" else slice_name.removeprefix("= ")


def _compare_groups(
    column: str, groups: NDArray[np.object_], actual: Array, predicted: Array, threshold: float
) -> Fairness:
    """Return the figures of one column; ``groups`` is the group of each row."""
    if not len(groups):
        return Fairness(column, {}, {})
    rates = MetricFrame(
        metrics={"rows": count, "selection_rate": selection_rate, "tpr": _tpr, "fpr": _fpr},
        y_true=actual.astype(np.int64),
        y_pred=(predicted >= threshold).astype(np.int64),
        sensitive_features=groups,
    )
    calibration = MetricFrame(
        metrics={"calibration": _calibration}, y_true=actual, y_pred=predicted, sensitive_features=groups
    )
    by_group = rates.by_group.join(calibration.by_group)
    defined = [name for name in by_group.columns if name != "rows" and by_group[name].notna().all()]
    figures = {}
    if len(by_group) > 1:
        figures = {f"{name}_difference": v for name, v in rates.difference().items() if name in defined}
        figures |= {f"{name}_difference": v for name, v in calibration.difference().items()}
        figures |= {f"{name}_ratio": v for name, v in rates.ratio().items() if name in defined}
    return Fairness(column, {str(name): _finite(row) for name, row in by_group.iterrows()}, _finite(figures))


def _tpr(actual: Array, selected: Array) -> float:
    return float(true_positive_rate(actual, selected)) if (actual == 1).any() else math.nan


def _fpr(actual: Array, selected: Array) -> float:
    return float(false_positive_rate(actual, selected)) if (actual == 0).any() else math.nan


def _calibration(actual: Array, predicted: Array) -> float:
    return float(mean_prediction(actual, predicted) - actual.mean())


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
