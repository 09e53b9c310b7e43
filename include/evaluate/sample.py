"""What asks a model many times asks of a bounded part of the rows, the same one each time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def spread(rows: pa.Table, most: int, seed: int) -> NDArray[np.int64]:
    """Return the places of at most ``most`` rows, ascending, as many from each night as fit in evenly.

    Parameters
    ----------
    rows : with the column ``night``, shape (n, any); all of them are chosen where they are few enough.
    seed : of the choice within a night.
    """
    if rows.num_rows <= most:
        return np.arange(rows.num_rows)
    night = rows["night"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.random.default_rng(seed).permutation(rows.num_rows)
    order = order[np.argsort(night[order], kind="stable")]
    counts = np.bincount(night)
    within = np.arange(rows.num_rows) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[within < max(1, most // len(counts))][:most])
