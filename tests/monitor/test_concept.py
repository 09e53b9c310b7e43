"""A changed relation is detected within partitions; noise and a harder season as rarely as declared."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import softmax

from benchmarks.live import RATE, common_course, part_of
from include.judge.evidence import CHALLENGER, evidence_rows_key
from include.models import outputs
from include.monitor.checks import concept
from include.monitor.context import Finding, PartitionContext
from include.monitor.losses import LOSSES, LossSeries, self_expected_loss
from include.monitor.state import PublishedState
from include.score.pipeline import score
from include.spec import UseCase
from include.stats.cusum import PairedSums
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.promote.conftest import partitions as keys
from tests.train import visits

ROWS, YEARS, TEST = 60, 60, 28
Truth = Callable[[np.ndarray], np.ndarray]


def as_predicted(risk: np.ndarray) -> np.ndarray:
    """Return the risk itself: the model is right."""
    return risk


def world(use: UseCase, count: int, random: np.random.Generator, truth: Truth = as_predicted) -> LossSeries:
    """Return partitions whose weather moves risk and prediction alike, and some of it the risk alone.

    Loss over expectation then varies by partition, and is like the partition before, as the flights' does.
    """
    weather, unseen = (common_course("autocorrelated", count, random) for _ in range(2))
    predicted = 1 / (1 + np.exp(-(2 * random.standard_normal((count, ROWS)) - 0.3 + 0.5 * weather[:, None])))
    risk = 1 / (1 + np.exp(-(np.log(predicted / (1 - predicted)) + 0.3 * unseen[:, None])))
    actual = (random.random((count, ROWS)) < truth(risk)).astype(float)
    own = np.array([self_expected_loss(use, partition) for partition in predicted], dtype=float)
    loss = row_losses("log_loss", actual.ravel(), predicted.ravel()).reshape(predicted.shape).sum(axis=1)
    rows, prior = np.full(count, float(ROWS)), np.full(count, 0.69 * ROWS)
    observed, expected = actual.sum(axis=1), predicted.sum(axis=1)
    return LossSeries(keys(count), rows, loss, prior, prior, own, observed, expected, ("constant",) * count)


def findings(use: UseCase, live: LossSeries, test: LossSeries) -> list[Finding]:
    """Return both findings on live partitions, by the test partitions of a training."""
    return [
        concept.check_lasting_loss(use, live, PairedSums(test.loss, test.expected, test.rows)),
        *concept.check_calibration(use, live, (PairedSums(test.observed, test.predicted, test.rows),)),
    ]


@pytest.mark.full
def test_a_year_without_a_change_has_as_few_alarms_as_declared(use: UseCase) -> None:
    """Of 60 years of partitions like those before them, few end a week in alarm."""
    random = np.random.default_rng(5)
    alarms = np.zeros(2)
    for _ in range(YEARS):
        test, live = world(use, TEST, random), world(use, 365, random)
        weeks = [findings(use, part_of(live, 0, last), test) for last in range(7, 365, 7)]
        alarms += [any(week[place].outcome == "alarm" for week in weeks) for place in range(2)]
    assert (alarms <= YEARS * RATE + 2 * np.sqrt(YEARS * RATE)).all(), alarms


@pytest.mark.parametrize(
    "truth", [lambda risk: 1 - risk, lambda risk: np.full_like(risk, 0.5)], ids=["reversed", "a coin"]
)
def test_another_relation_is_detected_within_ten_partitions(use: UseCase, truth: Truth) -> None:
    """In each of 40 worlds the loss exceeds what the model's probabilities imply."""
    random = np.random.default_rng(6)
    outcomes = [
        findings(use, world(use, 10, random, truth), world(use, TEST, random))[0].outcome for _ in range(40)
    ]
    assert outcomes.count("alarm") == 40


@pytest.mark.parametrize(("change", "side"), [(0.2, "above"), (-0.2, "below")])
def test_a_changed_rate_is_a_calibration_alarm(use: UseCase, change: float, side: str) -> None:
    """A rate that moves by a fifth of the rows is detected within three weeks, whichever way it moves."""
    random = np.random.default_rng(7)
    test = world(use, TEST, random)
    live = world(use, 21, random, lambda risk: np.clip(risk + change, 0, 1))
    finding = findings(use, live, test)[1]
    assert finding.outcome == "alarm"
    text = rf"observed {side} predicted rates: mean 0\.\d+ per row, 0\.\d+ {side} the expected 0\.\d+ "
    assert re.match(text, finding.note)


