"""The rows of many snapshots in one batch: their origin, which are quarantined, and which repeat others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa

from include.storage import spill
from include.storage.schemas import QUARANTINE
from include.storage.snapshots import Snapshot

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Integers = np.ndarray[tuple[int], np.dtype[np.int64]]
# temporary columns; the spaces keep them apart from a source's columns
SNAPSHOT_INDEX = "snapshot index"
ROW_INDEX = "row index"


def to_mask(values: pa.Array | pa.ChunkedArray) -> Mask:
    """Return Arrow booleans without nulls as a NumPy mask."""
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows that came from one part of a snapshot."""

    snapshot: int  # its index among the snapshots
    part: str
    rows: int


@dataclass(frozen=True)
class RawRows:
    """The rows of snapshots as the sources wrote them, before types are converted.

    Parameters
    ----------
    text : the spec's columns, all strings, in the order of partition, revision, part and row.
    ranges : where the rows came from, in their order. The rows of a part are numbered from 1, without the
        header.
    snapshots, days : the snapshots, and the local date that each is about.
    """

    text: pa.Table
    ranges: Sequence[RowRange]
    snapshots: Sequence[Snapshot]
    days: Sequence[date]

    def __len__(self) -> int:
        return int(self.text.num_rows)

    @cached_property
    def row_counts(self) -> Integers:
        """Return how many consecutive rows each snapshot has."""
        return self.count_per_snapshot(np.ones(len(self), bool))

    def count_per_snapshot(self, mask: Mask) -> Integers:
        """Return how many of the masked rows each snapshot has."""
        counts, start = np.zeros(len(self.snapshots), np.int64), 0
        for row_range in self.ranges:
            counts[row_range.snapshot] += np.count_nonzero(mask[start : start + row_range.rows])
            start += row_range.rows
        return counts

    def snapshot_indices(self, rows: Integers) -> Integers:
        """Return the index of the snapshot of each of the rows."""
        return np.array([row_range.snapshot for row_range in self.ranges], np.int64)[self._range_of(rows)]

    def origins(self, rows: Integers) -> tuple[pa.Array, Integers]:
        """Return the part of each of the rows, and its number in that part."""
        ranges, ends = self._range_of(rows), self._range_ends
        sizes = np.array([row_range.rows for row_range in self.ranges], np.int64)
        names = pa.array([row_range.part for row_range in self.ranges], pa.string())
        return names.take(pa.array(ranges)), rows - (ends - sizes)[ranges] + 1

    @cached_property
    def _range_ends(self) -> Integers:
        return np.cumsum([row_range.rows for row_range in self.ranges], dtype=np.int64)

    def _range_of(self, rows: Integers) -> Integers:
        return np.searchsorted(self._range_ends, rows, side="right").astype(np.int64)


def with_snapshot_indices(table: pa.Table, row_counts: Integers) -> pa.RecordBatchReader:
    """Return the rows with the index of each row's snapshot; a snapshot's rows are consecutive."""
    ends = np.cumsum(row_counts)

    def batches() -> Iterator[pa.RecordBatch]:
        for span, part in spill.batches(table):
            rows = np.arange(span.start, span.start + part.num_rows)
            indices = pa.array(np.searchsorted(ends, rows, side="right").astype(np.int64))
            yield from part.append_column(SNAPSHOT_INDEX, indices).to_batches()

    schema = table.schema.append(pa.field(SNAPSHOT_INDEX, pa.int64()))
    return pa.RecordBatchReader.from_batches(schema, batches())


@dataclass(frozen=True)
class _PackedRows:
    """The rows of one batch that break a rule, one bit per row of the batch."""

    start: int
    size: int
    bits: bytes

    def indices(self) -> Integers:
        """Return the indices of the rows."""
        return np.flatnonzero(np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.size)) + self.start


