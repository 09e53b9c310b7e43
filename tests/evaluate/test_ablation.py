"""Ablation reports how much higher the loss is without each feature group, with an interval."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from airflow.sdk.exceptions import AirflowSkipException
from mlflow import MlflowClient
from typer.testing import CliRunner

from evergreen.operators.train import AblateOperator
from include.cli.app import app
from include.errors import InsufficientData, NotPublished, SpecError
from include.evaluate.ablation import Ablation, ablate
from include.features.labels import training_set
from include.models import artifacts
from include.spec import UseCase
from include.spec.load import read
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.train.record import PATH, TrainingRecord
from include.train.split import split
from tests.evaluate.conftest import Clinic
from tests.train import visits

GROUPS = "{far: [distance], before: [earlier], where: [place]}"
FEATURES = "numeric: [distance, earlier], categorical: [place]"


def figures(clinic: Clinic) -> dict[str, float]:
    """Return the ablation's metrics of the run."""
    metrics = MlflowClient(clinic.registry.uri, clinic.registry.uri).get_run(clinic.run).data.metrics
    return {name: value for name, value in metrics.items() if name.startswith("ablation.")}


@pytest.fixture
def grouped(clinic: Clinic) -> Callable[[str], Clinic]:
    """Declare feature groups; the changed declaration has no training of its own."""

    def act(groups: str) -> Clinic:
        file = clinic.spec.folder / "usecase.yaml"
        file.write_text(file.read_text().replace(FEATURES, f"{FEATURES}, groups: {groups}"))
        return replace(clinic, spec=read(file))

    return act


@pytest.mark.full
def test_default_groups_are_compared_by_the_chosen_recipe(clinic: Clinic) -> None:
    """By default the numeric and the categorical features are the groups; the run has the figures."""
    spec, partition = clinic.spec, visits.LAST
    ablation = ablate(clinic.lake, spec, partition, registry=clinic.registry)
    chosen = TrainingRecord.from_json(clinic.registry.get(clinic.run, PATH)).challenger.name
    assert (ablation.recipe, ablation.run) == (chosen, clinic.run)
    assert {g.name: g.columns for g in ablation.groups} == {
        "numeric": ("distance", "earlier"),
        "categorical": ("place",),
    }
    parts = split(training_set(clinic.lake, spec, partition), spec, partition)
    bare = spec.model_copy(update={"features": spec.features.model_copy(update={"numeric": ()})})
    recipe = next(c for c in spec.training.candidates if c.name == chosen)
    losses = [
        row_losses(
            "log_loss",
            target(spec, parts.test),
            artifacts.predict(fit_recipe(s, recipe, parts.train), parts.test, s),
        )
        for s in (spec, bare)
    ]
    numeric = next(g for g in ablation.groups if g.name == "numeric")
    assert ablation.loss == pytest.approx(losses[0].mean())
    assert numeric.gain == pytest.approx(float(np.mean(losses[1] - losses[0])))
    assert numeric.low < numeric.gain < numeric.high
    metrics = figures(clinic)
    assert metrics["ablation.numeric.gain"] == numeric.gain
    assert metrics["ablation.numeric.low"] == numeric.low


@pytest.mark.full
def test_what_matters_is_told_from_what_does_not(grouped: Callable[[str], Clinic]) -> None:
    """Distance and earlier misses make a visit late in the clinic, so their gain is significant."""
    clinic = grouped(GROUPS)
    ablation = ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)
    gains = {group.name: group for group in ablation.groups}
    assert gains["far"].low > 0
    assert gains["far"].gain > gains["where"].gain
    assert [g.gain for g in ablation.groups] == sorted((g.gain for g in ablation.groups), reverse=True)
    assert ablation.run == ""  # the changed declaration was never trained
    assert figures(clinic) == {}


def test_again_is_the_same_and_adds_nothing(clinic: Clinic) -> None:
    """A rerun gives the same figures, and each is logged once."""
    first, second = (ablate(clinic.lake, clinic.spec, None, registry=clinic.registry) for _ in range(2))
    assert first == second
    assert first.partition == visits.LAST  # the newest that brought labels
    client = MlflowClient(clinic.registry.uri, clinic.registry.uri)
    assert len(client.get_metric_history(clinic.run, "ablation.numeric.gain")) == 1


def test_group_of_all_features_is_refused(grouped: Callable[[str], Clinic]) -> None:
    """A group of all features is rejected with a remedy."""
    clinic = grouped("{all: [distance, earlier, place]}")
    with pytest.raises(SpecError, match=r"ablation of all: .*at least one feature.*features.groups"):
        ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)


