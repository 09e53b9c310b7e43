"""One year in which the relation between features and label reverses overnight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from include.replay import fits as replayed_fits
from include.replay.fits import Fits
from include.replay.history import Labels, PastRows
from include.replay.policies import Declared, Newest, Policy
from include.spec import UseCase
from include.spec.clock import Clock
from include.spec.load import read
from include.storage.lake import Lake

PARTITIONS, ROWS, FIRST = 366, 60, 60  # the first training is after FIRST partitions
REVERSED = (120, 300)  # from and to
WEIGHTS = np.array([1.5, -1.0, 0.5, 0.0])


class Inline:
    """Runs at once what a pool of processes would."""

    def submit(self, run: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Return a future that is done."""
        future: Future[Any] = Future()
        future.set_result(run(*arguments))
        return future


def past_rows(spec: UseCase, seed: int) -> tuple[PastRows, str]:
    """Return the year's rows, and the first partition on which the relation is reversed."""
    random = np.random.default_rng(seed)
    partitions = spec.clock.keys(spec.schedule.start, str(spec.schedule.end))
    turn = int(random.integers(*REVERSED))
    values = random.normal(size=(PARTITIONS, ROWS, len(WEIGHTS)))
    sign = np.where(np.arange(PARTITIONS) < turn, 1.0, -1.0)
    chance = 1 / (1 + np.exp(-(values @ WEIGHTS * sign[:, None] - 0.3)))
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
        key: (Labels(since, positions[key], own, np.arange(ROWS), own, f"{seed} {key}"),)
        for key, since, own in zip(partitions, partitions[spec.labels.delay :], actual, strict=False)
    }
    digests = {key: f"{seed} {key}" for key in partitions}
    return PastRows(spec, tuple(partitions), pa.table(columns), positions, labels, digests), partitions[turn]


def lost(policy: Policy, labels: Mapping[str, Labels]) -> np.ndarray:
    """Return what a policy's served predictions lost by partition, per row."""
    return (
        np.array([policy.served_loss(key, part, policy.spec.objective) for key, part in labels.items()])
        / ROWS
    )


def simulate(seed: int) -> tuple[int, int, float, float]:
    """Return the bad partitions of the declared policy and of the weekly refit, and the log loss of each."""
    spec = read(Path(__file__).with_name("usecase.yaml"))
    past, turned = past_rows(spec, seed)
    replayed_fits._worker["rows"] = past.table
    partitions = list(past.calendar)
    with TemporaryDirectory(prefix="evergreen-reversal-") as folder:
        weekly = Clock(spec.schedule.training, spec.schedule.timezone)
        trainings = sorted({partitions[FIRST], *weekly.keys(partitions[FIRST], partitions[-1])})
        chunks = [partitions[start : start + 7] for start in range(0, PARTITIONS, 7)]
        fits = Fits(Lake(spec.name, folder), past, chunks, Inline())  # type: ignore[arg-type]
        boosting = spec.training.candidates[0].model_copy(update={"window": 90})
        training = spec.training.model_copy(update={"candidates": (boosting,)})
        refit_spec = spec.model_copy(update={"training": training})
        declared, refit = Declared("declared", spec, fits), Newest("weekly refit", refit_spec, fits)
        for policy in (declared, refit):
            policy.run(partitions[FIRST:], trainings, lambda: None)
        labels = {key: past.labels[key][-1] for key in partitions[FIRST + 1 :] if key in past.labels}
        own, other = lost(declared, labels), lost(refit, labels)
        prior = np.array([_prior_loss(past, key, part) for key, part in labels.items()])
    after = np.array([key >= turned for key in labels])
    return (
        int((own > prior)[after].sum()),
        int((other > prior)[after].sum()),
        float(own.mean()),
        float(other.mean()),
    )


def _prior_loss(past: PastRows, partition: str, labels: Labels) -> float:
    """Return what the mean of all labels known on a partition loses there, per row."""
    known = past.labeled(partition)
    share = np.mean([part.actual.mean() for part in known.values()])
    return float(-np.mean(np.where(labels.actual == 1, np.log(share), np.log(1 - share))))
