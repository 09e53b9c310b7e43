"""Evidence measures every model on the same unseen rows, loaded as it would serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mlflow import MlflowClient

from include.errors import ModelError, StaleDecision
from include.evaluate.measure import uncovered_shares
from include.evaluate.pipeline import evaluate
from include.features.build import features, training_set
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

PARTITION = visits.LAST
NEXT_PARTITION = "2024-03-31"  # the next training partition
ALL_KINDS = pytest.mark.parametrize("trained", list(visits.KINDS), indirect=True)
# what follows takes a second training, which doesn't depend on the kind but for its losses
EACH_KIND = [
    kind if kind == "binary" else pytest.param(kind, marks=pytest.mark.full) for kind in visits.KINDS
]


def record(clinic: Clinic, run: str = "") -> TrainingRecord:
    """Return what a training left."""
    return TrainingRecord.from_json(clinic.registry.get(run or clinic.run, PATH))


def evidence(clinic: Clinic, partition: str = PARTITION, run: str = "") -> Evidence:
    """Evaluate, and return the evidence as it lies in the lake."""
    ref = evaluate(clinic.lake, clinic.spec, partition, run or clinic.run, registry=clinic.registry)
    data = clinic.lake.get(ref.uri)
    assert data is not None
    return Evidence.from_json(data)


@pytest.fixture
def promote(clinic: Clinic) -> Callable[[str, str], None]:
    """Let a training's challenger serve, whatever the gate says."""

    def promote_challenger(partition: str, run: str) -> None:
        ref = evaluate(clinic.lake, clinic.spec, partition, run, registry=clinic.registry)
        judge_and_record(clinic.lake, clinic.spec, ref.uri)
        key = ref.uri.removeprefix("evaluations/").removesuffix(".json")
        force(clinic.lake, clinic.spec, key, "tests", "a champion is needed", registry=clinic.registry)

    return promote_challenger


@ALL_KINDS
def test_losses_are_those_of_the_stored_models_on_the_test_partitions(clinic: Clinic) -> None:
    """The sums are the losses of each stored model on the matured test rows, by partition."""
    result, training, spec = evidence(clinic), record(clinic), clinic.spec
    test = split(training_set(clinic.lake, spec, PARTITION), spec, PARTITION).test
    # the first two test partitions overlap the labels of the last fitted ones
    assert (
        result.losses.partitions
        == tuple(training.partitions["test"][2:])
        == ("2024-03-25", *result.losses.partitions[1:])
    )
    test = test.filter(
        pa.array([partition in result.losses.partitions for partition in test["partition"].to_pylist()])
    )
    assert result.losses.rows == (36,) * len(result.losses.partitions)
    names = {"challenger": training.challenger, **{f"baseline:{b.name}": b for b in training.baselines}}
    assert set(result.losses.sums) == set(result.metrics) == set(names)
    for name, fitted in names.items():
        estimator = artifacts.deserialize(clinic.registry.get(clinic.run, fitted.path), fitted.digest)
        losses = row_losses(spec.gate.objective, target(spec, test), artifacts.predict(estimator, test, spec))
        assert result.losses.sums[name] == pytest.approx(losses.reshape(-1, 36).sum(axis=1))
    assert (result.model, result.prior) == (training.challenger.digest, training.prior)
    best = min(training.baselines, key=lambda fitted: fitted.validation)
    assert result.baseline_model == best.digest
    assert (
        max(training.partitions["validation"])
        == "2024-03-22"
        < result.last_fitted
        < result.losses.partitions[0]
    )


def test_again_gives_the_same_bytes(clinic: Clinic) -> None:
    """A rerun is idempotent: it writes the same bytes and logs nothing new."""
    refs = [
        evaluate(clinic.lake, clinic.spec, PARTITION, clinic.run, registry=clinic.registry) for _ in range(2)
    ]
    assert refs[0] == refs[1]
    objects = {key: clinic.lake.get(key) for key in clinic.lake.keys("evaluations/")}
    assert set(objects) == {
        refs[0].uri,
        refs[0].uri.replace(".json", ".parquet"),
        f"evaluations/serving/{record(clinic).challenger.digest}.json",
    }
    evaluate(clinic.lake, clinic.spec, PARTITION, clinic.run, registry=clinic.registry)
    assert {key: clinic.lake.get(key) for key in objects} == objects
    client = MlflowClient(clinic.registry.uri, clinic.registry.uri)
    metric = next(m for m in client.get_run(clinic.run).data.metrics if m.startswith("test.challenger."))
    assert len(client.get_metric_history(clinic.run, metric)) == 1


