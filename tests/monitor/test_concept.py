"""A changed label rule is found within partitions, and noise and a harder season as rarely as promised."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.judge.evidence import CHALLENGER, evidence_rows_key
from include.models import outputs
from include.monitor.checks import concept
from include.monitor.context import PartitionContext
from include.monitor.losses import LOSSES, LossSeries, expected_own_loss
from include.monitor.state import State
from include.score.pipeline import score
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.test_degradation import keys, partitions, rules
from tests.train import visits

__all__ = ["rules"]
ROWS, YEARS = 200, 200
Truth = Callable[[np.ndarray], np.ndarray]


def as_predicted(risk: np.ndarray) -> np.ndarray:
    """Return the risk itself: the model is right."""
    return risk


def world(use: UseCase, count: int, random: np.random.Generator, truth: Truth = as_predicted) -> LossSeries:
    """Return partitions whose weather moves risk and prediction alike, and some of it the risk alone.

    Loss over expectation then varies by partition, and is like the partition before, as the flights' does.
    """
    weather = partitions(count, random)
    seen = 1 / (1 + np.exp(-(random.standard_normal((count, ROWS)) - 1 + 0.5 * weather[:, None])))
    unseen = 0.5 * partitions(count, random, again=0.6)
    happens = 1 / (1 + np.exp(-(np.log(seen / (1 - seen)) + unseen[:, None])))
    actual = (random.random((count, ROWS)) < truth(happens)).astype(float)
    own = np.array([expected_own_loss(use, partition) for partition in seen], dtype=float)
    lost = row_losses("log_loss", actual.ravel(), seen.ravel()).reshape(seen.shape).sum(axis=1)
    rows = np.full(count, float(ROWS))
    return LossSeries(
        keys(count), rows, lost, lost, own, actual.sum(axis=1), seen.sum(axis=1), ("prior",) * count
    )


def first_alarm(use: UseCase, random: np.random.Generator, truth: Truth, count: int) -> int:
    """Return on which partition a change since the first one is found, or that it wasn't."""
    gate, live = world(use, 26, random), world(use, count, random, truth)
    for last in range(1, count + 1):
        seen = LossSeries(*(getattr(live, name)[:last] for name in LossSeries.__dataclass_fields__))
        if concept.check_lasting_loss(use, seen, (gate.loss, gate.expected)).outcome == "alarm":
            return last
    return count + 1


def test_a_year_without_a_change_has_as_few_alarms_as_promised(rules: UseCase) -> None:
    """Of 200 years of partitions like those before them, no more than a tenth, and chance.

    Raise either alarm.
    """
    random = np.random.default_rng(5)
    alarms = {"loss": 0, "calibration": 0}
    for _ in range(YEARS):
        gate, live = world(rules, 26, random), world(rules, 365, random)
        found = concept.check_lasting_loss(rules, live, (gate.loss, gate.expected))
        ratios = (live.loss[:363].reshape(-1, 3).sum(1)) / (live.expected[:363].reshape(-1, 3).sum(1))
        reached = concept.e_detector(ratios / concept.max_loss_ratio(rules, (gate.loss, gate.expected)))
        assert reached[-1] == found.value
        alarms["loss"] += bool((reached >= found.threshold).any())
        windows = (slice(max(last - 42, 0), last) for last in range(7, 365, 7))
        parts = (LossSeries(*(getattr(live, n)[w] for n in LossSeries.__dataclass_fields__)) for w in windows)
        alarms["calibration"] += any(
            concept.check_calibration(rules, part).outcome == "alarm" for part in parts
        )
    rate = rules.monitoring.false_alarms_per_year
    assert max(alarms.values()) <= YEARS * rate + 3 * np.sqrt(YEARS * rate * (1 - rate)), alarms


@pytest.mark.parametrize(
    ("truth", "within"),
    [(lambda risk: 1 - risk, 42), (lambda risk: np.full_like(risk, 0.5), 84)],
    ids=["turned round", "a coin"],
)
def test_another_rule_of_the_labels_is_found(rules: UseCase, truth: Truth, within: int) -> None:
    """In each of 20 worlds the change is found within so many partitions."""
    random = np.random.default_rng(6)
    assert max(first_alarm(rules, random, truth, within) for _ in range(20)) <= within


def test_a_rate_that_rose_is_a_calibration_alarm(rules: UseCase) -> None:
    """When a fifth of the rows are 1 beyond what was predicted, three weeks show it, and its size."""
    live = world(rules, 35, np.random.default_rng(7), lambda risk: np.minimum(risk + 0.2, 1))
    found = concept.check_calibration(rules, live)
    assert found.outcome == "alarm"
    assert found.value == pytest.approx(0.2, abs=0.08)


