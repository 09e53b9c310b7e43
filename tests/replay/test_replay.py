"""The replay decides as production did, compares policies on the same rows, and survives a kill."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from markupsafe import escape
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import EvergreenError, InsufficientData, NotPublished, SpecError
from include.evaluate.pipeline import evaluate
from include.judge import checks
from include.models.registry import Registry
from include.monitor.pipeline import monitor
from include.promote import ledger
from include.promote.ledger import Trial
from include.promote.promotion import promote
from include.promote.verdicts import judge_and_record
from include.replay import pipeline
from include.replay import policies as policies_module
from include.replay.fits import Fits, workers
from include.replay.history import PastRows
from include.replay.pipeline import Replay, replay
from include.replay.policies import Declared, Policy, Served, job
from include.replay.report import render_page, replay_json, replay_text
from include.rollout.pipeline import advance
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.replay.conftest import BREAK, FIRST, LAST, SMALL, UNTIL, fill
from tests.train import visits

SUNDAY = 6
ROOT = Path(__file__).parents[2]


def serve_day_by_day(lake: Lake, spec: UseCase, registry: Registry, first: str, until: str) -> None:
    """Run the batch of each partition and the trainings on Sundays and on request, as Airflow's DAGs do."""
    for partition in spec.clock.keys(first, until):
        requested = False
        if partition > first:
            score(lake, spec, partition)
            monitor(lake, spec, partition)
            advance(lake, spec, partition)
            causes = [row["cause"] for row in lake.rows("decisions", {"partition": partition})]
            requested = any(cause.endswith(partition) for cause in causes)
        if requested or date.fromisoformat(partition).weekday() == SUNDAY:
            run = train(lake, spec, partition, registry=registry).id
            evidence = evaluate(lake, spec, partition, run, registry=registry).id
            judge_and_record(lake, spec, evidence)
            promote(lake, spec, PurePosixPath(evidence).stem, registry=registry)


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> dict[str, Policy]:
    """The policies of the replays that follow, by name, with all that they decided."""
    by_name: dict[str, Policy] = {}
    run = Policy.run

    def remember(self: Policy, *args: object) -> None:
        by_name[self.name] = self
        run(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "run", remember)
    return by_name


@pytest.mark.full
@pytest.mark.timeout(1200)  # a minute for each, and five times that beside other tests
def test_declared_serves_the_models_that_production_served(
    lake: Lake, spec: UseCase, tmp_path: Path, policies: dict[str, Policy]
) -> None:
    """The same fits serve the same partitions, also before a first verdict and after a reversal.

    The first training has too few test partitions, so a baseline serves for a week. After the reversal a
    champion is replaced, and a training requested.
    """
    spec = visits.usecase(tmp_path / "cautious", **SMALL, **{"min_partitions: 3": "min_partitions: 5"})
    first = spec.clock.shift(FIRST, -7)
    replay(lake, spec, (), first, UNTIL)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", f"file://{tmp_path}/artifacts")
    serve_day_by_day(lake, spec, registry, first, UNTIL)
    switches = ledger.switches(lake)
    served = {}
    for partition in spec.clock.keys(spec.clock.shift(first, 1), UNTIL):
        serving = ledger.serving_of(switches, partition)
        row = serving.champion or serving.baseline
        assert row
        served[partition] = (row["recipe"], row["model"])
    assert {row["kind"] for row in ledger.in_effect(switches, FIRST)} == {ledger.BASELINE_ONLY}
    kinds = [row["kind"] for row in ledger.champions(switches)]
    assert {ledger.PROMOTED, ledger.REFRESHED, ledger.REPLACED} == set(kinds)
    replayed = policies["declared"].served
    assert served == {key: (s.fit.recipe, s.fit.model) for key, s in replayed.items()}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """The whole range under the four policies, one that may not replace a baseline, and one of Fridays."""
    from tests.replay.conftest import declare

    folder = tmp_path_factory.mktemp("replay")
    spec = declare(folder / "usecases")
    overlays = {"reluctant": "gate: {min_gain: 0.5}\n", "fridays": 'schedule: {training: "0 20 * * 5"}\n'}
    for name, text in overlays.items():
        (folder / f"{name}.yaml").write_text(text)
    files = [folder / f"{name}.yaml" for name in overlays]
    return replay(fill(folder / "lake", spec), spec, files, FIRST, LAST)


