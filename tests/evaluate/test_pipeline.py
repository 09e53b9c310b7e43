"""Evidence measures every model on the same unseen rows, loaded as it would serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from mlflow import MlflowClient

from include.errors import ModelError, TrainingOutdated
from include.evaluate import measure
from include.evaluate.pipeline import evaluate
from include.features.build import features
from include.features.labels import training_set
from include.judge.evidence import Evidence
from include.models import artifacts
from include.promote import ledger
from include.promote.promotion import Promotion, force
from include.promote.promotion import promote as promote_attempt
from include.promote.verdicts import judge_and_record
from include.spec.load import read
from include.stats.metrics import row_losses
from include.storage import schemas
from include.train.fits import read_fits
from include.train.fitting import target
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from include.train.split import split
from tests.evaluate.conftest import Clinic
from tests.train import visits

PARTITION = visits.LAST
NEXT_PARTITION = "2024-03-31"  # the next training partition
# a training takes seconds, and what is measured of it doesn't depend on the kind but for its losses
EACH_KIND = [
    kind if kind == "binary" else pytest.param(kind, marks=pytest.mark.full) for kind in visits.KINDS
]


def record(clinic: Clinic, run: str = "") -> TrainingRecord:
    """Return what a training left."""
    return TrainingRecord.from_json(clinic.registry.get(run or clinic.run, PATH))


def evidence(clinic: Clinic, partition: str = PARTITION, run: str = "") -> Evidence:
    """Evaluate, and return the evidence as it lies in the lake."""
    ref = evaluate(clinic.lake, clinic.spec, partition, run or clinic.run, registry=clinic.registry)
    data = clinic.lake.get(ref.id)
    assert data is not None
    return Evidence.from_json(data)


@pytest.fixture
def promote(clinic: Clinic) -> Callable[[str, str], None]:
    """Let a training's challenger serve, whatever the gate says."""

    def promote_challenger(partition: str, run: str) -> None:
        ref = evaluate(clinic.lake, clinic.spec, partition, run, registry=clinic.registry)
        judge_and_record(clinic.lake, clinic.spec, ref.id)
        key = ref.id.removeprefix("evaluations/").removesuffix(".json")
        force(clinic.lake, clinic.spec, key, "tests", "a champion is needed", registry=clinic.registry)

    return promote_challenger


@pytest.mark.full
@pytest.mark.parametrize("trained", EACH_KIND, indirect=True)
def test_losses_are_those_of_the_walks_on_the_test_partitions(clinic: Clinic) -> None:
    """The sums are what each recipe's fits lose on partitions that came after them, by partition."""
    result, training, spec = evidence(clinic), record(clinic), clinic.spec
    test = split(training_set(clinic.lake, spec, PARTITION), spec, PARTITION).test
    assert result.losses.partitions == tuple(training.partitions["test"])
    assert (result.losses.partitions[0], result.last_fitted) == ("2024-03-23", "2024-03-20")
    actual = target(spec, test)
    (first,) = {fit.partition for fit in read_fits(clinic.lake)} - {PARTITION, "2024-03-29"}
    assert first == "2024-03-22"
    fits = {fit.recipe: fit.model for fit in read_fits(clinic.lake) if fit.partition == first}
    names = {"challenger": training.challenger.name, "baseline:prior": "prior", "baseline:linear": "linear"}
    assert set(result.losses.sums) == set(names)
    for name, recipe in names.items():
        predictions = artifacts.predict(artifacts.load_model(clinic.lake, fits[recipe]), test, spec)
        losses = row_losses(spec.gate.objective, actual, predictions)
        assert result.losses.sums[name] == pytest.approx(losses.reshape(-1, 36).sum(axis=1))
    assert (result.model, result.constant) == (training.challenger.digest, training.constant)
    assert result.baseline_model == training.baseline.digest
    assert (result.fitted, result.selection) == (training.last_fitted, asdict(training.selection))


@pytest.mark.full
def test_the_deployed_fit_is_measured_on_the_rows_that_it_has_seen(clinic: Clinic) -> None:
    """Its loss on the test rows is in the evidence, beside the walk's, and it knows what is scored."""
    result, spec = evidence(clinic), clinic.spec
    rows = training_set(clinic.lake, spec, PARTITION)
    test = split(rows, spec, PARTITION).test
    deployed = artifacts.load_model(clinic.lake, result.model)
    loss = row_losses(spec.gate.objective, target(spec, test), artifacts.predict(deployed, test, spec)).mean()
    assert result.facts.refit_loss == pytest.approx(loss)
    scored = features(clinic.lake, spec, spec.clock.keys("2024-03-23", PARTITION))
    before = rows.filter(pc.less(rows["partition"], "2024-03-23"))
    assert measure.unseen_shares(spec, before, scored)["place"] > 0.1  # a place that opened on 24 March
    assert result.facts.unseen_shares["place"] == 0


