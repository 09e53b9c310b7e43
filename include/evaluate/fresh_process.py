"""`python -m include.evaluate.fresh_process FOLDER DIGEST`.

Serve a stored model in a process that never saw it fit.

`include.evaluate.serving` fills the folder, starts this page and reads what it leaves there. It imports no
more than what predicting needs.
"""

from __future__ import annotations

import json
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
PROC = Path("/proc/self/status")
WARM_UP, SINGLE, BATCHES = 10, 200, 3


def predict_stored(folder: Path, digest: str) -> None:
    """Load, predict, and write the predictions' bytes and then the figures."""
    spec = UseCase.model_validate_json((folder / SPEC).read_bytes())
    rows = pa.ipc.open_file((folder / ROWS).read_bytes()).read_all()
    data, before = (folder / MODEL).read_bytes(), peak_memory()
    estimator = artifacts.deserialize(data, digest)
    predictions = artifacts.predict(estimator, rows, spec)
    memory = peak_memory() - before
    (folder / PREDICTIONS).write_bytes(predictions.tobytes())

    def single(turn: int) -> None:
        artifacts.predict(estimator, rows.slice(turn % rows.num_rows, 1), spec)

    for turn in range(WARM_UP):
        single(turn)
    p50, p95, p99 = np.percentile([_ms(single, turn) for turn in range(SINGLE)], [50, 95, 99])
    batch = min(_ms(lambda _: artifacts.predict(estimator, rows, spec), turn) for turn in range(BATCHES))
    figures = {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "rows_per_second": rows.num_rows / batch * 1000,
        "size_mb": len(data) / 1e6,
    }
    if PROC.exists():  # elsewhere than on Linux the figure is missing
        figures["memory_mb"] = memory
    (folder / FIGURES).write_text(json.dumps(figures))


def peak_memory() -> float:
    """Return the most memory that this process has had, in MB.

    Not by `resource.getrusage`, whose peak a child takes over from its parent.
    """
    status = PROC.read_text() if PROC.exists() else "VmHWM: 0 kB"
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def _ms(work: Callable[[int], object], turn: int) -> float:
    started = perf_counter()
    work(turn)
    return (perf_counter() - started) * 1000


if __name__ == "__main__":
    try:
        predict_stored(Path(sys.argv[1]), sys.argv[2])
    except EvergreenError as refused:
        sys.exit(str(refused))