@pytest.mark.full
def test_a_recipe_that_cannot_be_fitted_is_left_out(tmp_path: Path) -> None:
    """As in production, the others are compared, and one of them serves."""
    broken = {"max_iter: 15": "max_iter: none", "n_estimators: 10": "n_estimators: 4"}
    spec = visits.usecase(tmp_path / "usecases", **broken)
    result = replay(fill(tmp_path / "lake", spec), spec, (), FIRST, spec.clock.shift(FIRST, 8))
    assert [policy.constant for policy in result.policies] == [0] * 4
    recipes = {switch.recipe for policy in result.policies for switch in policy.switches}
    assert recipes
    assert "boosting" not in recipes


NEAR = """
from sklearn.linear_model import LogisticRegression


class Near(LogisticRegression):
    takes_raw = True

    def fit(self, rows, actual):
        return super().fit(rows[["distance"]].fillna(0), actual)

    def predict_proba(self, rows):
        if rows["distance"].max() > LIMIT:
            raise ValueError("too far")
        return super().predict_proba(rows[["distance"]].fillna(0))
"""


def test_a_policys_own_estimator_predicts_later_and_loses_the_most_where_it_cannot(
    lake: Lake, spec: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model is loaded with the policy's declaration, and what it can't predict gets the constant.

    It has a walk as in production, also if it can't predict any partition.
    """
    past, days = PastRows.read(lake, spec, UNTIL), spec.clock.keys(FIRST, UNTIL)
    distance = past.table["distance"].to_numpy()
    farthest = {key: np.nanmax(distance[past.row_positions[key]]) for key in days[2:]}
    limit = float(np.median(list(farthest.values())))
    (spec.folder / "near.py").write_text(NEAR.replace("LIMIT", str(limit)))
    overlay = tmp_path / "near.yaml"
    overlay.write_text('training: {candidates: [{name: near, estimator: "near:Near"}]}\n')
    own = read(spec.folder / "usecase.yaml", overlay)
    (recipe,) = own.training.candidates
    with workers(past, 1) as pool:
        fits = Fits(lake, past, [[key] for key in past.calendar], pool)
        (fit,) = fits.ensure([job(own, recipe, FIRST, past.training_set(own, FIRST))], days[1])
        losses = {key: fits.loss(fit, key, past.newest[key], own.objective) for key in farthest}
        too_far = [key for key in losses if farthest[key] > limit]
        assert 0 < len(too_far) < len(losses)
        assert [key for key, loss in losses.items() if np.isinf(loss)] == too_far
        policy = Declared("near", own, fits, served={key: Served(fit) for key in losses})
        unserved = Declared("constant", own, fits)
        for key in too_far:
            part = past.newest[key]
            expected = unserved.served_loss(key, part, own.objective)
            assert policy.served_loss(key, part, own.objective) == expected
        policy.own = [fit]
        assert {*np.isinf(policy.walks(UNTIL).of("near"))} == {False, True}
        served = {"model": fit.model, "recipe": fit.recipe, "effective_from": days[2]}
        on_trial = policy._live_losses(Trial(ledger.SHADOW, served, served), UNTIL).partitions
        assert on_trial
        assert not {*on_trial} & {*too_far}
        monkeypatch.setattr(fits, "loss", lambda *_: np.inf)
        assert np.isinf(policy.walks(UNTIL).of("near")).all()


@pytest.mark.full
def test_the_policies_differ_as_they_are_described(replayed: Replay) -> None:
    """Never keeps one model, newest takes each training's, and declared leaves what a baseline beats."""
    by_name = {policy.name: policy for policy in replayed.policies}
    assert list(by_name) == ["declared", "never", "newest", "new-not-worse", "reluctant", "fridays"]
    partitions = len(replayed.partitions)
    assert by_name["never"].switches == ()
    assert by_name["never"].ages.tolist() == list(range(1, partitions + 1))
    assert by_name["newest"].ages.max() == 7
    lost = {name: replayed.loss(policy) for name, policy in by_name.items()}
    assert lost["declared"] < lost["newest"] < lost["never"]
    after = [s.partition for s in by_name["declared"].switches if not s.is_refresh and s.partition >= BREAK]
    assert BREAK < after[0] <= "2024-03-31"
    assert {switch.recipe for switch in by_name["reluctant"].switches} <= {
        *("prior", "prior_90", "prior_30", "prior_10", "linear", "linear_90", "linear_30", "linear_10")
    }


@pytest.mark.full
def test_a_switch_has_its_own_reason_if_a_training_refits_the_recipe_before_it_serves(
    replayed: Replay,
) -> None:
    """A replacement and a training fall on one Friday: what serves is the new fit, because of the first."""
    fridays = next(policy for policy in replayed.policies if policy.name == "fridays")
    switch, *_ = (switch for switch in fridays.switches if not switch.is_refresh)
    assert (switch.recipe, switch.fitted_on, switch.partition) == ("prior", "2024-03-29", "2024-03-30")
    assert "times the weight of linear" in switch.reason


@pytest.mark.full
def test_refused_fits_are_listed_with_their_reasons(
    lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the predictions of a refit may not move at all, the page and the text say which did."""
    monkeypatch.setattr(checks, "movement_limit", lambda past: 0.0)
    monkeypatch.setattr(checks, "MIN_PAST_MOVES", 0)
    own = {name: kind for name, kind in policies_module.BUILT_IN.items() if name in ("declared", "never")}
    monkeypatch.setattr(pipeline, "BUILT_IN", own)
    result = replay(lake, spec, (), FIRST, "2024-03-26")
    declared = next(policy for policy in result.policies if policy.name == "declared")
    (refusal,) = declared.refusals
    assert (refusal.partition, refusal.recipe) == ("2024-03-24", "linear")
    assert re.match(r"movement of the predictions 0\.\d+, required at most 0, ", refusal.reason)
    text = replay_text(result)
    assert "declared: 1 fit refused by a check:" in text
    assert f"2024-03-24  linear: {refusal.reason}" in text
    assert str(escape(refusal.reason)) in render_page(result)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ("leak: {max_score: 0.6}", r"strongest single feature ROC-AUC 0\.\d+, required below 0\.6 "),
        (
            "requirements: [{metric: roc_auc, at_least: 0.99, hard: true}]",
            r"roc_auc 0\.\d+, required at least 0\.99",
        ),
    ],
    ids=["leak", "requirement"],
)
def test_models_that_the_gate_refuses_do_not_serve_in_a_replay(
    declared: str, reason: str, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feature that gives the label away, or a metric below its requirement, leaves a baseline serving."""
    spec = visits.usecase(
        tmp_path / "strict", **SMALL, **{"min_partitions: 3": f"min_partitions: 3, {declared}"}
    )
    own = {name: policies_module.BUILT_IN[name] for name in ("declared", "never")}
    monkeypatch.setattr(pipeline, "BUILT_IN", own)
    result = replay(lake, spec, (), FIRST, "2024-03-20")
    refusal, *_ = result.policies[0].refusals
    assert refusal.partition == FIRST
    assert re.match(reason, refusal.reason)
    assert (refusal.recipe, {one.fit.recipe for one in result.policies[0].served if one}) == (
        "linear",
        {"prior"},
    )


def test_rows_that_were_known_only_after_the_decision_are_named(lake: Lake, spec: UseCase) -> None:
    """A time zone that was changed after the ingest puts each decision before its rows."""
    schedule = spec.schedule.model_copy(update={"timezone": "Pacific/Auckland"})
    with pytest.raises(InsufficientData) as caught:
        replay(lake, spec.model_copy(update={"schedule": schedule}))
    error = caught.value
    assert error.subject == "missed_visits: replay"
    assert "on which it was known only later" in error.found
    assert "if schedule.timezone or sources.visits.available_at was changed" in error.remedy


@pytest.mark.full
def test_new_not_worse_keeps_what_serves_unless_the_new_fit_is_as_good(
    lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a new fit had to lose nine tenths less, the first one serves on."""
    monkeypatch.setattr(policies_module, "WORSE", -0.9)
    result = replay(lake, spec, (), FIRST, "2024-03-26")
    switches = {policy.name: policy.switches for policy in result.policies}
    assert switches["new-not-worse"] == ()
    assert len(switches["newest"]) == 1


def test_figures_follow_from_what_was_served(replayed: Replay) -> None:
    """Losses, the difference to never and the partitions worse than the prior agree with one another."""
    never = next(policy for policy in replayed.policies if policy.name == "never")
    for policy in replayed.policies:
        assert policy.constant == 0
        assert policy.worse_than_prior == int((policy.losses > replayed.prior * (1 + 1e-9)).sum())
        if policy.difference:
            mean, low, high = policy.difference
            assert low < mean < high
            assert mean == pytest.approx(replayed.loss(policy) - replayed.loss(never))
    assert never.worse_than_prior > 10


def test_json_has_the_documented_keys(replayed: Replay) -> None:
    """Each policy has its name and five numbers, and nothing else; its losses by partition give its loss."""
    data = json.loads(json.dumps(replay_json(replayed), allow_nan=False))
    assert list(data) == ["policies", "losses"]
    for policy in data["policies"]:
        assert list(policy) == ["name", "loss", "switches", "constant", "worse_than_prior", "cpu_s"]
        assert all(isinstance(policy[name], int) for name in ("switches", "constant", "worse_than_prior"))
    for policy, figures in zip(replayed.policies, data["policies"], strict=True):
        own = [line for line in data["losses"] if line["policy"] == policy.name]
        assert [line["partition"] for line in own] == list(replayed.partitions)
        lost, rows = sum(line["rows"] * line["loss"] for line in own), sum(line["rows"] for line in own)
        assert lost / rows == pytest.approx(figures["loss"])
        served = {line["partition"]: line["fit"] for line in own}
        for switch in policy.switches:
            assert served[switch.partition] == {"recipe": switch.recipe, "fitted_on": switch.fitted_on}


def command(lake: Lake, spec: UseCase) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a short replay, and its environment."""
    base = lake.uri.removesuffix(f"/{spec.name}")
    env = {**os.environ, "EVERGREEN_LAKE": base, "EVERGREEN_USECASES": str(spec.folder.parent)}
    argv = ["replay", spec.name, "--from", FIRST, "--until", "2024-03-26", "--json"]
    return argv, {**env, "PYTHONPATH": str(ROOT)}


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_killed_replay_goes_on_where_it_was(
    lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed amid its fits and run again it prints the same; its workers end, no stored fit is repeated."""
    argv, env = command(lake, spec)
    process = subprocess.Popen(
        [sys.executable, "-m", "include", *argv], env=env, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(before := fits_of(lake)) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    while group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    for name in ("EVERGREEN_LAKE", "EVERGREEN_USECASES"):
        monkeypatch.setenv(name, env[name])
    results = [CliRunner().invoke(app, argv, catch_exceptions=False) for _ in range(2)]
    assert results[0].exit_code == 0
    assert results[0].stdout == results[1].stdout
    stored = fits_of(lake)
    assert len(stored) > len(before)
    assert {key: stored[key] for key in before} == before
    fresh = replay(lake, spec, (), FIRST, "2024-03-26")
    assert json.loads(results[0].stdout) == replay_json(fresh)


def fits_of(lake: Lake) -> dict[str, bytes | None]:
    """Return the stored fits by key."""
    return {key: lake.get(key) for key in lake.keys("replays") if key.endswith("fit.json")}


def group_lives(group: int) -> bool:
    """Return whether a process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_nothing_that_serves_is_written(lake: Lake, spec: UseCase) -> None:
    """A replay adds objects below replays/, and leaves every table at its version."""
    before = {table: lake.version(table) for table in lake.tables()}
    objects = set(lake.keys("")) - set(lake.keys("tables"))
    replay(lake, spec, (), FIRST, "2024-03-20")
    assert {table: lake.version(table) for table in lake.tables()} == before
    added = set(lake.keys("")) - set(lake.keys("tables")) - objects
    assert added
    assert all(key.startswith("replays/") for key in added)


def test_until_a_training_has_labels_the_constant_serves(
    lake: Lake, spec: UseCase, policies: dict[str, Policy]
) -> None:
    """From a first training without labels on, partitions count as the constant's, until the next one."""
    result = replay(lake, spec, (), "2024-03-01", "2024-03-06")
    assert {policy.name: policy.constant for policy in result.policies} == dict.fromkeys(policies, 2)
    assert np.isnan(result.policies[0].ages[:2]).all()
    assert [line["fit"] for line in replay_json(result)["losses"]].count(None) == 2 * len(policies)


def test_the_number_of_fits_is_shown_before_the_first_one(lake: Lake, spec: UseCase) -> None:
    """Whoever waits sees at once how much there is to do."""

    def stop(task: str, completed: int, total: int) -> None:
        raise RuntimeError(task, completed, total > 0)

    with pytest.raises(RuntimeError) as caught:
        replay(lake, spec, (), FIRST, "2024-03-20", progress=stop)
    assert caught.value.args == ("fits", 0, True)


def test_the_default_range_begins_when_the_test_partitions_have_labels(lake: Lake, spec: UseCase) -> None:
    """The first training is the first Sunday with eight labeled partitions, the last one has labels."""
    past = pipeline.PastRows.read(lake, spec, LAST)
    assert pipeline._first_training(past, LAST) == "2024-03-10"
    assert max(past.newest) == spec.clock.shift(LAST, -spec.labels.delay)


def test_an_overlay_changes_only_what_a_policy_is_about(lake: Lake, spec: UseCase, tmp_path: Path) -> None:
    """Another key is refused by its name, an invalid value by its path, both with the overlay's file."""
    overlay = tmp_path / "policy.yaml"
    overlay.write_text("labels: {delay: 3}\n")
    with pytest.raises(SpecError, match=r"policy\.yaml: .*schedule, training, gate, retraining.*labels"):
        replay(lake, spec, [overlay])
    overlay.write_text("gate: {min_gain: -1}\n")
    with pytest.raises(SpecError, match=r"policy\.yaml: .*gate\.min_gain"):
        replay(lake, spec, [overlay])
    with pytest.raises(SpecError, match="unique names of policies, but found never more than once"):
        replay(lake, spec, [tmp_path / "never.yaml"])


def test_a_range_without_a_served_partition_is_refused(lake: Lake, spec: UseCase) -> None:
    """The error names the range."""
    with pytest.raises(EvergreenError, match="none after 2024-04-01, up to 2024-04-01"):
        replay(lake, spec, (), "2024-04-01", "2024-04-01")


def test_a_range_that_ends_before_the_schedule_is_refused(lake: Lake, spec: UseCase) -> None:
    """The error names the start that the range has none after."""
    with pytest.raises(NotPublished, match=rf"none from {spec.schedule.start} to 1999-12-31"):
        replay(lake, spec, (), "", "1999-12-31")