@pytest.mark.full
def test_again_gives_the_same_bytes(clinic: Clinic) -> None:
    """A rerun is idempotent: it writes the same bytes and logs nothing new."""
    refs = [
        evaluate(clinic.lake, clinic.spec, PARTITION, clinic.run, registry=clinic.registry) for _ in range(2)
    ]
    assert refs[0] == refs[1]
    objects = {key: clinic.lake.get(key) for key in clinic.lake.keys("evaluations/")}
    assert set(objects) == {
        refs[0].id,
        refs[0].id.replace(".json", ".parquet"),
        f"evaluations/serving/{record(clinic).challenger.digest}.json",
    }
    evaluate(clinic.lake, clinic.spec, PARTITION, clinic.run, registry=clinic.registry)
    assert {key: clinic.lake.get(key) for key in objects} == objects
    client = MlflowClient(clinic.registry.uri, clinic.registry.uri)
    metric = next(m for m in client.get_run(clinic.run).data.metrics if m.startswith("test.challenger."))
    assert len(client.get_metric_history(clinic.run, metric)) == 1


@pytest.mark.full
# of the three classes another recipe is the best one a partition later
@pytest.mark.parametrize("trained", EACH_KIND[:2], indirect=True)
def test_a_refresh_is_compared_with_the_fit_that_serves(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """There is no rival recipe, but a twin on the newest partition and the distance from the previous fit."""
    promote(PARTITION, clinic.run)
    serving = record(clinic)
    visits.fill(clinic.lake, clinic.spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(clinic.lake, clinic.spec, NEXT_PARTITION, registry=clinic.registry).id
    result = evidence(clinic, NEXT_PARTITION, run)
    assert (result.champion, result.is_refresh) == (serving.challenger.digest, True)
    assert "champion" not in result.losses.sums
    refit = result.facts.refit
    assert refit is not None
    assert refit.moved is not None
    # labels came for one partition
    assert (len(refit.rows), len(refit.twin), len(refit.serving)) == (1, 1, 1)
    assert refit.twin == refit.serving  # today's data without it are what the serving model was fitted on
    rows = training_set(clinic.lake, clinic.spec, NEXT_PARTITION)
    fitted = rows.filter(pc.less_equal(rows["partition"], serving.last_fitted))
    scored = features(
        clinic.lake, clinic.spec, clinic.spec.clock.keys(result.losses.partitions[0], NEXT_PARTITION)
    )
    assert result.facts.champion_unseen_shares == measure.unseen_shares(clinic.spec, fitted, scored)


@pytest.mark.full
def test_another_recipe_is_compared_with_the_serving_one_by_their_walks(clinic: Clinic) -> None:
    """The losses of both are of fits that came before each partition, so no row is left out."""
    row = {"switch": 1, "role": "champion", "version": "1", "model": _model(clinic, "prior"), "constant": 0.2}
    row |= {"effective_from": "2024-03-10", "judged_on": "2024-03-09", "recipe": "prior", "kind": "promoted"}
    clinic.lake.append_at("switches", pa.Table.from_pylist([row], schema=schemas.SWITCHES), -1)
    visits.fill(clinic.lake, clinic.spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(clinic.lake, clinic.spec, NEXT_PARTITION, registry=clinic.registry).id
    result = evidence(clinic, NEXT_PARTITION, run)
    assert not result.is_refresh
    assert result.losses.sums["champion"] == result.losses.sums["baseline:prior"]
    assert result.losses.partitions == tuple(record(clinic, run).partitions["test"])
    assert result.selection["gain"][0] > 0
    assert result.facts.rival == "champion"


@pytest.mark.full
def test_a_switch_after_the_fit_supersedes_it_and_training_again_is_another_attempt(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """The recipe was chosen against the champion before, so its evidence is about that one."""
    promote(PARTITION, clinic.run)
    lake, spec, registry = clinic.lake, clinic.spec, clinic.registry
    visits.fill(lake, spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(lake, spec, NEXT_PARTITION, registry=registry).id
    champion = ledger.live_champion(ledger.switches(lake))
    assert champion is not None
    replacement = {**champion, "kind": "replaced", "model": _model(clinic, "prior"), "recipe": "prior"}
    ledger.record_switch(lake, lambda _: [replacement])
    result = evidence(clinic, NEXT_PARTITION, run)
    assert (result.champion, result.is_refresh) == (champion["model"], True)
    assert promotion(clinic, result).blocker.startswith("superseded: judged against ")
    again = train(lake, spec, NEXT_PARTITION, registry=registry).id
    anew = evidence(clinic, NEXT_PARTITION, again)
    assert (anew.champion, anew.selection["serving"]) == (replacement["model"], "prior")
    assert promotion(clinic, anew).switch is not None
    assert train(lake, spec, NEXT_PARTITION, registry=registry).id == again


@pytest.mark.full
def test_a_champion_whose_training_is_repeated_after_a_correction_is_tested_on_no_row_that_it_knows(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """Its fit isn't recorded any more, but its evidence has the last partition that it was fitted on."""
    promote(PARTITION, clinic.run)
    visits.revise(clinic.lake, ["2024-03-10"])
    run = train(clinic.lake, clinic.spec, PARTITION, registry=clinic.registry).id
    assert record(clinic).challenger.digest not in {fit.model for fit in read_fits(clinic.lake)}
    result = evidence(clinic, PARTITION, run)
    assert result.champion == record(clinic).challenger.digest
    assert result.facts.refit is not None
    assert result.facts.refit.rows == ()


def promotion(clinic: Clinic, measured: Evidence) -> Promotion:
    """Judge evidence, and promote if the verdict allows."""
    judge_and_record(clinic.lake, clinic.spec, f"evaluations/{measured.key}.json")
    return promote_attempt(clinic.lake, clinic.spec, measured.key, registry=clinic.registry)


def _model(clinic: Clinic, recipe: str) -> str:
    """Return the digest of a recipe's newest fit."""
    return [fit.model for fit in read_fits(clinic.lake) if fit.recipe == recipe][-1]


@pytest.mark.full
def test_a_champion_that_cannot_be_read_stops_nothing(
    clinic: Clinic, promote: Callable[[str, str], None]
) -> None:
    """A damaged champion is compared with nothing, so that its successor can be trained and judged."""
    promote(PARTITION, clinic.run)
    clinic.lake.replace(artifacts.model_key(record(clinic).challenger.digest), b"damaged")
    visits.fill(clinic.lake, clinic.spec, NEXT_PARTITION, NEXT_PARTITION)
    run = train(clinic.lake, clinic.spec, NEXT_PARTITION, registry=clinic.registry).id
    result = evidence(clinic, NEXT_PARTITION, run)
    refit = result.facts.refit
    assert refit is not None
    assert (refit.moved, refit.twin, refit.serving) == (None, (), ())
    assert result.losses.partitions


@pytest.mark.full
def test_moved_data_are_refused(clinic: Clinic) -> None:
    """A label that was revised since the training is an error with a remedy."""
    rows = clinic.lake.read("validated_outcomes", {"partition": "2024-03-10"})
    assert rows is not None
    changed = pa.array(np.full(rows.num_rows, 99.0))
    revised = rows.set_column(rows.schema.get_field_index("minutes"), "minutes", changed)
    clinic.lake.publish("validated_outcomes", revised, {"partition": "2024-03-10"})
    with pytest.raises(TrainingOutdated, match=r"the training data of the training.*to train again"):
        evidence(clinic)


def test_changed_declaration_is_refused(clinic: Clinic) -> None:
    """A declaration that changed since the training is an error."""
    file = clinic.spec.folder / "usecase.yaml"
    file.write_text(file.read_text().replace("min_partitions: 3", "min_partitions: 4"))
    with pytest.raises(TrainingOutdated, match=r"the declaration of the training"):
        evidence(replace(clinic, spec=read(file)))


def test_fit_and_serve_that_differ_are_an_error(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose predictions differ by one bit from those in training isn't judged."""
    predict = artifacts.predict

    def nudged(*args: object) -> np.ndarray:
        result = predict(*args)  # type: ignore[arg-type]
        return np.nextafter(result, result + 1)

    monkeypatch.setattr(artifacts, "predict", nudged)
    with pytest.raises(ModelError, match=r"expected the predictions from training"):
        evidence(clinic)


@pytest.mark.full
def test_no_labeled_test_partition_is_evidence_of_nothing(clinic: Clinic) -> None:
    """Without a matured test partition there are no losses, and the verdict is "not enough evidence"."""
    file = clinic.spec.folder / "usecase.yaml"
    short = clinic.spec.training.model_copy(update={"test": 2})  # a declaration with it is refused
    file.write_text(file.read_text().replace("statement: s", "statement: short"))
    young = replace(clinic, spec=read(file).model_copy(update={"training": short}))
    run = train(young.lake, young.spec, PARTITION, registry=young.registry).id
    result = evidence(young, PARTITION, run)
    assert result.losses.partitions == ()
    assert set(result.metrics) == {"challenger", "baseline:prior", "baseline:linear"}
    assert result.facts.refit_loss is None
    assert not any(result.metrics.values())
    key = next(key for key in young.lake.keys("evaluations/") if result.key in key)
    assert judge_and_record(young.lake, young.spec, key).verdict == "not enough evidence"
