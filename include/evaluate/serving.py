"""A model that can't be loaded elsewhere, or is too slow, isn't fit to serve, however well it predicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.environment import numeric_settings
from include.evaluate.fresh_process import FIGURES, MODEL, PREDICTIONS, ROWS, SPEC
from include.judge.evidence import Serving
from include.spec import UseCase

FRESH = "include.evaluate.fresh_process"
TIMEOUT = 180.0  # seconds


def measure_serving(
    data: bytes, digest: str, spec: UseCase, rows: pa.Table, predictions: NDArray[np.float64]
) -> Serving:
    """Load a stored model in a fresh process, and compare what it predicts there.

    Parameters
    ----------
    data, digest : the stored bytes, and the SHA-256 that they should have.
    rows : as many as a partition has, with the spec's features, shape (n, any).
    predictions : of these rows, as they were made here, shape (n,) or (n, k).

    Returns
    -------
    Serving
        With nothing but the size among its figures when the process dies, hangs or refuses.
    """
    figures = {"size_mb": len(data) / 1e6}
    if not rows.num_rows:
        return Serving(same=False, figures=figures, note="there are no rows to predict")
    with TemporaryDirectory(prefix="evergreen-") as name:
        folder = Path(name)
        (folder / MODEL).write_bytes(data)
        (folder / SPEC).write_text(spec.model_dump_json(by_alias=True))
        needed = rows.select(list(spec.features.columns))
        with pa.ipc.new_file(str(folder / ROWS), needed.schema) as sink:
            sink.write_table(needed)
        if note := _failed(folder, digest):
            return Serving(same=False, figures=figures, note=note)
        figures = json.loads((folder / FIGURES).read_text())
        found = np.frombuffer((folder / PREDICTIONS).read_bytes(), dtype=np.float64)
    if found.tobytes() == predictions.tobytes():
        return Serving(same=True, figures=figures)
    flat = predictions.ravel()
    differ = f"{np.count_nonzero(found != flat)} of " if found.shape == flat.shape else ""
    return Serving(same=False, figures=figures, note=f"{differ}{len(found)} predictions differ")


def _failed(folder: Path, digest: str) -> str:
    """Run the fresh process, and return why it gave no figures, if it didn't."""
    # nothing else of the environment is passed on, and so no secret
    environment = numeric_settings() | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    try:
        done = subprocess.run(  # noqa: S603 (our own page, no shell)
            [sys.executable, "-m", FRESH, str(folder), digest],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT:g} s"
    if done.returncode == 0 and (folder / FIGURES).exists():
        return ""
    lines = done.stderr.strip().splitlines() if done.returncode > 0 else []
    return lines[-1] if lines else f"it ended with code {done.returncode} and without a word"
