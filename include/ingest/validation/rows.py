"""Rows of many partitions in one batch, each with where it came from, and the rows that were set aside."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np
import pyarrow as pa

from include.ingest.snapshots import Snapshot
from include.storage import spill
from include.storage.schemas import QUARANTINE

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Codes = np.ndarray[tuple[int], np.dtype[np.int64]]
UNIT = "unit of rows"  # the column of `numbered`; no source's is called so


@dataclass(frozen=True)
class RowRange:
    """So many rows of one part of a snapshot, given by its place among the units."""

    unit: int
    part: str
    rows: int


@dataclass(frozen=True)
class RawRows:
    """What sources wrote, unread.

    Parameters
    ----------
    text : the spec's columns, all strings; in the order of partition, revision, part and row.
    runs : where the rows came from, in their order; a part's rows are numbered from 1 (without a header).
    units, days : the snapshots, and the local date that each is about.
    """

    text: pa.Table
    runs: Sequence[RowRange]
    units: Sequence[Snapshot]
    days: Sequence[date]

    def __len__(self) -> int:
        return int(self.text.num_rows)

    @cached_property
    def _ends(self) -> Codes:
        return np.cumsum([run.rows for run in self.runs], dtype=np.int64)

    @cached_property
    def sizes(self) -> Codes:
        """Return how many rows each unit has; they follow one another."""
        return self.per_unit(np.ones(len(self), bool))

    def per_unit(self, mask: Mask) -> Codes:
        """Return how many of the masked rows each unit has."""
        found, start = np.zeros(len(self.units), np.int64), 0
        for run in self.runs:
            found[run.unit] += np.count_nonzero(mask[start : start + run.rows])
            start += run.rows
        return found

    def unit(self, places: Codes) -> Codes:
        """Return each row's unit."""
        return np.array([run.unit for run in self.runs], np.int64)[self._run(places)]

    def origin(self, places: Codes) -> tuple[pa.Array, Codes]:
        """Return each row's part, and its number in it."""
        runs, ends = self._run(places), self._ends
        sizes = np.array([run.rows for run in self.runs], np.int64)
        names = pa.array([run.part for run in self.runs], pa.string())
        return names.take(pa.array(runs)), places - (ends - sizes)[runs] + 1

    def _run(self, places: Codes) -> Codes:
        return np.searchsorted(self._ends, places, side="right").astype(np.int64)


def mask(values: pa.Array | pa.ChunkedArray) -> Mask:
    """Return booleans without nulls as an array."""
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)


def with_unit_numbers(table: pa.Table, sizes: Codes) -> pa.RecordBatchReader:
    """Return the rows with the unit of each, where so many rows of each unit follow one another."""
    ends = np.cumsum(sizes)

    def batches() -> Iterator[pa.RecordBatch]:
        for place, part in spill.batches(table):
            places = np.arange(place.start, place.start + part.num_rows)
            units = pa.array(np.searchsorted(ends, places, side="right").astype(np.int64))
            yield from part.append_column(UNIT, units).to_batches()

    return pa.RecordBatchReader.from_batches(table.schema.append(pa.field(UNIT, pa.int64())), batches())


Found = tuple[int, int, bytes]  # the place of a batch, its rows, and a bit for each


@dataclass
class Quarantine:
    """The rows that break a rule. A row may break several; it is counted once.

    Parameters
    ----------
    computed : what a rule made of a row's values where the text doesn't show it, by rule, columns and the
        row's place.
    """

    rows: RawRows
    out: Mask = field(init=False)
    computed: dict[tuple[str, tuple[str, ...], int], str] = field(default_factory=dict, init=False)
    _found: dict[tuple[str, tuple[str, ...], int], list[Found]] = field(
        default_factory=lambda: defaultdict(list), init=False
    )

    def __post_init__(self) -> None:
        self.out = np.zeros(len(self.rows), bool)

    def add(self, which: Mask, rule: str, *columns: str, start: int = 0, turn: int = 0) -> None:
        """Set rows from ``start`` on aside for a rule about a column, or several.

        Parameters
        ----------
        turn : tells apart rules that are declared twice.
        """
        for first in range(0, which.size, spill.BATCH):
            some = which[first : first + spill.BATCH]
            if some.any():
                place = start + first
                self.out[place : place + some.size] |= some
                self._found[rule, columns, turn].append((place, some.size, np.packbits(some).tobytes()))

    def common(self, unit: int) -> str:
        """Return the three most frequent rules of a unit with a value each, for the sentence of a refusal."""
        counts = []
        low = int(self.rows.sizes[:unit].sum())
        high = low + int(self.rows.sizes[unit])
        for (rule, columns, _), found in self._found.items():
            size, example = 0, ""
            for places in (_places(one) for one in found if one[0] < high and one[0] + one[1] > low):
                mine = places[(places >= low) & (places < high)]
                if mine.size and not size:
                    example = repr(self._values(mine[:1], columns)[0])
                    if computed := self.computed.get((rule, columns, int(mine[0]))):
                        example += f", where {computed}"
                size += mine.size
            if size:
                counts.append((size, f"{rule} of {', '.join(columns)} in {size} rows, as {example}"))
        return "; ".join(text for _, text in sorted(counts, key=lambda one: (-one[0], one[1]))[:3])

    def table(self, source: str) -> pa.Table:
        """Return the quarantine's rows: one a row and rule, sorted."""
        parts = (
            self._part(source, _places(one), rule, columns)
            for (rule, columns, _), found in self._found.items()
            for one in found
        )
        rows = spill.spill_table(QUARANTINE, (batch for part in parts for batch in part.to_batches()))
        return spill.sort_rows(rows, ("partition", "revision", "part", "row", "rule", "column"))

    def _part(self, source: str, places: Codes, rule: str, columns: tuple[str, ...]) -> pa.Table:
        units = [self.rows.units[code] for code in self.rows.unit(places).tolist()]
        many = len(units)
        part, number = self.rows.origin(places)
        return pa.Table.from_pydict(
            {
                "source": [source] * many,
                "partition": [unit.partition for unit in units],
                "revision": [unit.revision for unit in units],
                "part": part,
                "row": number,
                "rule": [rule] * many,
                "column": [", ".join(columns)] * many,
                "value": self._values(places, columns),
                "record": [
                    json.dumps(record, ensure_ascii=False) for record in self._text(places).to_pylist()
                ],
            },
            schema=QUARANTINE,
        )

    def _text(self, places: Codes) -> pa.Table:
        """Return the text of rows of one batch: taken from all, the whole text would be copied."""
        first = int(places[0])
        return self.rows.text.slice(first, int(places[-1]) - first + 1).take(pa.array(places - first))

    def _values(self, places: Codes, columns: tuple[str, ...]) -> list[str | None]:
        """Return the text of the columns that the rule is about."""
        found = self._text(places).select(list(columns)).to_pylist()
        if len(columns) == 1:
            return [row[columns[0]] for row in found]
        return [json.dumps(row, ensure_ascii=False) for row in found]


