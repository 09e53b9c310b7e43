"""Prefetch predictions: predict batches of features with idle cores while the rest are still being joined.

The model is a guess at the one that will serve. Whichever step serves takes the predictions of its own model
for exactly its own rows, and predicts the rest itself. Prefetching decides nothing, and its errors are
ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from include.models import artifacts
from include.models.artifacts import Values
from include.promote import ledger
from include.promote.trials import trials_on
from include.score import fallback
from include.score.fallback import PrefetchedModel
from include.spec import UseCase
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

MAX_BATCHES = 64  # batches whose predictions are kept in memory
T = TypeVar("T")


@dataclass(frozen=True)
class _LoadedModel:
    digest: str
    predict_batch: Callable[[pa.Table], Values]


@dataclass(frozen=True)
class _BatchPredictions:
    """Predictions and the digest of their rows' keys: the rows themselves would fill the memory."""

    keys_digest: str
    values: Values


class Prefetch:
    """The prefetched predictions of one partition. Leaving the context cancels what hasn't started.

    Parameters
    ----------
    missing : by source, why the partition is without it.
    """

    def __init__(self, lake: Lake, spec: UseCase, partition: str, missing: Mapping[str, str]) -> None:
        self._lake, self._spec, self._partition, self._missing = lake, spec, partition, missing
        self._workers = ThreadPoolExecutor(max(spill.WORKERS - 1, 1), "prefetch")
        self._model: Future[_LoadedModel | None] | None = None
        self._batches: dict[int, Future[_BatchPredictions | None]] = {}  # by the position of the first row

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)  # never wait for a slow model

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of features, and start predicting those for which a core is idle.

        Only whole batches, as `spill.batches` cuts them, are predicted: the last bit of a prediction may
        depend on the other rows of its batch. So a partition smaller than one batch costs nothing here.
        """
        start = 0
        for batch in batches:
            if batch.num_rows == spill.BATCH and start % spill.BATCH == 0:
                with suppress(RuntimeError):  # the system has no thread left
                    self._submit(start, pa.Table.from_batches([batch]))
            start += batch.num_rows
            yield batch

    def _submit(self, start: int, rows: pa.Table) -> None:
        unfinished = sum(not batch.done() for batch in self._batches.values())
        if unfinished < spill.WORKERS and len(self._batches) < MAX_BATCHES:
            if self._model is None:
                self._model = self._workers.submit(_ignore_errors, self._load_expected_model)
            model = self._model
            self._batches[start] = self._workers.submit(
                _ignore_errors, lambda: self._predict(model.result(), rows)
            )

    def _predict(self, model: _LoadedModel | None, rows: pa.Table) -> _BatchPredictions | None:
        return _BatchPredictions(self._keys_digest(rows), model.predict_batch(rows)) if model else None

    def _keys_digest(self, rows: pa.Table) -> str:
        return digest_table(rows.select(list(self._spec.key)))

    def _load_expected_model(self) -> _LoadedModel | None:
        """Return the model that is expected to serve every row, None unless there is exactly one."""
        switches = ledger.switches(self._lake)
        if any(trial.kind == ledger.CANARY for trial in trials_on(switches, self._spec, self._partition)):
            return None
        if self._lake.count("predictions", {"partition": self._partition}):
            return None
        serving = ledger.serving_of(switches, self._partition)
        steps = fallback.fallback_chain(serving, self._spec, self._missing)
        digest = fallback.first_available(steps).model
        if not digest:
            return None
        estimator = artifacts.load_model(self._lake, digest, self._spec)
        return _LoadedModel(digest, artifacts.batch_predictor(estimator, self._spec))

    def pop(self, model: str) -> PrefetchedModel | None:
        """Return the prefetched model if it has this digest; the predictions are released with it."""
        loaded = self._model.result() if self._model else None
        if loaded is None or loaded.digest != model:
            return None
        batches, self._batches, self._model = self._batches, {}, None

        def precomputed(start: int, rows: pa.Table) -> Values | None:
            batch = batches[start].result() if start in batches else None
            return batch.values if batch and batch.keys_digest == self._keys_digest(rows) else None

        return PrefetchedModel(loaded.predict_batch, precomputed)


def _ignore_errors(function: Callable[[], T]) -> T | None:
    """Return what the function returns; None on any error, since a stored error keeps its rows in memory."""
    try:
        return function()
    except Exception:
        return None
