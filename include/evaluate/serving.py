"""Serving: measure whether a stored model predicts the same in a fresh process, and how fast."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.environment import numeric_settings
from include.errors import MeasurementFailed
from include.evaluate.fresh_process import EXIT_MACHINE, FIGURES, MODEL, PREDICTIONS, ROWS, SPEC
from include.judge.evidence import ServingTest
from include.spec import UseCase

PROCESS_MODULE = "include.evaluate.fresh_process"
TIMEOUT = 600.0  # seconds; on a machine with 2 cores and a load of 27, 180 s were too few
# a crash of the model has other signals; these come from who is short of memory, or stops the machine
OUTER_SIGNALS = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


def measure_serving(
    data: bytes, digest: str, spec: UseCase, rows: pa.Table, predictions: NDArray[np.float64]
) -> ServingTest:
    """Load a stored model in a fresh process, and compare its predictions there with those made here.

    Parameters
    ----------
    data, digest : the stored bytes, and their expected SHA-256.
    rows : a typical partition's rows with the spec's features, shape (n, any).
    predictions : of these rows, made in this process, shape (n,) or (n, k).

    Returns
    -------
    ServingTest
        With the size as its only figure if the process crashes or rejects the model.

    Raises
    ------
    MeasurementFailed
        if the process gives no answer in time, is killed from outside, or can't use the disk: that says
        nothing about the model.
    """
    figures = {"size_mb": len(data) / 1e6}
    if not rows.num_rows:
        return ServingTest(identical=False, figures=figures, note="there are no rows to predict")
    with TemporaryDirectory(prefix="evergreen-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(data)
        declaration = spec.model_dump(mode="json", by_alias=True) | {"folder": str(spec.folder.resolve())}
        (folder / SPEC).write_text(json.dumps(declaration))
        features = rows.select(list(spec.features.columns))
        with pa.ipc.new_file(str(folder / ROWS), features.schema) as sink:
            sink.write_table(features)
        if note := _run_fresh_process(folder, digest, spec):
            return ServingTest(identical=False, figures=figures, note=note)
        figures = json.loads((folder / FIGURES).read_text())
        fresh = np.frombuffer((folder / PREDICTIONS).read_bytes(), dtype=np.float64)
    if fresh.tobytes() == predictions.tobytes():
        return ServingTest(identical=True, figures=figures)
    flat = predictions.ravel()
    count = f"{np.count_nonzero(fresh != flat)} of " if fresh.shape == flat.shape else ""
    return ServingTest(identical=False, figures=figures, note=f"{count}{len(fresh)} predictions differ")


def _run_fresh_process(folder: Path, digest: str, spec: UseCase) -> str:
    """Run the fresh process and return the model's error, empty if it succeeded."""
    # the rest of the environment isn't passed on, because it may contain secrets
    environment = numeric_settings() | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        process = subprocess.run(  # noqa: S603 (our own module, no shell)
            [sys.executable, "-m", PROCESS_MODULE, str(folder), digest],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _failed(spec, digest, f"no answer within {TIMEOUT:g} s") from None
    if process.returncode == 0 and (folder / FIGURES).exists():
        return ""
    lines = process.stderr.strip().splitlines() if process.returncode > 0 else []
    text = lines[-1] if lines else f"it ended with code {process.returncode} and no message"
    if process.returncode in (EXIT_MACHINE, *OUTER_SIGNALS):
        raise _failed(spec, digest, text)
    return text


def _failed(spec: UseCase, digest: str, outcome: str) -> MeasurementFailed:
    return MeasurementFailed(
        f"{spec.name}: predictions of the model {digest[:12]} in a fresh process",
        required="predictions",
        found=outcome,
        remedy="this machine may be busy, or short of memory or disk, so nothing was decided about the "
        "model: free memory or disk, then clear the task; if it fails again, check that its predict returns",
    )
