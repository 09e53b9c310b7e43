"""`python -m include.evaluate.fresh_process FOLDER DIGEST`: predict with a stored model and time it.

`include.evaluate.serving` fills the folder, starts this module as a process, and reads its results from the
folder. The module imports only what predicting needs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from include.errors import EvergreenError
from include.models import artifacts
from include.spec import UseCase

MODEL, ROWS, SPEC = "model.skops", "rows.arrow", "spec.json"
PREDICTIONS, FIGURES = "predictions.float64", "figures.json"
EXIT_MACHINE = os.EX_TEMPFAIL  # the exit code if the files of the measurement can't be read or written
PROC = Path("/proc/self/status")
WARM_UP_ROWS, TIMED_ROWS, TIMED_BATCHES = 10, 200, 3


def predict_stored(folder: Path, digest: str) -> None:
    """Load the model, predict, and write first the predictions and then the figures."""
    spec = UseCase.model_validate_json((folder / SPEC).read_bytes())
    rows = pa.ipc.open_file((folder / ROWS).read_bytes()).read_all()
    data, before = (folder / MODEL).read_bytes(), peak_memory()
    estimator = artifacts.deserialize(data, digest, spec)
    predictions = artifacts.predict(estimator, rows, spec)
    memory = peak_memory() - before
    (folder / PREDICTIONS).write_bytes(predictions.tobytes())

    def predict_row(index: int) -> None:
        artifacts.predict(estimator, rows.slice(index % rows.num_rows, 1), spec)

    def predict_batch(_: int) -> None:
        artifacts.predict(estimator, rows, spec)

    for index in range(WARM_UP_ROWS):
        predict_row(index)
    p50, p95, p99 = np.percentile(
        [_milliseconds(predict_row, index) for index in range(TIMED_ROWS)], [50, 95, 99]
    )
    batch = min(_milliseconds(predict_batch, index) for index in range(TIMED_BATCHES))
    figures = {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "rows_per_second": rows.num_rows / batch * 1000,
        "size_mb": len(data) / 1e6,
    }
    if PROC.exists():  # the figure is missing on systems other than Linux
        figures["memory_mb"] = memory
    (folder / FIGURES).write_text(json.dumps(figures))


def peak_memory() -> float:
    """Return the peak memory of this process, in MB.

    `resource.getrusage` isn't used because a child process inherits its parent's peak there.
    """
    status = PROC.read_text() if PROC.exists() else "VmHWM: 0 kB"
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _milliseconds(function: Callable[[int], object], index: int) -> float:
    started = perf_counter()
    function(index)
    return (perf_counter() - started) * 1000


if __name__ == "__main__":
    try:
        predict_stored(Path(sys.argv[1]), sys.argv[2])
    except EvergreenError as error:
        sys.exit(str(error))
    except OSError as error:  # of the files here: one that the model raises is a ModelError
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(EXIT_MACHINE)
