"""What a DAG's tasks wait for, read from the files as Airflow reads them."""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator

from include.spec.usecase import ASSETS
from tests.architecture.tree import ROOT

WEEKLY = ROOT / "tests" / "usecases" / "weekly_sales"
HUMAN = ("  block_partitions: 1", "  block_partitions: 1\n  approval: all")
CHECK = "monitor.check_watcher"
Wired = Callable[..., DAG]


@pytest.fixture
def wired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wired:
    """Read a clock's file with the weekly use case, where something may be declared otherwise."""

    def act(clock: str, *planted: tuple[str, str]) -> DAG:
        file = shutil.copytree(WEEKLY, tmp_path / "weekly_sales") / "usecase.yaml"
        text = file.read_text()
        for old, new in planted:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)
        monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
        found = runpy.run_path(str(ROOT / "dags" / f"{clock}.py"))[
            "dag" if clock == "upkeep" else f"weekly_sales__{clock}"
        ]
        assert isinstance(found, DAG)
        return found

    return act


EXTREMES = [
    HUMAN,
    ("approval: all", "approval: all\n  approval_hours: 87600"),
    ('start: "2024-01-01"', 'start: "1900-01-01"\n  end: "2999-12-31"'),
]
HOURLY = [
    ('batch: "0 6 * * 1"', 'batch: "0 * * * *"'),
    ('available_at: "05:00"', 'available_at: "-5m"'),
    ('deadline: "09:00"', 'deadline: "+20m"'),
]


@pytest.mark.parametrize("clock", ["batch", "training", "history", "operate"])
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("frequent", [[], HOURLY], ids=["weekly", "hourly"])
def test_the_most_extreme_declaration_that_is_read_has_its_dags(
    clock: str, zone: str, frequent: list[tuple[str, str]], wired: Wired
) -> None:
    """A file of DAGs that one use case's declaration breaks has the DAG of no use case."""
    wired(clock, *EXTREMES, ("timezone: UTC", f"timezone: {zone}"), *frequent)


def before(dag: DAG, task: str) -> set[str]:
    """Return each task that one waits for, however indirectly."""
    return set(dag.get_task(task).get_flat_relative_ids(upstream=True))


