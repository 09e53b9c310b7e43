"""Summarizes a column batch by batch in bounded memory: order statistics of numbers, counts of categories.

Numbers are sorted in blocks of `BLOCK`. A full block is thinned to every `STEP`-th of its sorted values, each
then representing `STEP` values. `STEP` thinned blocks are merged, sorted and thinned again, and so on (G.
Manku, S. Rajagopalan and B. Lindsay, Approximate medians and other quantiles in one pass, SIGMOD 1998).

Each thinning moves a cumulative share by at most ``STEP / 2`` of a block's values, 1 / 8192. The final
selection of `POINTS` moves it by at most 1 / (2 `POINTS`). So 50 million rows, thinned three times, have an
error of at most 0.0014, and any number of rows of at most 1 / `POINTS`.

Nothing is random: the same rows in the same order give the same bytes, whatever the batch sizes. Up to
`BLOCK` rows may be in any order.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasketches
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

POINTS = 512
BLOCK = 1 << 16  # values, 512 kB
STEP = 16
EXACT_CATEGORIES = 1 << 14  # categories that are counted exactly before the sketch takes over
LG_ITEMS = 10  # the sketch counts 768 categories exactly; of more, only the frequent ones
LG_DISTINCT = 11  # the count of distinct categories has a standard error of 2.3 %

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class Numbers:
    """Summarizes a numeric column; NaN and infinities count as missing.

    Parameters
    ----------
    block, step : size of a block, a multiple of ``step``, and the thinning step; they set the error bound.
    """

    def __init__(self, block: int = BLOCK, step: int = STEP) -> None:
        self.block, self.step = block, step
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self._extremes: list[float] = []
        self._pending: list[Floats] = []  # values that don't fill a block yet
        self._levels: list[list[Floats]] = []  # thinned blocks; each value represents step ** (level + 1)

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Add a batch's values."""
        values = column.cast(pa.float64(), safe=False)  # an id may have more digits
        values = (values.drop_null() if values.null_count else values).to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        self._pending.append(values if finite.all() else values[finite])
        if sum(len(part) for part in self._pending) < self.block:
            return
        values = np.concatenate(self._pending)
        full = values.size - values.size % self.block
        for start in range(0, full, self.block):
            self._add_block(0, self._sort_and_measure(values[start : start + self.block]))
        self._pending = [values[full:]]

    def row(self, rows: int) -> dict[str, Any]:
        """Return the column's published profile for ``rows`` rows in all; nothing may be added later."""
        rest = self._sort_and_measure(np.concatenate([np.empty(0), *self._pending]))
        return {
            "kind": "numeric",
            "missing": rows - self.count,
            "low": min(self._extremes, default=None),
            "high": max(self._extremes, default=None),
            "total": self.total,
            "squares": self.squares,
            "quantiles": self._select_points(rest).astype("<f8").tobytes(),
        }

    def _sort_and_measure(self, values: Floats) -> Floats:
        """Return the values sorted, and add them to the moments (Chan, Golub and LeVeque 1979)."""
        if not values.size:
            return values
        values = np.sort(values)  # first, so that sums don't depend on the order of a block's rows
        total, size = float(values.sum()), values.size
        mean = total / size
        # around the mean, because a sum of plain squares would lose precision
        self.squares += float(np.square(values - mean).sum())
        if self.count:
            difference = mean - self.total / self.count
            self.squares += difference**2 * self.count * size / (self.count + size)
        self.count, self.total = self.count + size, self.total + total
        lowest, highest = float(values[0]), float(values[-1])
        self._extremes = [min([*self._extremes, lowest]), max([*self._extremes, highest])]
        return values

    def _add_block(self, level: int, values: Floats) -> None:
        """Thin a full sorted block into a level, and merge the level into the next when it is full."""
        if level == len(self._levels):
            self._levels.append([])
        blocks = self._levels[level]
        blocks.append(values[self.step // 2 :: self.step])
        if len(blocks) == self.step:
            merged = np.sort(np.concatenate(blocks))
            blocks.clear()
            self._add_block(level + 1, merged)

    def _select_points(self, rest: Floats) -> Floats:
        """Return all values if they are few, else the midpoints of `POINTS` equal shares of them."""
        if self.count == rest.size <= POINTS:
            return rest
        parts, weights = [rest], [np.ones(rest.size)]
        for level, blocks in enumerate(self._levels):
            parts += blocks
            weights += [np.full(block.size, float(self.step ** (level + 1))) for block in blocks]
        values = np.concatenate(parts)
        order = np.argsort(values, kind="stable")
        below = np.cumsum(np.concatenate(weights)[order])
        midpoints = (np.arange(POINTS) + 0.5) * (self.count / POINTS)
        return np.asarray(values[order][np.searchsorted(below, midpoints, side="right")])


class Categories:
    """Summarizes a categorical column of strings or booleans."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[str] = Counter()
        self._items = datasketches.frequent_strings_sketch(LG_ITEMS)
        self._distinct = datasketches.hll_sketch(LG_DISTINCT)

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Add a batch's values."""
        values = column.cast(pa.string()).drop_null()
        while len(values):
            room = BLOCK - self.count % BLOCK
            part, values = values.slice(0, room), values.slice(room)
            counts = pc.value_counts(part)
            for item, count in zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True):
                self._counts[item] += count
            self.count += len(part)
            # every BLOCK values and not every batch, so that batch sizes make no difference
            if self.count % BLOCK == 0 and len(self._counts) > EXACT_CATEGORIES:
                self._flush_counts()

    def row(self, rows: int) -> dict[str, Any]:
        """Return the column's published profile for ``rows`` rows in all; nothing may be added later."""
        self._flush_counts()
        return {
            "kind": "categorical",
            "missing": rows - self.count,
            "items": self._items.serialize(),
            "distinct": bytes(self._distinct.serialize_compact()),
        }

    def _flush_counts(self) -> None:
        for item, count in sorted(self._counts.items()):  # which items a sketch drops depends on the order
            self._items.update(item, count)
            self._distinct.update(item)
        self._counts.clear()
