"""A champion below its baseline or above the gate's estimate is told, and noise is as rarely as declared."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from include.features.build import features
from include.judge.evidence import CHALLENGER, Losses
from include.models import artifacts
from include.monitor import losses
from include.monitor.checks import degradation
from include.monitor.losses import LossSeries
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.gate import Gate, Rollout
from include.spec.stages import Monitoring
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.promote.conftest import partitions as keys

ROWS = 100
YEARS = 150


def partitions(count: int, random: np.random.Generator, again: float = 0.3) -> np.ndarray:
    """Return what partitions have in common, each like the one before it, with a standard deviation of 1."""
    steps = random.standard_normal(count + 50)
    for place in range(1, len(steps)):
        steps[place] = again * steps[place - 1] + np.sqrt(1 - again**2) * steps[place]
    return steps[50:]


def live(lost: np.ndarray, baseline: np.ndarray, expected: np.ndarray | None = None) -> LossSeries:
    """Return partitions with mean losses a row."""
    rows, none = np.full(len(lost), float(ROWS)), np.full(len(lost), np.nan)
    own = none if expected is None else expected * rows
    who = ("baseline v1",) * len(lost)
    return LossSeries(keys(len(lost)), rows, lost * rows, baseline * rows, own, none, none, who)


@pytest.fixture(scope="module")
def rules(use: UseCase) -> UseCase:
    """The use case with blocks of three partitions, as the flights have."""
    gate = Gate(objective="log_loss", block_partitions=3, rollout=Rollout(look_every=7))
    return use.model_copy(
        update={"gate": gate, "monitoring": Monitoring(patience=21, false_alarms_per_year=0.1)}
    )


def test_a_champion_below_its_baseline_steps_down_after_the_declared_partitions(rules: UseCase) -> None:
    """It is told from two blocks on.

    And goes once it was so for as many matured partitions as are declared.
    """
    random = np.random.default_rng(1)
    base = 0.5 + 0.05 * partitions(40, random)
    bad = live(base + 0.05 + 0.01 * partitions(40, random), base)
    found = {}
    for count in (6, 7, 14, 20, 21):
        seen = live(bad.loss[:count] / ROWS, bad.baseline[:count] / ROWS)
        said = degradation.below_baseline(rules, seen)
        found[count] = (said.outcome, bool(degradation.demotion_reason(rules, seen)))
    assert found == {
        6: ("not enough", False),
        7: ("ok", False),  # two blocks and a third: too few for so rare an alarm
        14: ("alarm", False),
        20: ("alarm", False),
        21: ("alarm", True),
    }


def test_a_champion_above_its_baseline_stays(rules: UseCase) -> None:
    """A better one is no alarm, whatever the partitions have in common."""
    base = 0.5 + 0.1 * partitions(60, np.random.default_rng(2))
    good = live(base - 0.01, base)
    assert degradation.below_baseline(rules, good).outcome == "ok"
    assert degradation.demotion_reason(rules, good) == ""


def test_noise_is_an_alarm_as_rarely_as_declared(rules: UseCase) -> None:
    """Of 150 years in which nothing changes, either finding is raised in no more than a tenth, and chance."""
    random = np.random.default_rng(3)
    alarms = {"baseline": 0, "gate": 0}
    for _ in range(YEARS):
        base = 0.5 + 0.05 * partitions(365, random, again=0.5)
        lost = base + 0.02 * partitions(365, random)
        gate = (0.5 + 0.05 * partitions(26, random, again=0.5)) * ROWS
        promised = Losses(keys(26), (ROWS,) * 26, {CHALLENGER: tuple(gate.tolist())})
        said = {"baseline": False, "gate": False}
        for last in range(7, 365, 7):
            seen = live(lost[max(last - 42, 0) : last], base[max(last - 42, 0) : last])
            said["baseline"] |= degradation.below_baseline(rules, seen).outcome == "alarm"
            said["gate"] |= degradation.above_gate(rules, seen, promised).outcome == "alarm"
        alarms = {name: alarms[name] + said[name] for name in alarms}
    rate = rules.monitoring.false_alarms_per_year
    assert max(alarms.values()) <= YEARS * rate + 3 * np.sqrt(YEARS * rate * (1 - rate)), alarms


def test_a_loss_beyond_what_the_gate_saw_is_an_alarm(rules: UseCase) -> None:
    """A fifth more than on the test partitions is found in three weeks.

    What can't be compared is not enough.
    """
    random = np.random.default_rng(4)
    gate = (0.5 + 0.03 * partitions(26, random)) * ROWS
    promised = Losses(keys(26), (ROWS,) * 26, {CHALLENGER: tuple(gate.tolist())})
    seen = live(0.6 + 0.03 * partitions(21, random), np.full(21, 0.7))
    found = degradation.above_gate(rules, seen, promised)
    assert found.outcome == "alarm"
    assert "over 21 matured partitions" in found.note
    assert degradation.above_gate(rules, seen, "it was promoted without a gate").outcome == "not enough"


def test_the_baseline_predicts_the_same_rows(quick: Lake, use: UseCase, week: list[str]) -> None:
    """The deployed baseline's losses are its model's on the partition's rows.

    Before there is one, a prior's.
    """
    live_row = quick.rows("deployments")[0]
    baseline = {**live_row, "role": "baseline", "switch": 2, "version": "b", "effective": week[1]}
    table = pa.Table.from_pylist([baseline], schema=schemas.DEPLOYMENTS)
    quick.append_at("deployments", table, quick.version("deployments"))
    for partition in week[:2]:
        score(quick, use, partition)
    machines.watch(quick, use, week[3])
    rows = {row["partition"]: row for row in quick.rows("losses")}
    assert [rows[partition]["against"] for partition in week[:2]] == ["prior", "baseline vb"]
    model = artifacts.load_model(quick, baseline["model"])
    predicted = artifacts.predict(model, features(quick, use, [week[1]]), use)
    stood = np.array([np.nan if m is None else m for m in machines.day(week[1])[1]])
    actual, said = (stood[~np.isnan(stood)] > 15).astype(float), predicted[~np.isnan(stood)]
    assert rows[week[1]]["baseline"] == pytest.approx(row_losses("log_loss", actual, said).sum())
    assert rows[week[1]]["loss"] == pytest.approx(rows[week[1]]["baseline"])  # here it is the same model
    entropy = -(said * np.log(said) + (1 - said) * np.log(1 - said))
    assert rows[week[1]]["expected"] == pytest.approx(entropy.sum())
    one = np.array([float(m > 15) for m in machines.day(week[0])[1] if m is not None])
    assert rows[week[0]]["baseline"] == pytest.approx(
        row_losses("log_loss", one, np.full_like(one, 0.25)).sum()
    )
    champion = quick.rows("deployments", {"role": "champion"})[0]
    assert losses.loss_series(quick, champion, week[2]).partitions == (week[0],)
    assert losses.loss_series(quick, champion, week[3]).partitions == tuple(week[:2])
