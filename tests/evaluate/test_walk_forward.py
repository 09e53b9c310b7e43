"""After a walk forward the evidence is what the walk said, and not what the refitted models say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow.compute as pc
import pytest
from include.train.walk_forward import PATH as WALKED
from include.train.walk_forward import read_walk
from mlflow import MlflowClient

from include.errors import ModelError
from include.evaluate import measure
from include.evaluate.pipeline import evaluate
from include.features.build import features, training_set
from include.judge.evidence import Evidence
from include.models import artifacts
from include.models.registry import Registry
from include.promote.promotion import force, judge_and_record
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fit import target
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from include.train.split import split
from tests.evaluate.conftest import Clinic
from tests.train import visits

PARTITION = visits.LAST
LATER_PARTITION = "2024-04-02"


@pytest.fixture(scope="module")
def walking(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    """The clinic after a training that walked forward in steps of three partitions."""
    folder = tmp_path_factory.mktemp("walking")
    spec = visits.usecase(
        folder, **{"min_partitions: 3": "min_partitions: 3, evidence: walk_forward, step: 3"}
    )
    lake = Lake(spec.name, str(folder / "lake"))
    visits.fill(lake, spec)
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    return Clinic(spec, lake, registry, train(lake, spec, PARTITION, registry=registry).uri)


def evidence(clinic: Clinic, partition: str = PARTITION) -> Evidence:
    """Evaluate, and return the evidence as it lies in the lake."""
    ref = evaluate(clinic.lake, clinic.spec, partition, clinic.run, registry=clinic.registry)
    return Evidence.from_json(clinic.lake.get(ref.uri) or b"")


def record(clinic: Clinic) -> TrainingRecord:
    """Return what a training left."""
    return TrainingRecord.from_json(clinic.registry.get(clinic.run, PATH))


def artifact(clinic: Clinic, path: str) -> Path:
    """Return the file of a run's artifact."""
    run = MlflowClient(clinic.registry.uri, clinic.registry.uri).get_run(clinic.run)
    return Path(unquote(urlsplit(run.info.artifact_uri).path), path)


def test_losses_are_those_of_the_walk(walking: Clinic) -> None:
    """Partition by partition the sums are what the walk's predictions lose.

    The refitted model loses less there.
    """
    result, training, spec = evidence(walking), record(walking), walking.spec
    test = split(training_set(walking.lake, spec, PARTITION), spec, PARTITION).test
    actual = target(spec, test)
    walk = read_walk(walking.registry.get(walking.run, WALKED))
    judged = np.array([partition in result.losses.partitions for partition in test["partition"].to_pylist()])
    assert set(result.losses.sums) == set(walk) == {"challenger", "baseline:prior", "baseline:linear"}
    for name, predictions in walk.items():
        losses = row_losses("log_loss", actual, predictions)[judged]
        assert result.losses.sums[name] == pytest.approx(losses.reshape(-1, 36).sum(axis=1))
    fitted = training.challenger
    estimator = artifacts.deserialize(walking.registry.get(walking.run, fitted.path), fitted.digest)
    refit_loss = row_losses("log_loss", actual, artifacts.predict(estimator, test, spec))[judged].mean()
    assert result.facts.refit_loss == pytest.approx(refit_loss)
    assert result.facts.refit_loss < sum(result.losses.sums["challenger"]) / sum(result.losses.rows)
    assert (result.model, result.fitted) == (fitted.digest, training.partitions["test"][-1])
    assert (
        result.last_fitted
        == spec.clock.shift(training.partitions["validation"][-1], 2)
        < result.losses.partitions[0]
    )


def test_coverage_is_of_the_model_that_would_serve(walking: Clinic) -> None:
    """A place that only the test partitions brought was fitted on before it serves.

    So no row of it is new.
    """
    spec, rows = walking.spec, training_set(walking.lake, walking.spec, PARTITION)
    chosen = rows.filter(pc.less_equal(rows["partition"], record(walking).last_validation))
    scored = features(walking.lake, spec, spec.clock.keys("2024-03-25", PARTITION))
    assert measure.uncovered_shares(spec, chosen, scored)["place"] > 0.1
    assert evidence(walking).facts.coverage == measure.uncovered_shares(spec, rows, scored)
    assert evidence(walking).facts.coverage["place"] == 0


def test_again_gives_the_same_bytes(walking: Clinic) -> None:
    """A rerun replaces the evidence by equal bytes."""
    assert evidence(walking).to_json() == evidence(walking).to_json()


def test_champion_is_compared_on_partitions_after_everything_it_was_fitted_on(walking: Clinic) -> None:
    """What a walk forward promoted has seen its own test partitions, so only later ones count against it."""
    ref = evaluate(walking.lake, walking.spec, PARTITION, walking.run, registry=walking.registry)
    judge_and_record(walking.lake, walking.spec, ref.uri)
    key = ref.uri.removeprefix("evaluations/").removesuffix(".json")
    force(walking.lake, walking.spec, key, "tests", "a champion is needed", registry=walking.registry)
    visits.fill(walking.lake, walking.spec, "2024-03-31", LATER_PARTITION)
    run = train(walking.lake, walking.spec, LATER_PARTITION, registry=walking.registry).uri
    result = evidence(replace(walking, run=run), LATER_PARTITION)
    assert result.champion == record(walking).challenger.digest
    assert record(walking).last_fitted == "2024-03-28" < result.last_fitted == "2024-03-30"
    assert result.losses.partitions == ("2024-03-31",)
    assert result.fitted == "2024-03-31"


def test_tampered_walk_is_refused(walking: Clinic) -> None:
    """Other predictions under the walk's name aren't the ones that the training kept."""
    file = artifact(walking, WALKED)
    original = file.read_bytes()
    try:
        file.write_bytes(original[:-1] + b"\0")
        digest = record(walking).walk_forward
        with pytest.raises(ModelError, match=rf"{WALKED} of run .*required SHA-256 {digest}"):
            evidence(walking)
    finally:
        file.write_bytes(original)


def test_refitted_model_that_predicts_otherwise_is_refused(
    walking: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored models are read back as well: what will serve must predict what it did in training."""
    real = artifacts.predict

    def nudged(*args: object) -> np.ndarray:
        predictions = real(*args)  # type: ignore[arg-type]
        return np.nextafter(predictions, predictions + 1)

    monkeypatch.setattr(artifacts, "predict", nudged)
    with pytest.raises(ModelError, match=r"required the predictions from training"):
        evidence(walking)