@pytest.mark.parametrize("clock", ["batch", "training", "history", "operate"])
def test_a_tasks_process_builds_its_own_use_case_only(
    clock: str, wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow names the task's DAG; the DAG processor, for which none is named, gets each use case's."""

    def built() -> set[str]:
        found = runpy.run_path(str(ROOT / "dags" / f"{clock}.py")).values()
        return {one.dag_id for one in found if isinstance(one, DAG)}

    wired(clock)
    assert built() == {f"weekly_sales__{clock}", f"flight_delay__{clock}"}
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", f"weekly_sales__{clock}")
    assert built() == {f"weekly_sales__{clock}"}


def test_a_training_waits_for_no_ablation(wired: Wired) -> None:
    """Asked for, it runs beside the verdict: neither that nor the question nor the switch comes after it."""
    dag = wired(
        "training",
        ("  seed: 7", "  seed: 7\n  ablation: true"),
        HUMAN,
    )
    assert before(dag, "evaluate.ablate") == {"train.fit", "evaluate.measure"}
    assert dag.get_task("evaluate.ablate").downstream_task_ids == set()
    assert before(dag, "promote.switch") == {"train.fit", "evaluate.measure", "judge.decide", "approve.ask"}


def test_a_training_has_no_ablation_that_nobody_declared(wired: Wired) -> None:
    """A use case that says nothing of it has the four stages and no more."""
    assert set(wired("training").task_ids) == {
        "train.fit",
        "evaluate.measure",
        "judge.decide",
        "promote.switch",
    }


@pytest.mark.parametrize(
    ("clock", "tasks", "outlasted"),
    [
        ("training", ("train.fit", "evaluate.measure", "evaluate.ablate"), True),
        ("training", ("judge.decide", "promote.switch"), False),
        ("batch", ("score.predict", "monitor.check", "rollout.advance"), False),
    ],
)
def test_a_task_outlasts_five_minutes_without_mlflow_only_if_it_needs_mlflow(
    clock: str, tasks: tuple[str, ...], outlasted: bool, wired: Wired
) -> None:
    """Its retries are far enough apart; no partition waits for that."""
    dag = wired(clock, ("  seed: 7", "  seed: 7\n  ablation: true"))
    for task in map(dag.get_task, tasks):
        assert task.retry_exponential_backoff
        delays = [task.retry_delay * 2**n for n in range(task.retries or 0)]
        assert (sum(delays, timedelta()) > timedelta(minutes=5)) == outlasted


def test_a_question_holds_up_no_later_training(wired: Wired) -> None:
    """Others run while one waits, and the switch reads the ledger also where nobody is asked."""
    dag = wired("training", HUMAN)
    assert dag.max_active_runs > 1
    assert dag.get_task("promote.switch").trigger_rule == "none_failed"  # a skipped question doesn't skip it


def test_a_partition_is_scored_by_one_task(wired: Wired) -> None:
    """It waits for each ingest, runs whatever became of them, and the predictions are its own."""
    dag = wired("batch")
    assert [task for task in dag.task_ids if task.startswith("score.")] == ["score.predict"]
    predict = dag.get_task("score.predict")
    assert before(dag, "score.predict") == {"check_partition", "ingest.sales"}
    assert predict.trigger_rule == "all_done"
    assert [asset.name for asset in predict.inlets] == ["weekly_sales.sales"]
    assert [asset.name for asset in predict.outlets] == ["weekly_sales.features", "weekly_sales.predictions"]
    assert predict.downstream_task_ids == {"monitor.check", "rollout.advance"}


def test_shards_of_a_partition_are_mapped_between_a_plan_and_the_commit(wired: Wired) -> None:
    """The plan runs whatever became of the ingests, and a shard that fails leaves nothing to publish."""
    dag = wired(
        "batch",
        ("  lookback: 4", "  lookback: 4\n  entity: [store]"),
        ('  deadline: "09:00"', '  deadline: "09:00"\n  shards: 3'),
    )
    assert before(dag, "score.plan") == {"check_partition", "ingest.sales"}
    assert dag.get_task("score.plan").trigger_rule == "all_done"
    shard, predict = dag.get_task("score.shard"), dag.get_task("score.predict")
    assert shard.is_mapped
    assert before(dag, "score.shard") == {"check_partition", "ingest.sales", "score.plan"}
    assert before(dag, "score.predict") == {"check_partition", "ingest.sales", "score.plan", "score.shard"}
    assert (shard.trigger_rule, predict.trigger_rule) == ("all_success", "none_failed")
    assert [asset.name for asset in predict.outlets] == ["weekly_sales.features", "weekly_sales.predictions"]
    assert predict.downstream_task_ids == {"monitor.check", "rollout.advance"}


def test_an_entity_alone_changes_no_task(wired: Wired) -> None:
    """Without shards a partition is scored by one task."""
    dag = wired("batch", ("  lookback: 4", "  lookback: 4\n  entity: [store]"))
    assert [task for task in dag.task_ids if task.startswith("score.")] == ["score.predict"]


def test_a_step_of_a_trial_is_looked_for_on_every_partition(wired: Wired) -> None:
    """It runs also where nobody could score, and waits for no task of the monitor."""
    dag = wired("batch")
    assert dag.get_task("rollout.advance").trigger_rule == "all_done"
    assert before(dag, "rollout.advance") == {"check_partition", "ingest.sales", "score.predict"}


def test_a_partitions_decision_is_an_asset_that_others_can_wait_for(wired: Wired) -> None:
    """The watch, which decides, has it beside the findings."""
    outlets = [asset.uri for asset in wired("batch").get_task("monitor.check").outlets]
    assert outlets == ["x-evergreen://weekly_sales/findings", "x-evergreen://weekly_sales/decisions"]


def test_no_source_can_share_an_asset_with_a_product(wired: Wired) -> None:
    """The assets beside the source's own are those whose names no source may have."""
    names = {asset.name for task in wired("batch").tasks for asset in task.outlets}
    assert names == {f"weekly_sales.{name}" for name in ("sales", *ASSETS)}


def test_a_partition_begins_with_a_check_that_stops_every_task(wired: Wired) -> None:
    """A failed setup stops also what runs whatever becomes of the tasks before it."""
    dag = wired("batch")
    check = dag.get_task("check_partition")
    assert check.is_setup
    assert set(check.get_flat_relative_ids(upstream=False)) == set(dag.task_ids) - {"check_partition"}


@pytest.mark.parametrize("clock", ["history", "operate"])
def test_what_only_a_person_starts_has_no_dates(wired: Wired, clock: str) -> None:
    """The form's logical date is the present: of a run outside of a DAG's dates Airflow makes no task."""
    dag = wired(clock, ('start: "2024-01-01"', 'start: "2024-01-01"\n  end: "2024-12-30"'))
    assert (dag.start_date, dag.end_date) == (None, None)
    assert {date for task in dag.tasks for date in (task.start_date, task.end_date)} == {None}


def test_what_runs_by_itself_stops_with_its_schedule(wired: Wired) -> None:
    """The use case's last partition is the last that is scheduled."""
    dag = wired("batch", ('start: "2024-01-01"', 'start: "2024-01-01"\n  end: "2024-12-30"'))
    assert (str(dag.start_date)[:10], str(dag.end_date)[:10]) == ("2024-01-01", "2024-12-30")


def test_operate_requires_no_field_but_the_action(wired: Wired) -> None:
    """Airflow's form requires each field of a type without null, and not every action needs it."""
    params = wired("operate").params
    types = {name: params.get_param(name).schema["type"] for name in params}
    assert types.pop("action") == "string"
    assert all("null" in kind for kind in types.values())


@pytest.mark.parametrize(
    ("clock", "fields"), [("batch", {"partition", "refetch"}), ("training", {"partition"})]
)
def test_the_forms_fields_are_not_copied_into_each_task(wired: Wired, clock: str, fields: set[str]) -> None:
    """Copies take a third of the time to read a DAG, and are stored with each of its tasks."""
    dag = wired(clock)
    assert set(dag.params) == fields
    assert not any(task.params for task in dag.tasks)


def test_a_partition_that_nobody_could_score_tells_as_well(wired: Wired) -> None:
    """The alerts wait for the monitor's task alone, also where it is red, and nothing waits for them."""
    alert = wired("batch").get_task("monitor.alert")
    assert alert.upstream_task_ids == {"monitor.check"}
    assert alert.trigger_rule == "all_done"
    assert alert.downstream_task_ids == set()


def test_upkeep_cleans_after_a_backup_that_was_made_or_that_nobody_asked_for() -> None:
    """Each task waits for the backup: one that failed stops them, one that is skipped doesn't."""
    dag = runpy.run_path(str(ROOT / "dags" / "upkeep.py"))["dag"]
    rest = set(dag.task_ids) - {"back_up"}
    assert rest == {"prune_backups", "tidy", "purge_airflow", "purge_mlflow"}
    for task in rest:
        assert before(dag, task) == {"back_up"}
        assert dag.get_task(task).trigger_rule == "none_failed"


CLOCKS = ("batch", "training", "history", "operate", "upkeep")


def test_each_dag_and_each_task_is_documented(wired: Wired, tmp_path: Path) -> None:
    """A DAG's documentation has sections, a task's is its operator's, and the DAGs' descriptions differ."""
    descriptions = []
    for clock in CLOCKS:
        shutil.rmtree(tmp_path / "weekly_sales", ignore_errors=True)
        dag = wired(clock, HUMAN, ("  seed: 7", "  seed: 7\n  ablation: true"))
        headings = [line for line in (dag.doc_md or "").splitlines() if line.startswith("#")]
        assert headings == ["## When", "## Changes", "## If it is red"], clock
        descriptions.append(dag.description or "")
        for task in dag.tasks:
            doc = task.doc_md or ""
            assert doc.endswith("."), task.task_id
            assert not re.search(r":param|``|Airflow shows the operator", doc), task.task_id
    assert len(set(descriptions)) == len(CLOCKS)
    assert descriptions[0].startswith("Each partition is ingested, scored and monitored")
    assert "Predicted: On Monday at 06:00 UTC" in descriptions[0]


def test_the_watcher_of_a_queue_is_checked_whatever_becomes_of_the_partition(wired: Wired) -> None:
    """The check waits for the score alone."""
    queue = 'start: "2024-01-01"\n  events: {kind: redis, connection: queue, queue: ready}'
    dag = wired("batch", ('start: "2024-01-01"', queue))
    assert dag.get_task("monitor.check_watcher").trigger_rule == "all_done"
    assert before(dag, "monitor.check_watcher") == {"check_partition", "ingest.sales", "score.predict"}


def test_a_message_starts_the_partition_of_each_horizon(wired: Wired) -> None:
    """One DAG listens for the declaration and its valid horizons: a queue may tell only one listener."""
    queue = 'start: "2024-01-01"\n  events: {kind: sqs, connection: queue, queue: ready}'
    month, wrong = "month: {labels: {delay: 4}, training: {test: 9}}", "wrong: {training: {test: 1}}"
    planted = (("\nproblem:", f"\nhorizons: {{{month}, {wrong}}}\nproblem:"), ('start: "2024-01-01"', queue))
    start = wired("events", *planted).get_task("start_partition")
    assert isinstance(start, MappedOperator)
    assert dict(start.expand_input.value)["usecase"] == ["weekly_sales", "weekly_sales_month"]  # type: ignore[arg-type]
    events, batch = (runpy.run_path(str(ROOT / "dags" / f"{clock}.py")) for clock in ("events", "batch"))
    assert [name for name in events if name.endswith("__events")] == ["weekly_sales__events"]
    checked = [name for name in batch if name.endswith("__batch") and batch[name].has_task(CHECK)]
    assert checked == ["weekly_sales__batch"]
