"""Read kept snapshots of any number of nights into one batch of text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.clock import day_of
from include.errors import PartitionRefused
from include.ingest.gather import THREADS
from include.ingest.parse import parse
from include.ingest.request import request
from include.ingest.rows import Rows
from include.ingest.snapshot import Snapshot, parts_of
from include.ingest.standardise import cleaned
from include.lake import Lake
from include.spec import UseCase


@dataclass(frozen=True)
class _Parts:
    tables: list[pa.Table]
    names: list[str]
    refused: PartitionRefused | None = None


def read(
    lake: Lake, spec: UseCase, source: str, units: Sequence[Snapshot]
) -> tuple[Rows, dict[int, PartitionRefused]]:
    """Return the rows of snapshots, and the error of each (by its place) whose bytes can't be read."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda unit: _parsed(lake, spec, source, unit), units))
    declared = spec.sources[source]
    none = pa.schema([(name, pa.string()) for name in declared.columns]).empty_table()
    tables = [table for unit in found for table in unit.tables]
    names = list(dict.fromkeys(name for unit in found for name in unit.names))
    place = {name: number for number, name in enumerate(names)}
    sizes = [table.num_rows for table in tables]
    codes = np.repeat(np.array([place[name] for unit in found for name in unit.names], np.int32), sizes)
    rows = Rows(
        text=cleaned(pa.concat_tables([none, *tables]), declared),
        unit=np.repeat([number for number, unit in enumerate(found) for _ in unit.tables], sizes).astype(
            np.int64
        ),
        part=pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(names, pa.string())),
        number=np.concatenate([np.arange(1, size + 1) for size in [*sizes, 0]]).astype(np.int64),
        units=units,
        days=[day_of(request(spec, source, unit.night).day) for unit in units],
    )
    return rows, {number: unit.refused for number, unit in enumerate(found) if unit.refused is not None}


def _parsed(lake: Lake, spec: UseCase, source: str, unit: Snapshot) -> _Parts:
    asked = request(spec, source, unit.night, unit.revision)
    parts = parts_of(lake, unit)
    try:
        return _Parts([parse(asked, name, data) for name, data in parts], [name for name, _ in parts])
    except PartitionRefused as error:
        return _Parts([], [], error)
