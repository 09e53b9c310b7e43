"""A second use case through a real scheduler and the REST API: orders, overlaps, kills, refusals."""

from __future__ import annotations

import subprocess
from datetime import date, timedelta

import pytest

from demo import process
from demo.airflow_api import AirflowError
from demo.servers import log_file
from include.lake import Lake
from include.promote import ledger
from include.spec import load
from tests.e2e.conftest import LATE, PARTS, STORY, WEEKS, House
from tests.faults import clocks
from tests.monitor.hook import Hook, serving
from tests.usecases.weekly_sales import world

pytestmark = pytest.mark.airflow
NIGHTS = world.nights(WEEKS)
OWN, ASKING = "weekly_sales", "weekly_asking"


@pytest.fixture(scope="module")
def champion(house: House) -> str:
    """Twenty weeks of history and a first champion, made as a person would; returns its night."""
    last = NIGHTS[WEEKS - 5]
    assert house.run(f"{OWN}__history", "first_load", first=NIGHTS[0], last=last)["state"] == "success"
    assert house.run(f"{OWN}__training", "first_training", partition=last)["state"] == "success"
    return last


@pytest.fixture(scope="module")
def older(house: House, champion: str) -> str:
    """A training of a week before the champion's, backfilled; returns its night."""
    night = NIGHTS[WEEKS - 7]
    assert house.run(f"{OWN}__training", "older", partition=night)["state"] == "success"
    return night


def test_a_first_model_is_promoted_and_the_ledger_says_why(house: House, champion: str) -> None:
    """History and a training started from the form end with a champion and the verdict's sentence."""
    (row,) = [r for r in house.lake(OWN).rows("deployments") if r["role"] == "champion"]
    assert (row["kind"], row["evidence"]) == ("promoted", champion)
    assert house.states(f"{OWN}__training", "first_training")["promote.switch"] == "success"
    assert house.lake(OWN).rows("attempts")[0]["sentence"] in house.log(
        f"{OWN}__training", "first_training", "judge.decide"
    )


def test_a_backfill_of_nights_is_served_by_the_champion(house: House, champion: str) -> None:
    """Airflow's own backfill, newest night first, predicts every row of each night by the champion."""
    first, last = date.fromisoformat(NIGHTS[-4]), date.fromisoformat(NIGHTS[-2])
    house.api.backfill(f"{OWN}__nightly", first, last, max_active_runs=3, run_backwards=True)
    with pytest.raises(AirflowError, match=r"(?i)already.*(running|active|progress)|409"):
        house.api.backfill(f"{OWN}__nightly", first, last)
    runs = house.api.wait_backfill(f"{OWN}__nightly", first, last, timeout=180)
    assert [run["state"] for run in runs] == ["success"] * 3
    rows = house.lake(OWN).rows("predictions", {"night": NIGHTS[-4:-1]})
    assert len(rows) == 3 * 40
    assert {row["rung"] for row in rows} == {"champion"}
    found = house.api.call("GET", "/assets/events", params={"source_dag_id": f"{OWN}__nightly"})
    said = [e["extra"] for e in found["asset_events"] if e["uri"] == f"evergreen://{OWN}/decisions"]
    assert sorted(said, key=lambda one: str(one["night"])) == [
        {"night": night, "decision": "nothing", "cause": ""} for night in NIGHTS[-4:-1]
    ]


def test_overlapping_runs_lose_and_double_nothing(house: House, champion: str) -> None:
    """A night run three times at once, twice through the API and once by a shell, is the night run once."""
    night = NIGHTS[-3]
    assert house.run(f"{OWN}__nightly", "alone", partition=night)["state"] == "success"
    before = clocks.state(house.lake(OWN))
    with subprocess.Popen([*house.command(), "run", "ingest", OWN, "--night", night]) as shell:
        for run in ("overlap_1", "overlap_2"):
            house.api.trigger_run(f"{OWN}__nightly", {"partition": night}, run_id=run)
        subprocess.run([*house.command(), "run", "score", OWN, "--night", night], check=True)
        for run in ("overlap_1", "overlap_2"):
            assert house.api.wait_run(f"{OWN}__nightly", run, timeout=120)["state"] == "success"
    assert shell.returncode == 0
    assert clocks.state(house.lake(OWN)) == before


def test_a_backfilled_training_is_recorded_and_never_deployed(house: House, older: str) -> None:
    """A training of an older week leaves an attempt, and the champion where it was."""
    assert older in {row["night"] for row in house.lake(OWN).rows("attempts")}
    assert house.states(f"{OWN}__training", "older")["promote.switch"] == "skipped"
    assert {row["version"] for row in house.lake(OWN).rows("deployments")} == {"1"}


