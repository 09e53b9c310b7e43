"""Training is repeatable.

The same partition, declaration and data are one run and one model, killed or not.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from mlflow import MlflowClient
from pydantic import TypeAdapter, ValidationError
from sklearn.pipeline import Pipeline

from evergreen.operators.train import AblateOperator, TrainOperator
from include.errors import EvergreenError, InsufficientData, SpecError
from include.features.labels import training_set
from include.judge.judge import BLESSED
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.references import Ref, digest_bytes
from include.spec import UseCase
from include.spec.source import Name
from include.spec.stages import Recipe
from include.stats import profiles
from include.storage import compaction, schemas
from include.storage.lake import Lake
from include.train import fits, monitoring_baselines, walks
from include.train.fits import read_fits
from include.train.fitting import chosen_params, fit_recipe, target
from include.train.pipeline import train
from include.train.recipes import recipes
from include.train.record import PATH, TrainingRecord
from include.train.selection import best_baseline, choose_recipe
from include.train.split import split
from include.validate.pipeline import validate
from tests.promote.conftest import record_verdict
from tests.train import dying, visits

PARTITION = visits.LAST


def runs(registry: Registry) -> list[str]:
    """Return the status of each run that isn't deleted."""
    client = MlflowClient(registry.uri, registry.uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.status for run in client.search_runs(ids)]


def versions(registry: Registry, spec: UseCase) -> list[str]:
    """Return the versions of the registered model."""
    client = MlflowClient(registry.uri, registry.uri)
    return [str(found.version) for found in client.search_model_versions(f"name = '{spec.name}'")]


def record(registry: Registry, run: str) -> TrainingRecord:
    """Return what a training left."""
    return TrainingRecord.from_json(registry.get(run, PATH))


def serve(lake: Lake, recipe: str) -> None:
    """Let a model of a recipe serve."""
    row = {
        "switch": 1,
        "role": "champion",
        "version": "1",
        "model": "m" * 64,
        "constant": 0.2,
        "kind": "promoted",
    }
    row |= {"effective_from": "2024-03-10", "judged_on": "2024-03-09", "recipe": recipe}
    lake.append_at("switches", pa.Table.from_pylist([row], schema=schemas.SWITCHES), -1)


@dataclass(frozen=True)
class Trained:
    """The clinic after a training, which is only read."""

    spec: UseCase
    lake: Lake
    registry: Registry
    ref: Ref


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The binary clinic, trained once for all tests that look at what a training leaves."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("trained") / "clinic")
    spec = visits.usecase(folder / "usecases")
    lake = Lake(spec.name, str(folder / "lake"))
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    return Trained(spec, lake, registry, train(lake, spec, PARTITION, registry=registry))


@pytest.mark.full
@pytest.mark.parametrize(
    "kind", ["binary", *(pytest.param(k, marks=pytest.mark.full) for k in ("regression", "multiclass"))]
)
def test_challenger_is_the_newest_fit_of_the_recipe_that_the_walks_choose(
    kind: str, clinic: Path, registry: Registry
) -> None:
    """It is fitted on every labeled row, and stored with the best other baseline."""
    spec = visits.usecase(clinic / "usecases", kind)
    lake = Lake(spec.name, str(clinic / "lake"))
    ref = train(lake, spec, PARTITION, registry=registry)
    result, rows = record(registry, ref.id), training_set(lake, spec, PARTITION)
    walk = walks.read(lake, spec, PARTITION)
    choice = choose_recipe(spec, walk, "")
    baseline = best_baseline(spec, walk, choice)
    assert (result.challenger.name, result.baseline.name) == (choice.recipe, baseline)
    assert result.selection.weights == choice.weights
    assert result.selection.losses == {name: walk.mean(name) for name in walk.recipes}
    assert (result.selection.serving, result.selection.partitions) == ("", 6)
    assert choice.reason in ref.note
    assert (result.last_fitted, result.fitted_rows, ref.rows) == ("2024-03-28", *[rows.num_rows] * 2)
    assert result.constant == pytest.approx(outputs.label_constant(spec, target(spec, rows)))
    recipe = {candidate.name: candidate for candidate in recipes(spec)}
    test = split(rows, spec, PARTITION).test
    for fitted in (result.challenger, result.baseline):
        data = artifacts.serialize(fit_recipe(spec, recipe[fitted.name], rows))
        assert digest_bytes(data) == fitted.digest
        assert registry.get(ref.id, fitted.path, fitted.digest) == data
        estimator = artifacts.deserialize(data, fitted.digest)
        assert digest_bytes(artifacts.predict(estimator, test, spec).tobytes()) == fitted.predictions


