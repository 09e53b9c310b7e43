"""Profiles: mergeable summaries of a partition's columns, from which drift is measured without its rows.

The drift of a window then costs as much as it has partitions, not rows. Quantiles are stored as at most
`POINTS` order statistics, each representing an equal share of the partition's values. They are exact up to
`POINTS` values a partition. Beyond that each partition's cumulative share has an error of at most 1 /
`POINTS`, and merging adds no error. `include.stats.quantile_sketch` reads a partition of any size batch by
batch, in a few megabytes a column.

The KLL sketch of datasketches isn't used, because it draws random numbers that can't be seeded: the same
partition would have different bytes in each run. Its frequent-strings and HLL sketches draw none.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    count, missing : rows, and rows without a value (NaN and infinities count as missing).
    mean, std, low, high : of the values, NaN where there are none; ``std`` divides by n.
    distinct : number of categories, with a standard error of 2.3 % beyond some hundreds; None for numbers.
    points, weights : sorted values, and how many values each represents.
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
        """Share of rows without a value, 0 to 1; 0 if there are no rows."""
        return self.missing / self.count if self.count else 0.0

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal; False if there are none."""
        return self.distinct == 1 if self.kind == "categorical" else self.low == self.high

    def cdf(self, edges: Sequence[float]) -> list[float]:
        """Return the share of values at or below each edge, 0 to 1; NaN if there are no values."""
        if not self.points.size:
            return [math.nan] * len(edges)
        below = np.concatenate([[0.0], np.cumsum(self.weights)])
        share = below[np.searchsorted(self.points, np.asarray(edges, float), side="right")] / below[-1]
        return [float(value) for value in share]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return for each share (0 to 1) the lowest value that it doesn't exceed; NaN without values."""
        if not self.points.size:
            return [math.nan] * len(shares)
        below = np.cumsum(self.weights)
        indexes = np.searchsorted(below, np.asarray(shares, float) * below[-1] * (1 - 1e-12), side="left")
        return [float(self.points[min(index, self.points.size - 1)]) for index in indexes]

    def items(self) -> dict[str, int]:
        """Return how often each category occurs, the most frequent first.

        Beyond 768 categories only the frequent ones are listed and their counts are lower bounds. The rest of
        ``count - missing`` belongs to other categories.
        """
        return dict(self._items)


def build_profile(
    product: str, partition: str, rows: pa.Table, numeric: Sequence[str], categorical: Sequence[str]
) -> pa.Table:
    """Return the profile of a partition that is in memory, see `stream_profile`."""
    empty = pa.RecordBatch.from_pylist([], schema=rows.schema)  # validates the columns even without rows
    return stream_profile(product, partition, [empty, *rows.to_batches()], numeric, categorical)


def stream_profile(
    product: str,
    partition: str,
    batches: Iterable[pa.RecordBatch],
    numeric: Sequence[str],
    categorical: Sequence[str],
) -> pa.Table:
    """Return the profile of a partition of any size, with one batch at a time in memory.

    Parameters
    ----------
    batches : with numbers in numeric columns, and strings or booleans in categorical ones. The sizes of the
        batches make no difference. The order of rows makes none up to 65,536 rows; beyond that it can change
        the result within the error bound.

    Returns
    -------
    pa.Table
        one row for each column, in the schema `include.storage.schemas.PROFILES`.

    Raises
    ------
    EvergreenError
        when a batch lacks a column, or has values in it that don't fit its kind.
    """
    summaries: dict[str, Numbers | Categories] = {name: Numbers() for name in numeric}
    summaries |= {name: Categories() for name in categorical}
    count = 0
    for batch in batches:
        count += batch.num_rows
        for name, summary in summaries.items():
            if name not in batch.schema.names:
                raise _profile_error(product, partition, f"a column {name}", ", ".join(batch.schema.names))
            try:
                summary.add(batch.column(name))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                kind = "numbers" if isinstance(summary, Numbers) else "strings or booleans"
                raise _profile_error(product, partition, f"{kind} in {name}", str(error)) from None
    same = {"product": product, "partition": partition, "count": count}
    rows = [{**same, "column": name, **summary.row(count)} for name, summary in summaries.items()]
    return pa.Table.from_pylist(rows, schema=PROFILES)


