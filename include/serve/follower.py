"""Follows the ledger: loads what its switches name in the background, and swaps it in as one.

A switch counts as soon as it is recorded, whatever partition it takes effect from in batch scoring: that
protects partitions that were served already, and a request is new.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from include.errors import EvergreenError, ModelError
from include.models.artifacts import BatchPredictor
from include.promote import ledger
from include.promote.ledger import Serving, Trial
from include.score import fallback
from include.score.fallback import FallbackStep
from include.serve.features import NewestFeatures, newest_features
from include.serve.models import ServedModel, load_served
from include.spec import UseCase
from include.storage.lake import Lake, Row

log = logging.getLogger(__name__)
FOLLOWED = ("switches", "partitions")  # a new version of these changes who serves, or the features
POLL, RETRY = 2.0, 10.0  # seconds between two looks at the tables, and between two tries of what failed


@dataclass(frozen=True)
class LoadedModels:
    """Who serves at a moment. It never changes, so a request that has begun with one ends with it.

    Parameters
    ----------
    switch : the number of the newest switch, 0 before the first.
    models : by digest, those that are loaded.
    failures : by digest, why a model isn't.
    features : None if there are none in memory.
    features_note : why there are none, or why they couldn't be renewed; empty if they are the newest.
    """

    switch: int
    serving: Serving
    trials: tuple[Trial, ...]
    models: Mapping[str, ServedModel] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    features: NewestFeatures | None = None
    features_note: str = ""

    def chain(self, spec: UseCase, missing: Mapping[str, str]) -> list[FallbackStep]:
        """Return the fallback chain, as batch scoring has it."""
        return fallback.fallback_chain(self.serving, spec, missing)

    def predictor(self, digest: str) -> BatchPredictor:
        """Return what predicts by a model, for `fallback.predict_step`.

        Raises
        ------
        ModelError
            if it couldn't be loaded, so that a request never waits for the lake.
        """
        if digest not in self.models:
            raise ModelError(self.failures.get(digest, f"model {digest[:12]}: it isn't loaded"))
        return self.models[digest].predict_batch

    @property
    def runs_inline(self) -> bool:
        """Whether a few rows take less time than handing them to another thread."""
        champion = self.serving.champion
        model = self.models.get(str(champion["model"])) if champion else None
        has_canary = any(trial.kind == ledger.CANARY for trial in self.trials)
        return not has_canary and model is not None and model.runtime == "onnx"


class LedgerFollower:
    """Keeps the loaded models `current`.

    Parameters
    ----------
    clock : returns the time, with a time zone.
    """

    def __init__(self, lake: Lake, spec: UseCase, clock: Callable[[], datetime]) -> None:
        self._lake, self._spec, self._clock = lake, spec, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._versions: tuple[int, int] | None = None
        self._tried = 0.0
        self.current: LoadedModels | None = None
        self.error = ""  # why the tables couldn't be read, empty if they could

    def start(self) -> None:
        """Begin to follow, in a thread; `current` is None until the first models are loaded."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following. A model that is being loaded isn't waited for."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.refresh()
                self.error = ""
            except EvergreenError as error:
                self._report(str(error))
            except Exception as error:  # whatever it is, the models that are loaded go on serving
                log.exception("%s: the lake can't be read; it is tried again", self._spec.name)
                self._report(f"{type(error).__name__}: {error}")
            self._stop.wait(POLL)

    def _report(self, error: str) -> None:
        if error != self.error:
            log.warning("%s: %s; still serving the models that were loaded before", self._spec.name, error)
        self.error = error

    def require_lake(self) -> None:
        """Raise `StoreUnavailable` if the lake, or a table that was read before, isn't there any more.

        A table whose folder has gone looks like one without a newer version.
        """
        self._lake.require_address()
        for table, version in zip(FOLLOWED, self._versions or (), strict=False):
            if version >= 0:
                self._lake.require_version(table, version)
                return

    def refresh(self) -> None:
        """Look at the tables once, and load and swap in what has changed."""
        self.require_lake()
        switches, partitions = map(self._lake.version, FOLLOWED)
        versions = switches, partitions
        current = self.current
        incomplete = current is None or current.failures or current.features_note
        retry = bool(incomplete) and time.monotonic() - self._tried >= RETRY
        if versions == self._versions and not retry:
            return
        rows = ledger.switches(self._lake)
        self._tried, loaded = time.monotonic(), self._load(rows)
        if current is None or loaded.switch != current.switch:
            steps = loaded.chain(self._spec, {})
            step = next(s for s in steps if not s.unavailable and s.model not in loaded.failures)
            log.info("%s: loaded switch %d: %s", self._spec.name, loaded.switch, step.name)
        self.current, self._versions = loaded, versions

    def _load(self, rows: list[Row]) -> LoadedModels:
        features, note = self._features()
        partition = self._partition(rows)
        serving = ledger.serving_of(rows, partition)
        trials = tuple(ledger.trials_on(rows, self._spec, partition))
        champion = str(serving.champion["model"]) if serving.champion else ""
        on_trial = [row for trial in trials for row in (trial.candidate, trial.incumbent)]
        names = [row for row in (serving.champion, serving.previous, serving.baseline) if row]
        models, failures = {}, {}
        for digest in dict.fromkeys(str(row["model"]) for row in (*names, *on_trial)):
            try:
                models[digest] = self._model(digest, digest == champion, features)
            except ModelError as error:
                failures[digest] = str(error)
                log.warning("%s: %s", self._spec.name, error)
        switch = max((int(row["switch"]) for row in rows), default=0)
        return LoadedModels(switch, serving, trials, models, failures, features, note)

    def _partition(self, rows: list[Row]) -> str:
        """Return the newest partition by now or of a switch, since every switch counts."""
        newest = self._spec.clock.newest(self._clock())
        newest = min(newest, self._spec.end) if self._spec.end else newest
        return max([newest, *(str(row["effective_from"]) for row in rows)])

    def _model(self, digest: str, is_champion: bool, features: NewestFeatures | None) -> ServedModel:
        """Return a model as it is loaded already, if it is, or load it."""
        loaded = self.current.models.get(digest) if self.current else None
        if loaded is not None and (loaded.reload_changes_nothing or not is_champion):
            return loaded
        sample = features.table if features else None
        return load_served(self._lake, self._spec, digest, onnx=is_champion, sample=sample)

    def _features(self) -> tuple[NewestFeatures | None, str]:
        """Return the newest features, or the ones before and why there are no newer ones."""
        earlier = self.current.features if self.current else None
        try:
            return newest_features(self._lake, self._spec, earlier), ""
        except EvergreenError as error:
            return earlier, str(error)
        except Exception as error:  # the use case's own SQL or Python; requests with features need none of it
            log.exception("%s: the newest features can't be computed", self._spec.name)
            return earlier, f"{type(error).__name__}: {error}"