def test_a_regression_expects_what_the_gate_saw(rules: UseCase) -> None:
    """Without probabilities the gate's mean loss is the expectation, and twice of it is found."""
    minutes = rules.model_copy(
        update={
            "problem": rules.problem.model_copy(update={"kind": "regression"}),
            "gate": rules.gate.model_copy(update={"objective": "squared_error"}),
        }
    )
    random, rows = np.random.default_rng(8), np.full(30, float(ROWS))
    gate = ((4 + 0.4 * partitions(26, random)) * ROWS, np.full(26, float(ROWS)))
    lost, none = (4 + 0.4 * partitions(30, random)) * ROWS, np.full(30, np.nan)
    live = LossSeries(keys(30), rows, lost, lost, none, none, none, ("prior",) * 30)
    assert concept.check_lasting_loss(minutes, live, gate).outcome == "ok"
    twice = LossSeries(keys(30), rows, 2 * lost, *[none] * 4, ())
    assert (
        concept.check_lasting_loss(minutes, twice, gate).outcome == "ok"
    )  # ten blocks don't show it, fifteen do
    longer = [np.tile(values, 2)[:45] for values in (rows, 2 * lost, none, none, none, none)]
    assert concept.check_lasting_loss(minutes, LossSeries(keys(45), *longer, ()), gate).outcome == "alarm"


def test_classes_expect_what_their_probabilities_say(tmp_path: Path) -> None:
    """Harder rows alone are no alarm of several classes either: both sides are read class by class."""
    spec = visits.usecase(tmp_path, "multiclass")
    lake, random, rows = Lake(spec.name, str(tmp_path / "lake")), np.random.default_rng(10), []
    champion = {"model": "m", "effective": keys(90)[30], "attempt": "a"}
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
            lost, own = float(row_losses("log_loss", came, mine).sum()), expected_own_loss(spec, mine)
            made = {"loss": lost, "baseline": lost, "expected": own, "against": "prior"}
            rows.append({"partition": partition, "known": partition, "model": "m", "rows": ROWS, **made})
    lake.publish("losses", pa.Table.from_pylist(rows, schema=schemas.LOSSES), {"partition": keys(90)})
    state: Any = SimpleNamespace(
        champion=lambda partition: champion, vacancy=lambda partition: "", inputs=lambda partition: {}
    )
    (found,) = concept.check_concept(PartitionContext(lake, spec, state, keys(90)[-1]))
    assert (found.outcome, found.subject) == ("ok", "log_loss against its expectation")
    assert "after 60 partitions" in found.note


def test_the_gates_own_rows_are_the_measure(quick: Lake, use: UseCase, week: list[str]) -> None:
    """Without the rows of its evidence the finding says so; with them a sound champion is no alarm."""
    champion = quick.rows("deployments")[0]
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
    assert "after 2 partitions" in found[subject].note
    assert found["calibration"].outcome == "not enough"


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
    who = {"switch": 1, "role": "champion", "model": "m", "attempt": "judged", "effective": "2024-03-01"}
    lake.publish("deployments", pa.Table.from_pylist([who], schemas.DEPLOYMENTS), {"switch": 1})
    own = expected_own_loss(spec, said[:40])
    assert own is not None
    same = {
        "known": partition,
        "model": "m",
        "rows": 40,
        "loss": times * own,
        "expected": own,
        "against": "prior",
    }
    lost = [{"partition": key, **same} for key in spec.clock.keys("2024-03-01", partition)]
    lake.publish(LOSSES, pa.Table.from_pylist(lost, schemas.LOSSES), {"known": partition})
    (found,) = concept.check_concept(PartitionContext(lake, spec, State(lake, spec, partition), partition))
    assert (found.outcome, found.threshold) == (outcome, 365 / spec.gate.block_partitions / 0.05)
    assert f"{times:.3f} on the last" in found.note


def test_a_model_that_is_sure_of_each_row_is_judged_too(use: UseCase) -> None:
    """It expects no loss: where it has none nothing changed, and any loss is more than it expected."""
    random = np.random.default_rng(5)
    gate, calm = world(use, 26, random), world(use, 60, random)
    none = np.zeros(60)
    sure = replace(calm, loss=none, expected=none)
    asked = (gate.loss, gate.expected)
    assert concept.check_lasting_loss(use, sure, asked).outcome == "ok"
    wrong = concept.check_lasting_loss(use, replace(sure, loss=none + 5), asked)
    assert (wrong.outcome, math.isfinite(wrong.value or math.nan)) == ("alarm", True)
    nothing = concept.check_lasting_loss(use, calm, (np.zeros(26), np.zeros(26)))
    assert nothing.outcome == "not enough"
