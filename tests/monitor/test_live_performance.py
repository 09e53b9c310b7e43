"""A champion that loses more than the prior, its baseline or its walk is soon detected; noise rarely is."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.live import (
    DEVIATION,
    PASTS,
    PRIOR_LOSS,
    RATE,
    ROWS,
    SERIES,
    WORSE,
    common_course,
    delays,
    false_alarms,
    sums,
)
from include.features.build import features
from include.models import artifacts
from include.monitor import losses
from include.monitor.checks import live_performance
from include.monitor.context import PartitionContext
from include.monitor.losses import LossSeries
from include.monitor.state import PublishedState
from include.promote.ledger import PROMOTED, REFRESHED
from include.score.pipeline import score
from include.spec import UseCase
from include.stats.cusum import PairedSums
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake
from include.train.recipes import recipe_key
from tests.monitor import machines
from tests.promote.conftest import partitions as keys

YEARS = 150


def live(excess: np.ndarray, rows: float = ROWS) -> LossSeries:
    """Return partitions whose loss per row exceeds the prior's by so much."""
    sizes, none = np.full(len(excess), rows), np.full(len(excess), np.nan)
    prior = PRIOR_LOSS * sizes
    loss = prior + excess * sizes
    return LossSeries(
        keys(len(excess)), sizes, loss, prior, prior, none, none, none, ("constant",) * len(excess)
    )


def walk(mean: float, count: int = 60) -> PairedSums:
    """Return what a recipe's walk and the prior's lost, the recipe's less by a mean."""
    return sums(mean + DEVIATION * common_course("independent", count, np.random.default_rng(1)))


@pytest.mark.parametrize("past_ratio", [False, True], ids=["against the constant", "against its walk"])
@pytest.mark.parametrize("past", [28, 60, 365])
def test_a_loss_above_the_priors_is_detected_within_ten_partitions(past: int, past_ratio: bool) -> None:
    """A model that was better and now loses 0.2 more per row than the prior is detected in 98 % of seeds."""
    assert np.mean(delays(past, 200, mean=-0.2 * PRIOR_LOSS, past_ratio=past_ratio) <= 10) >= 0.98


@pytest.mark.parametrize("past", [0, 14, 28, 365])
def test_a_short_walk_and_a_tie_delay_the_detection_little(past: int) -> None:
    """Without a walk, or if the model only tied with the prior before, it is detected in 95 % of seeds."""
    assert np.mean(delays(past, 200, mean=0.0) <= 10) >= 0.95


@pytest.mark.full
@pytest.mark.parametrize("kind", SERIES)
@pytest.mark.parametrize("past", PASTS)
def test_noise_and_seasons_are_alarms_as_rarely_as_declared(kind: str, past: int) -> None:
    """Models that tie with the prior, or stay as their walk was, raise at most the declared alarms a year."""
    most = RATE + 2 * np.sqrt(RATE / YEARS)
    assert false_alarms(kind, past, YEARS) <= most
    assert false_alarms(kind, past, YEARS, past_ratio=True) <= most


def test_the_finding_states_since_when_and_by_how_much(use: UseCase) -> None:
    """The excess is that of the partitions since the statistic was last zero."""
    excess = np.concatenate([np.full(20, -0.1), np.full(5, WORSE)])
    finding = live_performance.above_reference(use, live(excess), "constant", walk(-0.1))
    assert (finding.outcome, finding.subject) == ("alarm", "log_loss against the constant")
    text = "mean 0.85 per row, 0.2 above the reference's 0.65 over 5 matured partitions, 2"
    assert finding.note.startswith(text)
    assert re.search(r"; statistic [\d.]+, alarm at [\d.]+$", finding.note)
    assert finding.value is not None
    assert finding.threshold is not None
    assert finding.value >= finding.threshold


def test_a_label_that_the_objective_excludes_leaves_the_losses_of_the_other_rows(use: UseCase) -> None:
    """A count below 0 has no Poisson deviance, and is left out of each sum; alone it leaves no row."""
    problem = use.problem.model_copy(update={"kind": "regression"})
    gate = use.gate.model_copy(update={"objective": "poisson_deviance"})
    counts = use.model_copy(update={"problem": problem, "gate": gate})
    labels, served = [-1.0, 2.0, 4.0], ["m"] * 3
    labeled = pa.table({
        "machine": [1, 2, 3], "partition": ["2024-01-10"] * 3, "prediction": [3.0] * 3, "model": served,
        "version": served, counts.problem.target: labels,
    })  # fmt: skip
    (row,) = losses.losses_of_partition(counts, labeled, "2024-01-12", 3.0, None, {}).to_pylist()
    expected = row_losses("poisson_deviance", np.array(labels[1:]), np.array([3.0, 3.0])).sum()
    assert (row["rows"], row["observed"], row["predicted"]) == (2, 6.0, 6.0)
    assert (row["loss"], row["constant"], row["baseline"]) == pytest.approx((expected,) * 3)
    assert losses.losses_of_partition(counts, labeled[:1], "2024-01-12", 3.0, None, {}).num_rows == 0


