"""Counts of columns by partition, for the tests of alarms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]


COLUMNS, BINS, ROWS, HISTORY, YEAR = 8, 10, 300, 120, 364


def feed(partitions: int, seed: int, *, season: float = 0.0) -> dict[str, Counts]:
    """Return columns that share their weather, each with a mean that goes with the year."""
    random = np.random.default_rng(seed)
    shared = np.convolve(random.standard_normal(partitions + 2), [0.6, 0.6, 0.5], "valid")
    edges = np.linspace(-2, 2, BINS - 1)
    made = {}
    for number in range(COLUMNS):
        of_partition = 0.1 * (number + 1) * shared + season * np.sin(np.arange(partitions) / 58 + number)
        values = of_partition[:, None] + random.standard_normal((partitions, ROWS))
        places = np.searchsorted(edges, values)
        made[f"c{number}"] = np.stack([np.bincount(row, minlength=BINS) for row in places]).astype(float)
    return made
