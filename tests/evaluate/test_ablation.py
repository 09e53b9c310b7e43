"""What a group of features brings is the loss without it, on the same unseen rows, with an interval."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowSkipException
from mlflow import MlflowClient
from typer.testing import CliRunner

from evergreen.operators.train import AblateOperator
from include.cli.app import app
from include.errors import InsufficientData, NotPublished, SpecError
from include.evaluate.ablation import Ablation, ablate
from include.features.build import training_set
from include.models import artifacts
from include.spec import UseCase
from include.spec.load import read
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fit import fit_recipe, target
from include.train.record import PATH, TrainingRecord
from include.train.split import split
from tests.evaluate.conftest import Clinic
from tests.train import visits

GROUPS = "{far: [distance], before: [earlier], where: [place]}"
FEATURES = "numeric: [distance, earlier], categorical: [place]"


def figures(clinic: Clinic) -> dict[str, float]:
    """Return the ablation's metrics of the run."""
    found = MlflowClient(clinic.registry.uri, clinic.registry.uri).get_run(clinic.run).data.metrics
    return {name: value for name, value in found.items() if name.startswith("ablation.")}


@pytest.fixture
def grouped(clinic: Clinic) -> Callable[[str], Clinic]:
    """Declare groups, which makes another declaration, without a training of its own."""

    def act(groups: str) -> Clinic:
        file = clinic.spec.folder / "usecase.yaml"
        file.write_text(file.read_text().replace(FEATURES, f"{FEATURES}, groups: {groups}"))
        return replace(clinic, spec=read(file))

    return act


def test_default_groups_are_compared_by_the_chosen_recipe(clinic: Clinic) -> None:
    """Without declared groups the numeric and the categorical features are left out, and the run keeps it."""
    spec, partition = clinic.spec, visits.LAST
    found = ablate(clinic.lake, spec, partition, registry=clinic.registry)
    chosen = TrainingRecord.from_json(clinic.registry.get(clinic.run, PATH)).challenger.name
    assert (found.recipe, found.run) == (chosen, clinic.run)
    assert {g.name: g.columns for g in found.groups} == {
        "numeric": ("distance", "earlier"),
        "categorical": ("place",),
    }
    parts = split(training_set(clinic.lake, spec, partition), spec, partition)
    both = pa.concat_tables([parts.train, parts.validation])
    bare = spec.model_copy(update={"features": spec.features.model_copy(update={"numeric": ()})})
    recipe = next(c for c in spec.training.candidates if c.name == chosen)
    losses = [
        row_losses(
            "log_loss",
            target(spec, parts.test),
            artifacts.predict(fit_recipe(s, recipe, both), parts.test, s),
        )
        for s in (spec, bare)
    ]
    numeric = next(g for g in found.groups if g.name == "numeric")
    assert found.loss == pytest.approx(losses[0].mean())
    assert numeric.gain == pytest.approx(float(np.mean(losses[1] - losses[0])))
    assert numeric.low < numeric.gain < numeric.high
    kept = figures(clinic)
    assert kept["ablation.numeric.gain"] == numeric.gain
    assert kept["ablation.numeric.low"] == numeric.low


def test_what_matters_is_told_from_what_does_not(grouped: Callable[[str], Clinic]) -> None:
    """In the clinic distance and earlier misses make a visit late: they bring a gain beyond chance."""
    clinic = grouped(GROUPS)
    found = ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)
    gains = {group.name: group for group in found.groups}
    assert gains["far"].low > 0
    assert gains["far"].gain > gains["where"].gain
    assert [g.gain for g in found.groups] == sorted((g.gain for g in found.groups), reverse=True)
    assert found.run == ""  # the changed declaration was never trained
    assert figures(clinic) == {}


def test_again_is_the_same_and_adds_nothing(clinic: Clinic) -> None:
    """A rerun gives equal figures, and the run holds each once."""
    first, second = (ablate(clinic.lake, clinic.spec, None, registry=clinic.registry) for _ in range(2))
    assert first == second
    assert first.partition == visits.LAST  # the newest that brought labels
    client = MlflowClient(clinic.registry.uri, clinic.registry.uri)
    assert len(client.get_metric_history(clinic.run, "ablation.numeric.gain")) == 1


