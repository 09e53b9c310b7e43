"""What drift costs beside Evidently's preset, and for a window of any size: ``python -m benchmarks.drift``.

Each line is measured in a process of its own, in seconds of CPU, to which other work makes less difference.
Its peak memory is told beyond what its rows and imports took, and of a window, whose rows are never held, it
is the whole process's. The data are drawn batch by batch from a seed: 12 numeric and 4 categorical columns,
of which a quarter has moved.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from include.monitor.checks.drift import check_distribution
from include.monitor.reference import ReferenceColumn
from include.spec.stages import Monitoring
from include.stats import profiles
from include.stats.drift_measures import Binning, measure_drift

NUMERIC = [f"number_{n:02}" for n in range(12)]
CATEGORICAL = [f"kind_{n}" for n in range(4)]
MOVED = {*NUMERIC[:3], CATEGORICAL[0]}
BATCH = 100_000  # rows
PARTITIONS = 7
NAMES = [f"value {n}" for n in range(10)]


def batches(rows: int, seed: int, drifted: bool = False) -> Iterator[pa.RecordBatch]:
    """Yield rows; of a drifted side the columns of `MOVED` lie one standard deviation on, or are others."""
    random = np.random.default_rng(seed)
    for start in range(0, rows, BATCH):
        size = min(BATCH, rows - start)
        columns: dict[str, Any] = {
            name: random.normal(float(drifted and name in MOVED), 1, size) for name in NUMERIC
        }
        for name in CATEGORICAL:
            shares = np.arange(1, 11)[:: -1 if drifted and name in MOVED else 1] / 55
            codes = pa.array(random.choice(10, size, p=shares))
            columns[name] = pa.array(NAMES).take(codes)
        yield pa.RecordBatch.from_pydict(columns)


def judged(sides: list[dict[str, profiles.Profile]]) -> list[str]:
    """Return the columns in alarm; every measure is computed as well, as each partition does."""
    found = []
    for name, reference in sides[0].items():
        column = ReferenceColumn(reference, Binning.of(reference))
        measure_drift(column.binning, reference, sides[1][name])
        if check_distribution(name, column, sides[1][name], 1, Monitoring()).outcome == "alarm":
            found.append(name)
    return found


def ours(rows: int) -> dict[str, Any]:
    """Profile both sides of so many rows, and judge."""
    tables = [pa.Table.from_batches(batches(rows, seed, seed == 2)) for seed in (1, 2)]
    before, begin = _peak(), time.process_time()
    built = [profiles.build_profile("bench", "n", table, NUMERIC, CATEGORICAL) for table in tables]
    found = judged([profiles.merge_profiles(side.to_pylist()) for side in built])
    return {"seconds": time.process_time() - begin, "peak": _peak() - before, "moved": found}


def evidently(rows: int) -> dict[str, Any]:
    """Let Evidently's preset do the same."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    frames = [pa.Table.from_batches(batches(rows, seed, seed == 2)).to_pandas() for seed in (1, 2)]
    of = DataDefinition(numerical_columns=NUMERIC, categorical_columns=CATEGORICAL)
    before, begin = _peak(), time.process_time()
    reference, current = (Dataset.from_pandas(frame, data_definition=of) for frame in frames)
    made = Report([DataDriftPreset()]).run(current, reference).dict()
    seconds = time.process_time() - begin
    found = [
        name
        for metric in made["metrics"]
        if (name := metric["config"].get("column")) and metric["value"] >= metric["config"]["threshold"]
    ]
    return {"seconds": seconds, "peak": _peak() - before, "moved": found}


def window(rows: int) -> dict[str, Any]:
    """Profile the partitions of a window of so many rows batch by batch, then compare the window."""
    partitions, drawing, begin = [], 0.0, time.process_time()

    def drawn(made: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nonlocal drawing
        while True:
            start = time.process_time()
            batch = next(made, None)
            drawing += time.process_time() - start
            if batch is None:
                return
            yield batch

    for partition in range(PARTITIONS):
        part = drawn(batches(rows // PARTITIONS, partition + 2, drifted=True))
        partitions += profiles.stream_profile("bench", f"{partition}", part, NUMERIC, CATEGORICAL).to_pylist()
    build = time.process_time() - begin - drawing
    reference = profiles.stream_profile("bench", "n", batches(BATCH, 1), NUMERIC, CATEGORICAL).to_pylist()
    before, begin = _peak(), time.process_time()
    found = judged([profiles.merge_profiles(side) for side in (reference, partitions)])
    return {"build": build, "seconds": time.process_time() - begin, "peak": before, "moved": found}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB


def child(what: str, rows: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.drift", what, str(rows)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    wrong = MOVED.symmetric_difference(found["moved"])
    print(f"| {what} {rows:,} rows |", *(f"{k} {v:.3f} |" for k, v in found.items() if k != "moved"), end=" ")
    print(f"otherwise than planted: {', '.join(sorted(wrong)) or 'none'} |", flush=True)
    return found


def main() -> None:
    """Measure and print; with a name and a number, that one alone as JSON."""
    if len(sys.argv) > 2:
        parts = {"ours": ours, "evidently": evidently, "window": window}
        print(json.dumps(parts[sys.argv[1]](int(sys.argv[2]))))
        return
    print("seconds of CPU, and MB of peak memory")
    for rows in (100_000, 1_000_000):
        own_result, theirs_result = child("ours", rows), child("evidently", rows)
        print(
            f"| Evidently / ours at {rows:,} rows | {theirs_result['seconds'] / own_result['seconds']:.1f} |"
        )
    for millions in (1, 10, 50):
        child("window", millions * 1_000_000)


if __name__ == "__main__":
    main()