def test_a_run_without_a_night_is_refused_in_a_sentence(house: House, champion: str) -> None:
    """A nightly run started by hand without a partition fails at once and says which field to fill in."""
    house.run(f"{OWN}__nightly", "no_night")
    assert "fill in the field `partition`" in house.log(f"{OWN}__nightly", "no_night", "ingest.sales")


@pytest.mark.parametrize(
    ("night", "task", "write"),
    [(NIGHTS[0], "ingest.sales", 4), (NIGHTS[1], "score.predict", 2), (NIGHTS[2], "monitor.watch", 2)],
)
def test_a_killed_task_is_run_again_and_the_night_ends_as_if_nothing_had_happened(
    house: House, night: str, task: str, write: int
) -> None:
    """`kill -9` between two writes: Airflow runs the task again, and the tables equal an unharmed night's."""
    usecase, run = "weekly_killed", f"killed_{task}"
    (house.kill / task).write_text(str(write))
    assert house.run(f"{usecase}__nightly", run, partition=night)["state"] == "success"
    assert not (house.kill / task).exists(), "the kill never came"
    (killed,) = [t for t in house.api.task_instances(f"{usecase}__nightly", run) if t["task_id"] == task]
    assert killed["try_number"] == 2
    unharmed = Lake(usecase, str(house.folder / "unharmed"))
    clocks.night(unharmed, load(usecase), night)
    assert clocks.state(house.lake(usecase)) == clocks.state(unharmed)


@pytest.mark.parametrize(
    ("run", "night", "task", "parts"),
    [
        ("parts", NIGHTS[0], "", ["success", "success"]),
        ("unplanned", NIGHTS[1], "score.plan", ["upstream_failed"]),
        ("again", NIGHTS[0], "", ["skipped"]),  # it has its predictions
    ],
)
def test_a_night_in_parts_is_that_of_one_task(
    house: House, run: str, night: str, task: str, parts: list[str]
) -> None:
    """Mapped tasks share the rows, and without them one task scores them all. Parts fail in tests/score."""
    if task:
        (house.kill / task).write_text("fail")
    assert house.run(f"{PARTS}__nightly", run, partition=night)["state"] == "success"
    assert not task or not (house.kill / task).exists(), "the fault never came"
    found = house.api.task_instances(f"{PARTS}__nightly", run)
    assert sorted(t["state"] for t in found if t["task_id"] == "score.part") == parts
    if run == "parts":
        labels = {t["rendered_map_index"] for t in found if t["task_id"] == "score.part"}
        assert labels == {"1 of 2", "2 of 2"}
    whole = "scored as a whole: " in house.log(f"{PARTS}__nightly", run, "score.predict")
    assert whole == (run == "unplanned")
    if run != "again":
        alone = Lake(PARTS, str(house.folder / "alone"))
        clocks.night(alone, load(PARTS), night)
        assert clocks.state(house.lake(PARTS)) == clocks.state(alone)
    assert house.lake(PARTS).keys("parts") == []


def test_a_night_without_predictions_by_the_declared_hour_is_told(house: House) -> None:
    """The deadline of the scheduled run is told at its connection, once; a backfilled run has none."""
    dag = f"{LATE}__nightly"
    for hook in serving(Hook()):

        def overdue(hook: Hook = hook) -> list[str]:
            told = [said for *_, said in hook.got if said["findings"][0]["check"] == "deadline"]
            return [str(said["sentence"]) for said in told]

        ops = {"connection_id": "ops", "conn_type": "http", "host": hook.uri}
        house.api.call("POST", "/connections", json=ops)
        house.api.wait_dag(dag, timeout=60)
        house.api.unpause(dag)
        runs = process.until(lambda: bool(house.api.call("GET", f"/dags/{dag}/dagRuns")["dag_runs"]), 60)
        assert runs, "the newest night is not scheduled"
        (run,) = house.api.call("GET", f"/dags/{dag}/dagRuns")["dag_runs"]
        night = date.fromisoformat(run["partition_key"])
        before = night - timedelta(days=1)
        house.api.backfill(dag, before, before)
        told = process.until(lambda: bool(overdue()), 60)
        assert told, log_file(house.home, "triggerer").read_text()[-3000:]
        (backfilled,) = house.api.wait_backfill(dag, before, before, timeout=120)
        assert (run["run_type"], backfilled["run_type"]) == ("scheduled", "backfill")
        assert overdue() == [f"{LATE} {night}: no predictions by 06:00 UTC, when they were due"]