def test_too_few_test_partitions_are_refused(clinic: Clinic) -> None:
    """With too few partitions for an interval, the error states how many are needed."""
    short = clinic.spec.training.model_copy(update={"test": 3})  # a declaration with it is refused
    young = clinic.spec.model_copy(update={"training": short})
    with pytest.raises(InsufficientData, match=r"expected 2 labeled test partitions, but found 1"):
        ablate(clinic.lake, young, visits.LAST, registry=clinic.registry)


def test_rows_of_one_class_before_the_test_partitions_are_refused(clinic: Clinic) -> None:
    """Where the first case came in the test partitions, no recipe can be fitted before them."""
    keys = clinic.spec.clock.keys(visits.FIRST, visits.LAST)
    table = clinic.lake.read("validated_outcomes", {"partition": keys})
    assert table is not None
    late = pc.greater(table["partition"], clinic.spec.clock.shift(visits.LAST, -4))
    minutes = pc.if_else(late, table["minutes"], pc.if_else(pc.is_valid(table["minutes"]), 0.0, None))
    outcomes = table.set_column(table.column_names.index("minutes"), "minutes", minutes)
    clinic.lake.publish("validated_outcomes", outcomes, {"partition": keys})
    with pytest.raises(InsufficientData, match=r"rows of two classes before .* but found \d+ rows of one"):
        ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)


@pytest.mark.full
@pytest.mark.parametrize("trained", ["regression"], indirect=True)
def test_a_rule_of_thumb_has_no_contributions(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule needs its column and learns from no other, so the error says that another recipe is needed."""
    rule = Recipe(name="as_before", estimator="rule", params={"column": "earlier"})
    monkeypatch.setattr("include.evaluate.ablation._chosen_recipe", lambda *_: rule)
    with pytest.raises(InsufficientData, match=r"fitted on features, but found as_before, a rule of thumb"):
        ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)


def test_empty_lake_is_told(clinic: Clinic, tmp_path: Path) -> None:
    """Without published labels, the error says to run ingest first."""
    with pytest.raises(NotPublished, match=r"missed_visits: outcomes: found no partition.*run ingest"):
        ablate(Lake(clinic.spec.name, str(tmp_path / "empty")), clinic.spec, None, registry=clinic.registry)


@pytest.fixture
def outside(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The clinic, configured for the command line and Airflow."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(clinic.spec.folder.parent))
    monkeypatch.setenv("EVERGREEN_LAKE", clinic.lake.uri.removesuffix(f"/{clinic.spec.name}"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", clinic.registry.uri)
    return clinic


def test_the_task_logs_the_gains_with_their_bounds_to_the_trainings_run(outside: Clinic) -> None:
    """The task returns the run, to which each group's gain and bounds are logged."""
    partition = {"dag_run": SimpleNamespace(partition_key=visits.LAST, run_type="manual"), "params": {}}
    result = AblateOperator(task_id="ablate", usecase=outside.spec.name).execute(partition)
    metrics = figures(outside)
    ablation = ablate(outside.lake, outside.spec, visits.LAST, registry=outside.registry)
    assert metrics == {
        f"ablation.{group.name}.{bound}": getattr(group, bound)
        for group in ablation.groups
        for bound in ("gain", "low", "high")
    }
    assert (result["id"], result["partition"], result["rows"]) == (outside.run, visits.LAST, ablation.rows)
    assert result["note"].startswith(
        f"{ablation.groups[0].name} has the largest gain: {ablation.groups[0].gain:+.5f} ["
    )
    assert len(json.dumps(result)) < 1000


def test_the_task_is_skipped_where_there_are_too_few_test_partitions(
    outside: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few test partitions skip the task, which nothing depends on."""

    def young(spec: UseCase, partition: str, test: pa.Table) -> None:
        raise InsufficientData("ablation", required="2 labeled test partitions", found="1")

    monkeypatch.setattr("include.evaluate.ablation._check_enough_partitions", young)
    partition = {"dag_run": SimpleNamespace(partition_key=visits.LAST, run_type="manual"), "params": {}}
    with pytest.raises(AirflowSkipException, match="2 labeled test partitions, but found 1"):
        AblateOperator(task_id="ablate", usecase=outside.spec.name).execute(partition)


@pytest.mark.full
def test_command_prints_a_table_or_json(outside: Clinic) -> None:
    """The command prints the function's result as a table or as JSON."""
    clinic = outside
    command = ["ablate", clinic.spec.name, "--partition", visits.LAST]
    text, plain = (CliRunner().invoke(app, [*command, *more]) for more in ((), ("--json",)))
    ablation: Ablation = ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)
    assert (text.exit_code, text.stdout.rstrip("\n")) == (0, ablation.text())
    assert json.loads(plain.stdout) == json.loads(json.dumps(ablation.plain()))
    assert all(group.name in text.stdout for group in ablation.groups)
