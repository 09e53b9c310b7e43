"""XGBoost in one process and on Dask's worker processes: ``python -m benchmarks.dask_fit [ROWS] [WORKERS]``.

So many generated rows as in `benchmarks.external`, 2 million by default, are a training set. A process of
its own fits twenty rounds of XGBoost: in memory, from external memory, by workers that are started for it, 2
by default, and once more by the same ones. *own* is the most memory of the process's own (RssAnon), *a
worker's* the most that one of the workers held (its resident set). The log loss is that of the newest
partition, which is one of those fitted; *distance* is that of its predictions from the first model's, root
mean square.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]  # it comes without types
from sklearn.pipeline import Pipeline

from benchmarks.external import PARTITION, declare, prepare
from benchmarks.memory import Anonymous, apart
from include.features.labels import training_set
from include.models import artifacts
from include.references import digest_bytes
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train import dask_engine
from include.train.fitting import fit_recipe, target

ROWS, WORKERS, ROUNDS = 2_000_000, 2, 20


class Children(threading.Thread):
    """Looks at the process's children: CPU seconds of all, and the most memory that one had, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done, self._cpu, self.most = threading.Event(), dict[int, float](), 0

    @property
    def cpu(self) -> float:
        """CPU seconds of all children, also of those that have ended."""
        return sum(self._cpu.values())

    def run(self) -> None:
        """Look four times a second."""
        while not self._done.wait(0.25):
            for child in psutil.Process().children(recursive=True):
                try:
                    times, memory = child.cpu_times(), child.memory_info().rss >> 20
                except psutil.NoSuchProcess:
                    continue
                self._cpu[child.pid] = times.user + times.system
                self.most = max(self.most, memory)


def measure(folder: Path, last: str, workers: int) -> list[dict[str, Any]]:
    """Fit in this process and on workers, and return what each fit cost and how far its predictions are."""
    spec = declare(folder)
    rows = training_set(Lake(spec.name, str(folder / "lake")), spec, last)
    plain = Recipe(name="xgboost", estimator="xgboost", params={"n_estimators": ROUNDS})
    spread = plain.model_copy(update={"engine": "dask", "workers": workers})
    newest = rows.slice(rows.num_rows - PARTITION)
    children, results, models = Children(), [], list[Pipeline]()
    children.start()
    with dask_engine.keep_started():
        for name, recipe in (
            ("in the process", plain),
            ("in the process, from external memory", plain.model_copy(update={"external_memory": 1})),
            (f"on {workers} workers, started for it", spread),
            (f"on {workers} workers, again", spread),
        ):
            begin, cpu, theirs = time.perf_counter(), time.process_time(), children.cpu
            with Anonymous() as memory:
                models.append(fit_recipe(spec, recipe, rows))
            seconds = time.perf_counter() - begin
            first, own = (artifacts.predict(model, newest, spec) for model in (models[0], models[-1]))
            results.append({
                "fit": name,
                "seconds": seconds,
                "cpu": time.process_time() - cpu,
                "workers": children.cpu - theirs,
                "own": memory.most,
                "worker": children.most,
                "loss": float(row_losses(spec.gate.objective, target(spec, newest), own).mean()),
                "distance": float(np.sqrt(np.square(own - first).mean())),
                "digest": digest_bytes(artifacts.serialize(models[-1]))[:12],
            })  # fmt: skip
    return results


def main(command: list[str]) -> None:
    """Measure and print a table, or do the part that has a process of its own."""
    if command[:1] == ["measure"]:
        print(json.dumps({"fits": measure(Path(command[1]), command[2], int(command[3]))}))
        return
    rows, workers = (*map(int, command), *(ROWS, WORKERS)[len(command) :])
    print(
        f"{rows:,} rows, {ROUNDS} rounds:\n\n| fit | seconds | CPU of the process | of the workers | own MB "
        "| a worker's MB | log loss | distance | model |\n|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        last = prepare(Path(folder), rows)["last"]
        for fit in apart("dask_fit", "measure", folder, last, workers)["fits"]:
            costs = " | ".join(f"{fit[name]:,.0f}" for name in ("seconds", "cpu", "workers", "own", "worker"))
            print(
                f"| {fit['fit']} | {costs} | {fit['loss']:.5f} | {fit['distance']:.5f} | `{fit['digest']}` |"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
