"""XGBoost with and without external memory: ``python -m benchmarks.external [ROWS ...]``.

So many generated rows with the flights' features lie in a memory-mapped file, as a training set does. Each
fit of ten rounds is a process of its own. *own* is the most memory of the process's own (RssAnon) during the
fit, its imports included.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from benchmarks.memory import Anonymous, apart
from include.spec import UseCase, load
from include.spec.stages import Candidate
from include.storage import spill
from include.train.fit import fit_recipe

ROWS = (1_000_000, 4_000_000)
MODES = {"in memory": 0, "external memory": 1}
PLACES = np.array([f"place {number}" for number in range(100)])


def training_set(spec: UseCase, rows: int) -> pa.Table:
    """Return generated rows with labels; they follow from their number."""

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, spill.BATCH):
            random, count = np.random.default_rng(start), min(spill.BATCH, rows - start)
            numbers = {name: random.random(count) for name in spec.features.numeric}
            texts = {name: random.choice(PLACES, count) for name in spec.features.categorical}
            label = (sum(numbers.values()) + random.normal(size=count) > len(numbers) / 2).astype(float)
            columns = {**numbers, **texts, spec.problem.target: label}
            yield pa.record_batch({name: pa.array(values) for name, values in columns.items()})

    every = batches()
    first = next(every)
    return spill.spill_table(first.schema, (batch for part in ([first], every) for batch in part))


def measure(rows: int, external: int) -> None:
    """Fit once and print the figures."""
    spec = load("flight_delay")
    table = training_set(spec, rows)
    options = {"external_memory": external} if external else {}
    recipe = Candidate(name="measured", estimator="xgboost", params={"n_estimators": 10}, **options)
    begin, cpu = time.perf_counter(), time.process_time()
    with Anonymous() as own:
        fit_recipe(spec, recipe, table)
    seconds, used = time.perf_counter() - begin, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": used, "own": own.most}))


def main(sizes: list[int]) -> None:
    """Measure each size both ways and print a table."""
    print("| fit | rows | seconds (of CPU) | own MB |\n|---|---|---|---|")
    for rows in sizes:
        for name, external in MODES.items():
            found = apart("external", "one", rows, external)
            figures = f"{found['seconds']:.0f} ({found['cpu']:.0f}) | {found['own']:,}"
            print(f"| {name} | {rows:,} | {figures} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        measure(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main([int(rows) for rows in sys.argv[1:]] or list(ROWS))
