"""What a partition's columns look like.

Small enough to keep for ever and to merge over any number of partitions.

A window's drift then costs the number of partitions, not of rows. The quantiles are kept as at most `POINTS`
order statistics, each standing for an equal share of the partition's values: exact up to `POINTS` values a
partition, else each partition's cumulative share is off by at most 1 / `POINTS`, and a merge adds nothing to
that. `include.stats.quantile_sketch` reads a partition of any size, batch by batch, in a few megabytes a
column. datasketches' KLL sketch was tried: it draws random numbers that can't be seeded, so the same
partition had other bytes in each run. Its frequent-strings and HLL sketches draw none and are used.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasketches
import numpy as np
import pyarrow as pa

from include.errors import EvergreenError
from include.stats.quantile_sketch import LG_DISTINCT, LG_ITEMS, Categories, Floats, Numbers
from include.storage.schemas import PROFILES

LABELS = "labels"  # the product


@dataclass(frozen=True)
class Profile:
    """One column over one or more partitions.

    Parameters
    ----------
    kind : ``numeric`` or ``categorical``.
    count, missing : rows, and those without a value (NaN and infinities are none).
    mean, std, low, high : of the values, NaN where there are none; ``std`` divides by n.
    distinct : categories, with a standard error of 2.3 % beyond some hundreds; None for a numeric column.
    points, weights : sorted values, and how many values each stands for.
    """

    column: str
    kind: str
    count: int
    missing: int
    mean: float
    std: float
    low: float
    high: float
    distinct: int | None
    points: Floats
    weights: Floats
    _items: Mapping[str, int]

    @property
    def missing_share(self) -> float:
        """Share of rows without a value, 0 to 1; 0 of no rows."""
        return self.missing / self.count if self.count else 0.0

    def cdf(self, edges: Sequence[float]) -> list[float]:
        """Return the share of values that are at most each edge, 0 to 1; NaN where there are none."""
        if not self.points.size:
            return [math.nan] * len(edges)
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        share = below[np.searchsorted(self.points, np.asarray(edges, float), side="right")] / below[-1]
        return [float(value) for value in share]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return for each share (0 to 1) the least value that so many do not exceed; NaN of none."""
        if not self.points.size:
            return [math.nan] * len(shares)
        below = np.cumsum(self.weights)
        places = np.searchsorted(below, np.asarray(shares, float) * below[-1] * (1 - 1e-12), side="left")
        return [float(self.points[min(place, self.points.size - 1)]) for place in places]

    def items(self) -> dict[str, int]:
        """Return how often each category occurs, the most frequent first.

        Beyond 768 categories only frequent ones are named and the counts are lower bounds, so what is missing
        from ``count - missing`` are others.
        """
        return dict(self._items)


def build_profile(
    product: str, partition: str, rows: pa.Table, numeric: Sequence[str], categorical: Sequence[str]
) -> pa.Table:
    """Return the profile of a partition that is in memory: see `stream`."""
    none = pa.RecordBatch.from_pylist([], schema=rows.schema)  # of no rows too the columns are asked for
    return stream_profile(product, partition, [none, *rows.to_batches()], numeric, categorical)


def stream_profile(
    product: str,
    partition: str,
    batches: Iterable[pa.RecordBatch],
    numeric: Sequence[str],
    categorical: Sequence[str],
) -> pa.Table:
    """Return the profile of a partition of any size, of which one batch at a time is in memory.

    Parameters
    ----------
    batches : numeric columns of numbers, categorical ones of strings or booleans. How they are cut makes no
        difference; the order of rows makes none up to 65,536 of them, and beyond it stays within the bound.

    Returns
    -------
    pa.Table
        one row a column, in the schema `include.storage.schemas.PROFILES`.

    Raises
    ------
    EvergreenError
        where a batch lacks a column, or has values that are no numbers in a numeric one.
    """
    read: dict[str, Numbers | Categories] = {name: Numbers() for name in numeric}
    read |= {name: Categories() for name in categorical}
    count = 0
    for batch in batches:
        count += batch.num_rows
        for name, column in read.items():
            if name not in batch.schema.names:
                raise _unfit(product, partition, f"a column {name}", ", ".join(batch.schema.names))
            try:
                column.add(batch.column(name))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                kind = "numbers" if isinstance(column, Numbers) else "strings or booleans"
                raise _unfit(product, partition, f"{kind} in {name}", str(error)) from None
    same = {"product": product, "partition": partition, "count": count}
    made = [{**same, "column": name, **column.row(count)} for name, column in read.items()]
    return pa.Table.from_pylist(made, schema=PROFILES)


