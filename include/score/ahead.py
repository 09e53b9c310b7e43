"""Predictions that are begun while a night's features are still being joined, which keeps one core only.

They are a guess at who will serve. Who does serve takes those of its own model and of the very rows, and
predicts the others itself, and those that failed: nothing is decided here, and nothing fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from include import models, spool
from include.errors import ModelError
from include.lake import Lake
from include.models import Values
from include.promote import ledger
from include.rollout.trial import CANARY, trials
from include.score import ladder
from include.spec import UseCase

MOST = 64  # parts: their keys and predictions are kept in memory
Guess = tuple[str, Callable[[pa.Table], Values]]  # a model's digest, and what it says of some rows


class Ahead:
    """A night's predictions, as far as they were begun.

    Parameters
    ----------
    missing : the sources that the night is without, each with a word why.
    """

    def __init__(self, lake: Lake, spec: UseCase, night: str, missing: Mapping[str, str]) -> None:
        self._of = (lake, spec, night, missing)
        self._workers = ThreadPoolExecutor(max(spool.WORKERS - 1, 1), "ahead")
        self._guess: Future[Guess] | None = None
        self._parts: dict[int, tuple[pa.Table, Future[Values]]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self._workers.shutdown(cancel_futures=True)

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield batches of features, and begin with those for which a core is free.

        A batch that is no whole part of `spool.parts` is let by: a prediction's last bit may depend on the
        rows beside it. So a night of one part costs nothing here.
        """
        start = 0
        for batch in batches:
            if batch.num_rows == spool.BATCH and start % spool.BATCH == 0:
                self._begin(start, pa.Table.from_batches([batch]))
            start += batch.num_rows
            yield batch

    def begun(self, rows: pa.Table, model: str) -> Mapping[int, Future[Values]]:
        """Return what a model was asked of rows of the night, by the first row of each part."""
        if self._guess is None or self._guess.exception() or self._guess.result()[0] != model:
            return {}
        return {
            start: said
            for start, (keys, said) in self._parts.items()
            if rows.slice(start, keys.num_rows).select(keys.column_names).equals(keys)
        }

    def _begin(self, start: int, rows: pa.Table) -> None:
        waiting = sum(not said.done() for _, said in self._parts.values())
        if waiting < spool.WORKERS and len(self._parts) < MOST:
            guess = self._guess = self._guess or self._workers.submit(_likely, *self._of)
            said = self._workers.submit(lambda: guess.result()[1](rows))
            self._parts[start] = (rows.select(self._of[1].key), said)


def _likely(lake: Lake, spec: UseCase, night: str, missing: Mapping[str, str]) -> Guess:
    """Return the one model that would serve all of a night's rows now, or raise `ModelError`."""
    rungs, model = ladder.steps(ledger.serving(lake, night), spec), ""
    split = any(trial.kind == CANARY for trial in trials(ledger.switches(lake), spec, night))
    if not split and not lake.count("predictions", {"night": night}):
        model = next(step.model for step in rungs if not ladder.passed(spec, step, missing))
    if not model:
        raise ModelError(f"{spec.name}/{night}", found="no model that would serve all its rows")
    return model, models.asked(models.fetch(lake, model), spec)
