"""The evidence is of the same unseen rows for every model, and of models as they would serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from mlflow import MlflowClient

from include.errors import ModelError, StaleDecision
from include.evaluate.pipeline import evaluate
from include.features.build import training_set
from include.judge.evidence import Evidence
from include.models import artifacts
from include.promote.promotion import force, judge_and_record
from include.spec.load import read
from include.stats.metrics import row_losses
from include.train.fit import target
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from include.train.split import split
from tests.evaluate.conftest import Clinic
from tests.train import visits

NIGHT = visits.LAST
SOON = "2024-03-31"  # the next training partition
BOTH = pytest.mark.parametrize("trained", list(visits.KINDS), indirect=True)
# what follows takes a second training, which doesn't depend on the kind but for its losses
EACH = [kind if kind == "binary" else pytest.param(kind, marks=pytest.mark.full) for kind in visits.KINDS]


def record(clinic: Clinic, run: str = "") -> TrainingRecord:
    """Return what a training left."""
    return TrainingRecord.from_json(clinic.registry.get(run or clinic.run, PATH))


def evidence(clinic: Clinic, partition: str = NIGHT, run: str = "") -> Evidence:
    """Evaluate, and return the evidence as it lies in the lake."""
    ref = evaluate(clinic.lake, clinic.spec, partition, run or clinic.run, registry=clinic.registry)
    data = clinic.lake.get(ref.uri)
    assert data is not None
    return Evidence.from_json(data)


@pytest.fixture
def promote(clinic: Clinic) -> Callable[[str, str], None]:
    """Let a training's challenger serve, whatever the gate says."""

    def act(partition: str, run: str) -> None:
        ref = evaluate(clinic.lake, clinic.spec, partition, run, registry=clinic.registry)
        judge_and_record(clinic.lake, clinic.spec, ref.uri)
        key = ref.uri.removeprefix("evaluations/").removesuffix(".json")
        force(clinic.lake, clinic.spec, key, "tests", "a champion is needed", registry=clinic.registry)

    return act


@BOTH
def test_losses_are_those_of_the_stored_models_on_the_test_partitions(clinic: Clinic) -> None:
    """Partition by partition the sums are what each model, read from the registry.

    Loses on the matured test rows.
    """
    found, made, spec = evidence(clinic), record(clinic), clinic.spec
    test = split(training_set(clinic.lake, spec, NIGHT), spec, NIGHT).test
    # the first two test partitions overlap the labels of the last fitted ones
    assert (
        found.losses.partitions
        == tuple(made.partitions["test"][2:])
        == ("2024-03-25", *found.losses.partitions[1:])
    )
    test = test.filter(
        pa.array([partition in found.losses.partitions for partition in test["partition"].to_pylist()])
    )
    assert found.losses.rows == (36,) * len(found.losses.partitions)
    names = {"challenger": made.challenger, **{f"baseline:{b.name}": b for b in made.baselines}}
    assert set(found.losses.sums) == set(found.metrics) == set(names)
    for name, fitted in names.items():
        estimator = artifacts.deserialize(clinic.registry.get(clinic.run, fitted.path), fitted.digest)
        losses = row_losses(spec.gate.objective, target(spec, test), artifacts.predict(estimator, test, spec))
        assert found.losses.sums[name] == pytest.approx(losses.reshape(-1, 36).sum(axis=1))
    assert (found.model, found.prior) == (made.challenger.digest, made.prior)
    best = min(made.baselines, key=lambda fitted: fitted.validation)
    assert found.baseline_model == best.digest
    assert max(made.partitions["validation"]) == "2024-03-22" < found.last_fitted < found.losses.partitions[0]


def test_again_gives_the_same_bytes(clinic: Clinic) -> None:
    """A rerun replaces the evidence by equal bytes, and adds nothing to the run."""
    refs = [evaluate(clinic.lake, clinic.spec, NIGHT, clinic.run, registry=clinic.registry) for _ in range(2)]
    assert refs[0] == refs[1]
    kept = {key: clinic.lake.get(key) for key in clinic.lake.keys("evaluations/")}
    assert set(kept) == {
        refs[0].uri,
        refs[0].uri.replace(".json", ".parquet"),
        f"evaluations/serving/{record(clinic).challenger.digest}.json",
    }
    evaluate(clinic.lake, clinic.spec, NIGHT, clinic.run, registry=clinic.registry)
    assert {key: clinic.lake.get(key) for key in kept} == kept
    client = MlflowClient(clinic.registry.uri, clinic.registry.uri)
    metric = next(m for m in client.get_run(clinic.run).data.metrics if m.startswith("test.challenger."))
    assert len(client.get_metric_history(clinic.run, metric)) == 1


