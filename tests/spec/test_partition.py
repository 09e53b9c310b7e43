"""A run that a person starts writes only partitions that the schedule has had by now."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from typer.testing import CliRunner

from evergreen.operators.ingest import IngestOperator, PlanRangeOperator
from evergreen.operators.monitor import MonitorOperator
from evergreen.operators.rollout import AdvanceOperator
from evergreen.operators.score import ScoreOperator
from evergreen.operators.train import TrainOperator
from evergreen.run_note import CLIPPED, REFUSAL, history_note
from include.cli.app import app
from include.errors import PartitionError
from include.spec import UseCase, load
from include.spec.partition import check_partition, last_of_range
from include.storage.lake import Lake

USECASES = Path(__file__).parents[1] / "usecases"
NOW = datetime(2024, 2, 14, 12, tzinfo=UTC)
OPERATORS = [
    IngestOperator(task_id="sales", usecase="weekly_sales", source="sales"),
    ScoreOperator(task_id="predict", usecase="weekly_sales"),
    MonitorOperator(task_id="check", usecase="weekly_sales"),
    AdvanceOperator(task_id="advance", usecase="weekly_sales"),
    TrainOperator(task_id="fit", usecase="weekly_sales"),
]
REFUSED = {
    "2023-12-25": r"found one before schedule.start; choose 2024-01-01, or change `schedule`",
    "2024-01-30": r"found a day on which it has none; choose 2024-01-29 or 2024-02-05, or change",
    "2024-02-19": r"one still to come, whose decision is at 2024-02-19 06:00 UTC; choose 2024-02-12, or",
    "2062-01-02": r"found one still to come, .*; choose 2024-02-12, or change",
    "2062-01-03": r"found a day on which it has none; choose 2024-02-12, or change",
}


@pytest.fixture
def weekly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """Return the weekly use case, whose lake is empty."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(USECASES))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return load("weekly_sales")


def started(key: str, run_type: str, **form: Any) -> Any:
    """Return the context of a task whose run is for a partition."""
    run = SimpleNamespace(partition_key=key, run_type=run_type)
    return {"dag_run": run, "params": form, "run_id": "r", "outlet_events": {}}


@pytest.mark.parametrize("partition", REFUSED)
def test_a_partition_that_the_schedule_has_not_had_is_refused(weekly: UseCase, partition: str) -> None:
    """The sentence says why, and which partitions are the nearest that may be run."""
    with pytest.raises(PartitionError, match=rf"weekly_sales/{partition}: expected .*{REFUSED[partition]}"):
        check_partition(weekly, partition, NOW)


@pytest.mark.parametrize("partition", ["2024-01-01", "2024-02-12"])
def test_each_partition_whose_decision_time_has_come_is_accepted(weekly: UseCase, partition: str) -> None:
    """From the first of the range to the newest, from the very moment of its decision on."""
    check_partition(weekly, partition, max(NOW, weekly.clock.decision_time(partition)))
    check_partition(weekly, partition, weekly.clock.decision_time(partition))


def test_the_end_of_the_range_is_named_and_is_the_last_that_is_accepted() -> None:
    """A partition after schedule.end is refused although its time has come."""
    flights = load("flight_delay")
    check_partition(flights, "2013-12-30", NOW)
    with pytest.raises(PartitionError, match=r"to 2013-12-30, but found one after .*at most 2013-12-30, or"):
        check_partition(flights, "2014-05-01", NOW)


def test_before_the_first_decision_there_is_nothing_to_choose(weekly: UseCase) -> None:
    """A use case that is declared ahead of its time says when it begins."""
    with pytest.raises(PartitionError, match=r"wait for the first, 2024-01-01, or change"):
        check_partition(weekly, "2024-01-01", datetime(2023, 12, 31, tzinfo=UTC))


@pytest.mark.parametrize(
    ("partition", "problem"),
    [
        ("2024-02-28T0405Z", "found one before schedule.start; choose 2024-02-28T0505Z, or change"),
        ("2024-02-29T0430Z", "a time at which it has none; choose 2024-02-29T0405Z or 2024-02-29T0505Z, or"),
        ("2024-03-01T0405Z", ""),
        (
            "2024-03-01T0505Z",
            "one after schedule.end; choose the next one that hasn't run, at most 2024-03-01T0405Z, or",
        ),
        ("2024-02-29", "expected a UTC minute such as 2013-03-01T0500Z, but found '2024-02-29'"),
    ],
)
def test_the_days_of_an_hourly_schedule_are_local(weekly: UseCase, partition: str, problem: str) -> None:
    """From the first hour of its first day to the last hour of its last, in the schedule's time zone."""
    spec = load("hourly_rides")
    schedule = spec.schedule.model_copy(update={"end": "2024-02-29"})
    spec = spec.model_copy(update={"schedule": schedule})
    with pytest.raises(PartitionError, match=problem) if problem else nullcontext():
        check_partition(spec, partition, NOW + timedelta(days=30))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda one: one.task_id)
@pytest.mark.parametrize("run_type", ["manual", "backfill"])
def test_every_stage_refuses_it_before_anything_is_written(
    weekly: UseCase, operator: Any, run_type: str
) -> None:
    """Whether the partition is the run's own or the form's, the task fails for good and the lake is empty."""
    with pytest.raises(AirflowFailException, match="found one still to come"):
        operator.execute(started("2062-01-02", run_type))
    with pytest.raises(AirflowFailException, match="found one before"):
        operator.execute(started("", run_type, partition="2023-12-25"))
    assert Lake("weekly_sales").keys("") == []


