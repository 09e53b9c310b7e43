"""What a large night costs beside its model: ``python -m benchmarks.batch [ROWS ...]`` (100,000 and a million).

A night of the flights with so many rows is scored end to end: read from the lake, features by SQL, predict,
digest, publish, profile. The same model then says its `predict_proba` of the same features that are already a
frame in memory, of at most a million of them. Throughput of the first over that of the second is the ratio.
Each measurement has a process of its own with one OpenMP thread; `peak` is what scoring adds to the peak of a
process that has imported everything and scored a small night. Seconds are of the clock, in brackets of CPU.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from include import models, profile, tables
from include.features import views
from include.features.build import compute
from include.lake import Lake
from include.promote import ledger
from include.score import ladder, predictions
from include.score import run as scoring
from include.spec import UseCase, load
from include.train.fit import fit

SMALL, LARGE = "2013-02-01", "2013-02-02"
HISTORY = ("2013-01-04", SMALL)
ROWS = (100_000, 1_000_000)
STEP = 250_000  # rows that are generated at once
ALIKE = 1_000_000  # rows of which the model alone is asked
FITTED = 100_000
KINDS = ("boosting", "logistic")
CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
ORIGINS = ["EWR", "JFK", "LGA"]
DESTS = [a + b + "X" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"]


def flown(spec: UseCase, source: str, night: str, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a night's generated flights, as planned or as they came out."""
    schema = tables.validated(spec.sources[source])
    day = spec.clock.shift(night, spec.sources[source].offset)
    midnight = np.datetime64(day, "us")
    for start in range(0, rows, STEP):
        n = min(STEP, rows - start)
        chance, flight = np.random.default_rng([len(source), start, n]), np.arange(start, start + n)
        minute = chance.integers(0, 1440, n)
        pick = {"carrier": CARRIERS, "origin": ORIGINS, "dest": DESTS}
        given: dict[str, Any] = {
            c: pa.array(of).take(pa.array(chance.integers(0, len(of), n))) for c, of in pick.items()
        }
        planes = np.char.add("N", (flight % 3000).astype(str))
        given |= {"flight": flight, "sched_dep_time": minute, "sched_arr_time": (minute + 120) % 1440}
        given |= {
            "year": np.full(n, 2013),
            "month": np.full(n, int(day[5:7])),
            "day": np.full(n, int(day[8:])),
        }
        given |= {
            "tailnum": planes,
            "distance": chance.uniform(100, 4000, n),
            "arr_delay": chance.normal(5, 30, n),
        }
        given["scheduled"] = midnight + (minute // 60 + 5).astype("timedelta64[h]")
        yield _batch(spec, source, night, schema, given, n)


def _batch(
    spec: UseCase, source: str, night: str, schema: pa.Schema, given: dict[str, Any], n: int
) -> pa.RecordBatch:
    known = pa.scalar(spec.clock.local(night, spec.sources[source].known), tables.TIME)
    given |= {"night": pa.repeat(night, n), "revision": np.zeros(n), "known_at": pa.repeat(known, n)}
    columns = [
        pa.array(given[f.name]).cast(f.type) if f.name in given else pa.nulls(n, f.type) for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def others(spec: UseCase, source: str, night: str) -> Iterator[pa.RecordBatch]:
    """Yield a night's weather or planes."""
    schema = tables.validated(spec.sources[source])
    chance, n = np.random.default_rng(7), 72 if source == "weather" else 3000
    given: dict[str, Any] = {
        f.name: chance.integers(1, 50, n) for f in schema if f.type in (pa.float64(), pa.int64())
    }
    if source == "weather":
        day = np.datetime64(spec.clock.shift(night, 1), "us")
        given |= {
            "origin": np.repeat(ORIGINS, 24),
            "observed": day + np.tile(np.arange(5, 29), 3).astype("timedelta64[h]"),
        }
    else:
        given |= {"tailnum": np.char.add("N", np.arange(n).astype(str)), "year": 1980 + given["year"]}
    yield _batch(spec, source, night, schema, given, n)


def fill(lake: Lake, spec: UseCase, rows: int) -> None:
    """Publish four weeks of small nights and one of so many rows."""
    for source in spec.sources:
        for night in [*spec.clock.keys(*HISTORY), LARGE]:
            n = rows if night == LARGE and source == "schedule" else 1000
            make = (
                partial(flown, spec, source, night, n)
                if source in ("schedule", "outcomes")
                else partial(others, spec, source, night)
            )
            reader = pa.RecordBatchReader.from_batches(tables.validated(spec.sources[source]), make())
            lake.publish(f"validated_{source}", reader.read_all(), {"night": night})
            row = tables.published(source, night, n, "", inputs={}, spec="", code="", note="generated")
            lake.publish(
                "partitions",
                pa.Table.from_pylist([row], schema=tables.PARTITIONS),
                {"product": source, "night": night},
            )


def prepare(folder: str, rows: int, kind: str) -> None:
    """Make the lake, and promote a model of this kind that learnt noise from features like the night's."""
    spec = load("flight_delay")
    lake = Lake(spec.name, folder)
    fill(lake, spec, rows)
    seen = compute(spec, scoring.seen_by(lake, spec, LARGE), [LARGE]).slice(0, FITTED)
    chance = np.random.default_rng(7)
    known = seen.append_column(
        spec.problem.target, pa.array((chance.random(seen.num_rows) < 0.2).astype(float))
    )
    recipes = {one.name: one for one in (*spec.training.candidates, *spec.training.baselines)}
    digest = models.store(lake, models.dump(fit(spec, recipes[kind], known)))
    row: dict[str, Any] = dict.fromkeys(tables.DEPLOYMENTS.names, "")
    row |= {
        "role": "champion",
        "version": "1",
        "model": digest,
        "prior": 0.2,
        "effective": SMALL,
        "kind": "promoted",
    }
    ledger.switch(lake, lambda rows: [row])


class Clock:
    """Seconds by part, each without the parts that it calls."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time each call of a function."""
        real = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            self._inner.append(0.0)
            try:
                return real(*args, **kwargs)
            finally:
                took = time.process_time() - begin
                self.parts[part] += took - self._inner.pop()
                self._inner[-1] += took

        setattr(owner, name, timed)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def end_to_end(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Score the large night after a small one, and tell where the time went."""
    scoring.score(lake, spec, SMALL)
    before, clock = _peak(), Clock()
    for owner, name, part in [
        (views, "read", "read"),
        (scoring, "compute", "features"),
        (models, "frame", "frame"),
        (models, "_raw", "predict"),
        (predictions, "row_digests", "row digests"),
        (scoring, "digest_table", "digest"),
        (predictions, "digest_table", "digest"),
        (scoring, "inputs_of", "inputs"),
        (lake, "append_at", "write"),
        (profile, "build", "profile"),
        (predictions, "joined", "joined"),
        (predictions, "build", "build"),
        (predictions, "sentence", "sentence"),
        (scoring, "seen_by", "seen"),
    ]:
        clock.wrap(owner, name, part)
    wall, cpu = _timed(lambda: scoring.score(lake, spec, LARGE))
    return {"wall": wall, "cpu": cpu, "peak": _peak() - before, "parts": clock.parts}


def alone(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Ask the model of features that are a frame in memory."""
    served = ledger.serving(lake, LARGE).champion
    assert served is not None
    estimator = models.fetch(lake, str(served["model"]))
    rows = compute(spec, scoring.seen_by(lake, spec, LARGE), [LARGE]).slice(0, ALIKE)
    given = models.frame(rows, spec)
    estimator.predict_proba(given[:1000])
    wall, cpu = _timed(lambda: estimator.predict_proba(given))
    return {"wall": wall, "cpu": cpu, "rows": rows.num_rows}


def _measured(what: str, folder: str, rows: int, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.batch", what, folder, str(rows), kind]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True, text=True
    )  # noqa: S603
    return dict(json.loads(done.stdout or "{}"))


def main() -> None:
    """Measure and print."""
    for kind in KINDS:
        for rows in [int(one) for one in sys.argv[1:]] or ROWS:
            with tempfile.TemporaryDirectory() as folder:
                _measured("prepare", folder, rows, kind)
                whole, alike = _measured("whole", folder, rows, kind), _measured("alone", folder, rows, kind)
            rate, most = rows / whole["wall"], alike["rows"] / alike["wall"]
            print(
                f"| {kind}, {rows:,} rows | {whole['wall']:.2f} s ({whole['cpu']:.2f}), {rate:,.0f} a second",
                end="",
            )
            print(
                f" | model alone {most:,.0f} a second | ratio {rate / most:.2f}, of CPU {rows / whole['cpu'] / (alike['rows'] / alike['cpu']):.2f}",
                end="",
            )
            print(f" | peak {whole['peak']:.0f} MB |")
            print(
                "| "
                + ", ".join(
                    f"{part} {s:.2f}" for part, s in sorted(whole["parts"].items(), key=lambda one: -one[1])
                )
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) == 5:
        what, folder, rows, kind = sys.argv[1:]
        use = load("flight_delay")
        if what == "prepare":
            prepare(folder, int(rows), kind)
        else:
            print(json.dumps((end_to_end if what == "whole" else alone)(Lake(use.name, folder), use)))
    else:
        main()