@pytest.mark.parametrize("trained", EACH_KIND, indirect=True)
def test_champion_is_measured_on_the_same_rows(clinic: Clinic, promote: Callable[[str, str], None]) -> None:
    """The champion's losses and coverage are of the same rows, which neither model was fitted on."""
    promote(PARTITION, clinic.run)
    visits.fill(clinic.lake, clinic.spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(clinic.lake, clinic.spec, NEXT_PARTITION, registry=clinic.registry).uri
    result = evidence(clinic, NEXT_PARTITION, run)
    assert result.champion == record(clinic).challenger.digest
    assert len(result.losses.sums["champion"]) == len(result.losses.partitions)
    assert result.losses.partitions[0] > max(record(clinic, run).last_fitted, record(clinic).last_fitted)
    rows = training_set(clinic.lake, clinic.spec, NEXT_PARTITION)
    fitted = rows.filter(pc.less_equal(rows["partition"], record(clinic).last_fitted))
    scored = features(
        clinic.lake, clinic.spec, clinic.spec.clock.keys(result.losses.partitions[0], NEXT_PARTITION)
    )
    assert result.facts.champion_coverage == uncovered_shares(clinic.spec, fitted, scored)
    assert result.facts.champion_coverage["place"] >= result.facts.coverage["place"] > 0.1


def test_partitions_that_the_champion_was_fitted_on_are_left_out(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """A challenger with longer test windows is compared only on partitions that the champion never saw."""
    promote(PARTITION, clinic.run)
    file = clinic.spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("test: 8", "test: 12"))
    wider = replace(clinic, spec=read(file))
    run = train(wider.lake, wider.spec, PARTITION, registry=wider.registry).uri
    assert record(wider, run).partitions["test"][0] == "2024-03-19" <= record(clinic).last_fitted
    result = evidence(wider, PARTITION, run)
    assert result.last_fitted == wider.spec.clock.shift(record(clinic).last_fitted, 2)
    assert result.losses.partitions[0] > result.last_fitted
    assert len(result.losses.partitions) == len(record(clinic).partitions["test"]) - 2


def test_champion_that_cannot_be_read_is_told_in_the_evidence(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """A damaged champion doesn't fail the stage; the evidence notes why it wasn't compared."""
    promote(PARTITION, clinic.run)
    clinic.lake.replace(artifacts.model_key(record(clinic).challenger.digest), b"damaged")
    visits.fill(clinic.lake, clinic.spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(clinic.lake, clinic.spec, NEXT_PARTITION, registry=clinic.registry).uri
    result = evidence(clinic, NEXT_PARTITION, run)
    assert result.champion == ""
    assert result.note.startswith("champion v1 can't be compared: model ")
    assert "champion" not in result.losses.sums


def test_moved_data_are_refused(clinic: Clinic) -> None:
    """A label that was revised since the training is an error with a remedy."""
    rows = clinic.lake.read("validated_outcomes", {"partition": "2024-03-10"})
    assert rows is not None
    changed = pa.array(np.full(rows.num_rows, 99.0))
    revised = rows.set_column(rows.schema.get_field_index("minutes"), "minutes", changed)
    clinic.lake.publish("validated_outcomes", revised, {"partition": "2024-03-10"})
    with pytest.raises(StaleDecision, match=r"the training data of the training.*to train again"):
        evidence(clinic)


def test_changed_declaration_is_refused(clinic: Clinic) -> None:
    """A declaration that changed since the training is an error."""
    file = clinic.spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("min_partitions: 3", "min_partitions: 4"))
    with pytest.raises(StaleDecision, match=r"the declaration of the training"):
        evidence(replace(clinic, spec=read(file)))


def test_fit_and_serve_that_differ_are_an_error(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose predictions differ by one bit from those in training isn't judged."""
    predict = artifacts.predict

    def nudged(*args: object) -> np.ndarray:
        result = predict(*args)  # type: ignore[arg-type]
        return np.nextafter(result, result + 1)

    monkeypatch.setattr(artifacts, "predict", nudged)
    with pytest.raises(ModelError, match=r"required the predictions from training"):
        evidence(clinic)


def test_no_labelled_test_partition_is_evidence_of_nothing(clinic: Clinic) -> None:
    """Without a matured test partition there are no losses, and the verdict is "not enough evidence"."""
    file = clinic.spec.folder / "usecase.yaml"
    short = clinic.spec.training.model_copy(update={"test": 2})  # a declaration with it is refused
    file.write_text(file.read_text().replace("statement: s", "statement: short"))
    young = replace(clinic, spec=read(file).model_copy(update={"training": short}))
    run = train(young.lake, young.spec, PARTITION, registry=young.registry).uri
    result = evidence(young, PARTITION, run)
    assert result.losses.partitions == ()
    assert set(result.metrics) == {"challenger", "baseline:prior", "baseline:linear"}
    assert not any(result.metrics.values())
    key = next(key for key in young.lake.keys("evaluations/") if result.key in key)
    assert judge_and_record(young.lake, young.spec, key).verdict == "not enough evidence"