def test_a_training_beyond_the_newest_data_is_refused(spec: UseCase, lake: Lake, registry: Registry) -> None:
    """None of its test partitions has rows; it leaves no run and names what may be trained on."""
    remedy = f"train on {PARTITION}, or run the partitions until 2024-06-01 first"
    with pytest.raises(InsufficientData, match=rf"but found the newest of {PARTITION}; {remedy}"):
        train(lake, spec, "2024-06-01", registry=registry)
    assert runs(registry) == []


@pytest.mark.full
def test_chosen_parameters_are_in_mlflow_and_in_the_note(clinic: Path, registry: Registry) -> None:
    """What a search and early stopping chose for each recipe can be read without loading a model."""
    declared = {
        "{name: linear, estimator: logistic_regression}": "{name: linear, estimator: logistic_regression, "
        "search: {C: [0.5, 2.0]}}",
        "params: {max_iter: 15, min_samples_leaf: 10}": "params: {max_iter: 60}, early_stopping: 4",
        "estimator: random_forest, params: {n_estimators: 10, min_samples_leaf: 5}": "estimator: xgboost, "
        "params: {n_estimators: 40}, search: {max_depth: [2, 4]}, early_stopping: 4, calibration: sigmoid",
    }
    spec = visits.usecase(clinic / "usecases", **declared)
    lake = Lake(spec.name, str(clinic / "lake"))
    ref = train(lake, spec, PARTITION, registry=registry)
    params = MlflowClient(registry.uri, registry.uri).get_run(ref.id).data.params
    fits = {fit.recipe: fit for fit in read_fits(lake) if fit.partition == PARTITION}
    chosen = {
        name: chosen_params(artifacts.load_model(lake, fits[name].model))
        for name in ("linear", "boosting", "forest")
    }
    assert [set(chosen[name]) for name in chosen] == [{"C"}, {"max_iter"}, {"max_depth", "n_estimators"}]
    for name, values in chosen.items():
        assert {key: params[f"{name}.{key}"] for key in values} == {k: str(v) for k, v in values.items()}
    assert params["forest.calibration"] == "sigmoid"
    challenger = record(registry, ref.id).challenger
    assert challenger.chosen == chosen[challenger.name]
    assert f" with {', '.join(f'{k} {v}' for k, v in challenger.chosen.items())} chosen; " in ref.note
    assert train(lake, spec, PARTITION, registry=registry) == ref


@pytest.mark.full
def test_another_recipe_than_the_serving_one_states_its_gain(
    lake: Lake, spec: UseCase, registry: Registry
) -> None:
    """The record has how much lower the chosen recipe's loss is than that of the one that serves."""
    serve(lake, "prior")
    selection = record(registry, train(lake, spec, PARTITION, registry=registry).id).selection
    assert (selection.serving, selection.recipe != "prior") == ("prior", True)
    assert "times the weight of prior" in selection.reason
    assert selection.gain is not None
    assert selection.gain[0] > max(selection.gain[1], 0)


@pytest.mark.full
def test_a_serving_recipe_that_is_not_declared_any_more_is_followed_by_another(
    lake: Lake, spec: UseCase, registry: Registry
) -> None:
    """Its successor is chosen as if nothing served."""
    serve(lake, "ridge")
    selection = record(registry, train(lake, spec, PARTITION, registry=registry).id).selection
    assert (selection.serving, selection.gain) == ("", None)
    assert set(selection.weights) == {"prior", "linear", "boosting", "forest"}


