"""Parcels that come late by a rule that one model knows, one forgot, and one learned upside down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from include.features.labels import training_set
from include.judge.judge import BLESSED, RUBBER_STAMPED, Verdict
from include.models import artifacts
from include.models.registry import Registry
from include.monitor.performance import publish_performance
from include.monitor.state import PublishedState
from include.promote import ledger, verdicts
from include.promote.promotion import Promotion, promote
from include.references import digest_bytes
from include.rollout.pipeline import advance
from include.score.pipeline import score
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from include.train.fits import KnownRows, ensure_fits
from include.train.recipes import recipes
from tests.features import parcels
from tests.kept import fill_folder
from tests.promote.conftest import evidence, losses, selection
from tests.switches import newest_by_role

FIRST, LAST = "2024-03-01", "2024-04-10"
COEFFICIENTS = {"knows": 0.8, "forgot": 0.0, "wrong": -0.8, "knows too": 0.82}


@cache
def model(name: str) -> bytes:
    """Return a model that says how likely a heavy parcel is late."""
    columns = ColumnTransformer([("weight", "passthrough", ["weight"])])
    made = Pipeline([("columns", columns), ("model", LogisticRegression())])
    made.fit(parcels_frame(), np.array([0.0, 1.0]))
    made[-1].coef_ = np.array([[COEFFICIENTS[name]]])
    made[-1].intercept_ = np.array([-6.2 * COEFFICIENTS[name]])
    return artifacts.serialize(made)


def parcels_frame() -> Any:
    """Return two rows to fit on."""
    import pandas as pd

    return pd.DataFrame({"weight": [0.0, 12.0]})


def usecase(folder: Path, **rollout: Any) -> UseCase:
    """Declare the parcels with a rollout."""
    rules = {"partitions": 4, "look_every": 2, "patience": 12, "alpha": 0.2, "margin": 0.0, **rollout}
    gate = {"objective": "log_loss", "min_partitions": 4, "block_partitions": 1, "rollout": rules}
    logistic = {"name": "logistic", "estimator": "logistic_regression"}
    training = {"baselines": [{"name": "prior", "estimator": "prior"}], "candidates": [logistic]}
    return parcels.spec(folder, gate=gate, training=training)


class RolloutLake:
    """A lake of parcels, a partition after the other; what was made in a folder is opened again."""

    def __init__(self, folder: Path, **rollout: Any) -> None:
        self.spec = usecase(folder, **rollout)
        self.lake = Lake("parcels", str(folder / "lake"))
        self.registry = Registry("http://127.0.0.1:9")  # nobody listens: the lake is enough
        if self.lake.version("partitions") < 0:
            fill_folder("depot", folder / "lake", self._filled)

    def _filled(self, folder: Path) -> None:
        lake = Lake("parcels", str(folder))
        parcels.fill(lake, self.spec, FIRST, LAST)
        self._heavy_ones_come_late(lake)

    def _heavy_ones_come_late(self, lake: Lake) -> None:
        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return row["partition"], row["depot"], row["parcel"]

        weights = {key(row): row["weight"] for row in lake.rows("validated_orders")}
        rows = sorted(lake.rows("validated_arrivals"), key=key)  # they come in no order
        random = np.random.default_rng(3)
        for row in rows:
            weight = weights.get((self.spec.clock.shift(row["partition"], -2), row["depot"], row["parcel"]))
            late = weight is not None and random.random() < 1 / (1 + np.exp(-0.8 * (weight - 6.2)))
            row["delay"] = 20.0 if late else 0.0
        table = pa.Table.from_pylist(rows, schema=schemas.validated_schema(self.spec.sources["arrivals"]))
        lake.publish("validated_arrivals", table, {"partition": sorted({row["partition"] for row in rows})})

    def promote(self, name: str, partition: str, **changes: Any) -> Promotion:
        """Judge a model blessed and promote it as the declaration says."""
        return promote(self.lake, self.spec, self.judged(name, partition, **changes), registry=self.registry)

    def promote_in_turn(self, first: str, second: str) -> None:
        """Promote a model on the 5th of March, and another one on the 6th, which the first served."""
        self.promote(first, "2024-03-05")
        self.partition("2024-03-06")
        self.promote(second, "2024-03-06")

    def judged(self, name: str, partition: str, **changes: Any) -> str:
        """Judge a model blessed, against whoever serves, and return the attempt's key."""
        data, champion = model(name), newest_by_role(self.lake).get("champion")
        artifacts.store_model(self.lake, data)
        baseline = artifacts.store_model(self.lake, model("forgot"))
        changes.setdefault("recipe", name)
        serving = champion["recipe"] if champion else ""
        found = losses([1.0], [2.0] if champion else None, prior=[3.0])
        made = evidence(
            found, usecase="parcels", partition=partition, spec=self.spec.digest, data=f"{name}{partition}"
        )
        made = replace(made, version=name, model=digest_bytes(data), baseline_model=baseline, constant=0.4)
        made = replace(made, selection=selection(serving, changes["recipe"]))
        made = replace(made, champion=champion["model"] if champion else "", **changes)
        word = BLESSED if champion else RUBBER_STAMPED
        row = verdicts.record_attempt(self.lake, made, lambda: Verdict(word, f"{word}: {name}", ()))
        return str(row["key"])

    def partition(self, key: str) -> str:
        """Score a partition, take its steps, and return the sentence."""
        score(self.lake, self.spec, key)
        return advance(self.lake, self.spec, key).note

    def partitions(self, first: str, last: str) -> list[str]:
        """Do so for each partition of a range."""
        return [self.partition(key) for key in self.spec.clock.keys(first, last)]

    def served(self) -> dict[str, dict[str, int]]:
        """Return by partition how many rows each fallback step and version served."""
        found: dict[str, dict[str, int]] = {}
        for row in self.lake.rows("predictions"):
            who = f"{row['served_by']} {row['version']}"
            partition = found.setdefault(row["partition"], {})
            partition[who] = partition.get(who, 0) + 1
        return found

    def switches(self) -> list[tuple[str, str, str]]:
        """Return role, kind and version of each switch, without the baseline's rows."""
        rows = ledger.switches(self.lake)
        return [(r["role"], r["kind"], r["version"]) for r in rows if r["role"] != "baseline"]


@pytest.fixture
def depot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RolloutLake]:
    """Makes a depot with a rollout: ``depot(kind="shadow")``."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return lambda **rollout: RolloutLake(tmp_path, **rollout)


TRAINED = "2024-03-12"


def fit(warehouse: RolloutLake, partition: str = TRAINED) -> None:
    """Fit the declared recipes, as a training does before the relation changes."""
    rows = training_set(warehouse.lake, warehouse.spec, partition)
    known_rows = KnownRows(warehouse.lake, warehouse.spec, partition, rows)
    ensure_fits(known_rows, partition, recipes(warehouse.spec))


def partitions(warehouse: RolloutLake, first: str, last: str) -> list[str]:
    """Score, measure and advance each partition, and return the sentences."""
    notes = []
    for partition in warehouse.spec.clock.keys(first, last):
        score(warehouse.lake, warehouse.spec, partition)
        publish_performance(
            warehouse.lake, warehouse.spec, PublishedState(warehouse.lake, warehouse.spec, partition)
        )
        notes.append(advance(warehouse.lake, warehouse.spec, partition).note)
    return notes
