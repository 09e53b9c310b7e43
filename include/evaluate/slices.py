"""What a mean hides: the same losses on each part of the rows, so that a gain on most can't pay for a few.

A part is made by one column: by its categories or, of numbers, by its quarters; a missing value is a part of
its own. Every row is in exactly one part of a column.
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

FEW = 12  # different numbers, up to which each is a part: the months of a year, the days of a week
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnSlices:
    """A column, cut.

    Parameters
    ----------
    names : as ``= JFK``, ``in [184, 502)`` or ``missing``; numbers ascend, categories are sorted.
    codes : each row's place in ``names``, shape (n,).
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def slice_column(column: pa.ChunkedArray) -> ColumnSlices:
    """Cut a column's n rows into parts, the same whichever order the rows have.

    Numbers that aren't finite count as missing. Dates and times are categories.
    """
    kind = column.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return _numbers(column.cast(pa.float64(), safe=False).to_numpy())
    coded = column.combine_chunks().cast(pa.string()).dictionary_encode()
    names = coded.dictionary.to_pylist()
    order = {name: place for place, name in enumerate(sorted(names))}
    place = np.array([*(order[name] for name in names), len(names)], dtype=np.int64)
    codes = place[coded.indices.fill_null(len(names)).to_numpy()]
    return _parts([f"= {name}" for name in order], codes)


def measure_slices(
    spec: UseCase,
    rows: pa.Table,
    columns: pa.Table,
    losses: Mapping[str, Floats],
    partitions: Sequence[str],
    rival: str,
) -> tuple[Slice, ...]:
    """Return the slices of at least ``gate.slices.min_rows`` rows: the declared columns', then the features'.

    Parameters
    ----------
    rows : with ``partition`` and, for the automatic slices, the features, shape (n, any).
    columns : the declared columns of the same rows, see `include.evaluate.measure.columns_of_rows`.
    losses : per row, of ``challenger`` and the rival, each of shape (n,).
    partitions : of the evidence, ascending; every row is of one of them.
    rival : whose losses stand beside the challenger's.

    Raises
    ------
    EvergreenError
        when a row is of another partition: its losses would be in no slice.
    """
    partition = _place(rows["partition"], partitions)
    declared = spec.gate.slices.columns
    cuts = [(name, columns[name], True) for name in dict.fromkeys(declared)]
    if spec.gate.slices.automatic:
        cuts += [(name, rows[name], False) for name in spec.features.columns if name not in declared]
    found: list[Slice] = []
    for name, column, named in cuts:
        parts = slice_column(column)
        shape, both = (len(parts.names), len(partitions)), parts.codes * len(partitions) + partition
        counts, now, then = (_sums(both, shape, of) for of in (None, losses[CHALLENGER], losses[rival]))
        found += [
            Slice(f"{name} {part}", named, tuple(counts[i]), tuple(now[i]), tuple(then[i]))
            for i, part in enumerate(parts.names)
            if sum(counts[i]) >= spec.gate.slices.min_rows
        ]
    return tuple(found)


def _place(column: pa.ChunkedArray, partitions: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each row's partition among the partitions, shape (n,)."""
    found = pc.index_in(column, value_set=pa.array(partitions, pa.string()))
    if found.null_count:
        others = f"{found.null_count} rows of others"
        raise EvergreenError("slices", required=f"rows of {len(partitions)} partitions", found=others)
    return np.asarray(found.to_numpy(), dtype=np.int64)


def _numbers(values: Floats) -> ColumnSlices:
    """Cut numbers by value where they are few, else at the quarters of the rows."""
    there = values[np.isfinite(values)]
    different = np.unique(there)
    if len(different) <= FEW:
        edges, names = different, [f"= {text}" for text in _texts(different)]
    else:
        # an edge is a value that some row has, so that it needs no arithmetic; where a quarter or more share
        # the lowest value, the others are still told from them
        inner = np.quantile(there, (0.25, 0.5, 0.75), method="inverted_cdf")
        edges = np.unique([different[0], *np.maximum(inner, different[1])])
        *texts, last = _texts(np.unique([*edges, different[-1]]))
        names = [f"in [{low}, {high})" for low, high in pairwise([*texts, last])]
        if edges[-1] == different[-1]:
            names.append(f"= {last}")
        else:
            names[-1] = f"in [{texts[-1]}, {last}]"
    codes = np.searchsorted(edges, values, side="right") - 1
    return _parts(names, np.where(np.isfinite(values), codes, len(names)))


def _texts(values: Floats) -> list[str]:
    """Return different numbers as different texts, as short as that allows."""
    for digits in (4, 6, 9):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(texts):
            return texts
    return [repr(float(value)) for value in values]


def _parts(names: list[str], codes: NDArray[np.int64]) -> ColumnSlices:
    """Return the parts, ``missing`` last where a row has no value."""
    return ColumnSlices((*names, "missing") if (codes == len(names)).any() else tuple(names), codes)


def _sums(codes: NDArray[np.int64], shape: tuple[int, int], weights: Floats | None = None) -> list[list[Any]]:
    """Return the sum of each part on each partition, shape (parts, partitions)."""
    found = np.bincount(codes, weights, minlength=shape[0] * shape[1]).reshape(shape)
    return cast("list[list[Any]]", found.tolist())