def _places(found: Found) -> Codes:
    start, size, bits = found
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), count=size)) + start


PLACE = "place of rows"
SHARED, BEFORE = "count(*) OVER (PARTITION BY {0})", "row_number() OVER (PARTITION BY {0} ORDER BY {1})"


def duplicated_rows(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, share their values with another of them of the same unit.

    Parameters
    ----------
    rows : the columns to compare; a null is like a null.
    sizes : rows of each unit, which follow one another.
    """
    return _told(rows, sizes, _alike(rows, sizes, among), SHARED)


def repeated_rows(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, have the values of an earlier one of them of the same unit."""
    return _told(rows, sizes, among, BEFORE)


def _told(rows: pa.Table, sizes: Codes, among: Mask, how: str) -> Mask:
    found = np.zeros(rows.num_rows, bool)
    shape = pa.schema([*_plain(rows.schema), (UNIT, pa.int64()), (PLACE, pa.int64())])
    some = spill.spill_table(shape, _among(rows, sizes, among))
    if some.num_rows <= spill.BATCH:
        frame = some.drop_columns([PLACE]).to_pandas()
        which = frame.duplicated(keep=False if how == SHARED else "first").to_numpy()
        found[some[PLACE].to_numpy()[which]] = True
        return found
    names = [f'"{name}"' for name in some.column_names if name != PLACE]
    said = how.format(", ".join(names), f'"{PLACE}"')
    with spill.duckdb_engine() as connection:
        connection.register("given", some)
        # what is pasted are names made here
        sql = f'SELECT "{PLACE}" FROM (SELECT "{PLACE}", {said} AS n FROM given) WHERE n > 1'  # noqa: S608
        for batch in connection.sql(sql).to_arrow_reader(spill.BATCH):
            found[batch.column(0).to_numpy()] = True
    return found


def _plain(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields by their place: a source's own names may be anything."""
    return [pa.field(f"c{number}", field.type) for number, field in enumerate(schema)]


def _among(rows: pa.Table, sizes: Codes, among: Mask) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in with_unit_numbers(
        rows.rename_columns([column.name for column in _plain(rows.schema)]), sizes
    ):
        which = np.flatnonzero(among[start : start + batch.num_rows])
        if which.size:
            yield batch.take(pa.array(which)).append_column(PLACE, pa.array(which + start))
        start += batch.num_rows


def _alike(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, may share their values with another."""
    many = int(np.count_nonzero(among))
    if many <= spill.BATCH:
        return among
    hashes = spill.allocate_array((many,)).view(np.uint64)
    at = 0
    for part in _hashes(rows, sizes):
        kept = part[1][among[part[0]]]
        hashes[at : at + kept.size] = kept
        at += kept.size
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    found = np.zeros(rows.num_rows, bool)
    if twice.size:
        for place, part_hashes in _hashes(rows, sizes):
            near = np.minimum(np.searchsorted(twice, part_hashes), twice.size - 1)
            found[place] = (twice[near] == part_hashes) & among[place]
    return found


def _hashes(rows: pa.Table, sizes: Codes) -> Iterator[tuple[slice, Codes]]:
    """Yield a hash of each row, batch by batch; what is equal has the same."""
    names = ", ".join([*(field.name for field in _plain(rows.schema)), f'"{UNIT}"'])
    start = 0
    with spill.duckdb_engine() as connection:
        connection.register("given", with_unit_numbers(rows.rename_columns(names.split(", ")[:-1]), sizes))
        # what is pasted are names made here
        found = connection.sql(f"SELECT hash({names}) FROM given").to_arrow_reader(spill.BATCH)  # noqa: S608
        for batch in found:
            yield slice(start, start + batch.num_rows), batch.column(0).to_numpy()
            start += batch.num_rows
