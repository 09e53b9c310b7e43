"""Fairness: measure a model's rates in the groups of a sensitive column, using fairlearn.

fairlearn returns a rate of 0 for a group without rows that define it. That looks like a good result, so it is
missing here, and so are the figures of a single group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

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
from include.judge.evidence import Fairness, GroupSums
from include.judge.groups import group_pairs
from include.spec import UseCase
from include.spec.gate import INTERSECTION, FairnessRules

Array = NDArray[np.float64]


def measure_fairness(
    spec: UseCase, columns: pa.Table, partition: pa.ChunkedArray, actual: Array, predicted: Array
) -> tuple[Fairness, ...]:
    """Return the group rates of each compared column, nothing if the gate declares no fairness.

    Groups are those of `include.evaluate.slices.slice_column` with at least ``gate.fairness.min_rows`` rows.
    A rate that is undefined for a group is missing there, and so are the figures that compare it.

    Parameters
    ----------
    columns : the declared columns, shape (n, any); see `include.evaluate.measure.columns_of_rows`.
    partition : of each row, shape (n,).
    actual : 0 or 1, shape (n,).
    predicted : probability of 1, shape (n,); a row is selected from ``gate.fairness.threshold`` on.

    Notes
    -----
    Of all pairs of groups, or of those with the reference group, a difference is the largest, and a ratio
    (the smaller rate by the larger) the smallest, undefined if all rates are 0.
    """
    rules = spec.gate.fairness
    if rules is None:
        return ()
    partitions = np.unique(np.asarray(partition.to_pylist(), dtype=object), return_inverse=True)[1]
    results = []
    for name, groups, included in _groups(rules, columns):
        names, rows = np.unique(groups[included], return_counts=True)
        judged = included & np.isin(groups, names[rows >= rules.min_rows])
        by_group = _group_rates(groups[judged], actual[judged], predicted[judged], rules.threshold)
        sums = {
            group: _sums(partitions, judged & (groups == group), actual, predicted, rules.threshold)
            for group in by_group
        }
        figures = _figures(by_group, rules.reference.get(name))
        results.append(Fairness(name, by_group, figures, sums))
    return tuple(results)


def _groups(
    rules: FairnessRules, columns: pa.Table
) -> Iterator[tuple[str, NDArray[np.object_], NDArray[np.bool_]]]:
    """Yield each compared column's name, the group of each row, and whether that isn't excluded."""
    groups: dict[str, NDArray[np.object_]] = {}
    for name in dict.fromkeys(rules.columns):
        slices = slice_column(columns[name])
        groups[name] = np.array([_group_name(group) for group in slices.names], dtype=object)[slices.codes]
    if rules.intersections:
        rows = zip(*groups.values(), strict=True)
        groups[rules.compared[-1]] = np.array([INTERSECTION.join(row) for row in rows], dtype=object)
    included = {name: ~np.isin(values, rules.exclude.get(name, ())) for name, values in groups.items()}
    for name, values in groups.items():
        whole = name not in rules.columns  # a combination leaves out what its columns leave out
        yield name, values, np.logical_and.reduce(list(included.values())) if whole else included[name]


def _group_name(slice_name: str) -> str:
    """Return the category itself; a category that is called ``missing`` keeps its ``=`` to stay distinct."""
    return slice_name if slice_name == "= missing" else slice_name.removeprefix("= ")


def _group_rates(
    groups: NDArray[np.object_], actual: Array, predicted: Array, threshold: float
) -> dict[str, dict[str, float]]:
    """Return the defined rates of each group; ``groups`` is the group of each row."""
    if not len(groups):
        return {}
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
    return {str(name): _finite(row) for name, row in by_group.iterrows()}


def _figures(by_group: Mapping[str, Mapping[str, float]], reference: str | None) -> dict[str, float]:
    """Return the figures that compare groups; a figure of a rate that a group doesn't have is missing."""
    figures: dict[str, float] = {}
    pairs = group_pairs(by_group, reference)
    for rate in ("selection_rate", "tpr", "fpr", "calibration"):
        values = [
            sorted((by_group[a].get(rate, math.nan), by_group[b].get(rate, math.nan))) for a, b in pairs
        ]
        if not values or not np.isfinite(values).all():
            continue
        figures[f"{rate}_difference"] = max(large - small for small, large in values)
        ratios = [small / large for small, large in values if large > 0]
        if ratios and rate != "calibration":
            figures[f"{rate}_ratio"] = min(ratios)
    return figures


def _sums(
    partitions: NDArray[np.int64], rows: NDArray[np.bool_], actual: Array, predicted: Array, threshold: float
) -> GroupSums:
    """Return a group's sums by partition; ``partitions`` is the index of each row's partition."""
    selected = (predicted >= threshold).astype(float)

    def by_partition(weights: Array) -> Array:
        return np.bincount(partitions[rows], weights[rows], int(partitions.max()) + 1).astype(float)

    def count_rows(flags: Array) -> tuple[int, ...]:
        return tuple(int(number) for number in by_partition(flags))

    return GroupSums(
        rows=count_rows(np.ones_like(actual)),
        positives=count_rows(actual),
        selected=count_rows(selected),
        selected_positives=count_rows(selected * actual),
        excess=tuple(map(float, by_partition(predicted - actual))),
    )


def _tpr(actual: Array, selected: Array) -> float:
    return float(true_positive_rate(actual, selected)) if (actual == 1).any() else math.nan


def _fpr(actual: Array, selected: Array) -> float:
    return float(false_positive_rate(actual, selected)) if (actual == 0).any() else math.nan


def _calibration(actual: Array, predicted: Array) -> float:
    return float(mean_prediction(actual, predicted) - actual.mean())


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
