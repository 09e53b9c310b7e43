"""Compares features that were computed twice from the same rows.

Floats are added up in the order in which rows come, which rows that don't count can change, so that the last
bits of a sum may differ although the SQL is right.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.spec import UseCase

RELATIVE = 1e-9  # of a value, up to which it is the same; a planted row changes it by more
CANCELED = 1e-12  # of the column's largest value: what may be left of a sum of 0


def changed_features(spec: UseCase, before: pa.Table, after: pa.Table, *, exactly: bool = False) -> list[str]:
    """Return the features that differ in some row; see `differ`."""
    names = spec.features.columns
    return [name for name in names if differ(before[name], after[name], exactly=exactly).any()]


def differ(left: pa.ChunkedArray, right: pa.ChunkedArray, *, exactly: bool = False) -> NDArray[np.bool_]:
    """Return for each place whether the values differ; a null differs from any value.

    Parameters
    ----------
    exactly : also in the last bits of floats.
    """
    different: NDArray[np.bool_] = pc.xor(left.is_null(), right.is_null()).to_numpy().copy()
    if exactly or not pa.types.is_floating(left.type):
        different |= pc.fill_null(pc.not_equal(left, right), False).to_numpy()
        return different
    first, second = pc.fill_null(left, 0.0).to_numpy(), pc.fill_null(right, 0.0).to_numpy()
    sizes = np.maximum(np.abs(first), np.abs(second))
    allowed = np.maximum(RELATIVE * sizes, CANCELED * np.max(sizes, initial=0.0))
    different |= np.abs(first - second) > allowed
    return different
