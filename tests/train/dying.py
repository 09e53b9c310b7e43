"""Processes of their own that train the clinic, or a share of it, and may die in the midst of it."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from xgboost import collective
from xgboost.callback import TrainingCallback

from include.models.registry import Registry
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.train import visits


def trained(folder: Path, fatal: str = "") -> None:
    """Train; die right after the registry's method ``fatal`` did its work."""
    if fatal:
        real = getattr(Registry, fatal)

        def dying(*args: Any, **kwargs: Any) -> None:
            real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Registry, fatal, dying)
    spec = read(folder / "usecases" / "missed_visits" / "usecase.yaml")
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    ref = train(Lake(spec.name, str(folder / "lake")), spec, visits.LAST, registry=registry)
    (folder / f"{os.getpid()}.run").write_text(ref.id)


def at_once(folder: Path, *fatal: str) -> list[int | None]:
    """Train in one process for each name at the same time, and return how they ended."""
    context = get_context("forkserver")  # imports once, and the lake's engine can't be forked from here
    context.set_forkserver_preload(["tests.train.dying"])
    processes = [context.Process(target=trained, args=(folder, name)) for name in fatal]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


class DyingWorker(TrainingCallback):
    """Kills the process of XGBoost's second rank after some rounds."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Die in the sixth round."""
        if epoch == 5 and collective.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return False
