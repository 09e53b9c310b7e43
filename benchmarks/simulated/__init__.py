"""A made-up year, decided by the policies of a replay: sixty rows a day, with labels three days late."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.replay import fits as replayed_fits
from include.replay.fits import Fits
from include.replay.history import Labels, PastRows
from include.replay.policies import Policy
from include.spec import UseCase
from include.spec.clock import Clock
from include.spec.load import read
from include.storage.lake import Lake

Array = NDArray[np.float64]
PARTITIONS, ROWS, FIRST = 366, 60, 60  # the first training is after FIRST partitions
WEIGHTS = np.array([1.5, -1.0, 0.5, 0.0])  # of the features


class _Inline:
    """Runs at once what a pool of processes would."""

    def submit(self, run: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Return a future that is done."""
        future: Future[Any] = Future()
        future.set_result(run(*arguments))
        return future


def use_case() -> UseCase:
    """Return the declaration of the made-up year: a prior, a logistic regression and boosting."""
    return read(Path(__file__).with_name("usecase.yaml"))


def past_rows(spec: UseCase, sign: Array, level: Array, random: np.random.Generator) -> PastRows:
    """Return a year whose label follows the features.

    Parameters
    ----------
    sign : what the features' weights are multiplied by on each partition, shape (PARTITIONS,).
    level : the intercept on each partition, shape (PARTITIONS,).
    """
    partitions = spec.clock.keys(spec.schedule.start, str(spec.schedule.end))
    values = random.normal(size=(PARTITIONS, ROWS, len(WEIGHTS)))
    chance = 1 / (1 + np.exp(-(values @ WEIGHTS * sign[:, None] + level[:, None])))
    actual = (random.random((PARTITIONS, ROWS)) < chance).astype(float)
    columns: dict[str, Any] = {
        "item": np.tile(np.arange(ROWS), PARTITIONS),
        "partition": np.repeat(partitions, ROWS),
    }
    columns |= {name: values[..., index].ravel() for index, name in enumerate(spec.features.numeric)}
    positions = {
        key: np.arange(partition * ROWS, (partition + 1) * ROWS) for partition, key in enumerate(partitions)
    }
    labels = {
        key: (Labels(since, positions[key], own, np.arange(ROWS), own, key),)
        for key, since, own in zip(partitions, partitions[spec.labels.delay :], actual, strict=False)
    }
    digests = {key: key for key in partitions}
    return PastRows(spec, tuple(partitions), pa.table(columns), positions, labels, digests)


def served_losses(past: PastRows, *policies: Callable[[Fits], Policy]) -> list[Array]:
    """Return what each policy's predictions lost per row of each partition that `judged` returns.

    Each policy trains weekly. Fits that policies share are fitted once.
    """
    spec, partitions = past.spec, list(past.calendar)
    replayed_fits._worker["rows"] = past.table
    weekly = Clock(spec.schedule.training, spec.schedule.timezone)
    trainings = sorted({partitions[FIRST], *weekly.keys(partitions[FIRST], partitions[-1])})
    chunks = [partitions[start : start + 7] for start in range(0, PARTITIONS, 7)]
    losses = []
    with TemporaryDirectory(prefix="evergreen-simulated-") as folder:
        fits = Fits(Lake(spec.name, folder), past, chunks, _Inline())  # type: ignore[arg-type]
        for make in policies:
            policy = make(fits)
            policy.run(partitions[FIRST:], trainings, lambda: None)
            lost = [policy.served_loss(key, past.labels[key][-1], spec.objective) for key in judged(past)]
            losses.append(np.array(lost) / ROWS)
    return losses


def judged(past: PastRows) -> list[str]:
    """Return the partitions that are served after the first training and have labels."""
    return [key for key in past.calendar[FIRST + 1 :] if key in past.labels]


def run_all(simulate: Callable[..., Sequence[Any]], cases: Sequence[Sequence[Any]], path: Path) -> list[Any]:
    """Return what each case came to, in order; each is a line of a file, from which a stopped run goes on."""
    lines = path.read_text().splitlines() if path.exists() else []
    results = {tuple(case): result for case, result in map(json.loads, lines)}
    missing = [tuple(case) for case in cases if tuple(case) not in results]
    context = multiprocessing.get_context("spawn")
    with path.open("a") as file, ProcessPoolExecutor(os.cpu_count(), context) as pool:
        runs = {pool.submit(simulate, *case): case for case in missing}
        for count, run in enumerate(as_completed(runs), 1):
            results[runs[run]] = run.result()
            print(json.dumps([runs[run], run.result()]), file=file, flush=True)
            print(f"{count} of {len(missing)}", file=sys.stderr, flush=True)
    return [results[tuple(case)] for case in cases]
