"""A partition larger than memory: ``python -m benchmarks.large [ROWS ...]``.

The schedule of one partition of the flights comes as a Parquet file of so many generated rows. Each stage is
a process of its own: ingest with the contract that is declared (but for its counts), features, and score,
which computes the features again. *own* is the most memory of the process's own (RssAnon), *resident* that
with the pages of mapped files, which the system drops when others need the memory. Where a control group can
be made no stage gets more than 4 GB of both. ``TMPDIR`` needs about 1 kB a row.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from benchmarks import batch
from benchmarks.memory import Anonymous, apart, memory_limit
from include.environment import Endpoint
from include.features.build import compute_features
from include.ingest.pipeline import ingest
from include.score import pipeline as scoring
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake

ROWS = (1_000_000, 5_000_000)
KIND = "boosting"
OWN = Path("include/usecases/flight_delay")
ANY = 1 << 40
LIMIT = 4 << 30  # bytes


def declare(folder: Path) -> UseCase:
    """Return the flights' use case with a schedule in Parquet of any size."""
    copy = folder / "usecases" / OWN.name
    if not copy.is_dir():
        shutil.copytree(OWN, copy)
        raw = yaml.safe_load((OWN / "usecase.yaml").read_text())
        source = raw["sources"]["schedule"]
        source |= {"path": "{day}.parquet", "format": "parquet", "fetch": {"max_bytes": ANY}}
        source["contract"]["max_rows"] = None
        for one in source["contract"]["expectations"]:
            if one["kwargs"].get("max_value") in (3000, 9999):  # rows, and numbers of flights
                one["kwargs"]["max_value"] = ANY
        (copy / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return read(copy / "usecase.yaml")


def write(folder: Path, spec: UseCase, rows: int) -> None:
    """Write the partition's file as the airline would: the source's own names, times of day as 1753."""
    source = spec.sources["schedule"]
    names = {own: column.source or own for own, column in source.columns.items()}
    path = folder / f"{spec.clock.shift(batch.LARGE, source.offset)}.parquet"
    writer = None
    for batch_rows in batch.flights(spec, "schedule", batch.LARGE, rows):
        table = pa.Table.from_batches([batch_rows]).select(list(names))
        for index, own in enumerate(names):
            if source.columns[own].type == "hhmm":
                hours = pc.divide(table[own], 60)
                table = table.set_column(index, own, pc.add(pc.multiply(hours, 40), table[own]))
        table = table.rename_columns(list(names.values()))
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def prepare(folder: Path, rows: int) -> int:
    """Write the file, and a lake with four weeks of small partitions and a model."""
    batch.prepare(str(folder), 1000)
    write(folder, declare(folder), rows)
    return rows


def work(folder: Path, spec: UseCase, lake: Lake, stage: str) -> int:
    """Do a stage, and return how many rows came of it."""
    if stage == "ingest":
        (result,) = ingest(
            lake, spec, "schedule", [batch.LARGE], lambda name: Endpoint(name, folder.as_uri())
        )
        result.raise_for_outcome()
        return result.rows
    if stage == "features":
        return int(
            compute_features(spec, scoring.rows_known_at(lake, spec, batch.LARGE), [batch.LARGE]).num_rows
        )
    return scoring.score(lake, spec, batch.LARGE).rows


def measure(folder: Path, stage: str) -> dict[str, Any]:
    """Do a stage in this process, and return what it cost."""
    spec = declare(folder)
    lake = Lake(spec.name, str(folder))
    if stage == "score":
        batch.promote(lake, str(folder), KIND)
    wall, cpu = time.perf_counter(), time.process_time()
    with Anonymous() as memory:
        rows = work(folder, spec, lake, stage)
    seconds = (time.perf_counter() - wall, time.process_time() - cpu)
    return {
        "stage": stage,
        "rows": rows,
        "seconds": seconds,
        "own": memory.most,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }


def _table_row(result_row: dict[str, Any]) -> str:
    wall, cpu = result_row["seconds"]
    cells = [
        result_row["stage"],
        f"{result_row['rows']:,}",
        f"{wall:.0f} ({cpu:.0f})",
        f"{result_row['rows'] / wall:,.0f}",
    ]
    return f"| {' | '.join(cells)} | {result_row['own']:,} | {result_row['resident']:,} |"


def main(command: Sequence[str]) -> None:
    """Measure and print, or do the part that has a process of its own."""
    parts: dict[str, Callable[[], Any]] = {
        "prepare": lambda: {"rows": prepare(Path(command[1]), int(command[2]))},
        "stage": lambda: measure(Path(command[1]), command[2]),
    }
    if command and command[0] in parts:
        print(json.dumps(parts[command[0]]()))
        return
    with memory_limit(LIMIT) as join:
        most = f"{LIMIT >> 20:,}" if join else "not held"
        print("| stage | rows | seconds (of CPU) | rows a second | own MB | resident MB | held to MB |")
        print("|---|---|---|---|---|---|---|")
        for rows in map(int, command or ROWS):
            with tempfile.TemporaryDirectory() as folder:
                apart("large", "prepare", folder, rows)
                for stage in ("ingest", "features", "score"):
                    print(
                        _table_row(apart("large", "stage", folder, stage, join=join)), most, "|", flush=True
                    )


if __name__ == "__main__":
    main(sys.argv[1:])