@pytest.mark.parametrize("trained", EACH, indirect=True)
def test_champion_is_measured_on_the_same_rows(clinic: Clinic, promote: Callable[[str, str], None]) -> None:
    """With a champion its losses stand beside the challenger's, on partitions that neither was fitted on."""
    promote(NIGHT, clinic.run)
    visits.fill(clinic.lake, clinic.spec, SOON, SOON)
    run = train(clinic.lake, clinic.spec, SOON, registry=clinic.registry).uri
    found = evidence(clinic, SOON, run)
    assert found.champion == record(clinic).challenger.digest
    assert len(found.losses.sums["champion"]) == len(found.losses.partitions)
    assert found.losses.partitions[0] > max(record(clinic, run).last_fitted, record(clinic).last_fitted)


def test_partitions_that_the_champion_was_fitted_on_are_left_out(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """A challenger with longer test windows is compared only on partitions that the champion never saw."""
    promote(NIGHT, clinic.run)
    file = clinic.spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("test: 8", "test: 12"))
    wider = replace(clinic, spec=read(file))
    run = train(wider.lake, wider.spec, NIGHT, registry=wider.registry).uri
    assert record(wider, run).partitions["test"][0] == "2024-03-19" <= record(clinic).last_fitted
    found = evidence(wider, NIGHT, run)
    assert found.last_fitted == wider.spec.clock.shift(record(clinic).last_fitted, 2)
    assert found.losses.partitions[0] > found.last_fitted
    assert len(found.losses.partitions) == len(record(clinic).partitions["test"]) - 2


def test_champion_that_cannot_be_read_is_told_in_the_evidence(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """A damaged champion crashes nothing: the evidence says that it couldn't be compared with, and why."""
    promote(NIGHT, clinic.run)
    clinic.lake.replace(artifacts.model_key(record(clinic).challenger.digest), b"damaged")
    visits.fill(clinic.lake, clinic.spec, SOON, SOON)
    run = train(clinic.lake, clinic.spec, SOON, registry=clinic.registry).uri
    found = evidence(clinic, SOON, run)
    assert found.champion == ""
    assert found.note.startswith("champion v1 can't be compared: model ")
    assert "champion" not in found.losses.sums


def test_moved_data_are_refused(clinic: Clinic) -> None:
    """When a label was revised since the training, the evaluation says so and what to do."""
    rows = clinic.lake.read("validated_outcomes", {"partition": "2024-03-10"})
    assert rows is not None
    changed = pa.array(np.full(rows.num_rows, 99.0))
    moved = rows.set_column(rows.schema.get_field_index("minutes"), "minutes", changed)
    clinic.lake.publish("validated_outcomes", moved, {"partition": "2024-03-10"})
    with pytest.raises(StaleDecision, match=r"the training data of the training.*to train again"):
        evidence(clinic)


def test_changed_declaration_is_refused(clinic: Clinic) -> None:
    """A gate that was changed since isn't the one that the training was made for."""
    file = clinic.spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("min_partitions: 3", "min_partitions: 4"))
    with pytest.raises(StaleDecision, match=r"the declaration of the training"):
        evidence(replace(clinic, spec=read(file)))


def test_fit_and_serve_that_differ_are_an_error(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that predicts something else than when it was fitted, by one bit, is never judged."""
    real = artifacts.predict

    def nudged(*args: object) -> np.ndarray:
        found = real(*args)  # type: ignore[arg-type]
        return np.nextafter(found, found + 1)

    monkeypatch.setattr(artifacts, "predict", nudged)
    with pytest.raises(ModelError, match=r"required the predictions from training"):
        evidence(clinic)


def test_no_labelled_test_partition_is_evidence_of_nothing(clinic: Clinic) -> None:
    """Where no test partition has matured there are no losses and no metrics.

    And the gate has its own word.
    """
    file = clinic.spec.folder / "usecase.yaml"
    short = clinic.spec.training.model_copy(update={"test": 2})  # a declaration with it is refused
    file.write_text(file.read_text().replace("statement: s", "statement: short"))
    young = replace(clinic, spec=read(file).model_copy(update={"training": short}))
    run = train(young.lake, young.spec, NIGHT, registry=young.registry).uri
    found = evidence(young, NIGHT, run)
    assert found.losses.partitions == ()
    assert set(found.metrics) == {"challenger", "baseline:prior", "baseline:linear"}
    assert not any(found.metrics.values())
    key = next(key for key in young.lake.keys("evaluations/") if found.key in key)
    assert judge_and_record(young.lake, young.spec, key).verdict == "not enough evidence"
