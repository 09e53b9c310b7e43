"""Walking forward, no prediction comes from a model that knew what it predicts, or anything later."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.errors import EvergreenError, ModelError
from include.features.build import join_labels, training_set
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.references import digest_bytes
from include.spec import UseCase
from include.storage.lake import Lake
from include.train.fit import fit_recipe, target
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from include.train.split import Split, partitions_of, split
from include.train.walk_forward import PATH as WALKED
from include.train.walk_forward import WalkForward, read_walk, refit_origins, walk_forward
from tests.train import visits

NIGHT = visits.LAST
ORIGINS = ["2024-03-22", "2024-03-24", "2024-03-26"]
WALKING = {"min_partitions: 3": "min_partitions: 3, evidence: walk_forward, step: 2"}


@pytest.fixture
def spec(clinic: Path) -> UseCase:
    """Asks which visits will be missed, and walks forward in steps of two partitions."""
    return visits.usecase(clinic / "usecases", **WALKING)


def walked(lake: Lake, spec: UseCase) -> tuple[np.ndarray, WalkForward]:
    """Walk with the first candidate; return the partition of each test row, too."""
    every = training_set(lake, spec, NIGHT)
    parts = split(every, spec, NIGHT)
    recipe = spec.training.candidates[0]
    found = walk_forward(spec, NIGHT, recipe, parts, lambda origin: join_labels(lake, spec, every, origin))
    return np.array(parts.test["partition"].to_pylist()), found


def revise(lake: Lake, partition: str, *, later: int = 0) -> None:
    """Turn a partition's outcomes round, in place or as a revision that came ``later`` days after."""
    rows = lake.read("validated_outcomes", {"partition": partition})
    assert rows is not None
    changed = rows.to_pylist()
    for row in changed:
        row["minutes"] = None if row["minutes"] is None else 30 - row["minutes"]
        row["revision"] = int(later > 0)
        row["known_at"] += timedelta(days=later)
    new = pa.Table.from_pylist(changed, schema=rows.schema)
    new = pa.concat_tables([rows, new]) if later else new
    lake.publish("validated_outcomes", new, {"partition": partition})


def test_origins_cover_the_test_partitions(spec: UseCase, tmp_path: Path) -> None:
    """The first origin is the last partition before them, and the steps reach to the training's partition."""
    assert refit_origins(spec, NIGHT, spec.training.test) == [
        *ORIGINS,
        "2024-03-28",
    ]  # after which no label has come yet
    weekly = visits.usecase(tmp_path, **{"min_partitions: 3": "min_partitions: 3, evidence: walk_forward"})
    assert refit_origins(weekly, NIGHT, weekly.training.test) == ["2024-03-22", "2024-03-29"]


def test_each_origin_fits_what_a_training_on_that_partition_would_have(lake: Lake, spec: UseCase) -> None:
    """The predictions after an origin are those of a model that was trained on that very partition.

    To the bit.

    One partition's outcomes were revised five days later: only the last origin knows.
    """
    revise(lake, "2024-03-20", later=5)
    partitions, found = walked(lake, spec)
    test = split(training_set(lake, spec, NIGHT), spec, NIGHT).test
    names = {"challenger": spec.training.candidates[0]}
    names |= {f"baseline:{c.name}": c for c in spec.training.baselines}
    assert set(found.predictions) == set(names)
    for origin, until in zip(ORIGINS, [*ORIGINS[1:], "2024-03-28"], strict=True):
        rows = training_set(lake, spec, origin)
        assert partitions_of(rows)[-1] == spec.clock.shift(origin, -2)
        places = np.flatnonzero((partitions > origin) & (partitions <= until))
        assert 0 < len(places) < test.num_rows
        for name, recipe in names.items():
            predicted = artifacts.predict(fit_recipe(spec, recipe, rows), test.take(places), spec)
            assert found.predictions[name][places].tobytes() == predicted.tobytes(), (origin, name)


@pytest.mark.parametrize("origin", ORIGINS)
def test_later_labels_leave_earlier_predictions_as_they_were(lake: Lake, spec: UseCase, origin: str) -> None:
    """With every outcome turned round that came after an origin, what it and the earlier ones said stays."""
    partitions, before = walked(lake, spec)
    for partition in spec.clock.keys(spec.clock.shift(origin, 1), NIGHT):
        revise(lake, partition)
    _, after = walked(lake, spec)
    until = spec.clock.shift(origin, spec.gate.step)
    for name, values in before.predictions.items():
        same = values == after.predictions[name]
        assert same[partitions <= until].all()
        if until < max(partitions):
            assert not same[partitions > until].all()


