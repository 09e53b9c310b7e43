"""Read kept snapshots of any number of nights into one batch of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from include import spool
from include.clock import day_of
from include.errors import PartitionRefused
from include.ingest.gather import THREADS
from include.ingest.parse import parse
from include.ingest.request import request
from include.ingest.rows import Rows, Run
from include.ingest.snapshot import Snapshot, parts_of
from include.ingest.standardise import cleaned
from include.lake import Lake
from include.spec import UseCase


@dataclass(frozen=True)
class _Read:
    """A snapshot's rows, cleaned, and how many came from each part."""

    text: pa.Table
    sizes: Sequence[tuple[str, int]] = ()
    refused: PartitionRefused | None = None


def read(
    lake: Lake, spec: UseCase, source: str, units: Sequence[Snapshot]
) -> tuple[Rows, dict[int, PartitionRefused]]:
    """Return the rows of snapshots, and the error of each (by its place) whose bytes can't be read."""
    shape, runs, refused = _shape(spec, source), list[Run](), dict[int, PartitionRefused]()

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(units), THREADS):  # so many are held, whoever waits for the others
            found = pool.map(lambda unit: _parsed(lake, spec, source, unit), units[start : start + THREADS])
            for number, one in enumerate(found, start):
                runs.extend(Run(number, name, size) for name, size in one.sizes)
                refused.update({number: one.refused} if one.refused else {})
                yield one.text

    with ThreadPoolExecutor(THREADS) as pool:
        if len(units) == 1:  # a second copy would take its time
            (text,) = tables()
        else:
            text = spool.held(shape, (batch for table in tables() for batch in table.to_batches()))
    days = [day_of(request(spec, source, unit.night).day) for unit in units]
    return Rows(text, runs, units, days), refused


def _shape(spec: UseCase, source: str) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in spec.sources[source].columns])


def _parsed(lake: Lake, spec: UseCase, source: str, unit: Snapshot) -> _Read:
    asked, shape = request(spec, source, unit.night, unit.revision), _shape(spec, source)
    sizes = list[tuple[str, int]]()

    def batches() -> Iterator[pa.RecordBatch]:
        for name, data in parts_of(lake, unit):
            size = 0
            for table in parse(asked, name, data):
                size += table.num_rows
                yield from cleaned(table, asked.source).to_batches()
            sizes.append((name, size))

    try:
        return _Read(spool.held(shape, batches(), spool.SHARE), sizes)
    except PartitionRefused as error:
        return _Read(shape.empty_table(), refused=error)
