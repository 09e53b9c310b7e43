"""What a large partition costs beside its model: ``python -m benchmarks.batch [ROWS ...]``.

A partition of the flights with so many rows is scored end to end: read from the lake, features by SQL,
predict, digest, publish, profile. The same model then says its `predict_proba` of the same features, of at
most a million of them, which are a frame in memory already. The ratio is the first's rows a second over the
second's, both in one process with one OpenMP thread, of the middle of three rounds each, with the least and
the most that a round of scoring had; then by seconds of CPU; then over the model alone with as many OpenMP
threads as there are cores, which boosting makes use of. The peak is of memory that is the process's own
(RssAnon), its imports included; mapped files are the system's to drop. CPU by part is the last round's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from benchmarks.memory import Anonymous, apart
from include.features.build import compute_features
from include.models import artifacts
from include.promote import ledger
from include.score import pipeline as scoring
from include.score import predictions
from include.spec import UseCase, load
from include.stats import profiles
from include.storage import schemas, spill
from include.storage.lake import Lake
from include.train.fitting import fit_recipe

SMALL, LARGE = "2013-02-01", "2013-02-02"
HISTORY = ("2013-01-04", SMALL)
ROWS = (100_000, 1_000_000)
STEP = 250_000  # rows that are generated at once
ALIKE = 1_000_000  # rows of which the model alone is asked
FITTED = 50_000
ROUNDS = 3
KINDS = ("boosting", "logistic")
COLUMNS = [
    "model",
    "rows",
    "seconds (of CPU)",
    "rows a second",
    "ratio",
    "by CPU",
    "of all threads",
    "peak MB",
    "CPU by part",
]
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
ORIGINS = ["EWR", "JFK", "LGA"]
Values = dict[str, Any]
DESTS = [a + b + "X" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"]


def flights(spec: UseCase, source: str, partition: str, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a partition's generated flights, as planned or as they came out."""
    day = spec.clock.shift(partition, spec.sources[source].offset)
    for start in range(0, rows, STEP):
        n = min(STEP, rows - start)
        chance, flight = np.random.default_rng([len(source), start, n]), np.arange(start, start + n)
        minute = chance.integers(0, 1440, n)
        names = {"carrier": CARRIERS, "origin": ORIGINS, "dest": DESTS}
        arrays: Values = {c: np.array(of)[chance.integers(0, len(of), n)] for c, of in names.items()}
        arrays |= {"flight": flight, "sched_dep_time": minute, "sched_arr_time": (minute + 120) % 1440}
        arrays |= {"year": 2013, "month": int(day[5:7]), "day": int(day[8:])}
        arrays |= {"tailnum": np.char.add("N", (flight % 3000).astype(str))}
        arrays |= {"distance": chance.uniform(100, 4000, n), "arr_delay": chance.normal(5, 30, n)}
        arrays["scheduled"] = np.datetime64(day, "us") + (minute // 60 + 5).astype("timedelta64[h]")
        yield source_batch(spec, source, partition, arrays, n)


def others(spec: UseCase, source: str, partition: str) -> Iterator[pa.RecordBatch]:
    """Yield a partition's weather or planes."""
    chance, n = np.random.default_rng(7), 72 if source == "weather" else 3000
    numbers = (pa.float64(), pa.int64())
    arrays: Values = {
        f.name: chance.integers(1, 50, n)
        for f in schemas.validated_schema(spec.sources[source])
        if f.type in numbers
    }
    if source == "weather":
        hours = np.tile(np.arange(5, 29), 3).astype("timedelta64[h]")
        arrays |= {"origin": np.repeat(ORIGINS, 24)}
        arrays |= {"observed": np.datetime64(spec.clock.shift(partition, 1), "us") + hours}
    else:
        arrays |= {"tailnum": np.char.add("N", np.arange(n).astype(str)), "year": 1980 + arrays["year"]}
    yield source_batch(spec, source, partition, arrays, n)


def source_batch(spec: UseCase, source: str, partition: str, arrays: Values, n: int) -> pa.RecordBatch:
    """Return ``n`` rows of a source, with Evergreen's columns and nulls for those that aren't given."""
    schema = schemas.validated_schema(spec.sources[source])
    known_at_time = np.datetime64(
        spec.clock.local(partition, spec.sources[source].available_at).replace(tzinfo=None), "us"
    )
    arrays |= {"partition": partition, "revision": 0, "known_at": known_at_time}
    columns = [
        pa.array(np.broadcast_to(arrays[f.name], n)).cast(f.type) if f.name in arrays else pa.nulls(n, f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def fill(lake: Lake, spec: UseCase, rows: int) -> None:
    """Publish four weeks of small partitions, one to learn from, and one of so many rows."""
    for source, declared in spec.sources.items():
        states = []
        for partition in [*spec.clock.keys(*HISTORY), LARGE]:
            n = {LARGE: rows, SMALL: FITTED}.get(partition, 1000) if source == "schedule" else 1000
            flown = source in ("schedule", "outcomes")
            batches = flights(spec, source, partition, n) if flown else others(spec, source, partition)
            # in the order in which ingest publishes
            order = ("partition", "revision", *declared.key)
            table = spill.sort_rows(spill.spill_table(schemas.validated_schema(declared), batches), order)
            lake.publish(f"validated_{source}", table, {"partition": partition})
            same: Values = {"inputs": {}, "spec": "", "code": "", "note": "generated"}
            states.append(schemas.partition_row(source, partition, table.num_rows, "", **same))
        lake.publish("partitions", pa.Table.from_pylist(states, schemas.PARTITIONS), {"product": source})


def prepare(folder: str, rows: int) -> None:
    """Make the lake, with a model of each kind that learned noise from features like the large one's."""
    spec = load("flight_delay")
    lake = Lake(spec.name, folder)
    fill(lake, spec, rows)
    inputs = compute_features(spec, scoring.rows_known_at(lake, spec, SMALL), [SMALL])
    late = np.random.default_rng(7).random(inputs.num_rows) < 0.2
    labeled = inputs.append_column(spec.problem.target, pa.array(late.astype(float)))
    for one in (*spec.training.candidates, *spec.training.baselines):
        if one.name in KINDS:
            Path(folder, one.name).write_text(
                artifacts.store_model(lake, artifacts.serialize(fit_recipe(spec, one, labeled)))
            )


def promote(lake: Lake, folder: str, kind: str) -> None:
    """Let the model of a kind serve alone, and let nothing be scored yet."""
    for table in ("predictions", "switches"):  # a champion before it would be scored beside
        shutil.rmtree(Path(folder, lake.uri.rpartition("/")[2], "tables", table), ignore_errors=True)
    row: dict[str, Any] = dict.fromkeys(schemas.SWITCHES.names, "")
    row |= {"role": "champion", "version": kind, "model": Path(folder, kind).read_text(), "constant": 0.2}
    ledger.record_switch(lake, lambda rows: [row | {"effective_from": SMALL, "kind": "promoted"}])


class Clock:
    """Seconds of CPU by part, each without the parts that it calls, over all of Python's threads."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self._own = threading.local()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time each call of a function."""
        real = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin, before = time.thread_time(), getattr(self._own, "inner", 0.0)
            self._own.inner = 0.0
            try:
                return real(*args, **kwargs)
            finally:
                took = time.thread_time() - begin
                self.parts[part] += took - self._own.inner
                self._own.inner = before + took

        setattr(owner, name, timed)


PARTS = (
    (scoring, "rows_known_at", "read"),
    (scoring, "compute_features", "features"),
    (artifacts, "model_input", "frame"),
    (artifacts, "_predict_frame", "predict"),
    (predictions, "_build_batch", "rows"),
    (predictions, "digest_rows", "row digests"),
    (predictions, "digest_table", "digest"),
    (scoring, "inputs_digest", "inputs"),
    (Lake, "append_at", "write"),
    (profiles, "build_profile", "profile"),
)


def measure(folder: str, kind: str) -> dict[str, Any]:
    """Score the large partition after a small one.

    Then ask the model of features that are a frame in memory.
    """
    spec, clock, whole = load("flight_delay"), Clock(), []
    for owner, name, part in PARTS:
        clock.wrap(owner, name, part)
    for _ in range(ROUNDS):
        lake = Lake(spec.name, folder)
        promote(lake, folder, kind)
        scoring.score(lake, spec, SMALL)
        clock.parts.clear()
        with Anonymous() as memory:
            whole.append(_timed(partial(scoring.score, lake, spec, LARGE)))
    parts = {**clock.parts, "other threads": whole[-1][1] - sum(clock.parts.values())}  # Delta's most of all
    estimator = artifacts.load_model(lake, Path(folder, kind).read_text())
    rows = compute_features(spec, scoring.rows_known_at(lake, spec, LARGE), [LARGE]).slice(0, ALIKE)
    arrays = artifacts.model_input(rows, spec)
    estimator.predict_proba(arrays[:1000])
    alone = []
    for threads in (1, os.cpu_count()):
        with threadpool_limits(threads, "openmp"):
            took = [_timed(lambda: estimator.predict_proba(arrays)) for _ in range(ROUNDS)]
        alone.append(rows.num_rows / np.median(took, axis=0))
    each = {"alone": alone, "peak": memory.most, "parts": parts}
    totals = {"rows": lake.count("predictions", {"partition": LARGE}), "whole": np.median(whole, axis=0)}
    return {**totals, **each, "walls": [wall for wall, _ in whole]}


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _row(kind: str, result: dict[str, Any]) -> str:
    rows, (wall, cpu), ((one, of_cpu), (every, _)) = result["rows"], result["whole"], result["alone"]
    each = ", ".join(f"{part} {s:.2f}" for part, s in result["parts"].items())
    least, most = (rows / of(result["walls"]) / one for of in (max, min))
    cells = [kind, f"{rows:,}", f"{wall:.1f} ({cpu:.1f})", f"{rows / wall:,.0f}"]
    cells.append(f"{rows / wall / one:.2f}, {least:.2f} to {most:.2f}")
    cells += [f"{rows / cpu / of_cpu:.2f}", f"{rows / wall / every:.2f}"]
    return f"| {' | '.join(cells)} | {result['peak']:,} | {each} |"


def main(command: Sequence[str]) -> None:
    """Measure and print, or do the part that has a process of its own."""
    if command[:1] == ["prepare"]:
        prepare(command[1], int(command[2]))
        print("{}")
    elif command[:1] == ["measure"]:
        print(json.dumps(measure(*command[1:]), default=list))
    else:
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for rows in map(int, command or ROWS):
            with tempfile.TemporaryDirectory() as folder:
                apart("batch", "prepare", folder, rows)
                for kind in KINDS:
                    print(_row(kind, apart("batch", "measure", folder, kind)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
