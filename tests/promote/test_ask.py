"""The task that asks a person: what is shown, until when, and what follows from an answer or from none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from airflow.sdk.execution_time import task_runner

from evergreen.operators.approve import FIRST_ASKED, ApproveOperator
from evergreen.operators.operate import OperateOperator
from evergreen.operators.train import PromoteOperator
from include.judge.judge import checks_of
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger, verdicts
from include.promote.approval import EXPIRED, SILENCE
from include.promote.verdicts import judge_and_record
from include.spec.load import read
from include.storage.lake import Lake
from tests.promote.conftest import WEEKLY, model

FIRST, SECOND, HOURS = "2024-03-04", "2024-03-11", 6


class Desk:
    """Airflow's side of a question: what it is given to show, and what it keeps over the tries of a task."""

    id = uuid4()

    def __init__(self) -> None:
        self.shown: list[Any] = []
        self.kept: dict[str, str] = {}
        self.get, self.set = self.kept.get, self.kept.__setitem__
        self.context: Any = {"task_instance": self, "ti": self, "task_state_store": self, "run_id": "run"}

    def send(self, msg: Any) -> None:
        """Take a question."""
        self.shown.append(msg)

    def event(self, *chosen: str, by: str = "", reason: str = "") -> dict[str, Any]:
        """Return what Airflow resumes the task with: a person's answer, or at the deadline the defaults."""
        return {
            "chosen_options": [*chosen] or self.shown[-1].defaults,
            "params_input": {"reason": reason},
            "responded_at": datetime.now(UTC),
            "responded_by_user": {"id": by, "name": by} if by else None,
            "timedout": not by,
        }


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Where a worker sends what Airflow is to show."""
    made = Desk()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", made, raising=False)
    return made


@pytest.fixture
def judged(
    lake: Lake, attempt: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Registry
) -> Callable[[int, str], dict[str, Any]]:
    """Judge evidence under a gate that asks a person; returns what the tasks after it are given."""
    file = shutil.copytree(WEEKLY.parent, tmp_path / "usecases" / "weekly_sales") / "usecase.yaml"
    file.write_text(
        file.read_text().replace("  block_partitions: 1", "  block_partitions: 1\n  approval: all")
    )
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gone.uri)
    spec = read(file)

    def act(version: int, partition: str) -> dict[str, Any]:
        for number in (0, version):
            artifacts.store_model(lake, model(number))
        where = attempt(version, partition, spec=spec)
        judge_and_record(lake, spec, where)
        key = where.removeprefix("evaluations/").removesuffix(".json")
        return {"task_id": "t", "usecase": "weekly_sales", "verdict": {"id": key, "partition": partition}}

    return act


def asked(desk: Desk, given: dict[str, Any]) -> ApproveOperator:
    """Return the task once it has put its question and waits."""
    task = ApproveOperator(**given, hours=HOURS)
    with pytest.raises(TaskAwaitingInput):
        task.execute(desk.context)
    return task


def test_a_person_reads_the_sentence_the_checks_the_report_and_the_deadline(
    lake: Lake, desk: Desk, judged: Callable[..., dict[str, Any]]
) -> None:
    """Airflow shows what there is to decide, where more of it is, and until when; by itself it means no."""
    given = judged(1, FIRST)
    asked(desk, given)
    key = given["verdict"]["id"]
    attempt, (shown,) = verdicts.attempt(lake, key), desk.shown
    until = datetime.fromisoformat(desk.kept[FIRST_ASKED]) + timedelta(hours=HOURS)
    assert shown.subject == attempt["sentence"]
    assert shown.subject.startswith("rubber-stamped: ")
    page = f"/plugin/evergreen/evergreen/report/weekly_sales/verdict/{FIRST}-{key[:8]}.html"
    assert shown.body.splitlines()[0] == (
        f"Version 1, trained on {FIRST}. [The whole report]({page}). "
        f"No answer by {until:%Y-%m-%d %H:%M} UTC means no."
    )
    for check in checks_of(attempt["checks"]):
        assert f"| {check.key} | {check.name} | " in shown.body
    assert (shown.options, shown.defaults) == (["Approve", "Reject"], ["Reject"])


def test_while_a_person_is_asked_the_baseline_serves(
    lake: Lake, desk: Desk, judged: Callable[..., dict[str, Any]]
) -> None:
    """The first verdict may wait for days, in which no row gets the constant; asking again adds nothing."""
    task = asked(desk, judged(1, FIRST))
    (baseline,) = ledger.switches(lake)
    assert (baseline["role"], baseline["kind"], baseline["effective_from"]) == (
        "baseline",
        "baseline only",
        SECOND,
    )
    with pytest.raises(TaskAwaitingInput):
        task.execute_complete(desk.context, desk.event("Approve", by="ann", reason=" "))
    assert ledger.switches(lake) == [baseline]


def test_an_answer_without_a_reason_is_asked_again_until_the_same_deadline(
    lake: Lake, desk: Desk, judged: Callable[..., dict[str, Any]]
) -> None:
    """Of the six hours one is left after five, however often the question is put."""
    task = asked(desk, judged(1, FIRST))
    first = datetime.now(UTC) - timedelta(hours=HOURS - 1)
    desk.kept[FIRST_ASKED] = first.isoformat()
    with pytest.raises(TaskAwaitingInput) as waits:
        task.execute_complete(desk.context, desk.event("Approve", by="ann", reason=" "))
    assert timedelta(minutes=55) < waits.value.timeout <= timedelta(hours=1)
    assert f"No answer by {first + timedelta(hours=HOURS):%Y-%m-%d %H:%M} UTC" in desk.shown[-1].body
    assert len(desk.shown) == 2
    assert lake.rows("approvals") == []


def test_silence_is_written_down_switches_nothing_and_holds_up_no_later_training(
    lake: Lake, desk: Desk, judged: Callable[..., dict[str, Any]]
) -> None:
    """At the deadline the ledger says that nobody answered, the switch is skipped, and the next is asked."""
    given = judged(1, FIRST)
    said = asked(desk, given).execute_complete(desk.context, desk.event())
    assert said["note"] == SILENCE
    (row,) = lake.rows("approvals")
    assert (row["attempt"], row["answer"], row["by"], row["reason"]) == (
        given["verdict"]["id"],
        EXPIRED,
        "",
        "no answer within 6 h",
    )
    with pytest.raises(AirflowSkipException, match=SILENCE):
        PromoteOperator(**given).execute(desk.context)
    assert ApproveOperator(**given, hours=HOURS).execute(desk.context) == said  # run again it asks nobody
    assert [row["role"] for row in ledger.switches(lake)] == ["baseline"]

    later = judged(2, SECOND)
    desk.kept.clear()  # another task, another store
    asked(desk, later).execute_complete(desk.context, desk.event("Approve", by="ann", reason="better"))
    assert PromoteOperator(**later).execute(desk.context)["note"].startswith("v2 promoted by ann, champion")


def test_a_force_with_nothing_to_do_leaves_the_first_runs_links_in_mlflow(
    lake: Lake, desk: Desk, judged: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """The version's description leads to the run that forced it; here MLflow is down, which each try logs."""
    judged(1, FIRST)
    form = {"action": "force", "reason": "a try", "attempt": FIRST}
    run = SimpleNamespace(triggering_user_name="ann")
    for number, run_id in enumerate(("first", "first", "second")):
        caplog.clear()
        context = {**desk.context, "params": form, "dag_run": run, "run_id": run_id}
        note = OperateOperator(task_id="operate", usecase="weekly_sales").execute(context)["note"]
        assert note.startswith("nothing to do: " if number else "v1 forced by ann")
        drawn = "couldn't copy report and cards to MLflow" in caplog.text
        assert drawn == (run_id == "first")
