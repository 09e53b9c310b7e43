"""Rows of many nights in one batch, each with where it came from, and the rows that were set aside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pyarrow as pa

from include.ingest.snapshot import Snapshot
from include.tables import QUARANTINE

Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Codes = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Rows:
    """What sources wrote, unread.

    Parameters
    ----------
    text : the spec's columns, all strings; in the order of night, revision, part and row.
    unit : of each row, its snapshot's place in ``units``.
    part, number : of each row, its part's name, and its place in it from 1 (a CSV's header isn't counted).
    units, days : the snapshots, and the local date that each is about.
    """

    text: pa.Table
    unit: Codes
    part: pa.DictionaryArray
    number: Codes
    units: Sequence[Snapshot]
    days: Sequence[date]

    def __len__(self) -> int:
        return int(self.text.num_rows)

    def per_unit(self, mask: Mask) -> Codes:
        """Return how many of the masked rows each unit has."""
        return np.bincount(self.unit[mask], minlength=len(self.units))


@dataclass
class Aside:
    """The rows that break a rule. A row may break several; it is counted once."""

    rows: Rows
    out: Mask = field(init=False)
    _found: list[tuple[Codes, str, tuple[str, ...]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.out = np.zeros(len(self.rows), bool)

    def add(self, which: Mask, rule: str, *columns: str) -> None:
        """Set rows aside for a rule about a column, or several."""
        places = np.flatnonzero(which)
        if places.size:
            self.out[places] = True
            self._found.append((places, rule, columns))

    def common(self, unit: int) -> str:
        """Return the three most frequent rules of a unit with a value each, for the sentence of a refusal."""
        counts = []
        for places, rule, columns in self._found:
            mine = places[self.rows.unit[places] == unit]
            if mine.size:
                value = self._values(mine[:1], columns)[0]
                counts.append(
                    (mine.size, f"{rule} of {', '.join(columns)} in {mine.size} rows, as {value!r}")
                )
        return "; ".join(text for _, text in sorted(counts, key=lambda one: (-one[0], one[1]))[:3])

    def table(self, source: str) -> pa.Table:
        """Return the quarantine's rows: one a row and rule, sorted."""
        parts = [self._part(source, places, rule, columns) for places, rule, columns in self._found]
        order = [(name, "ascending") for name in ("night", "revision", "part", "row", "rule", "column")]
        return pa.concat_tables([QUARANTINE.empty_table(), *parts]).sort_by(order)

    def _part(self, source: str, places: Codes, rule: str, columns: tuple[str, ...]) -> pa.Table:
        units = [self.rows.units[code] for code in self.rows.unit[places]]
        many = len(units)
        records = self.rows.text.take(pa.array(places)).to_pylist()
        return pa.Table.from_pydict(
            {
                "source": [source] * many,
                "night": [unit.night for unit in units],
                "revision": [unit.revision for unit in units],
                "part": self.rows.part.take(pa.array(places)).cast(pa.string()),
                "row": self.rows.number[places],
                "rule": [rule] * many,
                "column": [", ".join(columns)] * many,
                "value": self._values(places, columns),
                "record": [json.dumps(record, ensure_ascii=False) for record in records],
            },
            schema=QUARANTINE,
        )

    def _values(self, places: Codes, columns: tuple[str, ...]) -> list[str | None]:
        """Return the text of the columns that the rule is about."""
        found = self.rows.text.select(list(columns)).take(pa.array(places)).to_pylist()
        if len(columns) == 1:
            return [row[columns[0]] for row in found]
        return [json.dumps(row, ensure_ascii=False) for row in found]
