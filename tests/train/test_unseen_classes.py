"""A declared class that the training rows lack breaks nothing: it has a small probability until one comes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import ModelError, SpecError
from include.evaluate.pipeline import evaluate
from include.features.labels import labels, training_set
from include.judge.evidence import Evidence
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.monitor.estimates import expected_metrics, learn_calibration
from include.monitor.pipeline import monitor
from include.promote.promotion import promote
from include.promote.verdicts import judge_and_record
from include.references import digest_bytes
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import all_metric_values, row_losses
from include.storage import schemas
from include.storage.lake import Lake
from include.train.fitting import fit_recipe, target
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from tests.train import visits

ROWS, PARTITIONS = 12, 12
PARAMS: dict[str, dict[str, Any]] = {
    "prior": {},
    "logistic_regression": {},
    "mlp": {"max_iter": 3},
    "hist_gradient_boosting": {"max_iter": 3, "min_samples_leaf": 5},
    "random_forest": {"n_estimators": 3},
    "xgboost": {"n_estimators": 3},
}
OPTIONS: list[Any] = [
    *((name, {}) for name in PARAMS),
    *((name, {"calibration": "sigmoid"}) for name in ("mlp", "hist_gradient_boosting", "xgboost")),
    ("random_forest", {"calibration": "isotonic"}),
    ("hist_gradient_boosting", {"early_stopping": 4}),
    ("xgboost", {"early_stopping": 4}),
    pytest.param("xgboost", {"external_memory": 10}, marks=pytest.mark.full),  # a file for each fit
    ("xgboost", {"search": {"max_depth": (2, 3)}}),
    ("logistic_regression", {"search": {"C": (0.1, 1.0)}, "half_life": 5}),
]


@cache
def timely() -> UseCase:
    """Return a use case with the classes early, on_time and late."""
    return visits.usecase(Path(mkdtemp()), "multiclass")


def rows_of(codes: list[float]) -> pa.Table:
    """Return rows in the order of their partitions, one for each class's code."""
    random = np.random.default_rng(3)
    keys = timely().clock.keys(visits.FIRST, visits.LAST)[:PARTITIONS]
    return pa.table({
        "partition": [keys[place * PARTITIONS // len(codes)] for place in range(len(codes))],
        "distance": random.exponential(5, len(codes)) + 20 * np.array(codes),
        "earlier": random.poisson(1.0, len(codes)).astype(float),
        "place": random.choice(["north", "south"], len(codes)),
        timely().problem.target: codes,
    })  # fmt: skip


# of the older and the newer half of the rows, the classes that occur there
several = st.sets(st.sampled_from([0.0, 1.0, 2.0]), min_size=2)
any_classes = st.sets(st.sampled_from([0.0, 1.0, 2.0]), min_size=1)


@pytest.mark.full
@pytest.mark.parametrize(("name", "options"), OPTIONS)
@given(older=several, newer=any_classes)
@settings(max_examples=6)
def test_every_estimator_gives_each_declared_class_a_probability(
    name: str, options: dict[str, Any], older: set[float], newer: set[float]
) -> None:
    """In the declared order, a small one where no row has it; stored and loaded, it predicts the same."""
    half = PARTITIONS * ROWS // 2
    codes = [sorted(present)[place % len(present)] for present in (older, newer) for place in range(half)]
    spec, rows, known = timely(), rows_of(codes), {int(code) for code in codes}
    params = {key: value for key, value in PARAMS[name].items() if key not in options.get("search", {})}
    model = fit_recipe(spec, Recipe(name="tried", estimator=name, params=params, **options), rows)
    probabilities = artifacts.predict(model, rows, spec)
    assert probabilities.shape == (len(codes), 3)
    assert probabilities.sum(axis=1) == pytest.approx(1)
    if "external_memory" not in options:  # which is told the number of classes
        for unseen in {0, 1, 2} - known:
            assert probabilities[:, unseen] == pytest.approx(outputs.UNSEEN)
        assert {int(code) for code in model.classes_} == known
    for code in known if name != "prior" else ():  # each class has its own column
        own = np.array(codes) == code
        assert probabilities[own, code].mean() > probabilities[~own, code].mean()

    data = artifacts.serialize(model)
    loaded = artifacts.deserialize(data, digest_bytes(data))
    assert np.array_equal(artifacts.predict(loaded, rows, spec), probabilities)
    assert artifacts.serialize(loaded) == data

    everything = np.arange(len(codes)) % 3.0  # also the class that was never seen
    for objective in ("log_loss", "brier"):
        assert np.isfinite(row_losses(objective, everything, probabilities)).all()
    values = all_metric_values(spec, everything, probabilities)
    assert {"log_loss", "accuracy", "macro_roc_auc", "recall@late"} <= set(values)
    estimates = expected_metrics(spec, learn_calibration(spec, np.array(codes), probabilities), probabilities)
    assert np.isfinite(estimates["log_loss"])


def test_a_model_of_other_classes_is_never_read_as_one_of_these(tmp_path: Path) -> None:
    """Classes in another order, or one more, mean other classes by the same codes: nothing is predicted."""
    rows = rows_of([place % 3.0 for place in range(240)])
    model = fit_recipe(timely(), Recipe(name="prior", estimator="prior"), rows)
    for number, (classes, shares) in enumerate([
        ("[late, on_time, early]", "{late: 0.3, on_time: 0.5, early: 0.2}"),
        ("[early, on_time, late, missed]", "{early: 0.2, on_time: 0.5, late: 0.2, missed: 0.1}"),
    ]):  # fmt: skip
        changes = {"[early, on_time, late]": classes, "{early: 0.2, on_time: 0.5, late: 0.3}": shares}
        other = visits.usecase(tmp_path / str(number), "multiclass", **changes)
        with pytest.raises(ModelError, match=r"a model of the classes .* it is one of early, on_time, late"):
            artifacts.predict(model, rows, other)


@given(
    shares=st.lists(st.floats(0.01, 1), min_size=1, max_size=4),
    unseen=st.lists(st.integers(0, 4), max_size=3),
)
def test_classes_without_a_row_share_a_small_probability(shares: list[float], unseen: list[int]) -> None:
    """However many they are, the others keep their proportions, and each row sums to 1."""
    probabilities = np.array([shares, shares[::-1]]) / sum(shares)
    places = list(range(len(shares)))
    for place in unseen:
        places = [other + (other >= place) for other in places]
    classes = len(shares) + len(unseen)
    values = outputs.add_unseen_classes(probabilities, places, classes)
    assert values.sum(axis=1) == pytest.approx(1)
    rest = np.delete(values, places, axis=1)
    assert (rest == outputs.UNSEEN / max(len(unseen), 1)).all()
    assert values[:, places] == pytest.approx(probabilities * (1 - outputs.UNSEEN * bool(unseen)))


@pytest.mark.parametrize("label", ["2", "0.5"])
def test_a_label_of_a_binary_problem_that_is_neither_0_nor_1_is_an_error(label: str, clinic: Path) -> None:
    """The sentence says what was found, where, and what to write."""
    changes = {'"minutes > 15"': f'"CASE WHEN minutes > 15 THEN {label} ELSE 0 END"'}
    spec = visits.usecase(clinic / "usecases", **changes)
    lake = Lake(spec.name, str(clinic / "lake"))
    with pytest.raises(
        SpecError, match=rf"labels\.sql: expected 0, 1 or null.* found {label} .*`minutes > 15`"
    ):
        labels(lake, spec, spec.clock.keys(visits.FIRST, visits.LAST), as_of=visits.LAST)


def without(lake: Lake, spec: UseCase, last: str, replaced: float) -> None:
    """Have nobody come late in the outcomes up to a partition."""
    partitions = spec.clock.keys(visits.FIRST, last)
    rows = lake.rows("validated_outcomes", {"partition": partitions})
    for row in rows:
        row["minutes"] = None if row["minutes"] is None else min(row["minutes"], replaced)
    table = pa.Table.from_pylist(rows, schema=schemas.validated_schema(spec.sources["outcomes"]))
    lake.publish("validated_outcomes", table, {"partition": partitions})


@pytest.mark.full
def test_a_class_comes_after_the_first_model(clinic: Path, registry: Registry) -> None:
    """The model serves and is monitored on its first rows; the next training knows the class."""
    spec = visits.usecase(clinic / "usecases", "multiclass")
    lake = Lake(spec.name, str(clinic / "lake"))
    first, seen = "2024-03-25", "2024-03-26"
    without(lake, spec, first, 14.0)
    status = [{**row, "rows": 40, "quarantined": 0} for row in lake.rows("partitions")]
    table = pa.Table.from_pylist(status, schema=schemas.PARTITIONS)
    lake.publish("partitions", table, {"product": list(spec.sources)})

    run = train(lake, spec, first, registry=registry).id
    record = TrainingRecord.from_json(registry.get(run, PATH))
    assert isinstance(record.constant, tuple)
    assert record.constant[2] == outputs.UNSEEN
    assert sum(record.constant) == pytest.approx(1)
    evidence_key = evaluate(lake, spec, first, run, registry=registry).id
    evidence = Evidence.from_json(lake.get(evidence_key) or b"")
    assert "recall@late" not in evidence.metrics["challenger"]
    assert np.isfinite(evidence.metrics["challenger"]["log_loss"])
    verdict = judge_and_record(lake, spec, evidence_key)
    assert verdict.promotes, verdict.sentence
    promote(lake, spec, PurePosixPath(evidence_key).stem, registry=registry)
    for partition in spec.clock.keys(seen, visits.LAST):
        score(lake, spec, partition)
        monitor(lake, spec, partition)
    served = lake.read("predictions")
    assert served is not None
    assert set(served["served_by"].to_pylist()) == {"champion"}
    assert (outputs.from_columns(spec, served)[:, 2] == outputs.UNSEEN).all()
    about_its_column = [row for row in lake.rows("findings") if row["subject"] == "prediction_late"]
    assert about_its_column
    for row in lake.rows("losses"):
        observed, predicted = json.loads(row["by_class"])
        assert sum(observed) == row["rows"] == pytest.approx(sum(predicted))
    assert [row["note"] for row in about_its_column if row["outcome"] == "alarm"] == []
    realized = {
        (row["partition"], row["metric"]): row["value"] for row in lake.rows("performance") if row["value"]
    }
    # rows of a class that it never saw cost what UNSEEN says, not the 36 of a class that it rules out
    assert 1 < realized[seen, "log_loss"] < -np.log(outputs.UNSEEN)

    known = TrainingRecord.from_json(registry.get(train(lake, spec, visits.LAST, registry=registry).id, PATH))
    assert isinstance(known.constant, tuple)
    rows = training_set(lake, spec, visits.LAST)
    assert known.constant[2] == pytest.approx((target(spec, rows) == 2).mean())
    assert known.constant[2] > 0