def label_profile(scored: str, rows: pa.Table, target: str) -> pa.Table:
    """Return the profile of what came true of a scored partition; a row without a label is a missing value.

    Parameters
    ----------
    rows : those that were scored, with the target as it was first known.
    """
    text = pa.types.is_string(rows.schema.field(target).type)
    return build_profile(LABELS, scored, rows, [] if text else [target], [target] if text else [])


def _unfit(product: str, partition: str, required: str, found: str) -> EvergreenError:
    return EvergreenError(
        f"profile of {product}, partition {partition}",
        required=required,
        found=found,
        remedy="correct the columns that are declared, or what makes the rows",
    )


def merge_profiles(rows: Iterable[Mapping[str, Any]]) -> dict[str, Profile]:
    """Return each column's profile over all the partitions whose rows are given, in any order."""
    columns: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["product"], row["partition"])):
        columns[row["column"]].append(row)
    return {name: _merged(name, many) for name, many in columns.items()}


def _merged(name: str, rows: Sequence[Mapping[str, Any]]) -> Profile:
    kind = rows[0]["kind"]
    count, missing = sum(row["count"] for row in rows), sum(row["missing"] for row in rows)
    mean, std = _moments(rows) if kind == "numeric" else (math.nan, math.nan)
    points, weights = _pooled(rows) if kind == "numeric" else (np.empty(0), np.empty(0))
    return Profile(
        column=name,
        kind=kind,
        count=count,
        missing=missing,
        mean=mean,
        std=std,
        low=min((row["low"] for row in rows if row["low"] is not None), default=math.nan),
        high=max((row["high"] for row in rows if row["high"] is not None), default=math.nan),
        distinct=_distinct(rows) if kind == "categorical" else None,
        points=points,
        weights=weights,
        _items=_counted(rows) if kind == "categorical" else {},
    )


def _moments(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return mean and standard deviation from each partition's (Chan, Golub and LeVeque 1979)."""
    sizes = np.array([row["count"] - row["missing"] for row in rows], float)
    totals = np.array([row["total"] for row in rows])
    if not sizes.sum():
        return math.nan, math.nan
    mean = totals.sum() / sizes.sum()
    apart = np.divide(totals, sizes, out=np.full_like(totals, mean), where=sizes > 0) - mean
    squares = sum(row["squares"] for row in rows) + float((sizes * apart**2).sum())
    return float(mean), math.sqrt(squares / sizes.sum())


def _pooled(rows: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """Return all partitions' points in order, each with the number of values that it stands for."""
    partitions = [np.frombuffer(row["quantiles"], "<f8") for row in rows]
    sizes = [row["count"] - row["missing"] for row in rows]
    points = np.concatenate(partitions)
    weights = np.concatenate(
        [np.full(n.size, size / max(n.size, 1)) for n, size in zip(partitions, sizes, strict=True)]
    )
    order = np.argsort(points, kind="stable")
    return points[order], weights[order]


def _counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    sketch = datasketches.frequent_strings_sketch(LG_ITEMS)
    for row in rows:
        sketch.merge(datasketches.frequent_strings_sketch.deserialize(row["items"]))
    found = sketch.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
    counts = sorted(((item, lower) for item, _, lower, _ in found), key=lambda one: (-one[1], one[0]))
    return dict(counts)


def _distinct(rows: Sequence[Mapping[str, Any]]) -> int:
    union = datasketches.hll_union(LG_DISTINCT)
    for row in rows:
        union.update(datasketches.hll_sketch.deserialize(row["distinct"]))
    estimate: float = union.get_estimate()
    return round(estimate)
