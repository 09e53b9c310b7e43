"""Three classes through every stage, on real flights: train, judge, promote, score, monitor, draw, verify."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from include.environment import Endpoint
from include.evaluate.pipeline import evaluate
from include.features.labels import labels
from include.ingest.pipeline import ingest
from include.judge.evidence import Evidence
from include.judge.judge import RUBBER_STAMPED
from include.models import artifacts
from include.models.registry import Registry
from include.monitor.estimates import (
    MAX_ERROR_PARTITIONS,
    EstimatePair,
    LabeledPartition,
    calibrate,
    estimated_metrics,
    held_out_estimates,
    pending_estimates,
)
from include.monitor.pipeline import monitor
from include.monitor.report import drift_report
from include.ops.verify import verify
from include.promote import verdicts
from include.promote.promotion import promote
from include.promote.verdicts import judge_and_record
from include.reports.verdict import draw_verdict
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.usecases.flight_bands import world

pytestmark = pytest.mark.full
FILE = Path(world.__file__).parent / "usecase.yaml"
FIRST, PARTITION, LAST = "2013-02-10", "2013-03-31", "2013-04-06"
CLASSES = ("early", "on_time", "late")
SCORES = [f"prediction_{name}" for name in CLASSES]


@dataclass(frozen=True)
class Spring:
    """The use case, its lake, and the verdict on the model that was trained at the end of March."""

    spec: UseCase
    lake: Lake
    evidence: Evidence
    verdict: str

    @property
    def partitions(self) -> list[str]:
        """Return the partitions after the training."""
        return self.spec.clock.keys(self.spec.clock.shift(PARTITION, 1), LAST)

    def predictions(self, partition: str) -> tuple[list[dict[str, object]], np.ndarray]:
        """Return a partition's rows by their key, and their probabilities."""
        order = ["partition", *self.spec.key]
        rows = self.lake.read("predictions", {"partition": partition}, order=order)
        assert rows is not None
        return rows.to_pylist(), np.stack([rows[name].to_numpy() for name in SCORES], axis=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Spring:
    """The first model, promoted, and the partitions after it scored and monitored; only read."""
    folder = tmp_path_factory.mktemp("bands")
    spec = read(FILE)
    lake = Lake(spec.name, str(folder / "lake"))
    world.write(folder / "landing", spec, FIRST, LAST)
    labeled = Endpoint("landing", (folder / "landing").as_uri())
    for source in spec.sources:
        ingest(lake, spec, source, spec.partitions(source, FIRST, LAST), lambda name: labeled)
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    run = train(lake, spec, PARTITION, registry=registry).id
    ref = evaluate(lake, spec, PARTITION, run, registry=registry)
    evidence = Evidence.from_json(lake.get(ref.id) or b"")
    verdict = judge_and_record(lake, spec, ref.id)
    promote(lake, spec, evidence.key, registry=registry)
    spring = Spring(spec, lake, evidence, verdict.verdict)
    for partition in spring.partitions[:-1]:
        score(lake, spec, partition)
        monitor(lake, spec, partition)
    return spring


@pytest.fixture
def spring(made: Spring, tmp_path: Path) -> Spring:
    """A copy that a test may change."""
    shutil.copytree(made.lake.uri.removeprefix("file://"), tmp_path / "lake" / made.spec.name)
    return Spring(made.spec, Lake(made.spec.name, str(tmp_path / "lake")), made.evidence, made.verdict)


def test_the_first_model_is_judged_by_what_three_classes_ask(made: Spring) -> None:
    """It beats prior and logistic regression, reaches what is asked of one class, and nothing is missing."""
    assert made.verdict == RUBBER_STAMPED
    row = verdicts.attempt(made.lake, made.evidence.key)
    checks = {check["name"]: check for check in json.loads(row["checks"])}
    assert checks["recall@late"]["passed"]
    assert checks["macro_roc_auc"]["passed"]
    means = {name: sum(sums) for name, sums in made.evidence.losses.sums.items()}
    assert means["challenger"] < means["baseline:logistic"] < means["baseline:prior"]
    facts = made.evidence.facts
    assert [case.name for case in facts.edge_cases if not case.passed] == []
    assert facts.serving is not None
    assert facts.serving.identical
    assert 0.85 < facts.leakage.single_feature["dep_delay"] < 0.98  # of the class late, which it tells best
    assert max(facts.importance, key=lambda name: facts.importance[name]) == "dep_delay"
    found = made.evidence.metrics["challenger"]
    assert {f"{family}@{name}" for family in ("precision", "recall", "f1") for name in CLASSES} <= set(found)
    recalls = [found[f"recall@{name}"] for name in CLASSES]
    assert found["macro_recall"] == pytest.approx(np.mean(recalls))


def test_a_row_has_a_label_and_a_probability_a_class(made: Spring) -> None:
    """The label is the likeliest class, its probability the prediction, and verify finds all as recorded."""
    for partition in made.partitions[:-1]:
        rows, probabilities = made.predictions(partition)
        assert len(rows) > 700
        assert probabilities.sum(axis=1) == pytest.approx(1)
        assert [row["label"] for row in rows] == [CLASSES[place] for place in probabilities.argmax(axis=1)]
        assert [row["prediction"] for row in rows] == probabilities.max(axis=1).tolist()
        assert {row["served_by"] for row in rows} == {"champion"}
    assert verify(made.lake, made.spec).differences == ()


def test_scored_again_a_partition_is_the_same(spring: Spring) -> None:
    """A rerun finds what it served, and writes nothing beside it."""
    partition = spring.partitions[0]
    before = spring.predictions(partition)
    score(spring.lake, spring.spec, partition)
    assert spring.predictions(partition)[0] == before[0]
    assert spring.lake.count("restated") == 0


def test_the_prior_is_how_often_each_class_came_in_training(spring: Spring) -> None:
    """Without the models' bytes the last rung serves, the same again, and never the declared constant."""
    (row,) = spring.lake.rows("switches", {"role": "champion"})
    shares = json.loads(row["class_shares"])
    assert row["constant"] is None
    assert shares == list(spring.evidence.constant)  # type: ignore[arg-type]
    seen = spring.spec.clock.keys(FIRST, spring.evidence.fitted)
    actual_labels = labels(spring.lake, spring.spec, seen, as_of=PARTITION)["band"].drop_null().to_numpy()
    assert shares == pytest.approx(np.bincount(actual_labels.astype(int)) / len(actual_labels))

    for digest in (spring.evidence.model, spring.evidence.baseline_model):
        Path(spring.lake.uri.removeprefix("file://"), artifacts.model_key(digest)).unlink()
    partition = spring.partitions[-1]
    for _ in range(2):
        score(spring.lake, spring.spec, partition)
        rows, probabilities = spring.predictions(partition)
        assert {row["served_by"] for row in rows} == {"constant"}
        assert np.unique(probabilities, axis=0).tolist() == [shares]
        assert {row["label"] for row in rows} == {CLASSES[int(np.argmax(shares))]}
    assert spring.lake.count("restated") == 0


def test_without_a_champion_the_declared_fallback_serves(spring: Spring) -> None:
    """A partition before the first promotion has the declared probabilities, class by class."""
    partition = spring.spec.clock.shift(PARTITION, -1)
    score(spring.lake, spring.spec, partition)
    assert np.unique(spring.predictions(partition)[1], axis=0).tolist() == [[0.35, 0.41, 0.24]]


def test_realized_performance_is_that_of_scikit_learn(made: Spring) -> None:
    """A matured partition's figures, and those of the constant, are the library's on its labeled rows."""
    partition = made.partitions[1]
    rows, probabilities = made.predictions(partition)
    actual_labels = {
        tuple(row[name] for name in made.spec.key): row["band"]
        for row in labels(made.lake, made.spec, [partition], as_of=LAST).to_pylist()
    }
    actual = np.array([actual_labels.get(tuple(r[n] for n in made.spec.key)) for r in rows], dtype=float)
    labeled = np.isfinite(actual)
    actual, probabilities = actual[labeled], probabilities[labeled]
    found = {r["metric"]: r["value"] for r in made.lake.rows("performance", {"partition": partition})}
    predicted = probabilities.argmax(axis=1)
    expected = {
        "accuracy": sk.accuracy_score(actual, predicted),
        "log_loss": sk.log_loss(actual, probabilities),
        "brier": sk.brier_score_loss(actual, probabilities),
        "macro_f1": sk.f1_score(actual, predicted, average="macro"),
        "macro_roc_auc": sk.roc_auc_score(actual, probabilities, multi_class="ovr"),
        "recall@late": sk.recall_score(actual, predicted, labels=[2], average="macro"),
        "constant:log_loss": sk.log_loss(actual, np.tile(made.evidence.constant, (len(actual), 1))),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["constant:recall@late"] == 0.0
    assert found["constant:precision@late"] is None  # no row is taken for it: missing, and not zero


def test_each_class_is_watched_for_drift_and_the_champion_for_performance(made: Spring) -> None:
    """The last monitored partition judges the spread of each probability and both required figures."""
    rows = made.lake.rows("findings", {"partition": made.partitions[-2]})
    drift = {row["subject"] for row in rows if row["check"] == "drift" and row["value"] is not None}
    assert {*SCORES, "dep_delay"} <= drift
    judged = {row["subject"]: row["outcome"] for row in rows if row["check"] in ("performance", "concept")}
    assert judged.items() >= {"macro_roc_auc": "ok", "f1@late": "ok"}.items()
    objective = made.spec.gate.objective
    live = {
        f"{objective} against {of}" for of in ("the constant", "the baseline", "its walk", "its expectation")
    }
    rates = {f"calibration of {name}" for name in made.spec.problem.classes}
    assert set(judged) == {*live, *rates, "macro_roc_auc", "f1@late"}
    page = drift_report(made.lake, made.spec, made.partitions[-2])
    assert all(name in page for name in SCORES)


def test_the_page_shows_each_class(made: Spring) -> None:
    """Confusion, calibration and a line a class are on the page, and the card names the classes."""
    page = (
        made.lake.get(f"reports/{draw_verdict(made.lake, made.spec, made.evidence.key, None)}") or b""
    ).decode()
    for text in ("Confusion matrix", "Calibration of the most likely class", "on_time ("):
        assert text in page
    assert "precision of challenger (more)" in page
    assert "recall@late (more)" not in page  # the line of all figures isn't made wider by classes
    card = (made.lake.get(f"models/{made.evidence.model}.card.md") or b"").decode()
    assert "band, multiclass: early, on_time, late" in card
    assert "Share of each class in training" in card


def test_a_partition_is_estimated_class_by_class_until_its_labels_come(made: Spring) -> None:
    """What stood in `estimates` without labels: each class's figures, within their error of what came."""
    *before, last = made.partitions[:-1]
    assert {row["partition"] for row in pending_estimates(made.lake)} == {
        last
    }  # of the others the labels have come
    (champion,) = made.lake.rows("switches", {"role": "champion"})
    learned = held_out_estimates(made.lake, made.spec, champion)
    assert learned is not None
    known, within = list(learned.partitions), []
    for partition in before:
        mine = {row["metric"]: row for row in made.lake.rows("estimates", {"partition": partition})}
        actual_labels = {
            row["metric"]: row["value"] for row in made.lake.rows("performance", {"partition": partition})
        }
        assert (
            set(mine)
            == set(estimated_metrics(made.spec))
            >= {"log_loss", "macro_roc_auc", "recall@late", "f1@early"}
        )
        for name, row in mine.items():
            pairs = [one.pairs[name] for one in known][-MAX_ERROR_PARTITIONS:]
            assert (row["version"], row["partitions"]) == (champion["version"], len(pairs))
            apart = [pair.estimate - pair.realized for pair in pairs]
            assert row["error"] == pytest.approx(np.sqrt(np.mean(np.square(apart))))
            assert abs(row["unchecked"] - actual_labels[name]) < 4 * row["error"], (partition, name)
            assert (row["value"] is None) == (row["error"] >= row["naive"]) == bool(row["reason"])
            if row["value"] is not None:
                within.append(row["low"] <= actual_labels[name] <= row["high"])
        worth = {
            name: EstimatePair(mine[name]["unchecked"], actual_labels[name], learned.means[name])
            for name in mine
        }
        known.append(LabeledPartition(partition, 0, worth))
    assert len(within) > 15
    assert np.mean(within) > 0.8  # of intervals of 90 %


def test_what_is_estimated_is_what_the_mended_probabilities_expect(made: Spring) -> None:
    """Of the newest partition accuracy, log loss and Brier score are those of labels by these chances."""
    partition = made.partitions[-2]
    (champion,) = made.lake.rows("switches", {"role": "champion"})
    learned = held_out_estimates(made.lake, made.spec, champion)
    assert learned is not None
    probabilities = made.predictions(partition)[1]
    chances = calibrate(learned.map, probabilities)
    found = {row["metric"]: row["unchecked"] for row in made.lake.rows("estimates", {"partition": partition})}
    expected = {
        "accuracy": chances[np.arange(len(probabilities)), probabilities.argmax(axis=1)].mean(),
        "log_loss": -(chances * np.log(probabilities)).sum(axis=1).mean(),
        "brier": (chances * (1 - 2 * probabilities) + np.square(probabilities)).sum(axis=1).mean(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.01)
