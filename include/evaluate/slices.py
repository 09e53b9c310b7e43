"""Slices: measure losses on subsets of the rows, so that an overall gain can't hide a loss on a few.

A column is sliced by its categories or, for numbers, by its quartiles; missing values are a slice of their
own. Every row is in exactly one slice of a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import EvergreenError
from include.judge.evidence import CHALLENGER, Slice
from include.spec import UseCase

MAX_DISTINCT = 12  # numbers that get a slice each, such as the months of a year or the days of a week
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnSlices:
    """The slices of a column.

    Parameters
    ----------
    names : for example ``= JFK``, ``in [184, 502)`` or ``missing``; in ascending order.
    codes : index of each row's slice in ``names``, shape (n,).
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def slice_column(column: pa.ChunkedArray) -> ColumnSlices:
    """Slice a column's n rows; the slices don't depend on the order of the rows.

    Numbers that aren't finite count as missing. Dates and times are categories.
    """
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return _slice_numbers(column.cast(pa.float64(), safe=False).to_numpy())
    encoded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    categories = encoded.dictionary.to_pylist()
    order = {category: index for index, category in enumerate(sorted(categories))}
    sorted_index = np.array([*(order[category] for category in categories), len(categories)], dtype=np.int64)
    codes = sorted_index[encoded.indices.fill_null(len(categories)).to_numpy()]
    return _with_missing([f"= {category}" for category in order], codes)


def measure_slices(
    spec: UseCase,
    rows: pa.Table,
    columns: pa.Table,
    losses: Mapping[str, Floats],
    partitions: Sequence[str],
    rival: str,
) -> tuple[Slice, ...]:
    """Return the slices with at least ``gate.slices.min_rows`` rows, first the declared ones.

    Parameters
    ----------
    rows : with ``partition`` and, for the automatic slices, the features, shape (n, any).
    columns : the declared columns of the same rows; see `include.evaluate.measure.columns_of_rows`.
    losses : per row, of the walks of ``challenger`` and the rival, each of shape (n,).
    partitions : of the evidence, ascending; every row belongs to one of them.
    rival : the model that the challenger is compared with.

    Raises
    ------
    EvergreenError
        if a row belongs to another partition, since its losses would be in no slice.
    """
    partition_index = _partition_index(rows["partition"], partitions)
    declared_columns = spec.gate.slices.columns
    sliced = [(name, columns[name], True) for name in dict.fromkeys(declared_columns)]
    if spec.gate.slices.automatic:
        features = [name for name in spec.features.columns if name not in declared_columns]
        sliced += [(name, rows[name], False) for name in features]
    slices: list[Slice] = []
    for name, column, declared in sliced:
        parts = slice_column(column)
        shape, cell = (len(parts.names), len(partitions)), parts.codes * len(partitions) + partition_index
        counts, challenger_walk, rival_walk = (
            _sums(cell, shape, weights) for weights in (None, losses[CHALLENGER], losses[rival])
        )
        slices += [
            Slice(
                f"{name} {part}",
                declared,
                tuple(counts[i]),
                tuple(challenger_walk[i]),
                tuple(rival_walk[i]),
            )
            for i, part in enumerate(parts.names)
            if sum(counts[i]) >= spec.gate.slices.min_rows
        ]
    return tuple(slices)


def _partition_index(column: pa.ChunkedArray, partitions: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of each row's partition, shape (n,)."""
    indices = pc.index_in(column, value_set=pa.array(partitions, pa.string()))
    if indices.null_count:
        others = f"{indices.null_count} rows of others"
        raise EvergreenError(
            "slices",
            required=f"rows of {len(partitions)} partitions",
            found=others,
            remedy="this is a fault of Evergreen: report it",
        )
    return np.asarray(indices.to_numpy(), dtype=np.int64)


def _slice_numbers(values: Floats) -> ColumnSlices:
    """Slice numbers by value if there are few distinct ones, or else by quartile."""
    finite = values[np.isfinite(values)]
    distinct = np.unique(finite)
    if len(distinct) <= MAX_DISTINCT:
        edges, names = distinct, [f"= {text}" for text in _number_texts(distinct)]
    else:
        # edges are values of the data, which are free of rounding errors; if a quarter of the rows or more
        # have the lowest value, the second-lowest starts the next slice, so that they stay apart
        inner = np.quantile(finite, (0.25, 0.5, 0.75), method="inverted_cdf")
        edges = np.unique([distinct[0], *np.maximum(inner, distinct[1])])
        *texts, last = _number_texts(np.unique([*edges, distinct[-1]]))
        names = [f"in [{low}, {high})" for low, high in pairwise([*texts, last])]
        if edges[-1] == distinct[-1]:
            names.append(f"= {last}")
        else:
            names[-1] = f"in [{texts[-1]}, {last}]"
    codes = np.searchsorted(edges, values, side="right") - 1
    return _with_missing(names, np.where(np.isfinite(values), codes, len(names)))


def _number_texts(values: Floats) -> list[str]:
    """Return distinct numbers as distinct texts with as few digits as possible."""
    for digits in (4, 6, 9):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(texts):
            return texts
    return [repr(float(value)) for value in values]


def _with_missing(names: list[str], codes: NDArray[np.int64]) -> ColumnSlices:
    """Return the slices, with ``missing`` as the last one if a row has no value."""
    return ColumnSlices((*names, "missing") if (codes == len(names)).any() else tuple(names), codes)


def _sums(codes: NDArray[np.int64], shape: tuple[int, int], weights: Floats | None = None) -> list[list[Any]]:
    """Return the sums of each slice by partition, shape (slices, partitions)."""
    sums = np.bincount(codes, weights, minlength=shape[0] * shape[1]).reshape(shape)
    return cast("list[list[Any]]", sums.tolist())
