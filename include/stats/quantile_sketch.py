"""A column read batch by batch in bounded memory: order statistics of numbers, counts of categories.

Numbers are sorted `BLOCK` at a time. A full block is thinned to every `STEP`-th of its sorted values, each
then standing for `STEP`; `STEP` thinned blocks are laid together, sorted and thinned again, and so on up (G.
Manku, S. Rajagopalan and B. Lindsay, Approximate medians and other quantiles in one pass, SIGMOD 1998). A
thinning moves a cumulative share by at most ``STEP / 2`` of a block's values, 1 / 8192; the last choice of
`POINTS` moves it by at most 1 / (2 `POINTS`). So 50 million rows, thinned three times, are within 0.0014, and
any number of rows within 1 / `POINTS`. Nothing is drawn at random: the same rows in the same order give the
same bytes, however they are cut into batches, and up to `BLOCK` rows in any order.
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
HELD = 1 << 14  # categories that are counted exactly before the sketch takes over
LG_ITEMS = 10  # 768 categories are counted exactly by the sketch, of more the frequent ones
LG_DISTINCT = 11  # the count of distinct categories has a standard error of 2.3 %

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class Numbers:
    """A numeric column; NaN and infinities are no values.

    Parameters
    ----------
    block, step : a block holds a multiple of ``step`` values; the error bound is theirs.
    """

    def __init__(self, block: int = BLOCK, step: int = STEP) -> None:
        self.block, self.step = block, step
        self.count, self.total, self.squares = 0, 0.0, 0.0
        self._ends: list[float] = []
        self._open: list[Floats] = []  # values that don't fill a block yet
        self._thinned: list[list[Floats]] = []  # by level, each value standing for step ** (level + 1)

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Take a batch's values."""
        values = column.cast(pa.float64())
        values = (values.drop_null() if values.null_count else values).to_numpy(zero_copy_only=False)
        finite = np.isfinite(values)
        self._open.append(values if finite.all() else values[finite])
        if sum(len(part) for part in self._open) < self.block:
            return
        values = np.concatenate(self._open)
        full = values.size - values.size % self.block
        for start in range(0, full, self.block):
            self._keep(0, self._measured(values[start : start + self.block]))
        self._open = [values[full:]]

    def row(self, rows: int) -> dict[str, Any]:
        """Return what is published of the column, of ``rows`` rows in all; nothing is added after it."""
        rest = self._measured(np.concatenate([np.empty(0), *self._open]))
        return {
            "kind": "numeric",
            "missing": rows - self.count,
            "low": min(self._ends, default=None),
            "high": max(self._ends, default=None),
            "total": self.total,
            "squares": self.squares,
            "quantiles": self._points(rest).astype("<f8").tobytes(),
        }

    def _measured(self, values: Floats) -> Floats:
        """Return values sorted; add them to the moments (Chan, Golub and LeVeque 1979)."""
        if not values.size:
            return values
        values = np.sort(values)  # sorted, so that sums are the same in whatever order a block's rows come
        total, size = float(values.sum()), values.size
        mean = total / size
        # about the mean: a sum of plain squares loses the spread
        self.squares += float(np.square(values - mean).sum())
        if self.count:
            apart = mean - self.total / self.count
            self.squares += apart**2 * self.count * size / (self.count + size)
        self.count, self.total = self.count + size, self.total + total
        self._ends = [min([*self._ends, float(values[0])]), max([*self._ends, float(values[-1])])]
        return values

    def _keep(self, level: int, values: Floats) -> None:
        """Thin a full sorted block into a level, and the level into the next when it is full."""
        if level == len(self._thinned):
            self._thinned.append([])
        kept = self._thinned[level]
        kept.append(values[self.step // 2 :: self.step])
        if len(kept) == self.step:
            whole = np.sort(np.concatenate(kept))
            kept.clear()
            self._keep(level + 1, whole)

    def _points(self, rest: Floats) -> Floats:
        """Return all values if they are few, else the `POINTS` middles of equal shares of them."""
        if self.count == rest.size <= POINTS:
            return rest
        parts, weights = [rest], [np.ones(rest.size)]
        for level, kept in enumerate(self._thinned):
            parts += kept
            weights += [np.full(part.size, float(self.step ** (level + 1))) for part in kept]
        values = np.concatenate(parts)
        order = np.argsort(values, kind="stable")
        below = np.cumsum(np.concatenate(weights)[order])
        middles = (np.arange(POINTS) + 0.5) * (self.count / POINTS)
        return np.asarray(values[order][np.searchsorted(below, middles, side="right")])


class Categories:
    """A categorical column of strings or booleans."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[str] = Counter()
        self._items = datasketches.frequent_strings_sketch(LG_ITEMS)
        self._distinct = datasketches.hll_sketch(LG_DISTINCT)

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        """Take a batch's values."""
        values = column.cast(pa.string()).drop_null()
        while len(values):
            room = BLOCK - self.count % BLOCK
            part, values = values.slice(0, room), values.slice(room)
            found = pc.value_counts(part)
            for item, count in zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True):
                self._counts[item] += count
            self.count += len(part)
            # every BLOCK values and not every batch, so that how batches are cut makes no difference
            if self.count % BLOCK == 0 and len(self._counts) > HELD:
                self._hand_over()

    def row(self, rows: int) -> dict[str, Any]:
        """Return what is published of the column, of ``rows`` rows in all; nothing is added after it."""
        self._hand_over()
        return {
            "kind": "categorical",
            "missing": rows - self.count,
            "items": self._items.serialize(),
            "distinct": bytes(self._distinct.serialize_compact()),
        }

    def _hand_over(self) -> None:
        for item, count in sorted(self._counts.items()):  # what a sketch forgets depends on the order
            self._items.update(item, count)
            self._distinct.update(item)
        self._counts.clear()
