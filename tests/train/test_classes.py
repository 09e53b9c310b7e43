"""Several classes: labels are places, rows of a single one are refused, and a walk has them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from include.errors import EvergreenError, SpecError
from include.evaluate.pipeline import evaluate
from include.features.labels import labels, training_set
from include.judge.evidence import Evidence
from include.judge.judge import judge
from include.models.registry import Registry
from include.storage import schemas
from include.storage.lake import Lake
from include.train.fits import read_fits
from include.train.fitting import require_learnable_labels, target
from include.train.pipeline import train
from tests.train import visits

PARTITION = visits.LAST


@pytest.mark.full
def test_labels_are_the_places_of_the_declared_classes(clinic: Path) -> None:
    """Text of the source or an integer, each label is its class's place, and a missing outcome is null."""
    text = visits.usecase(clinic / "usecases", "multiclass")
    lake = Lake(text.name, str(clinic / "lake"))
    partitions = text.clock.keys(visits.FIRST, visits.LAST)
    came = labels(lake, text, partitions, as_of=PARTITION)["band"].to_pylist()
    assert set(came) == {0.0, 1.0, 2.0, None}
    numbers = {"'early'": "1", "'on_time'": "2", "'late'": "3", "[early, on_time, late]": "[1, 2, 3]"}
    numbers["{early: 0.2, on_time: 0.5, late: 0.3}"] = "{1: 0.2, 2: 0.5, 3: 0.3}"
    other = visits.usecase(clinic / "numbers", "multiclass", **numbers)
    assert labels(lake, other, partitions, as_of=PARTITION)["band"].to_pylist() == came


def test_a_label_that_is_no_declared_class_stops_with_a_sentence(clinic: Path) -> None:
    """Rows that were kept before a class was taken out of the declaration are never read as another class."""
    spec = visits.usecase(clinic / "usecases", "multiclass", **{"'late'": "'canceled'"})
    lake = Lake(spec.name, str(clinic / "lake"))
    with pytest.raises(
        SpecError,
        match=r"labels\.sql: expected one of the declared classes early, on_time, late, or null, but found "
        r"canceled.*declare it under problem\.classes or map it in labels\.sql",
    ):
        training_set(lake, spec, PARTITION)


def test_rows_of_a_single_class_are_refused(clinic: Path, registry: Registry) -> None:
    """There is nothing to tell apart: the sentence counts each class, and says what to do."""
    spec = visits.usecase(clinic / "usecases", "multiclass", **{"minutes < -5": "minutes < 9000"})
    lake = Lake(spec.name, str(clinic / "lake"))
    with pytest.raises(
        EvergreenError,
        match=r"expected rows of two classes or more of early, on_time, late as band in the training "
        r"partitions, but found \d+ early, 0 on_time, 0 late.*or load more history",
    ):
        train(lake, spec, PARTITION, registry=registry)
    rows = training_set(lake, spec, PARTITION)
    with pytest.raises(EvergreenError, match="found no labeled row"):
        require_learnable_labels(spec, PARTITION, rows.slice(0, 0))


@pytest.mark.full
def test_a_walk_is_judged_on_every_class(clinic: Path, registry: Registry) -> None:
    """The walk's probabilities are those of each class, and evidence is the same again to the bit."""
    spec = visits.usecase(clinic / "usecases", "multiclass")
    lake = Lake(spec.name, str(clinic / "lake"))
    run = train(lake, spec, PARTITION, registry=registry).id
    ref = evaluate(lake, spec, PARTITION, run, registry=registry)
    evidence = Evidence.from_json(lake.get(ref.id) or b"")
    assert evidence.facts.refit_loss is not None
    assert set(evidence.metrics["challenger"]) >= {"recall@early", "recall@on_time", "recall@late"}
    came = target(spec, training_set(lake, spec, PARTITION)).astype(int)
    assert evidence.constant == pytest.approx(np.bincount(came) / len(came))
    again = evaluate(lake, spec, PARTITION, run, registry=registry)
    assert again.digest == ref.digest


@pytest.mark.full
def test_a_class_that_had_not_come_yet_shortens_no_walk(clinic: Path, registry: Registry) -> None:
    """Recipes are also fitted as of a partition on which one of the classes was still unknown."""
    spec = visits.usecase(clinic / "usecases", "multiclass")
    lake = Lake(spec.name, str(clinic / "lake"))
    rows = lake.rows("validated_outcomes", {"partition": spec.clock.keys(visits.FIRST, "2024-03-24")})
    for row in rows:
        row["minutes"] = None if row["minutes"] is None else max(row["minutes"], 0.0)  # nobody is early
    where = {"partition": spec.clock.keys(visits.FIRST, "2024-03-24")}
    shape = schemas.validated_schema(spec.sources["outcomes"])
    lake.publish("validated_outcomes", pa.Table.from_pylist(rows, schema=shape), where)
    train(lake, spec, PARTITION, registry=registry)
    assert {fit.partition for fit in read_fits(lake)} == {"2024-03-22", "2024-03-29", PARTITION}


@pytest.mark.full
@pytest.mark.parametrize("only", ["early", "late"])
def test_test_partitions_of_one_class_only_crash_nothing(only: str, clinic: Path, registry: Registry) -> None:
    """What can be measured is, what compares classes is missing, and the requirement fails with it."""
    asked = {
        "block_partitions: 1}": "block_partitions: 1, requirements: [{metric: macro_recall, at_least: 0.1}]}"
    }
    spec = visits.usecase(clinic / "usecases", "multiclass", **asked)
    lake = Lake(spec.name, str(clinic / "lake"))
    partitions = spec.clock.keys("2024-03-25", visits.LAST)
    rows = lake.rows("validated_outcomes", {"partition": partitions})
    for row in rows:
        row["minutes"] = -50.0 if only == "early" else 90.0
    shape = schemas.validated_schema(spec.sources["outcomes"])
    lake.publish("validated_outcomes", pa.Table.from_pylist(rows, schema=shape), {"partition": partitions})
    run = train(lake, spec, PARTITION, registry=registry).id
    evidence = Evidence.from_json(lake.get(evaluate(lake, spec, PARTITION, run, registry=registry).id) or b"")
    found = evidence.metrics["challenger"]
    assert {"accuracy", "balanced_accuracy", "log_loss", "brier", f"recall@{only}"} <= set(found)
    assert not {"macro_recall", "macro_roc_auc", "recall@on_time"} & set(found)
    checks = {c.name: c for c in judge(evidence, spec.gate, champion=False).checks}
    assert checks["macro_recall"].passed is False
    assert "missing" in checks["macro_recall"].observed