def test_a_scheduled_run_is_never_refused(weekly: UseCase) -> None:
    """The scheduler's clock decides when a partition's time has come, and it may be ahead of a worker's."""
    ref = AdvanceOperator(task_id="advance", usecase="weekly_sales")
    with pytest.raises(Exception, match="nothing is on trial"):
        ref.execute(started("2062-01-02", "scheduled"))


@pytest.mark.parametrize("stage", ["ingest", "score", "monitor", "rollout", "train"])
@pytest.mark.parametrize(
    ("partitions", "problem"),
    [
        (["--partition", "2062-01-02"], "still to come"),
        (["--partition", "2024-01-02"], "choose 2024-01-01 or 2024-01-08"),
        (["--from", "2023-12-20", "--until", "2024-01-08"], "one before schedule.start"),
    ],
)
def test_the_command_line_refuses_it_too(
    weekly: UseCase, stage: str, partitions: list[str], problem: str
) -> None:
    """Of a range that reaches out of the schedule's nothing is run."""
    with pytest.raises(PartitionError, match=problem):
        CliRunner().invoke(app, ["run", stage, "weekly_sales", *partitions], catch_exceptions=False)
    assert Lake("weekly_sales").keys("") == []


@pytest.mark.parametrize(
    ("first", "last", "sentence"),
    [
        (
            "2024-02-12",
            "2024-01-01",
            "found the two swapped; choose 2024-01-01 as the first and 2024-02-12 as",
        ),
        ("2023-12-25", "2024-02-05", "found a first one before schedule.start; choose .* from 2024-01-01 on"),
        ("2024-02-19", "2024-02-26", "found a first one still to come; choose a first one up to 2024-02-12"),
        ("2024-01-30", "2024-02-02", "found none between them; choose a range with 2024-01-29 or 2024-02-05"),
        ("2024-01-01", "soon", "expected a date such as 2013-03-01, but found 'soon'; give a partition of"),
    ],
)
def test_a_range_that_the_schedule_has_not_had_is_refused(
    weekly: UseCase, first: str, last: str, sentence: str
) -> None:
    """The remedy names dates that may be chosen."""
    with pytest.raises(PartitionError, match=sentence):
        last_of_range(weekly, first, last, NOW)


def test_a_range_ends_with_the_schedule_and_at_the_newest_partition(weekly: UseCase) -> None:
    """A last partition after schedule.end is refused, and one still to come is clipped."""
    assert last_of_range(weekly, "2024-01-01", "2024-02-05", NOW) == "2024-02-05"
    assert last_of_range(weekly, "2024-01-01", "2062-01-01", NOW) == "2024-02-12"
    schedule = weekly.schedule.model_copy(update={"end": "2024-02-05"})
    with pytest.raises(PartitionError, match=r"a last one after schedule.end; choose .* up to 2024-02-05"):
        last_of_range(weekly.model_copy(update={"schedule": schedule}), "2024-01-01", "2024-02-12", NOW)


def planned(first: str, last: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Return the tasks that a history run plans, and what it leaves for the run's note."""
    task = SimpleNamespace(left={})
    task.xcom_push = task.left.__setitem__
    context: Any = {"params": {"first": first, "last": last}, "ti": task}
    try:
        return PlanRangeOperator(task_id="plan", usecase="weekly_sales").execute(context), task.left
    except AirflowFailException:
        return [], task.left


def test_a_history_loads_nothing_of_the_future_and_its_note_says_so(weekly: UseCase) -> None:
    """No task has a partition that is still to come."""
    tasks, left = planned("2024-01-01", "2062-01-01")
    newest = weekly.clock.newest(datetime.now(UTC))
    assert max(task["last"] for task in tasks) == newest
    assert left == {CLIPPED: f"Clipped at {newest}, the newest partition."}
    assert planned("2024-01-01", "2024-02-05")[1] == {}


def test_a_history_that_no_dialog_refused_is_refused_by_its_first_task(weekly: UseCase) -> None:
    """So is one that the command line started; the run's note begins with the problem and the remedy."""
    tasks, left = planned("2024-02-05", "2024-01-01")
    assert tasks == []
    subject, remedy = "weekly_sales/2024-02-05 to 2024-01-01", "choose 2024-01-01 as the first and 2024-02-05"
    assert left[REFUSAL].startswith(
        f"{subject}: found the two swapped; {remedy} as the last; expected a first"
    )


def test_the_note_of_a_history_has_what_was_loaded_by_source() -> None:
    """The months of a source are one range, with their outcomes; refusals and what was clipped come first."""
    months = [
        {"source": "sales", "first": "2024-02-05", "last": "2024-02-26", "counts": {"published": 4}},
        {"source": "sales", "first": "2024-01-01", "last": "2024-01-29",
         "counts": {"published": 4, "refused": 1}},
        {"source": "prices", "first": "2024-02-05", "last": "2024-02-26", "counts": {"published": 4}},
    ]  # fmt: skip
    stored = [*(("loaded", month) for month in months), ("clipped", "Clipped."), ("return_value", {})]
    assert history_note([*stored, ("refusal", "prices: not there")]) == [
        "prices: not there",
        "Clipped.",
        "prices 2024-02-05 to 2024-02-26: 4 published; "
        "sales 2024-01-01 to 2024-02-26: 8 published, 1 refused",
    ]