@pytest.mark.full
def test_run_holds_what_is_needed_to_do_it_again(trained: Trained) -> None:
    """MLflow keeps parameters, seed, bounds, the lake's versions, and the digests of data and declaration."""
    lake, spec, registry, ref = trained.lake, trained.spec, trained.registry, trained.ref
    made = record(registry, ref.id)
    data = MlflowClient(registry.uri, registry.uri).get_run(ref.id).data
    expected = {
        "seed": "7",
        "partition": PARTITION,
        "boosting.max_iter": "15",
        "partitions.train": "2024-03-01..2024-03-22",
        "partitions.test": "2024-03-23..2024-03-28",
        "challenger": made.challenger.name,
        "lake.visits": str(lake.version("validated_visits")),
    }
    assert expected.items() <= data.params.items()
    assert {f"walk.{recipe.name}.log_loss" for recipe in recipes(spec)} <= set(data.metrics)
    assert sum(data.metrics[f"walk.{recipe.name}.weight"] for recipe in recipes(spec)) == pytest.approx(1)
    assert data.tags["evergreen.spec"] == spec.digest
    assert data.tags["evergreen.data"] == made.data
    assert registry.run_of(spec.name, made.version) == ref.id
    client = MlflowClient(registry.uri, registry.uri)
    tags = {"recipe": made.challenger.name, "fitted_until": made.last_fitted}
    assert client.get_model_version(spec.name, made.version).tags == tags
    used = {used.dataset.name: used.dataset for used in client.get_run(ref.id).inputs.dataset_inputs}
    assert set(used) == {f"validated_{source}" for source in spec.sources}
    source = {"path": f"{lake.uri}/tables/validated_visits"}
    assert json.loads(used["validated_visits"].source) == {
        **source,
        "delta_table_version": lake.version("validated_visits"),
    }


@pytest.mark.full
def test_second_call_makes_no_second_run(trained: Trained) -> None:
    """The same attempt returns the run that is there."""
    assert train(trained.lake, trained.spec, PARTITION, registry=trained.registry) == trained.ref
    assert runs(trained.registry) == ["FINISHED"]
    assert versions(trained.registry, trained.spec) == ["1"]


@pytest.mark.full
def test_same_seed_gives_the_same_bytes_in_another_registry(
    trained: Trained, lake: Lake, spec: UseCase, registry: Registry
) -> None:
    """Two trainings of one attempt that know nothing of each other make the same models."""
    first = record(trained.registry, trained.ref.id)
    assert record(registry, train(lake, spec, PARTITION, registry=registry).id) == first


@pytest.mark.full
def test_another_seed_is_another_attempt(lake: Lake, spec: UseCase, registry: Registry, clinic: Path) -> None:
    """What the declaration says is part of the attempt, and the seed reaches the models."""
    first = train(lake, spec, PARTITION, registry=registry)
    second = train(
        lake, visits.usecase(clinic / "usecases", **{"seed: 7": "seed: 8"}), PARTITION, registry=registry
    )
    assert (first.id, first.digest) != (second.id, second.digest)
    assert runs(registry) == ["FINISHED", "FINISHED"]