def test_group_of_all_features_is_refused(grouped: Callable[[str], Clinic]) -> None:
    """A group that leaves nothing to fit on is named, with what to do."""
    clinic = grouped("{all: [distance, earlier, place]}")
    with pytest.raises(SpecError, match=r"ablation of all: .*another feature.*features.groups"):
        ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)


def test_too_few_test_partitions_are_refused(clinic: Clinic) -> None:
    """Where a spread can't be had there is no interval, and a sentence says how many partitions it takes."""
    short = clinic.spec.training.model_copy(update={"test": 3})  # a declaration with it is refused
    young = clinic.spec.model_copy(update={"training": short})
    with pytest.raises(InsufficientData, match=r"required 2 labelled test partitions, found 1"):
        ablate(clinic.lake, young, visits.LAST, registry=clinic.registry)


def test_empty_lake_is_told(clinic: Clinic, tmp_path: Path) -> None:
    """Before any label was published there is no partition to take."""
    with pytest.raises(NotPublished, match=r"missed_visits: outcomes: found no partition.*run ingest"):
        ablate(Lake(clinic.spec.name, str(tmp_path / "empty")), clinic.spec, None, registry=clinic.registry)


@pytest.fixture
def outside(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The clinic where the command line and Airflow look for it."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(clinic.spec.folder.parent))
    monkeypatch.setenv("EVERGREEN_LAKE", clinic.lake.uri.removesuffix(f"/{clinic.spec.name}"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", clinic.registry.uri)
    return clinic


def test_the_task_logs_the_gains_with_their_bounds_to_the_trainings_run(outside: Clinic) -> None:
    """What Airflow's task hands on is the run, and the run has each group's gain, low and high."""
    partition = {"dag_run": SimpleNamespace(partition_key=visits.LAST, run_type="manual"), "params": {}}
    handed = AblateOperator(task_id="ablate", usecase=outside.spec.name).execute(partition)
    kept = figures(outside)
    found = ablate(outside.lake, outside.spec, visits.LAST, registry=outside.registry)
    assert kept == {
        f"ablation.{group.name}.{bound}": getattr(group, bound)
        for group in found.groups
        for bound in ("gain", "low", "high")
    }
    assert (handed["uri"], handed["partition"], handed["rows"]) == (outside.run, visits.LAST, found.rows)
    assert handed["note"].startswith(
        f"{found.groups[0].name} has the largest gain: {found.groups[0].gain:+.5f} ["
    )
    assert len(json.dumps(handed)) < 1000


def test_the_task_is_skipped_where_there_are_too_few_test_partitions(
    outside: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing waits for it, and the run's promotion stays green."""

    def young(spec: UseCase, partition: str, test: pa.Table) -> None:
        raise InsufficientData("ablation", required="2 labelled test partitions", found="1")

    monkeypatch.setattr("include.evaluate.ablation._enough", young)
    partition = {"dag_run": SimpleNamespace(partition_key=visits.LAST, run_type="manual"), "params": {}}
    with pytest.raises(AirflowSkipException, match="2 labelled test partitions, found 1"):
        AblateOperator(task_id="ablate", usecase=outside.spec.name).execute(partition)


def test_command_prints_a_table_or_json(outside: Clinic) -> None:
    """The command line says the same as the function, a line a group."""
    clinic = outside
    asked = ["ablate", clinic.spec.name, "--partition", visits.LAST]
    text, plain = (CliRunner().invoke(app, [*asked, *more]) for more in ((), ("--json",)))
    found: Ablation = ablate(clinic.lake, clinic.spec, visits.LAST, registry=clinic.registry)
    assert (text.exit_code, text.stdout.rstrip("\n")) == (0, found.text())
    assert json.loads(plain.stdout) == json.loads(json.dumps(found.plain()))
    assert all(group.name in text.stdout for group in found.groups)
