"""Predictions as arrays and as table columns: one number a row, or a probability for each class.

As an array they have shape (n,) or, for a multiclass problem, (n, k). A table has one column for each number
(`Problem.outputs`), because Arrow can't join rows with lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.spec import UseCase

Array = NDArray[np.float64]
Constant = float | tuple[float, ...]  # a prediction that is the same for every row
# The probability that the declared classes share of which a fit saw no row. With 0, the first such row would
# cost as much log loss as thousands of others, and nothing learned before it could make up for that.
UNSEEN = 0.001


def predictions_shape(spec: UseCase, rows: int) -> tuple[int, ...]:
    """Return the shape of the predictions for a number of rows."""
    classes = len(spec.problem.classes)
    return (rows, classes) if classes else (rows,)


def finite_rows(values: Array) -> NDArray[np.bool_]:
    """Return which rows have finite predictions, shape (n,)."""
    return np.asarray(np.isfinite(values).all(axis=tuple(range(1, values.ndim))))


def repeat_constant(constant: Constant, rows: int) -> Array:
    """Return the constant prediction for each row."""
    return np.tile(np.asarray(constant, dtype=np.float64), (rows, *(1,) * np.ndim(constant)))


def add_unseen_classes(probabilities: Array, positions: Sequence[int], classes: int) -> Array:
    """Return the probabilities of all declared classes, where a fit saw rows of some of them only.

    Parameters
    ----------
    probabilities : those of the classes with rows, shape (n, k); each row sums to 1.
    positions : the places of these k classes among all.
    classes : the number of all. Those without a row share the probability `UNSEEN`.
    """
    if len(positions) == classes:
        return probabilities
    values = np.full((len(probabilities), classes), UNSEEN / (classes - len(positions)))
    values[:, positions] = probabilities * (1 - UNSEEN)
    return values


def to_columns(spec: UseCase, values: Array) -> dict[str, pa.Array]:
    """Return predictions as table columns by name."""
    columns = values.T if spec.problem.classes else [values]
    pairs = zip(spec.problem.outputs, columns, strict=True)
    return {name: pa.array(column, pa.float64()) for name, column in pairs}


def from_columns(spec: UseCase, rows: pa.Table, suffix: str = "") -> Array:
    """Return the predictions from a table's columns, whose names may end with a suffix."""
    columns = [rows[f"{name}{suffix}"].to_numpy() for name in spec.problem.outputs]
    return np.stack(columns, axis=1) if spec.problem.classes else np.asarray(columns[0])


def to_single_column(values: Array) -> pa.Array:
    """Return predictions as one column, of lists for several classes, for a file that is never joined."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def from_single_column(column: pa.ChunkedArray) -> Array:
    """Return the predictions from a column that `to_single_column` made."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat.reshape(-1, column.type.list_size), dtype=np.float64)


def predicted_class(spec: UseCase, values: Array) -> pa.Array:
    """Return each row's class with the highest probability; of a tie the first."""
    return pa.array(spec.problem.classes, pa.string()).take(pa.array(values.argmax(axis=1)))


def label_constant(spec: UseCase, labels: Array) -> Constant:
    """Return the prediction from the labels alone: their mean, or quantile, or each class's share."""
    if spec.gate.quantile is not None:
        return float(np.quantile(labels, spec.gate.quantile))
    if not spec.problem.classes:
        return float(labels.mean())
    shares = np.array([(labels == code).mean() for code in spec.problem.codes])
    positions = np.flatnonzero(shares)
    return tuple(add_unseen_classes(shares[None, positions], list(positions), len(shares))[0].tolist())


def describe_constant(spec: UseCase, constant: Constant, number: Any) -> str:
    """Return a constant as text, as ``0.2`` or ``early 0.3, late 0.7``; ``number`` formats a figure."""
    if not spec.problem.classes:
        return str(number(constant))
    shares = cast("tuple[float, ...]", constant)
    return ", ".join(f"{c} {number(s)}" for c, s in zip(spec.problem.classes, shares, strict=True))
