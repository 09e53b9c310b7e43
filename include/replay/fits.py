"""The fits and predictions that all policies of a replay share: each is computed once, and kept in the lake.

Worker processes fit and predict; this process stores what they return below ``replays/``, where nothing that
serves looks. A fit is found again by its recipe, its training and its rows, so a replay that was killed goes
on where it was, and one of another range computes only what it lacks.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import EvergreenError
from include.models import artifacts, outputs
from include.references import digest_bytes, digest_json
from include.replay.history import Array, Labels, PastRows, RowPositions
from include.spec import UseCase
from include.spec.metrics import Objective
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fits import Fit
from include.train.fitting import fit_recipe
from include.train.recipes import recipe_key
from include.train.walks import predict_each

FOLDER = "replays"
FitKey = tuple[str, str, str]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class WorkerFit:
    """A worker's result: the model's bytes, the CPU seconds of the fit, and the predictions by place."""

    data: bytes
    seconds: float
    predictions: list[Array]


@dataclass(frozen=True)
class Job:
    """A fit to ensure: the recipe of a declaration, its training, and the labels of its rows by partition."""

    spec: UseCase
    recipe: Recipe
    partition: str
    rows: Mapping[str, Labels]

    @property
    def fit(self) -> Fit:
        """The fit without its model and movement."""
        data = digest_json([part.digest for part in self.rows.values()])
        count = sum(len(part.row_positions) for part in self.rows.values())
        key = recipe_key(self.spec, self.recipe)
        return Fit(self.partition, self.recipe.name, key, "", data, count, max(self.rows), None)


class Fits:
    """The shared fits.

    Parameters
    ----------
    chunks : consecutive partitions that a model predicts at once.
    pool : of worker processes, from `workers`.
    """

    def __init__(
        self, lake: Lake, past: PastRows, chunks: Sequence[Sequence[str]], pool: ProcessPoolExecutor
    ) -> None:
        self.lake, self.past, self._pool = lake, past, pool
        self._chunks = [tuple(key for key in chunk if key in past.row_positions) for chunk in chunks]
        self._chunk_of = {key: number for number, chunk in enumerate(self._chunks) for key in chunk}
        self._stored: dict[FitKey, tuple[str, float]] = {}  # the model's digest, seconds
        self._pending: dict[FitKey, tuple[Future[WorkerFit], list[int]]] = {}
        self._failed: dict[FitKey, EvergreenError] = {}
        self._specs: dict[FitKey, UseCase] = {}  # a policy may declare estimators of its own
        self._predictions: dict[FitKey, dict[str, Array]] = {}  # by partition
        self._losses: dict[tuple[FitKey, str, str, str], float] = {}

    # fits

    def request(self, job: Job, until: str) -> Callable[[], Fit]:
        """Begin a fit that isn't stored, and return a function that waits for it.

        That function raises the `EvergreenError` of a recipe that can't be fitted.

        Parameters
        ----------
        until : the fit also predicts its test partitions and those after them, up to this one.
        """
        fit = job.fit
        key = key_of(fit)
        self._specs[key] = job.spec
        if key not in self._stored and key not in self._pending and key not in self._failed:
            if data := self.lake.get(f"{folder_of(fit)}/fit.json"):
                stored = json.loads(data)
                self._stored[key] = (stored["model"], stored["seconds"])
            else:
                parts = list(job.rows.values())
                # the gate also looks at the test partitions, which it was fitted on
                first = job.spec.clock.shift(fit.partition, -job.spec.training.test)
                chunks = self._chunks_between(min(first, fit.last_fitted), until)
                future = self._pool.submit(
                    _fit,
                    job.spec,
                    job.recipe,
                    np.concatenate([part.row_positions for part in parts]),
                    np.concatenate([part.actual for part in parts]),
                    [self._row_positions(number) for number in chunks],
                )
                self._pending[key] = (future, chunks)
        return lambda: self._finish(fit)

    def ensure(self, jobs: Sequence[Job], until: str) -> list[Fit]:
        """Return fits, after fitting what isn't stored, see `request`."""
        return [finish() for finish in [self.request(job, until) for job in jobs]]

    def seconds(self, fit: Fit) -> float:
        """Return the CPU seconds that a fit took."""
        return self._stored[key_of(fit)][1]

    def _finish(self, fit: Fit) -> Fit:
        key, folder = key_of(fit), folder_of(fit)
        if key in self._pending:
            future, chunks = self._pending.pop(key)
            try:
                fitted = future.result()
            except EvergreenError as error:
                self._failed[key] = error
            else:
                model = digest_bytes(fitted.data)
                for number, values in zip(chunks, fitted.predictions, strict=True):
                    self._store_predictions(fit, number, values)
                self.lake.replace(f"{folder}/model.skops", fitted.data)
                # last, so that a fit that is stored is complete
                stored = {**asdict(fit), "model": model, "seconds": fitted.seconds}
                self.lake.replace(f"{folder}/fit.json", json.dumps(stored, sort_keys=True).encode())
                self._stored[key] = (model, fitted.seconds)
        if key in self._failed:
            raise self._failed[key]
        return replace(fit, model=self._stored[key][0])

    # predictions

    def predictions(self, fit: Fit, partitions: Sequence[str]) -> list[Array]:
        """Return a fit's predictions of the rows of partitions that a walk predicts, for each partition."""
        own = self._predictions.setdefault(key_of(fit), {})
        missing = sorted({self._chunk_of[key] for key in partitions if key not in own})
        for number in list(missing):
            if data := self.lake.get(self._object(fit, number)):
                self._split(fit, number, np.load(io.BytesIO(data), allow_pickle=False))
                missing.remove(number)
        if missing:
            data = self.lake.get(f"{folder_of(fit)}/model.skops") or b""
            positions = [self._row_positions(number) for number in missing]
            predicted = self._pool.submit(_predict, self._specs[key_of(fit)], fit, data, positions).result()
            for number, values in zip(missing, predicted, strict=True):
                self._store_predictions(fit, number, values)
        return [own[key] for key in partitions]

    def row_losses(self, fit: Fit, partition: str, labels: Labels, objective: Objective) -> Array:
        """Return a fit's loss on each labeled row of a partition that a walk predicts, shape (n,).

        It is infinite if the fit can't predict the partition.
        """
        values = self.predictions(fit, [partition])[0][labels.sampled]
        if np.isinf(values).any():
            return np.full(len(values), np.inf)
        return row_losses(objective, labels.sampled_actual, values)

    def loss(self, fit: Fit, partition: str, labels: Labels, objective: Objective) -> float:
        """Return the sum of a fit's losses on the labeled rows of a partition that a walk predicts."""
        key = (key_of(fit), partition, labels.since, objective.name)
        if key not in self._losses:
            self._losses[key] = float(self.row_losses(fit, partition, labels, objective).sum())
        return self._losses[key]

    def _chunks_between(self, after: str, until: str) -> list[int]:
        return sorted({number for key, number in self._chunk_of.items() if after < key <= until})

    def _row_positions(self, number: int) -> RowPositions:
        return np.concatenate([self.past.row_positions[key] for key in self._chunks[number]])

    def _object(self, fit: Fit, number: int) -> str:
        return f"{folder_of(fit)}/{self.past.digest(self._chunks[number])}.npy"

    def _store_predictions(self, fit: Fit, number: int, values: Array) -> None:
        sink = io.BytesIO()
        np.save(sink, values, allow_pickle=False)
        self.lake.replace(self._object(fit, number), sink.getvalue())
        self._split(fit, number, values)

    def _split(self, fit: Fit, number: int, values: Array) -> None:
        keys = self._chunks[number]
        ends = np.cumsum([len(self.past.row_positions[key]) for key in keys])[:-1]
        own = self._predictions.setdefault(key_of(fit), {})
        own.update(zip(keys, np.split(values, ends), strict=True))