def test_a_single_wild_partition_is_no_alarm(use: UseCase) -> None:
    """However much one partition loses, it takes a second one."""
    excess = np.append(np.full(20, -0.2), 50.0)
    assert live_performance.above_reference(use, live(excess), "constant", walk(-0.2)).outcome == "ok"
    assert (
        live_performance.above_reference(use, live(np.append(excess, 50.0)), "constant", walk(-0.2)).outcome
        == "alarm"
    )


def test_an_alarm_ends_soon_after_its_cause(use: UseCase) -> None:
    """After a hundred partitions above the prior, a week as before isn't an alarm any more."""
    excess = np.concatenate([np.full(100, 0.5), np.full(7, -0.2)])
    assert (
        live_performance.above_reference(use, live(excess[:100]), "constant", walk(-0.2)).outcome == "alarm"
    )
    assert live_performance.above_reference(use, live(excess), "constant", walk(-0.2)).outcome == "ok"


def test_a_lost_advantage_is_detected_though_the_prior_is_no_better(use: UseCase) -> None:
    """A model that no longer beats the constant isn't an alarm against it, but one against its walk."""
    excess = 0.02 * common_course("independent", 30, np.random.default_rng(2))
    past = walk(-0.2)
    assert live_performance.above_reference(use, live(excess), "constant", past).outcome == "ok"
    assert live_performance.above_walk(use, live(excess), past).outcome == "alarm"


def test_a_broken_month_in_the_walk_leaves_the_test_its_power(use: UseCase) -> None:
    """What a recipe lost while its relation was broken isn't ordinary."""
    before = -0.2 + DEVIATION * common_course("independent", 200, np.random.default_rng(3))
    before[100:130] = 1.0
    finding = live_performance.above_reference(use, live(np.full(10, WORSE)), "constant", sums(before))
    assert finding.outcome == "alarm"


def test_a_partition_of_few_rows_counts_little(use: UseCase) -> None:
    """Ten partitions of three rows each aren't evidence, where sixty rows would be an alarm."""
    assert (
        live_performance.above_reference(use, live(np.full(10, WORSE), 3), "constant", walk(-0.1)).outcome
        == "ok"
    )


def test_equal_models_are_no_alarm(use: UseCase) -> None:
    """A champion that is the prior loses as much as the prior, on each partition, exactly."""
    same = sums(np.zeros(60))
    assert live_performance.above_reference(use, live(np.zeros(30)), "constant", same).outcome == "ok"


def test_losses_of_an_earlier_version_have_no_prior(use: UseCase) -> None:
    """Partitions published before the prior's loss was stored don't count."""
    series = live(np.full(10, WORSE))
    some = replace(series, constant=np.where(np.arange(10) < 9, np.nan, series.constant))
    assert live_performance.above_reference(use, series, "constant", walk(-0.1)).outcome == "alarm"
    finding = live_performance.above_reference(use, some, "constant", walk(-0.1))
    assert (finding.outcome, "over 1 matured partitions" in finding.note) == ("ok", True)
    none = replace(series, constant=np.full(10, np.nan))
    assert live_performance.above_reference(use, none, "constant", walk(-0.1)).outcome == "not enough"


def publish_walk(lake: Lake, use: UseCase, until: str, count: int = 40) -> None:
    """Publish walks of the prior and of a better recipe, up to a partition."""
    partitions = use.clock.keys(use.clock.shift(until, 1 - count), until)
    rows = []
    for recipe, loss in ((use.training.baselines[0], PRIOR_LOSS), (use.training.candidates[0], 0.4)):
        own = {"recipe": recipe.name, "recipe_key": recipe_key(use, recipe), "rows": 60, "loss": 60 * loss}
        rows += [
            {"partition": key, "as_of": until, "fitted_on": key, "model": "m", **own} for key in partitions
        ]
    lake.publish("walks", pa.Table.from_pylist(rows, schemas.WALKS), {"partition": partitions})


def publish_losses(lake: Lake, partitions: list[str], models: list[str], excess: float) -> None:
    """Publish live losses of 60 rows that exceed the prior's, each by the partition's model."""
    common = {"version": "1", "rows": 60, "constant": 60 * PRIOR_LOSS, "loss": 60 * (PRIOR_LOSS + excess)}
    common |= {"baseline": 60 * PRIOR_LOSS, "against": "constant", "expected": 30.0, "observed": 1.0}
    rows = [
        {"partition": key, "as_of": partitions[-1], "model": model, "predicted": 1.0, **common}
        for key, model in zip(partitions, models, strict=True)
    ]
    lake.publish("losses", pa.Table.from_pylist(rows, schemas.LOSSES), {"partition": partitions})