def test_a_mistyped_spec_is_an_import_error_and_takes_down_only_itself(house: House) -> None:
    """The bad declaration shows with its sentence under dags/specs.py; all others are there."""
    errors = {e["filename"].rsplit("/", 1)[-1]: e["stack_trace"] for e in house.api.import_errors()}
    assert set(errors) == {"specs.py"}
    assert "gate.objectiv: unknown key; valid here: " in errors["specs.py"]
    found = house.api.call("GET", "/dags", params={"limit": 100})["dags"]
    flights = ("flight_bands", "flight_delay", "flight_minutes")
    assert {dag["dag_id"] for dag in found} - {"evergreen__upkeep"} == {
        f"{usecase}__{clock}"
        for usecase in (*flights, "weekly_killed", ASKING, LATE, PARTS, STORY, OWN)
        for clock in ("nightly", "training", "history", "operate")
    }


def _champions(house: House, usecase: str) -> list[tuple[str, str, str]]:
    rows = ledger.champions(ledger.switches(house.lake(usecase)))
    return [(row["version"], row["kind"], row["by"]) for row in rows]


def test_force_and_rollback_from_the_form_name_the_person_and_the_reason(house: House, older: str) -> None:
    """What the gate didn't deploy is forced, and gone back from; with one champion there is no way back."""
    operate = f"{OWN}__operate"
    assert house.run(operate, "too_early", action="roll back", reason="a test")["state"] == "failed"
    assert "required a champion before the live one" in house.log(operate, "too_early", "operate")
    assert house.run(operate, "no_reason", action="force", attempt=older)["state"] == "failed"
    assert _champions(house, OWN) == [("1", "promoted", "")]
    assert house.run(operate, "force", action="force", attempt=older, reason="a try")["state"] == "success"
    assert house.run(operate, "back", action="roll back", reason="no better")["state"] == "success"
    assert _champions(house, OWN) == [
        ("1", "promoted", ""),
        ("2", "forced", "admin"),
        ("1", "rolled back", "admin"),
    ]
    assert house.lake(OWN).rows("deployments", {"kind": "rolled back"})[0]["reason"] == "no better"
    assert house.run(operate, "check", action="verify")["state"] == "success"


def test_a_verdict_waits_for_a_person_and_holds_up_no_training(house: House) -> None:
    """Asked, superseded, rejected, approved over a killed worker: the ledger names who, and why."""
    training, ask = f"{ASKING}__training", "approve.ask"
    older, first, second = NIGHTS[WEEKS - 7 : WEEKS - 4]
    house.run(f"{ASKING}__history", "first_load", first=NIGHTS[0], last=second)
    for run, night in (("first", first), ("second", second), ("older", older)):
        house.api.trigger_run(training, {"partition": night}, run_id=run)
        question = house.api.wait_question(training, run, ask, timeout=90)  # while the earlier ones wait
        assert question["subject"].startswith("rubber-stamped: ")
        assert f"/report/{ASKING}/verdict/{night}-" in question["body"]
        assert "| matured test nights | at least 4 | " in question["body"]
    house.api.answer(training, "first", ask, "Approve", reason="")  # no answer: it is asked again
    house.api.wait_question(training, "first", ask, timeout=60)
    house.api.answer(training, "first", ask, "Approve", reason="looks fine")
    house.api.answer(training, "older", ask, "Reject", reason="of an old week")
    for run, why in (
        ("first", f"superseded by the verdict of {second}"),
        ("older", "rejected by admin: of an old week"),
    ):
        assert house.api.wait_run(training, run, timeout=90)["state"] == "success"
        assert house.states(training, run)["promote.switch"] == "skipped"
        assert why in house.log(training, run, "promote.switch")
    assert _champions(house, ASKING) == []
    (house.kill / ask).write_text("1")  # the worker dies before it can write the answer down
    house.api.answer(training, "second", ask, "Approve", reason="better than nothing")
    assert house.api.wait_run(training, "second", timeout=90)["state"] == "success"
    assert not (house.kill / ask).exists(), "the kill never came"
    assert _champions(house, ASKING) == [("2", "promoted", "admin")]
    rows = sorted(house.lake(ASKING).rows("approvals"), key=lambda row: row["recorded"])
    assert {(row["answer"], row["by"], row["reason"]) for row in rows} == {
        ("approved", "admin", "looks fine"),
        ("rejected", "admin", "of an old week"),
        ("approved", "admin", "better than nothing"),
    }
    live = house.lake(ASKING).rows("deployments", {"role": "champion"})[0]
    assert live["reason"].endswith("; approved by admin: better than nothing")