def key_of(fit: Fit) -> FitKey:
    """Return what identifies a fit: its recipe, its training and its rows."""
    return fit.recipe_key, fit.partition, fit.data


def folder_of(fit: Fit) -> str:
    """Return the folder in the lake of a fit's model and predictions."""
    return f"{FOLDER}/{digest_json(key_of(fit))}"


# the worker processes

_worker: dict[str, Any] = {}


@contextmanager
def workers(past: PastRows, count: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that hold the past's rows, each with one thread for numerical libraries."""
    before = {name: os.environ.get(name) for name in THREADS}
    with TemporaryDirectory(prefix="evergreen-replay-") as folder:
        path = Path(folder) / "rows.arrow"
        with pa.ipc.new_file(str(path), past.table.schema) as writer:
            writer.write_table(past.table)
        os.environ.update(dict.fromkeys(THREADS, "1"))
        # a forked process would inherit the locks of delta-rs's threads
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(str(path),))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start(path: str) -> None:
    """Open the rows, and end with the process that started this one, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker["rows"] = pa.ipc.open_file(pa.memory_map(path)).read_all()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _fit(
    spec: UseCase,
    recipe: Recipe,
    positions: RowPositions,
    actual: Array,
    predicted: Sequence[RowPositions],
) -> WorkerFit:
    rows = _worker["rows"].take(pa.array(positions))
    rows = rows.append_column(spec.problem.target, pa.array(actual, pa.float64()))
    began = time.process_time()
    # these processes share the cores already, and each has the rows in memory
    estimator = fit_recipe(spec, recipe.model_copy(update={"engine": "local"}), rows)
    seconds = time.process_time() - began
    data = artifacts.serialize(estimator)
    return WorkerFit(data, seconds, [_predict_rows(spec, recipe.name, estimator, part) for part in predicted])


def _predict(spec: UseCase, fit: Fit, data: bytes, positions: Sequence[RowPositions]) -> list[Array]:
    estimator = artifacts.deserialize(data, fit.model, spec)
    return [_predict_rows(spec, fit.recipe, estimator, part) for part in positions]


def _predict_rows(spec: UseCase, recipe: str, estimator: Any, positions: RowPositions) -> NDArray[np.float64]:
    if not len(positions):
        return np.empty(outputs.predictions_shape(spec, 0))
    return predict_each(spec, recipe, estimator, _worker["rows"].take(pa.array(positions)))
