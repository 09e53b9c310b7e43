"""What a model costs as an ONNX file: ``python -m benchmarks.onnx [ROWS]``.

The flights' boosting, forest and logistic regression, fitted on generated features. *one row* is a call of
onnxruntime on one thread with the row's tensors ready: median and 99th percentile of 20,000 calls with 200
rows in turns, at real-time priority where the system allows it (as for root), so that a busy machine's
other processes don't count. *batch* is rows a second of CPU from an Arrow table to predictions, by scikit-
learn as scoring does it and by the file, each the median of three rounds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.batch import CARRIERS, DESTS, ORIGINS
from include.export.convert import largest_difference, open_session, predict_onnx, session_input, to_onnx
from include.models import artifacts
from include.spec import UseCase, load
from include.train.fitting import fit_recipe

FITTED, ROWS, ROUNDS = 20_000, 300_000, 3
CALLS, WARM_UP, DISTINCT = 20_000, 1000, 200
RECIPES = ("boosting", "forest", "logistic")
COLUMNS = [
    "model",
    "file, kB",
    "one row, median",
    "one row, p99",
    "batch, scikit-learn",
    "batch, ONNX",
    "ONNX / scikit-learn",
    "largest difference",
]


def flights(spec: UseCase, rows: int) -> pa.Table:
    """Return generated features, one number in twenty missing, and labels that depend on some of them."""
    random = np.random.default_rng(rows)
    numbers = {name: random.normal(0, 1, rows) for name in spec.features.numeric}
    texts = {
        name: np.array(values)[random.integers(0, len(values), rows)]
        for name, values in zip(spec.features.categorical, (CARRIERS, ORIGINS, DESTS), strict=True)
    }
    signal = sum(list(numbers.values())[:5]) + (texts["carrier"] < "F")
    late = (signal + random.normal(0, 2, rows) > 1).astype(float)
    for values in numbers.values():
        values[random.random(rows) < 0.05] = np.nan
    columns: dict[str, Any] = {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    return pa.table({**columns, **texts, spec.problem.target: late})


@contextmanager
def real_time() -> Iterator[None]:
    """Let no other process interrupt this one, where the system allows that."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def microseconds(data: bytes, rows: pa.Table, spec: UseCase) -> Any:
    """Return the median and the 99th percentile of a call with one row."""
    session, times = open_session(data), []
    feeds = [session_input(rows.slice(index, 1), spec) for index in range(DISTINCT)]
    with real_time():
        for call in range(WARM_UP + CALLS):
            feed = feeds[call % DISTINCT]
            began = time.perf_counter_ns()
            session.run(None, feed)
            times.append((time.perf_counter_ns() - began) / 1000)
    return np.percentile(times[WARM_UP:], [50, 99])


def rows_a_second(work: Callable[[], Any], rows: int) -> float:
    """Return the rows a second of CPU."""
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return rows / float(np.median(times))


def main(command: Sequence[str]) -> None:
    """Measure and print."""
    spec, count = load("flight_delay"), int(command[0]) if command else ROWS
    labeled, rows = flights(spec, FITTED), flights(spec, count)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for recipe in (*spec.training.candidates, *spec.training.baselines):
        if recipe.name not in RECIPES:
            continue
        estimator = fit_recipe(spec, recipe, labeled)
        data = to_onnx(estimator, spec)
        work = partial(artifacts.predict, estimator, rows, spec), partial(predict_onnx, data, rows, spec)
        own, onnx = (rows_a_second(one, count) for one in work)
        cells = [recipe.name, f"{len(data) / 1000:,.0f}"]
        cells += [f"{figure:.0f} µs" for figure in microseconds(data, rows, spec)]
        cells += [f"{own:,.0f}", f"{onnx:,.0f}", f"{onnx / own:.2f}"]
        cells += [f"{largest_difference(work[1](), work[0]()):.1g}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