def test_the_losses_of_a_recipe_count_across_its_refits(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A refit continues the series of its recipe, a change of recipe begins another one."""
    first = {**quick.rows("switches")[0], "recipe": use.training.candidates[0].name}
    refit = {**first, "switch": 2, "kind": REFRESHED, "model": "refit", "effective_from": week[4]}
    publish_walk(quick, use, machines.TRAINED)
    publish_losses(quick, week, [first["model"]] * 4 + ["refit"] * 4, 0.3)
    outcomes = {}
    for kind in (REFRESHED, PROMOTED):
        rows = pa.Table.from_pylist([first, {**refit, "kind": kind}], schemas.SWITCHES)
        quick.publish("switches", rows, {"switch": [1, 2]})
        context = PartitionContext(quick, use, PublishedState(quick, use, week[-1]), week[-1])
        findings = {finding.subject: finding for finding in live_performance.check_losses(context)}
        assert set(findings) == {"log_loss against the constant", "log_loss against its walk"}
        outcomes[kind] = findings["log_loss against the constant"].note.split(",")[1]
    assert outcomes[REFRESHED].endswith("over 8 matured partitions")
    assert outcomes[PROMOTED].endswith("over 4 matured partitions")


def test_a_recipe_without_a_walk_is_compared_with_the_prior_alone(
    quick: Lake, use: UseCase, week: list[str]
) -> None:
    """A champion of an undeclared recipe has no walk: a rule of thumb takes its place."""
    model = quick.rows("switches")[0]["model"]
    publish_losses(quick, week, [model] * len(week), 0.5)
    context = PartitionContext(quick, use, PublishedState(quick, use, week[-1]), week[-1])
    prior, own_walk = live_performance.check_losses(context)
    assert (prior.outcome, own_walk.outcome) == ("alarm", "not enough")
    assert own_walk.note == "no walk of its recipe was stored when it was trained"


def test_a_deployed_baseline_is_compared_on_the_same_rows(use: UseCase) -> None:
    """A champion that beats the prior, but loses more than the baseline, is an alarm against the baseline."""
    series = live(np.full(12, -0.1))
    better = replace(series, baseline=series.constant - 0.25 * series.rows)
    assert live_performance.above_reference(use, better, "constant", walk(-0.2)).outcome == "ok"
    assert live_performance.above_reference(use, better, "baseline", walk(-0.01)).outcome == "alarm"


def test_the_baseline_predicts_the_same_rows(quick: Lake, use: UseCase, week: list[str]) -> None:
    """The baseline's losses are its model's on the partition's rows; before one is deployed, the prior's."""
    live_row = quick.rows("switches")[0]
    baseline = {**live_row, "role": "baseline", "switch": 2, "version": "b", "effective_from": week[1]}
    table = pa.Table.from_pylist([baseline], schema=schemas.SWITCHES)
    quick.append_at("switches", table, quick.version("switches"))
    for partition in week[:2]:
        score(quick, use, partition)
    machines.watch(quick, use, week[3])
    rows = {row["partition"]: row for row in quick.rows("losses")}
    assert [rows[partition]["against"] for partition in week[:2]] == ["constant", "baseline vb"]
    model = artifacts.load_model(quick, baseline["model"])
    predicted = artifacts.predict(model, features(quick, use, [week[1]]), use)
    minutes = np.array([np.nan if m is None else m for m in machines.day(week[1])[1]])
    actual, probability = (minutes[~np.isnan(minutes)] > 15).astype(float), predicted[~np.isnan(minutes)]
    assert rows[week[1]]["baseline"] == pytest.approx(row_losses("log_loss", actual, probability).sum())
    assert rows[week[1]]["loss"] == pytest.approx(rows[week[1]]["baseline"])  # here it is the same model
    entropy = -(probability * np.log(probability) + (1 - probability) * np.log(1 - probability))
    assert rows[week[1]]["expected"] == pytest.approx(entropy.sum())
    constant = row_losses("log_loss", actual, np.full_like(actual, 0.25)).sum()
    assert rows[week[1]]["constant"] == pytest.approx(constant)
    assert rows[week[0]]["baseline"] == rows[week[0]]["constant"]
    champion = quick.rows("switches", {"role": "champion"})[0]
    assert losses.loss_series(quick, [champion], week[2]).partitions == (week[0],)
    assert losses.loss_series(quick, [champion], week[3]).partitions == tuple(week[:2])