def test_what_was_kept_is_read_again(lake: Lake, spec: UseCase) -> None:
    """The Parquet bytes give the predictions back, and a second walk gives the same bytes."""
    _, found = walked(lake, spec)
    again = read_walk(found.data)
    assert {name: values.tobytes() for name, values in again.items()} == {
        name: values.tobytes() for name, values in found.predictions.items()
    }
    assert walked(lake, spec)[1].digest == found.digest


def test_origin_that_knows_too_little_is_named(lake: Lake, clinic: Path) -> None:
    """Where no label had come by the first origin there is a sentence, and no model."""
    late = visits.usecase(clinic / "usecases", **WALKING)
    labels = late.labels.model_copy(update={"delay": 24})  # a declaration with it is refused
    late = late.model_copy(update={"labels": labels})
    test = training_set(lake, visits.usecase(clinic / "other"), NIGHT)
    parts = Split(test, test, test, late.training.test)
    every = training_set(lake, late, NIGHT)
    with pytest.raises(EvergreenError, match=r"training on 2024-03-22: required both 0.*no labelled row"):
        walk_forward(
            late,
            NIGHT,
            late.training.candidates[0],
            parts,
            lambda origin: join_labels(lake, late, every, origin),
        )


@pytest.mark.parametrize("kind", list(visits.KINDS))
def test_what_serves_was_fitted_on_everything(kind: str, clinic: Path, registry: Registry) -> None:
    """The registered challenger and the baselines are the recipes fitted on every labelled row."""
    spec = visits.usecase(clinic / "usecases", kind, **WALKING)
    lake = Lake(spec.name, str(clinic / "lake"))
    ref = train(lake, spec, NIGHT, registry=registry)
    made = TrainingRecord.from_json(registry.get(ref.uri, PATH))
    rows = training_set(lake, spec, NIGHT)
    assert made.last_fitted == made.partitions["test"][-1] == "2024-03-28" == partitions_of(rows)[-1]
    assert made.last_validation == "2024-03-22"
    assert made.prior == pytest.approx(outputs.label_prior(spec, target(spec, rows)))
    assert ref.rows == made.fitted_rows == rows.num_rows
    recipes = {c.name: c for c in (*spec.training.baselines, *spec.training.candidates)}
    for fitted in (made.challenger, *made.baselines):
        data = artifacts.serialize(fit_recipe(spec, recipes[fitted.name], rows))
        assert digest_bytes(data) == fitted.digest
        predictions = artifacts.predict(
            artifacts.deserialize(data, fitted.digest), split(rows, spec, NIGHT).test, spec
        )
        assert digest_bytes(predictions.tobytes()) == fitted.predictions
    kept = read_walk(registry.get(ref.uri, WALKED, made.walk_forward))
    assert digest_bytes(kept["challenger"].tobytes()) != made.challenger.predictions


def test_rerun_in_another_registry_gives_the_same_bytes(
    lake: Lake, spec: UseCase, registry: Registry, clinic: Path, tmp_path: Path
) -> None:
    """Two trainings that know nothing of each other keep the same record, the walk's digest in it."""
    shutil.copy(clinic / "mlflow.db", tmp_path / "other.db")
    other = Registry(f"sqlite:///{tmp_path}/other.db", f"file://{tmp_path}/other")
    runs = [(r, train(lake, spec, NIGHT, registry=r).uri) for r in (registry, other)]
    first, second = (TrainingRecord.from_json(r.get(run, PATH)) for r, run in runs)
    assert first == second
    assert runs[0][0].get(runs[0][1], WALKED) == runs[1][0].get(runs[1][1], WALKED)


def test_held_out_keeps_no_walk(lake: Lake, registry: Registry, clinic: Path) -> None:
    """A gate on held-out evidence fits nothing on the test partitions, and keeps no walk."""
    spec = visits.usecase(clinic / "usecases")
    run = train(lake, spec, NIGHT, registry=registry).uri
    made = TrainingRecord.from_json(registry.get(run, PATH))
    assert (made.walk_forward, made.last_fitted) == ("", made.last_validation)
    assert made.fitted_rows == made.rows["train"] + made.rows["validation"]
    with pytest.raises((EvergreenError, ModelError)):
        registry.get(run, WALKED)