def world_of_classes(count: int, random: np.random.Generator, gone: int | None = None) -> LossSeries:
    """Return partitions with three classes, predicted as well as by `world`; one may not occur."""
    weather, unseen = (
        np.stack([common_course("autocorrelated", count, random) for _ in range(3)], axis=1) for _ in range(2)
    )
    scores = 1.5 * random.standard_normal((count, ROWS, 3)) + 0.5 * weather[:, None]
    predicted, risk = softmax(scores, axis=2), softmax(scores + 0.3 * unseen[:, None], axis=2)
    if gone is not None:
        risk[:, :, gone] = 0
        risk /= risk.sum(axis=2, keepdims=True)
    actual = (random.random((count, ROWS, 1)) > risk.cumsum(axis=2)[:, :, :2]).sum(axis=2)
    observed = np.stack([(actual == code).sum(axis=1) for code in range(3)], axis=1).astype(float)
    rows, none = np.full(count, float(ROWS)), np.full(count, np.nan)
    sums = (rows, none, none, none, none, observed, predicted.sum(axis=1))
    return LossSeries(keys(count), *sums, ("constant",) * count)


def rates(test: LossSeries) -> tuple[PairedSums, ...]:
    """Return the sums of each class."""
    pairs = zip(test.observed.T, test.predicted.T, strict=True)
    return tuple(PairedSums(observed, predicted, test.rows) for observed, predicted in pairs)


@pytest.mark.full
def test_a_year_of_three_classes_has_as_few_alarms_as_declared(tmp_path: Path) -> None:
    """The classes share the rate of false alarms."""
    spec, random, years = visits.usecase(tmp_path, "multiclass"), np.random.default_rng(5), 0
    for _ in range(YEARS):
        test, live = rates(world_of_classes(TEST, random)), world_of_classes(365, random)
        weeks = [concept.check_calibration(spec, part_of(live, 0, last), test) for last in range(14, 365, 14)]
        years += any(finding.outcome == "alarm" for week in weeks for finding in week)
    assert years <= YEARS * RATE + 2 * np.sqrt(YEARS * RATE)


@pytest.mark.parametrize("gone", range(3))
def test_a_class_that_no_longer_occurs_is_a_calibration_alarm(gone: int, tmp_path: Path) -> None:
    """It is named, within a fortnight."""
    spec, random = visits.usecase(tmp_path, "multiclass"), np.random.default_rng(gone)
    test, live = rates(world_of_classes(TEST, random)), world_of_classes(14, random, gone)
    findings = {finding.subject: finding for finding in concept.check_calibration(spec, live, test)}
    assert set(findings) == {f"calibration of {name}" for name in spec.problem.classes}
    finding = findings[f"calibration of {spec.problem.classes[gone]}"]
    assert finding.outcome == "alarm"
    assert finding.note.startswith("observed below predicted rates: mean 0 per row, 0.")


def test_a_class_with_few_rows_in_the_test_partitions_is_not_judged(tmp_path: Path) -> None:
    """Its next rows would be an alarm; and the others share the rate of false alarms without it."""
    spec, random = visits.usecase(tmp_path, "multiclass"), np.random.default_rng(1)
    first, *others = rates(world_of_classes(TEST, random))
    rare = replace(first, sums=np.full(TEST, (concept.MIN_RATE_ROWS - 1) / TEST))
    live = world_of_classes(14, random)
    with_rare, both = (
        [(one.subject, one.threshold) for one in concept.check_calibration(spec, live, of)]
        for of in ((rare, *others), (first, *others))
    )
    assert [subject for subject, _ in with_rare] == ["calibration of on_time", "calibration of late"]
    assert dict(with_rare)["calibration of late"] < dict(both)["calibration of late"]


def test_a_regression_expects_what_the_test_partitions_lost(use: UseCase) -> None:
    """Without probabilities the mean loss of the test partitions is the expectation."""
    minutes = use.model_copy(update={"problem": use.problem.model_copy(update={"kind": "regression"})})
    random, rows, none = np.random.default_rng(8), np.full(30, float(ROWS)), np.full(30, np.nan)
    loss = (4 + 0.4 * common_course("autocorrelated", 60, random)) * ROWS
    test = PairedSums(loss[:30], np.full(30, 4.0 * ROWS), rows)
    same = LossSeries(keys(30), rows, loss[30:], none, none, none, none, none, ("constant",) * 30)
    assert concept.check_lasting_loss(minutes, same, test).outcome == "ok"
    more = part_of(replace(same, loss=1.5 * same.loss), 0, 10)
    assert concept.check_lasting_loss(minutes, more, test).outcome == "alarm"


