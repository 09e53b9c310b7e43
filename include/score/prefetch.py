"""Predictions that are begun while a partition's features are still being joined, which keeps one core only.

They are a guess at who will serve. Who does serve takes those of its own model and of the very rows, and
predicts the others itself, and those that failed: nothing is decided here, and nothing fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from include.models import artifacts
from include.models.artifacts import BatchPredictor, Precomputed, Values
from include.promote import ledger
from include.promote.trials import CANARY_ROLE, trials_on
from include.score import fallback
from include.spec import UseCase
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

MOST = 64  # parts whose predictions are kept in memory
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Guess:
    """A model, by its digest, and what asks it."""

    model: str
    ask: BatchPredictor


@dataclass(frozen=True)
class _Part:
    """Predictions, and the digest of the keys of their rows: rows themselves would fill the memory."""

    keys: str
    values: Values


class Prefetch:
    """A partition's predictions, as far as they were begun.

    Parameters
    ----------
    missing : the sources that the partition is without, each with a word why.
    """

    def __init__(self, lake: Lake, spec: UseCase, partition: str, missing: Mapping[str, str]) -> None:
        self._of, self._key = (lake, spec, partition, missing), list(spec.key)
        self._workers = ThreadPoolExecutor(max(spill.WORKERS - 1, 1), "ahead")
        self._guess: Future[_Guess | None] | None = None
        self._parts: dict[int, Future[_Part | None]] = {}

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)  # a slow model holds nobody up

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of features, and begin with those for which a core is free.

        A batch that is no whole part of `spool.parts` is let by: a prediction's last bit may depend on the
        rows beside it. So a partition of less than a part costs nothing here.
        """
        start = 0
        for batch in batches:
            if batch.num_rows == spill.BATCH and start % spill.BATCH == 0:
                with suppress(RuntimeError):  # the system has no thread to give
                    self._begin(start, pa.Table.from_batches([batch]))
            start += batch.num_rows
            yield batch

    def _begin(self, start: int, rows: pa.Table) -> None:
        waiting = sum(not part.done() for part in self._parts.values())
        if waiting < spill.WORKERS and len(self._parts) < MOST:
            guess = self._guess = self._guess or self._workers.submit(_tried, lambda: _likely(*self._of))
            self._parts[start] = self._workers.submit(_tried, lambda: self._part(guess.result(), rows))

    def _part(self, guess: _Guess | None, rows: pa.Table) -> _Part | None:
        return _Part(digest_table(rows.select(self._key)), guess.ask(rows)) if guess else None

    def take(self, model: str) -> tuple[BatchPredictor, Precomputed] | None:
        """Return what asks a model and what it has said of the partition's parts.

        None if it wasn't the guess.
        """
        guess = self._guess.result() if self._guess else None
        if guess is None or guess.model != model:
            return None
        parts, self._parts, self._guess = self._parts, {}, None

        def said(start: int, rows: pa.Table) -> Values | None:
            part = parts[start].result() if start in parts else None
            return part.values if part and part.keys == digest_table(rows.select(self._key)) else None

        return guess.ask, said


def _tried(work: Callable[[], Made]) -> Made | None:
    """Return what a work makes; None of any error, which would keep its rows in memory."""
    try:
        return work()
    except Exception:
        return None


def _likely(lake: Lake, spec: UseCase, partition: str, missing: Mapping[str, str]) -> _Guess | None:
    """Return the one model that would serve all of a partition's rows now, None if there isn't one."""
    switches = ledger.switches(lake)
    if any(trial.kind == CANARY_ROLE for trial in trials_on(switches, spec, partition)):
        return None
    if lake.count("predictions", {"partition": partition}):
        return None
    rungs = fallback.fallback_chain(ledger.serving_of(switches, partition), spec)
    model = next(step.model for step in rungs if not fallback.skip_reason(spec, step, missing))
    return (
        _Guess(model, artifacts.batch_predictor(artifacts.load_model(lake, model), spec)) if model else None
    )
