"""What a model says of a row: one number, or of a multiclass problem a probability for each class.

As an array that is n numbers, shape (n,), or the classes' columns, shape (n, k). A table has a column of its
own for each (`Problem.outputs`), since a join carries no lists.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.spec import UseCase

Array = NDArray[np.float64]
Constant = float | tuple[float, ...]  # the same for every row: a number, or a probability a class


def predictions_shape(spec: UseCase, rows: int) -> tuple[int, ...]:
    """Return the shape of the predictions of so many rows."""
    classes = len(spec.problem.classes)
    return (rows, classes) if classes else (rows,)


def repeat_constant(constant: Constant, rows: int) -> Array:
    """Return a constant for each row."""
    return np.tile(np.asarray(constant, dtype=np.float64), (rows, *(1,) * np.ndim(constant)))


def to_columns(spec: UseCase, values: Array) -> dict[str, pa.Array]:
    """Return predictions as a table has them."""
    each = values.T if spec.problem.classes else [values]
    return {name: pa.array(v, pa.float64()) for name, v in zip(spec.problem.outputs, each, strict=True)}


def from_columns(spec: UseCase, rows: pa.Table, suffix: str = "") -> Array:
    """Return the predictions that a table has, in columns whose names may end with a suffix."""
    each = [rows[f"{name}{suffix}"].to_numpy() for name in spec.problem.outputs]
    return np.stack(each, axis=1) if spec.problem.classes else np.asarray(each[0])


def to_single_column(values: Array) -> pa.Array:
    """Return predictions as one column, for a file that nothing joins."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def from_single_column(column: pa.ChunkedArray) -> Array:
    """Return the predictions that `packed` made one column of."""
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    flat = column.combine_chunks().flatten().to_numpy()
    return np.asarray(flat.reshape(-1, column.type.list_size), dtype=np.float64)


def predicted_class(spec: UseCase, values: Array) -> pa.Array:
    """Return the class with the highest probability of each row, of two alike the first."""
    return pa.array(spec.problem.classes, pa.string()).take(pa.array(values.argmax(axis=1)))


def label_prior(spec: UseCase, labels: Array) -> Constant:
    """Return what the labels alone say of any row: their mean, or each class's share."""
    if not spec.problem.classes:
        return float(labels.mean())
    return tuple(float((labels == code).mean()) for code in spec.problem.codes)


def describe_constant(spec: UseCase, constant: Constant, number: Any) -> str:
    """Return a constant for a person, as ``0.2`` or ``early 0.3, late 0.7``; ``number`` writes a figure."""
    if not spec.problem.classes:
        return str(number(constant))
    shares = cast("tuple[float, ...]", constant)
    return ", ".join(f"{c} {number(s)}" for c, s in zip(spec.problem.classes, shares, strict=True))
