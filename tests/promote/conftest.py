"""Evidence made of losses, small real models, and a registry on a file of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyRegressor
from sklearn.pipeline import Pipeline

from include.judge.context import Check
from include.judge.evidence import EdgeCase, Evidence, Facts, Leakage, Losses, ServingTest
from include.judge.judge import Verdict
from include.models import artifacts
from include.models.registry import Registry
from include.promote import verdicts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake

WEEKLY = Path(__file__).parents[1] / "usecases" / "weekly_sales" / "usecase.yaml"


def partitions(count: int, first: str = "2013-02-01") -> tuple[str, ...]:
    """Return ``count`` partitions in a row."""
    return tuple((date.fromisoformat(first) + timedelta(days=i)).isoformat() for i in range(count))


def losses(challenger: object, champion: object = None, **baselines: object) -> Losses:
    """Return losses from mean losses a partition; every partition has 100 rows."""
    given = {"challenger": challenger, "champion": champion}
    given |= {f"baseline:{name}": means for name, means in baselines.items()}
    sums = {n: tuple(float(v) * 100 for v in m) for n, m in given.items() if m is not None}  # type: ignore[attr-defined]
    count = len(sums["challenger"])
    return Losses(partitions(count), (100,) * count, sums)


def facts(found: Losses, **changes: object) -> Facts:
    """Return facts that no check refuses."""
    prior = found.sums.get("baseline:prior", ())
    plain = Facts(
        rival="champion" if "champion" in found.sums else "baseline:prior",
        slices=(),
        edge_cases=(
            EdgeCase("a single row", "rows", passed=True),
            EdgeCase("temp missing", "missing", True, 0.1),
        ),
        serving=ServingTest(identical=True, figures={"p95_ms": 5.0}),
        leakage=Leakage(
            single_feature={"temp": 0.6},
            all_features={"challenger": 0.7, "a linear model": 0.65},
            shuffled_losses=tuple(v + 0.001 * n for v, n in zip(prior, found.rows, strict=False)),
            loss_reduction=0.1,
        ),
        unseen_shares={"temp": 0.01},
        importance={"temp": 0.02},
        refit_loss=sum(found.sums["challenger"]) / max(sum(found.rows), 1),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def selection(serving: str = "", recipe: str = "forest") -> dict[str, object]:
    """Return why a recipe was chosen over the one that serves."""
    why = {"recipe": recipe, "serving": serving, "baseline": "prior", "reason": "its weight is the largest"}
    return {**why, "weights": {}, "losses": {}, "partitions": 28, "gain": None}


def evidence(found: Losses, **changes: object) -> Evidence:
    """Return evidence of flights with metrics that reach the shipped gate."""
    plain = Evidence(
        usecase="flight_delay",
        partition="2013-03-03",
        spec="s",
        data="d",
        code="c",
        version="2",
        model="m" * 64,
        constant=0.2,
        baseline_model="b" * 64,
        metrics={"challenger": {"roc_auc": 0.7, "calibration_gap": 0.02}},
        losses=found,
        champion="a" * 64 if "champion" in found.sums else "",
        last_fitted="2013-01-31",
        fitted="2013-01-31",
        recipe="forest",
        facts=facts(found),
        selection=selection("ridge" if "champion" in found.sums else ""),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def model(value: float) -> bytes:
    """Return a real, small model that always says ``value``."""
    constant = DummyRegressor(strategy="constant", constant=value)
    return artifacts.serialize(Pipeline([("model", constant)]).fit(np.zeros((2, 1)), np.zeros(2)))


@pytest.fixture
def weekly() -> UseCase:
    """The second use case: its partitions are Mondays."""
    return read(WEEKLY)


def asking(spec: UseCase, approval: str = "all") -> UseCase:
    """Return the use case with a gate that asks a person."""
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"approval": approval})})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """An empty lake."""
    return Lake("weekly_sales", str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry's folder with four runs: a challenger that says its own number, a baseline that says 0."""
    folder = tmp_path_factory.mktemp("mlflow")
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    for number in range(1, 5):
        with registry.recording("weekly_sales", f"key-{number}", f"run {number}") as run:
            files = {artifacts.model_key(digest_bytes(data)): data for data in (model(number), model(0))}
            registry.put(run, files)
            assert register(registry, run, model(number)) == str(number)
    return folder


def register(registry: Registry, run: str, data: bytes) -> str:
    """Make a model's bytes a version of the use case, and return its number."""
    estimator = artifacts.deserialize(data, digest_bytes(data))
    return registry.register(run, "weekly_sales", estimator, pd.DataFrame({"price": [1.5]}), {})


@pytest.fixture
def registry(trained: Path, tmp_path: Path) -> Registry:
    """That registry, copied, so that a test's aliases are its own."""
    shutil.copy(trained / "mlflow.db", tmp_path / "mlflow.db")
    return Registry(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry at an address where nobody listens."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Registry("http://127.0.0.1:9")


@pytest.fixture
def attempt(weekly: UseCase, lake: Lake) -> Callable[..., str]:
    """Writes the evidence of a training and returns where it lies.

    ``attempt(3, partition, champion=2)`` is version 3, trained on ``partition``, of another recipe than
    version 2; with ``refresh`` it is a refit of version 2's recipe. The gate refuses it with ``refused`` or
    ``leak``.
    """

    def write(
        version: int,
        partition: str,
        *,
        champion: int = 0,
        refresh: bool = False,
        refused: bool = False,
        count: int = 6,
        leak: bool = False,
        recipe: str = "",
        data: bytes = b"",
        spec: UseCase = weekly,
    ) -> str:
        theirs = np.full(count, 2.0) + np.arange(count) * 0.01 if champion and not refresh else None
        found = losses(np.full(count, 1.0), theirs, prior=np.full(count, 9.0))
        made = evidence(
            found,
            usecase="weekly_sales",
            partition=partition,
            spec=spec.digest,
            data=f"data of v{version}",
            version=str(version),
            model=digest_bytes(data or model(version)),
            baseline_model=digest_bytes(model(0)),
            metrics={"challenger": {"r2": 0.1 if refused else 0.9}},
            champion=digest_bytes(model(champion)) if champion else "",
            facts=facts(found, serving=ServingTest(not refused, {"p95_ms": 5.0})),
            selection=selection("forest" if refresh else "ridge" if champion else ""),
        )
        if recipe:
            why = {**selection("", recipe), "baseline": "ridge", "prior_model": digest_bytes(model(4))}
            made = replace(made, recipe=recipe, selection=why)
        if leak:
            leaks = replace(made.facts.leakage, single_feature={"price": 0.999})
            made = replace(made, facts=replace(made.facts, leakage=leaks))
        key = f"evaluations/{made.key}.json"
        lake.create(key, made.to_json().encode())
        return key

    return write


def record_verdict(
    lake: Lake, verdict: str, partition: str, checks: tuple[Check, ...] = (), **more: Any
) -> Evidence:
    """Record a verdict on a training, and return the evidence, of which ``more`` are fields."""
    record = replace(evidence(losses([1.0]), **more), partition=partition)
    verdicts.record_attempt(lake, record, lambda: Verdict(verdict, verdict, checks))
    return record
