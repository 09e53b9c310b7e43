"""Answers requests: reads the rows, predicts them by the fallback chain, and says who served each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from include.models import outputs
from include.score import fallback
from include.score.shadow import split_canary
from include.serve.follower import Deployment, Follower
from include.serve.metrics import Metrics
from include.serve.rows import RequestRefused, RowReader, Rows
from include.spec import UseCase
from include.storage.lake import Lake

POSITION = 'position"'  # a column of each row's place in the request; no feature's name has a double quote


class Service:
    """Predicts for one use case, whatever is on the other side of the connection.

    Parameters
    ----------
    clock : returns the time, with a time zone.
    """

    def __init__(self, lake: Lake, spec: UseCase, clock: Callable[[], datetime]) -> None:
        self.lake, self.spec, self.clock = lake, spec, clock
        self.reader, self.metrics = RowReader(spec), Metrics()
        self.follower = Follower(lake, spec, clock)

    @property
    def deployment(self) -> Deployment:
        """Who serves now.

        Raises
        ------
        RequestRefused
            with 503 until the ledger has been read.
        """
        if self.follower.current is None:
            found = self.follower.error or "the models are being loaded"
            raise RequestRefused(503, self.spec.name, required="a ledger that was read", found=found)
        return self.follower.current

    def answer(self, body: bytes) -> bytes:
        """Return the answer to the body of a request.

        Raises
        ------
        RequestRefused
            for rows that the declaration doesn't allow, or that can't be answered now.
        """
        deployment, request = self.deployment, self.reader.read(body)
        table, missing, features = self._with_features(deployment, request)
        predictions = self._predict(deployment, table, missing, has_keys=request.has_keys)
        answer = {"request": uuid.uuid4().hex, "predictions": predictions}
        return json.dumps({**answer, "features": features} if features else answer).encode()

    def _with_features(
        self, deployment: Deployment, request: Rows
    ) -> tuple[pa.Table, Mapping[str, str], dict[str, Any]]:
        """Return the rows with features, which sources these are without, and their age."""
        if not request.only_keys:
            return request.table, {}, {}
        newest = deployment.features
        if newest is None:
            found = deployment.features_note
            raise RequestRefused(503, "features by key", required="features in memory", found=found)
        return newest.look_up(request.table), newest.missing, newest.age(self.spec, self.clock())

    def _predict(
        self, deployment: Deployment, rows: pa.Table, missing: Mapping[str, str], *, has_keys: bool
    ) -> list[dict[str, Any]]:
        """Return the prediction of each row, in order, with who served it and why not an earlier step."""
        steps = deployment.chain(self.spec, missing)
        trials = deployment.trials if has_keys else ()  # whether a canary serves a row depends on its key
        if trials:
            rows = rows.append_column(POSITION, pa.array(range(rows.num_rows)))
        answers: list[dict[str, Any]] = [{}] * rows.num_rows
        for group, chain in split_canary(self.spec, rows, steps, trials, missing):
            predicted = fallback.predict_with_fallback(self.lake, self.spec, group, chain, deployment.loaded)
            places = group[POSITION].to_pylist() if trials else range(group.num_rows)
            for place, numbers in zip(places, self._numbers(predicted.values), strict=True):
                step = predicted.step
                answers[place] = {
                    **numbers,
                    "served_by": step.served_by,
                    "version": step.version,
                    "model": step.model,
                    "reason": predicted.reason,
                }
            self.metrics.rows.labels(predicted.step.served_by, predicted.step.version).inc(group.num_rows)
        return answers

    def _numbers(self, values: outputs.Array) -> Sequence[dict[str, Any]]:
        """Return predictions as the table `predictions` has them."""
        if not self.spec.problem.classes:
            return [{"prediction": value} for value in values.tolist()]
        labels = outputs.predicted_class(self.spec, values).to_pylist()
        names = self.spec.problem.outputs
        return [
            {"label": label, "prediction": max(row), **dict(zip(names, row, strict=True))}
            for label, row in zip(labels, values.tolist(), strict=True)
        ]

    # for those who operate it

    def health(self) -> dict[str, Any]:
        """Return what serves, what can't and why, and how old things are."""
        follower, deployment = self.follower, self.follower.current
        state: dict[str, Any] = {"usecase": self.spec.name, "ready": deployment is not None}
        state["ledger"] = {"error": follower.error}
        if deployment is not None:
            state["ledger"]["switch"] = deployment.switch
            state["chain"] = [self._step(deployment, step) for step in deployment.chain(self.spec, {})]
            state["on_trial"] = [str(trial) for trial in deployment.trials]
            age = deployment.features.age(self.spec, self.clock()) if deployment.features else {}
            state["features"] = {**age, "error": deployment.features_note}
        return state

    def _step(self, deployment: Deployment, step: fallback.FallbackStep) -> dict[str, Any]:
        model = deployment.models.get(step.model)
        unavailable = step.unavailable or deployment.failures.get(step.model, "")
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
        return metrics.text()