@pytest.mark.full
@pytest.mark.parametrize(
    "method", ["register", *(pytest.param(name, marks=pytest.mark.full) for name in ("put", "log"))]
)
def test_kill_within_a_run_leaves_one_finished_run_after_the_rerun(
    method: str,
    lake: Lake,
    spec: UseCase,
    registry: Registry,
    clinic: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A training killed after its run was created is done again, but not its fits; nothing else is left."""
    assert dying.at_once(clinic, method) == [-signal.SIGKILL]
    assert runs(registry) == ["RUNNING"]
    caplog.set_level("INFO", fits.log.name)
    ref = train(lake, spec, PARTITION, registry=registry)
    assert not caplog.records
    assert runs(registry) == ["FINISHED"]
    assert versions(registry, spec) == [record(registry, ref.id).version]


@pytest.mark.full
def test_two_at_once_leave_one_run(lake: Lake, spec: UseCase, registry: Registry, clinic: Path) -> None:
    """Of two trainings of one attempt at the same time one stays, and both return it."""
    assert dying.at_once(clinic, "", "") == [0, 0]
    left = train(lake, spec, PARTITION, registry=registry)
    assert runs(registry) == ["FINISHED"]
    assert versions(registry, spec) == [record(registry, left.id).version]
    assert [file.read_text() for file in clinic.glob("*.run")] == [left.id, left.id]


def test_the_product_of_reference_profiles_is_no_name_of_a_source() -> None:
    """Or else a source's ingest would replace the profiles of the models trained on that partition."""
    with pytest.raises(ValidationError, match="should match pattern"):
        TypeAdapter(Name).validate_python(monitoring_baselines.REFERENCE)


def test_reference_is_published_for_the_drift_comparison(trained: Trained) -> None:
    """The profiles hold the fitted rows' features and labels, and predictions on rows that weren't fitted."""
    lake, spec, registry, ref = trained.lake, trained.spec, trained.registry, trained.ref
    made = record(registry, ref.id)
    found = monitoring_baselines.read_reference(lake, ref.digest, PARTITION)
    assert set(found) == {*spec.features.columns, spec.problem.target, "prediction"}
    assert found["distance"].count == made.rows["train"] + made.rows["test"]
    assert found["prediction"].count == made.rows["test"]
    assert monitoring_baselines.read_reference(lake, "another", PARTITION) == {}


@pytest.mark.full
def test_references_stay_few_files_however_many_trainings(lake: Lake) -> None:
    """A hundred trainings leave a few files of profiles, and each model's reference as it was published."""
    trainings = [f"2024-{1 + place // 25:02}-{1 + place % 25:02}" for place in range(100)]
    for place, partition in enumerate(trainings):
        rows = pa.table({"distance": [float(place)]})
        built = profiles.build_profile("", partition, rows, ["distance"], [])
        monitoring_baselines.publish_reference_profiles(lake, f"model {place}", partition, [built])
    opened = lake.open("profiles")
    assert opened is not None
    assert len(opened.file_uris()) <= 2 * compaction.FANOUT
    read = [
        monitoring_baselines.read_reference(lake, f"model {place}", partition)
        for place, partition in enumerate(trainings)
    ]
    assert [columns["distance"].mean for columns in read] == list(range(100))


def test_a_training_before_the_first_labels_says_so(lake: Lake, spec: UseCase, registry: Registry) -> None:
    """Without a labeled row there is a sentence with a remedy, and no run."""
    with pytest.raises(EvergreenError, match=r"found no labeled row.*load more history"):
        train(lake, spec, "2024-03-02", registry=registry)
    assert runs(registry) == []


@pytest.mark.full
@pytest.mark.parametrize(("partition", "tested"), [("2024-03-03", 0), ("2024-03-04", 1), ("2024-03-07", 2)])
def test_the_first_partitions_with_labels_are_enough_for_a_model(
    partition: str, tested: int, lake: Lake, spec: UseCase, registry: Registry
) -> None:
    """A training on one labeled partition has no test partition, and still a model and its monitoring."""
    ref = train(lake, spec, partition, registry=registry)
    result = record(registry, ref.id)
    assert len(result.partitions["test"]) == tested
    assert result.last_fitted == spec.clock.shift(partition, -2)
    assert set(result.selection.weights) == {"prior", "linear", "boosting", "forest"}
    assert monitoring_baselines.read_reference(lake, ref.digest, partition)


@pytest.mark.full
def test_labels_that_stopped_coming_leave_no_test_partition(
    lake: Lake, spec: UseCase, registry: Registry
) -> None:
    """Where the newest label is older than the test window, the model is fitted and nothing is judged."""
    visits.fill(lake, spec, "2024-03-31", "2024-04-20")
    late = {"partition": spec.clock.keys("2024-03-31", "2024-04-20")}
    shape = schemas.validated_schema(spec.sources["outcomes"])
    lake.publish("validated_outcomes", shape.empty_table(), late)
    lake.publish("partitions", schemas.PARTITIONS.empty_table(), {"product": "outcomes", **late})
    result = record(registry, train(lake, spec, "2024-04-20", registry=registry).id)
    assert result.partitions["test"] == []


@pytest.mark.full
def test_a_damaged_earlier_fit_stops_no_training(lake: Lake, spec: UseCase, registry: Registry) -> None:
    """The walk has a gap where it predicted, and the next fit isn't compared with it."""
    train(lake, spec, "2024-03-20", registry=registry)
    record_verdict(lake, BLESSED, "2024-03-20")
    first = {fit.recipe: fit for fit in read_fits(lake) if fit.partition == "2024-03-20"}
    lake.replace(artifacts.model_key(first["linear"].model), b"damaged")
    train(lake, spec, PARTITION, registry=registry)
    moved = {fit.recipe: fit.moved for fit in read_fits(lake) if fit.partition == PARTITION}
    assert moved["linear"] is None
    assert moved["boosting"] is not None
    walk = walks.read(lake, spec, PARTITION)
    after = [partition > "2024-03-20" for partition in walk.partitions]
    assert np.isnan(walk.of("linear")[after]).all()
    assert np.isfinite(walk.of("boosting")[after]).all()


@pytest.mark.parametrize(
    ("operator", "outcome"), [(TrainOperator, AirflowFailException), (AblateOperator, AirflowSkipException)]
)
def test_a_task_without_enough_labels_is_not_retried(
    clinic: Path,
    registry: Registry,
    spec: UseCase,
    monkeypatch: pytest.MonkeyPatch,
    operator: type[BaseOperator],
    outcome: type[Exception],
) -> None:
    """A training without enough labeled partitions fails at once, and an ablation is skipped."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(clinic / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(clinic / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    run = SimpleNamespace(partition_key="2024-03-02", run_type="scheduled")
    task = operator(task_id="early", usecase=spec.name)
    with pytest.raises(outcome, match=r"found (no labeled row|0)"):
        task.execute({"dag_run": run, "params": {}})  # type: ignore[typeddict-item]  # all that it reads


def test_single_class_is_refused(lake: Lake, registry: Registry, clinic: Path) -> None:
    """Labels that a classifier can't learn from are refused by their column."""
    spec = visits.usecase(clinic / "usecases", **{"minutes > 15": "minutes > 100000"})
    with pytest.raises(EvergreenError, match=r"both 0 and 1 as missed.*found 0"):
        train(lake, spec, PARTITION, registry=registry)


@pytest.mark.full
def test_a_parameter_that_does_not_fit_leaves_its_recipe_out(
    lake: Lake, registry: Registry, clinic: Path
) -> None:
    """A parameter's wrong value is refused with scikit-learn's own words; the other recipes are trained."""
    spec = visits.usecase(clinic / "usecases", **{"max_iter: 15": "max_iter: none"})
    result = record(registry, train(lake, spec, PARTITION, registry=registry).id)
    assert list(result.selection.failed) == ["boosting"]
    assert re.search(r"training.boosting.*max_iter", result.selection.failed["boosting"])
    assert set(result.selection.weights) == {"prior", "linear", "forest"}


@pytest.mark.full
def test_a_training_without_its_prior_fails(
    lake: Lake, spec: UseCase, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prior stands for the last resort: if it can't be fitted, the run fails and leaves no version."""

    def fail(spec: UseCase, recipe: Recipe, rows: pa.Table, unshifted: Pipeline | None) -> Pipeline:
        if recipe.name == "prior":
            raise SpecError("missed_visits: training.prior", found="no memory")
        return fit_recipe(spec, recipe, rows, unshifted)

    monkeypatch.setattr(fits, "fit_recipe", fail)
    with pytest.raises(SpecError, match=r"training\.prior: found no memory"):
        train(lake, spec, PARTITION, registry=registry)
    assert runs(registry) == ["FAILED"]
    assert versions(registry, spec) == []


@pytest.mark.full
def test_registry_that_is_down_is_named_within_seconds(lake: Lake, spec: UseCase) -> None:
    """The sentence names the server, and not its password; it comes before anything is fitted."""
    with pytest.raises(EvergreenError, match=r"127\.0\.0\.1:9.*MLFLOW_TRACKING_URI") as caught:
        train(lake, spec, PARTITION, registry=Registry("http://user:hidden@127.0.0.1:9"))
    assert "hidden" not in str(caught.value)
    assert read_fits(lake) == []


def test_a_spine_known_only_after_the_decision_says_so(lake: Lake, registry: Registry, clinic: Path) -> None:
    """More history, a later partition or shorter windows wouldn't help: the hour has to change."""
    spec = visits.usecase(clinic / "usecases", **{'batch: "0 18': 'batch: "0 11'})
    with pytest.raises(EvergreenError) as refusal:
        train(lake, spec, PARTITION, registry=registry)
    assert "the spine visits is known by the decision, but found 28 of 28" in str(refusal.value)
    expected = "as 2024-03-28: known from 2024-03-28 12:00 UTC on, decision at 2024-03-28 11:00 UTC"
    assert expected in str(refusal.value)
    assert "move schedule.batch to 12:00 or later" in str(refusal.value)
    assert "more history" not in str(refusal.value)
    assert any("sources.visits.available_at" in one.sentence for one in validate(spec))
    assert runs(registry) == []