@dataclass
class Quarantine:
    """The rows that break a rule. A row may break several rules and is counted once.

    Parameters
    ----------
    mask : which rows are quarantined.
    explanations : what a rule computed from a row's values, where the text doesn't show it; by rule, columns
        and row index.
    """

    rows: RawRows
    mask: Mask = field(init=False)
    explanations: dict[tuple[str, tuple[str, ...], int], str] = field(default_factory=dict, init=False)
    _violations: dict[tuple[str, tuple[str, ...], int], list[_PackedRows]] = field(
        default_factory=lambda: defaultdict(list), init=False
    )

    def __post_init__(self) -> None:
        self.mask = np.zeros(len(self.rows), bool)

    def add(self, violating: Mask, rule: str, *columns: str, start: int = 0, rule_number: int = 0) -> None:
        """Quarantine rows, counted from ``start``, that violate a rule about one or more columns.

        Parameters
        ----------
        rule_number : distinguishes rules that are declared twice.
        """
        for offset in range(0, violating.size, spill.BATCH):
            batch = violating[offset : offset + spill.BATCH]
            if batch.any():
                first = start + offset
                self.mask[first : first + batch.size] |= batch
                packed = _PackedRows(first, batch.size, np.packbits(batch).tobytes())
                self._violations[rule, columns, rule_number].append(packed)

    def summarize(self, snapshot: int) -> str:
        """Return a snapshot's three most frequent rules, each with an example, for a refusal's message."""
        counts = []
        low = int(self.rows.row_counts[:snapshot].sum())
        high = low + int(self.rows.row_counts[snapshot])
        for (rule, columns, _), batches in self._violations.items():
            size, example = 0, ""
            for batch in batches:
                if batch.start >= high or batch.start + batch.size <= low:
                    continue
                indices = batch.indices()
                indices = indices[(indices >= low) & (indices < high)]
                if indices.size and not size:
                    example = repr(self._values(indices[:1], columns)[0])
                    if explanation := self.explanations.get((rule, columns, int(indices[0]))):
                        example += f", where {explanation}"
                size += indices.size
            if size:
                counts.append((size, f"{rule} of {', '.join(columns)} in {size:,} rows, such as {example}"))
        return "; ".join(text for _, text in sorted(counts, key=lambda count: (-count[0], count[1]))[:3])

    def table(self, source: str) -> pa.Table:
        """Return the rows of the table `quarantine`: one per row and rule, sorted."""
        tables = (
            self._table_of(source, batch.indices(), rule, columns)
            for (rule, columns, _), batches in self._violations.items()
            for batch in batches
        )
        rows = spill.spill_table(QUARANTINE, (batch for table in tables for batch in table.to_batches()))
        return spill.sort_rows(rows, ("partition", "revision", "part", "row", "rule", "column"))

    def _table_of(self, source: str, indices: Integers, rule: str, columns: tuple[str, ...]) -> pa.Table:
        snapshots = [self.rows.snapshots[index] for index in self.rows.snapshot_indices(indices).tolist()]
        count = len(snapshots)
        parts, numbers = self.rows.origins(indices)
        records = self._text(indices).to_pylist()
        return pa.Table.from_pydict(
            {
                "source": [source] * count,
                "partition": [snapshot.partition for snapshot in snapshots],
                "revision": [snapshot.revision for snapshot in snapshots],
                "part": parts,
                "row": numbers,
                "rule": [rule] * count,
                "column": [", ".join(columns)] * count,
                "value": self._values(indices, columns),
                "record": [json.dumps(record, ensure_ascii=False) for record in records],
            },
            schema=QUARANTINE,
        )

    def _text(self, indices: Integers) -> pa.Table:
        """Return the text of rows of one batch; it is cut out first because `take` copies the whole text."""
        first = int(indices[0])
        return self.rows.text.slice(first, int(indices[-1]) - first + 1).take(pa.array(indices - first))

    def _values(self, indices: Integers, columns: tuple[str, ...]) -> list[str | None]:
        """Return the text of the columns that the rule is about."""
        rows = self._text(indices).select(list(columns)).to_pylist()
        if len(columns) == 1:
            return [row[columns[0]] for row in rows]
        return [json.dumps(row, ensure_ascii=False) for row in rows]


COUNT_EQUAL = "count(*) OVER (PARTITION BY {columns})"
COUNT_EARLIER = 'row_number() OVER (PARTITION BY {columns} ORDER BY "' + ROW_INDEX + '")'


def duplicated_rows(rows: pa.Table, row_counts: Integers, candidates: Mask) -> Mask:
    """Return which candidate rows share their values with another candidate of the same snapshot.

    Parameters
    ----------
    rows : the columns to compare; nulls are equal to each other.
    row_counts : consecutive rows of each snapshot.
    """
    return _find_repeats(rows, row_counts, _likely_duplicates(rows, row_counts, candidates), COUNT_EQUAL)