def label_profile(scored: str, rows: pa.Table, target: str) -> pa.Table:
    """Return the profile of a scored partition's labels; a row without a label counts as a missing value.

    Parameters
    ----------
    rows : the scored rows, with the target as it was first known.
    """
    text = pa.types.is_string(rows.schema.field(target).type)
    return build_profile(LABELS, scored, rows, [] if text else [target], [target] if text else [])


def _profile_error(product: str, partition: str, required: str, actual: str) -> EvergreenError:
    return EvergreenError(
        f"profile of {product}, partition {partition}",
        required=required,
        found=actual,
        remedy="correct the declared columns, or the SQL or source that the rows come from",
    )


def merge_profiles(rows: Iterable[Mapping[str, Any]]) -> dict[str, Profile]:
    """Return each column's profile over all partitions of the profile rows, whose order doesn't matter."""
    columns: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row["product"], row["partition"])):
        columns[row["column"]].append(row)
    return {
        name: _merge_column(name, of) if len(of) > 1 else _profile_of(*(of[0][field] for field in _FIELDS))
        for name, of in columns.items()
    }


_FIELDS = (
    "column",
    "kind",
    "count",
    "missing",
    "low",
    "high",
    "total",
    "squares",
    "quantiles",
    "items",
    "distinct",
)


@lru_cache(maxsize=4096)
def _profile_of(*values: Any) -> Profile:
    """Return one row's profile; consecutive partitions look at the same partitions before them."""
    row = dict(zip(_FIELDS, values, strict=True))
    return _merge_column(row["column"], [row])


def _merge_column(name: str, rows: Sequence[Mapping[str, Any]]) -> Profile:
    kind = rows[0]["kind"]
    count, missing = sum(row["count"] for row in rows), sum(row["missing"] for row in rows)
    mean, std = _merge_moments(rows) if kind == "numeric" else (math.nan, math.nan)
    points, weights = _merge_points(rows) if kind == "numeric" else (np.empty(0), np.empty(0))
    return Profile(
        column=name,
        kind=kind,
        count=count,
        missing=missing,
        mean=mean,
        std=std,
        low=min((row["low"] for row in rows if row["low"] is not None), default=math.nan),
        high=max((row["high"] for row in rows if row["high"] is not None), default=math.nan),
        distinct=_merge_distinct(rows) if kind == "categorical" else None,
        points=points,
        weights=weights,
        _items=_merge_items(rows) if kind == "categorical" else {},
    )


def _merge_moments(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the mean and standard deviation over all partitions (Chan, Golub and LeVeque 1979)."""
    sizes = np.array([row["count"] - row["missing"] for row in rows], float)
    totals = np.array([row["total"] for row in rows])
    if not sizes.sum():
        return math.nan, math.nan
    mean = totals.sum() / sizes.sum()
    deviations = np.divide(totals, sizes, out=np.full_like(totals, mean), where=sizes > 0) - mean
    squares = sum(row["squares"] for row in rows) + float((sizes * deviations**2).sum())
    return float(mean), math.sqrt(squares / sizes.sum())


def _merge_points(rows: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
    """Return all partitions' points, sorted, each with the number of values that it represents."""
    by_partition = [np.frombuffer(row["quantiles"], "<f8") for row in rows]
    sizes = [row["count"] - row["missing"] for row in rows]
    points = np.concatenate(by_partition)
    weights = np.concatenate(
        [np.full(p.size, size / max(p.size, 1)) for p, size in zip(by_partition, sizes, strict=True)]
    )
    order = np.argsort(points, kind="stable")
    return points[order], weights[order]


def _merge_items(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    sketch = datasketches.frequent_strings_sketch(LG_ITEMS)
    for row in rows:
        sketch.merge(datasketches.frequent_strings_sketch.deserialize(row["items"]))
    frequent = sketch.get_frequent_items(datasketches.frequent_items_error_type.NO_FALSE_NEGATIVES)
    counts = {item: lower_bound for item, _, lower_bound, _ in frequent}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _merge_distinct(rows: Sequence[Mapping[str, Any]]) -> int:
    union = datasketches.hll_union(LG_DISTINCT)
    for row in rows:
        union.update(datasketches.hll_sketch.deserialize(row["distinct"]))
    estimate: float = union.get_estimate()
    return round(estimate)
