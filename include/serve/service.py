"""Answers requests: reads the rows, predicts them by the fallback chain, and says who served each."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from include.errors import ModelError
from include.models import outputs
from include.promote.ledger import CANARY, SHADOW
from include.score import fallback
from include.score.fallback import FallbackStep
from include.score.predictions import ACTION, actions
from include.serve.follower import LedgerFollower, LoadedModels
from include.serve.metrics import Metrics
from include.serve.request_log import RequestLog
from include.serve.rows import RequestRefused, RowReader, Rows
from include.spec import UseCase
from include.storage.lake import Lake

log = logging.getLogger(__name__)
ROW_NUMBER = 'position"'  # a column of each row's place in the request; no feature's name has a double quote
ORIGIN = ("version", "model", "reason")  # what an answer has of each row beside `served_by`
Prediction = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answered request.

    Parameters
    ----------
    content : JSON, as bytes.
    loaded : who answered it.
    table : its rows with features.
    logged : what the log has of each row, but for the prediction; empty if it isn't logged.
    predictions : of each row.
    """

    content: bytes
    loaded: LoadedModels
    table: pa.Table
    logged: Sequence[Mapping[str, Any]]
    predictions: Sequence[Prediction]


class Service:
    """Predicts for one use case, whatever is on the other side of the connection.

    Parameters
    ----------
    clock : returns the time, with a time zone.
    request_log : where requests are logged; None if they aren't.
    """

    def __init__(
        self,
        lake: Lake,
        spec: UseCase,
        clock: Callable[[], datetime],
        request_log: RequestLog | None = None,
    ) -> None:
        self.lake, self.spec, self.clock, self.log = lake, spec, clock, request_log
        self.reader, self.metrics = RowReader(spec), Metrics()
        self.follower = LedgerFollower(lake, spec, clock)
        self._newest = "", datetime.min.replace(tzinfo=UTC)  # the newest partition, and until when it is

    def start(self) -> None:
        """Begin to follow the ledger, and to bring logged requests to the lake."""
        self.follower.start()
        if self.log is not None:
            self.log.start(self.follower.require_lake)

    def stop(self) -> None:
        """Stop both, after the last request."""
        self.follower.stop()
        if self.log is not None:
            self.log.stop()

    @property
    def loaded(self) -> LoadedModels:
        """Who serves now.

        Raises
        ------
        RequestRefused
            with 503 until the ledger has been read.
        """
        if self.follower.current is None:
            reason = self.follower.error or "models that are still loading"
            raise RequestRefused(
                503, self.spec.name, required="loaded models", found=reason, remedy="try again in 2 seconds"
            )
        return self.follower.current

    def answer(self, body: bytes) -> Answer:
        """Return the answer to the body of a request, which is logged by then.

        Raises
        ------
        RequestRefused
            for rows that the declaration doesn't allow, or that can't be answered or logged now.
        """
        loaded, request, request_id = self.loaded, self.reader.read(body), uuid.uuid4().hex
        table, missing, features = self._with_features(loaded, request)
        predictions = self._predict(loaded, table, missing, has_keys=request.has_keys)
        logged: list[dict[str, Any]] = []
        if self.log is not None:
            logged = self._log_rows(request_id, table, str(features.get("partition", "")))
            self._log(self.log, logged, predictions)
        content: dict[str, Any] = {"request": request_id, "predictions": predictions}
        if features:
            content["features"] = features
        return Answer(json.dumps(content).encode(), loaded, table, logged, predictions)

    def _with_features(
        self, loaded: LoadedModels, request: Rows
    ) -> tuple[pa.Table, Mapping[str, str], dict[str, Any]]:
        """Return the rows with features, which sources these are without, and their age."""
        if not request.only_keys:
            return request.table, {}, {}
        newest = loaded.features
        if newest is None:
            reason = loaded.features_note
            remedy = "send the features with the request"
            raise RequestRefused(
                503, "features by key", required="features in memory", found=reason, remedy=remedy
            )
        return newest.look_up(request.table), newest.missing, newest.age(self.clock())

    def _predict(
        self, loaded: LoadedModels, rows: pa.Table, missing: Mapping[str, str], *, has_keys: bool
    ) -> list[Prediction]:
        """Return the prediction of each row, in order, with who served it and why not an earlier step."""
        steps = loaded.chain(self.spec, missing)
        # whether a canary serves a row depends on its key
        trials = [trial for trial in loaded.trials if trial.kind == CANARY and has_keys]
        if trials:
            rows = rows.append_column(ROW_NUMBER, pa.array(range(rows.num_rows)))
        predictions: list[Prediction] = [{}] * rows.num_rows
        for group, chain in fallback.split_canary(self.spec, rows, steps, trials, missing):
            served = fallback.predict_with_fallback(self.lake, self.spec, group, chain, loaded.predictor)
            positions = group[ROW_NUMBER].to_pylist() if trials else range(group.num_rows)
            for index, one in zip(
                positions, self._predictions(served.step, served.reason, served.values), strict=True
            ):
                predictions[index] = one
            self.metrics.rows.labels(served.step.served_by, served.step.version).inc(group.num_rows)
        return predictions

    def _predictions(self, step: FallbackStep, reason: str, values: outputs.Array) -> Iterable[Prediction]:
        """Return predictions with the columns of the table `predictions`."""
        values_of_step = (step.version, step.model, reason)
        origin = {"served_by": step.served_by, **dict(zip(ORIGIN, values_of_step, strict=True))}
        rows = self._values(values)
        if self.spec.problem.costs:
            chosen = actions(self.spec, values).to_pylist()
            rows = [{**row, ACTION: one} for row, one in zip(rows, chosen, strict=True)]
        return [{**row, **origin} for row in rows]

    def _values(self, values: outputs.Array) -> list[Prediction]:
        if not self.spec.problem.classes:
            return [{"prediction": value} for value in values.tolist()]
        labels = outputs.predicted_class(self.spec, values).to_pylist()
        names = self.spec.problem.outputs
        return [
            {"label": label, "prediction": max(row), **dict(zip(names, row, strict=True))}
            for label, row in zip(labels, values.tolist(), strict=True)
        ]

    # the log

    def _log_rows(self, request_id: str, table: pa.Table, features_partition: str) -> list[dict[str, Any]]:
        """Return what the log has of each row, but for the prediction."""
        now = self.clock()
        same = {
            **dict.fromkeys(self.spec.key),
            "request": request_id,
            "requested_at": now.isoformat(),
            # features that came with the request are about the partition that was decided last
            "for_partition": features_partition or self._newest_partition(now),
            "features_partition": features_partition or None,
        }
        columns = dict.fromkeys((*self.spec.key, *self.spec.features.columns))
        rows = table.select([name for name in columns if name in table.column_names]).to_pylist()
        return [{"request_row": f"{request_id}-{index}", **same, **row} for index, row in enumerate(rows)]

    def _newest_partition(self, now: datetime) -> str:
        """Return the partition that was decided last; reading the cron takes longer than a prediction."""
        partition, until = self._newest
        if now >= until:
            partition = self.spec.clock.newest(now)
            self._newest = partition, self.spec.clock.decision_time(self.spec.clock.shift(partition, 1))
        return partition

    def _log(
        self,
        request_log: RequestLog,
        rows: Sequence[Mapping[str, Any]],
        predictions: Iterable[Prediction],
        suffix: str = "",
    ) -> None:
        request_log.append(
            {
                **row,
                "request_row": f"{row['request_row']}{suffix}",
                # the answer's own names may be those of features, as a car's model
                **{f"served_{name}" if name in ORIGIN else name: value for name, value in one.items()},
            }
            for row, one in zip(rows, predictions, strict=True)
        )
        self.metrics.logged.inc(len(rows))

    def has_shadows(self, answer: Answer) -> bool:
        """Return whether models on trial are to predict the rows too, which only the log shows."""
        return bool(answer.loaded.trials and answer.logged)

    def score_shadows(self, answer: Answer) -> None:
        """Log what each model on trial predicts for the rows, unless it has served all of them."""
        if self.log is None:
            return
        serving = {one["model"] for one in answer.predictions}
        for step in fallback.shadow_steps(answer.loaded.trials, serving):
            if step.model in answer.loaded.failures:
                continue
            try:
                values = fallback.predict_step(
                    self.lake, self.spec, answer.table, step, answer.loaded.predictor
                )
                predictions = self._predictions(step, "", values)
                self._log(self.log, answer.logged, predictions, suffix=f"-{step.model[:12]}")
            except (ModelError, RequestRefused) as error:  # the answer stands; its trial lacks these rows
                log.debug("%s: shadow scoring by v%s failed: %s", self.spec.name, step.version, error)
                self.metrics.shadow_failures.inc()
            else:
                self.metrics.rows.labels(SHADOW, step.version).inc(len(answer.logged))

    # for those who operate it

    def health(self) -> dict[str, Any]:
        """Return what serves, what can't and why, and how old things are."""
        follower, loaded = self.follower, self.follower.current
        state: dict[str, Any] = {"usecase": self.spec.name, "ready": loaded is not None}
        state["ledger"] = {"error": follower.error}
        if loaded is not None:
            state["ledger"]["switch"] = loaded.switch
            state["chain"] = [self._step(loaded, step) for step in loaded.chain(self.spec, {})]
            state["on_trial"] = [str(trial) for trial in loaded.trials]
            age = loaded.features.age(self.clock()) if loaded.features else {}
            state["features"] = {**age, "error": loaded.features_note}
        if self.log is not None:
            state["log"] = self.log.health()
        return state

    def _step(self, loaded: LoadedModels, step: FallbackStep) -> dict[str, Any]:
        model = loaded.models.get(step.model)
        unavailable = step.unavailable or loaded.failures.get(step.model, "")
        runtime = {"runtime": model.runtime, "note": model.note} if model else {}
        return {
            "served_by": step.served_by,
            "version": step.version,
            "available": not unavailable,
            "reason": unavailable,
            **runtime,
        }

    def metrics_text(self) -> bytes:
        """Return the metrics, those of the state as it is now."""
        metrics, state = self.metrics, self.health()
        metrics.following.set(not self.follower.error)
        metrics.switch.set(state["ledger"].get("switch", 0))
        metrics.available.clear()
        for step in state.get("chain", ()):
            metrics.available.labels(step["served_by"], step["version"]).set(step["available"])
        if (age := state.get("features", {}).get("age_seconds")) is not None:
            metrics.age.set(age)
        metrics.pending.set(state.get("log", {}).get("pending_bytes", 0))
        return metrics.text()