def repeated_rows(rows: pa.Table, row_counts: Integers, candidates: Mask) -> Mask:
    """Return which candidate rows have the values of an earlier candidate of the same snapshot."""
    return _find_repeats(rows, row_counts, candidates, COUNT_EARLIER)


def _find_repeats(rows: pa.Table, row_counts: Integers, candidates: Mask, count: str) -> Mask:
    mask = np.zeros(rows.num_rows, bool)
    fields = [*_numbered_fields(rows.schema), (SNAPSHOT_INDEX, pa.int64()), (ROW_INDEX, pa.int64())]
    selected = spill.spill_table(pa.schema(fields), _select(rows, row_counts, candidates))
    if selected.num_rows <= spill.BATCH:
        frame = selected.drop_columns([ROW_INDEX]).to_pandas(integer_object_nulls=True)
        repeats = frame.duplicated(keep=False if count == COUNT_EQUAL else "first").to_numpy()
        mask[selected[ROW_INDEX].to_numpy()[repeats]] = True
        return mask
    names = ", ".join(f'"{name}"' for name in selected.column_names if name != ROW_INDEX)
    counts = f'SELECT "{ROW_INDEX}", {count.format(columns=names)} AS n FROM selected'  # noqa: S608 (own names)
    with spill.duckdb_engine() as connection:
        connection.register("selected", selected)
        # the names in the SQL are this module's own
        result = connection.sql(f'SELECT "{ROW_INDEX}" FROM ({counts}) WHERE n > 1')  # noqa: S608
        for batch in result.to_arrow_reader(spill.BATCH):
            mask[batch.column(0).to_numpy()] = True
    return mask


def _numbered_fields(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields named by their position, since a source's own names may contain anything."""
    return [pa.field(f"c{number}", field.type) for number, field in enumerate(schema)]


def _select(rows: pa.Table, row_counts: Integers, candidates: Mask) -> Iterator[pa.RecordBatch]:
    """Yield the candidate rows with their snapshot's index and their own."""
    start = 0
    numbered = rows.rename_columns([column.name for column in _numbered_fields(rows.schema)])
    for batch in with_snapshot_indices(numbered, row_counts):
        indices = np.flatnonzero(candidates[start : start + batch.num_rows])
        if indices.size:
            yield batch.take(pa.array(indices)).append_column(ROW_INDEX, pa.array(indices + start))
        start += batch.num_rows


def _likely_duplicates(rows: pa.Table, row_counts: Integers, candidates: Mask) -> Mask:
    """Return the candidates whose hash occurs more than once; only they can be duplicates."""
    count = int(np.count_nonzero(candidates))
    if count <= spill.BATCH:
        return candidates
    hashes = spill.allocate_array((count,)).view(np.uint64)
    end = 0
    for span, batch_hashes in _row_hashes(rows, row_counts):
        selected = batch_hashes[candidates[span]]
        hashes[end : end + selected.size] = selected
        end += selected.size
    hashes.sort()
    repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    mask = np.zeros(rows.num_rows, bool)
    if repeated.size:
        for span, batch_hashes in _row_hashes(rows, row_counts):
            nearest = np.minimum(np.searchsorted(repeated, batch_hashes), repeated.size - 1)
            mask[span] = (repeated[nearest] == batch_hashes) & candidates[span]
    return mask


def _row_hashes(rows: pa.Table, row_counts: Integers) -> Iterator[tuple[slice, Integers]]:
    """Yield a hash of each row and its snapshot's index, batch by batch; equal rows have equal hashes."""
    names = [column.name for column in _numbered_fields(rows.schema)]
    start = 0
    with spill.duckdb_engine() as connection:
        connection.register("numbered", with_snapshot_indices(rows.rename_columns(names), row_counts))
        # the names in the SQL are this module's own
        query = f'SELECT hash({", ".join(names)}, "{SNAPSHOT_INDEX}") FROM numbered'  # noqa: S608
        for batch in connection.sql(query).to_arrow_reader(spill.BATCH):
            yield slice(start, start + batch.num_rows), batch.column(0).to_numpy()
            start += batch.num_rows