@pytest.mark.parametrize("missing", [[], ["by_class"]], ids=["all columns", "a table of earlier code"])
def test_classes_expect_what_their_probabilities_say(missing: list[str], tmp_path: Path) -> None:
    """Harder rows alone aren't an alarm of several classes either: both sides are read class by class."""
    spec = visits.usecase(tmp_path, "multiclass")
    lake, random, rows = Lake(spec.name, str(tmp_path / "lake")), np.random.default_rng(10), []
    champion = {"model": "m", "effective_from": keys(90)[30], "attempt": "a", "kind": "promoted"}
    sides = {"gate": (keys(14), [20, 1, 1]), "live": (keys(90)[30:], [2, 2, 2])}
    for side, (some, sure) in sides.items():
        said = random.dirichlet(sure, len(some) * ROWS)
        actual = (random.random(len(said))[:, None] > said.cumsum(axis=1)).sum(axis=1).astype(float)
        if side == "gate":
            given = {
                "partition": np.repeat(some, ROWS),
                "actual": actual,
                CHALLENGER: outputs.to_single_column(said),
            }
            sink = io.BytesIO()
            pq.write_table(pa.table(given), sink)
            lake.create(evidence_rows_key("a"), sink.getvalue())
            continue
        parts = (said.reshape(-1, ROWS, 3), actual.reshape(-1, ROWS))
        for partition, mine, came in zip(some, *parts, strict=True):
            lost, own = float(row_losses("log_loss", came, mine).sum()), self_expected_loss(spec, mine)
            made = {"loss": lost, "baseline": lost, "expected": own, "against": "constant"}
            rows.append({"partition": partition, "as_of": partition, "model": "m", "rows": ROWS, **made})
    table = pa.Table.from_pylist(rows, schema=schemas.LOSSES).drop_columns(missing)
    lake.publish("losses", table, {"partition": keys(90)})
    state: Any = SimpleNamespace(
        champion=lambda partition: champion,
        recipe_switches=lambda partition: [champion],
        inputs=lambda partition: {},
    )
    (found,) = concept.check_concept(PartitionContext(lake, spec, state, keys(90)[-1]))
    assert (found.outcome, found.subject) == ("ok", "log_loss against its expectation")


def test_the_test_rows_of_the_training_are_the_measure(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Without the rows of its evidence the finding says so; with them a sound champion isn't an alarm."""
    champion = quick.rows("switches")[0]
    for partition in week[:2]:
        score(quick, use, partition)
    state = machines.watch(quick, use, week[3])
    found = {f.subject: f for f in concept.check_concept(PartitionContext(quick, use, state, week[3]))}
    subject = "log_loss against its expectation"
    assert found[subject].outcome == "not enough"
    assert "are gone" in found[subject].note
    random = np.random.default_rng(9)
    said = random.random(400)
    actual = (random.random(400) < said).astype(float)
    of = np.repeat([f"2024-01-{day}" for day in range(10, 20)], 40)
    sink = io.BytesIO()
    pq.write_table(pa.table({"partition": of, "actual": actual, CHALLENGER: said}), sink)
    quick.replace(evidence_rows_key(champion["attempt"]), sink.getvalue())
    found = {f.subject: f for f in concept.check_concept(PartitionContext(quick, use, state, week[3]))}
    assert found[subject].outcome == "ok"
    assert "over 2 matured partitions" in found[subject].note
    assert found["calibration"].outcome == "ok"


@pytest.mark.parametrize(("times", "outcome"), [(1.0, "ok"), (3.0, "alarm")])
def test_probabilities_of_several_classes_are_an_expectation_too(
    tmp_path: Path, times: float, outcome: str
) -> None:
    """The gate's rows hold a probability a class; live losses are set beside what these expect."""
    spec = visits.usecase(tmp_path, "multiclass")
    lake, partition = Lake(spec.name, str(tmp_path / "lake")), "2024-03-20"
    random = np.random.default_rng(4)
    said = random.dirichlet([2, 3, 4], 400)
    actual = (said.cumsum(axis=1) < random.random((400, 1))).sum(axis=1).astype(float)
    of = np.repeat(spec.clock.keys("2024-02-01", "2024-02-10"), 40)
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"partition": of, "actual": actual, CHALLENGER: outputs.to_single_column(said)}), sink
    )
    lake.replace(evidence_rows_key("judged"), sink.getvalue())
    who = {"switch": 1, "role": "champion", "model": "m", "attempt": "judged", "effective_from": "2024-03-01"}
    lake.publish("switches", pa.Table.from_pylist([who], schemas.SWITCHES), {"switch": 1})
    own = self_expected_loss(spec, said[:40])
    assert own is not None
    same = {
        "as_of": partition,
        "model": "m",
        "rows": 40,
        "loss": times * own,
        "expected": own,
        "against": "constant",
    }
    lost = [{"partition": key, **same} for key in spec.clock.keys("2024-03-01", partition)]
    lake.publish(LOSSES, pa.Table.from_pylist(lost, schemas.LOSSES), {"as_of": partition})
    (found,) = concept.check_concept(
        PartitionContext(lake, spec, PublishedState(lake, spec, partition), partition)
    )
    assert found.outcome == outcome
    assert "over 20 matured partitions" in found.note


def test_a_model_that_is_sure_of_each_row_is_judged_too(use: UseCase) -> None:
    """It expects no loss: where it has none nothing changed, and any loss is more than it expected."""
    world_before, none = world(use, 60, np.random.default_rng(5)), np.zeros(60)
    sure, past = replace(world_before, loss=none, expected=none), PairedSums(none, none, world_before.rows)
    assert concept.check_lasting_loss(use, sure, past).outcome == "ok"
    wrong = concept.check_lasting_loss(use, replace(sure, loss=none + 5), past)
    assert (wrong.outcome, math.isfinite(wrong.value or math.nan)) == ("alarm", True)
