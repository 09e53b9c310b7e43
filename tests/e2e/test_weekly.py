"""A second use case through a real scheduler and the REST API: orders, overlaps, kills, refusals."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
import requests

from demo import process
from demo.airflow_api import POLL, AirflowApi, AirflowError
from demo.servers import log_file
from include.promote import ledger
from include.spec import load
from include.storage import schemas
from include.storage.lake import Lake
from tests.demo.processes import members, only_loopback
from tests.faults import clocks
from tests.house import BUTTONS, EVENTS, FORMS, LATE, PATIENCE, SHARDED, SPARSE, STORY, WEEKS, WORKERS, House
from tests.monitor.hook import Hook, serving
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(900)]
PARTITIONS = world.partitions(WEEKS)
OWN, ASKING, KILLED = "weekly_sales", "weekly_asking", "weekly_killed"
CHAMPION = PARTITIONS[WEEKS - 5]
KILLS = [
    (PARTITIONS[0], "ingest.sales", 4),
    (PARTITIONS[1], "score.predict", 2),
    (PARTITIONS[2], "monitor.check", 2),
]
ASK = "approve.ask"
SEARCH = "api/2.0/mlflow/experiments/search"
ASKED = {"first": PARTITIONS[WEEKS - 6], "second": PARTITIONS[WEEKS - 5], "older": PARTITIONS[WEEKS - 7]}


@pytest.fixture(scope="module", autouse=True)
def begun(house: House) -> Iterator[Future[list[dict[str, Any]]]]:
    """What needs nothing else is under way from the beginning, and tests wait for it; the questions."""
    house.start(f"{OWN}__history", "first_load", first=PARTITIONS[0], last=CHAMPION)
    house.start(f"{ASKING}__history", "first_load", first=PARTITIONS[0], last=ASKED["second"])
    for partition, task, write in KILLS:
        house.fault(f"killed_{task}", task).write_text(str(write))
        house.start(f"{KILLED}__batch", f"killed_{task}", partition=partition)
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(_questions, AirflowApi.of(house.home))


def _questions(api: AirflowApi) -> list[dict[str, Any]]:
    """Train three times, each begun when the one before has its version, and return what is asked of each."""
    training = f"{ASKING}__training"
    assert api.wait_run(f"{ASKING}__history", "first_load", timeout=PATIENCE)["state"] == "success"
    for run, partition in ASKED.items():
        api.trigger_run(training, {"partition": partition}, run_id=run)
        fitted = process.until(partial(_fitted, api, training, run), PATIENCE, poll=POLL)
        assert fitted, f"{run} isn't fitted"
    return [api.wait_question(training, run, ASK, timeout=PATIENCE) for run in ASKED]


def _fitted(api: AirflowApi, dag: str, run: str) -> bool:
    return ("train.fit", "success") in {(t["task_id"], t["state"]) for t in api.task_instances(dag, run)}


@pytest.fixture(scope="module")
def champion(house: House) -> str:
    """Twenty weeks of history and a first champion, made as a person would; returns its partition."""
    assert house.end(f"{OWN}__history", "first_load")["state"] == "success"
    assert house.run(f"{OWN}__training", "first_training", partition=CHAMPION)["state"] == "success"
    return CHAMPION


def test_a_first_model_is_promoted_and_the_ledger_says_why(house: House, champion: str) -> None:
    """History and a training started from the form end with a champion and the verdict's sentence."""
    (row,) = [r for r in house.lake(OWN).rows("switches") if r["role"] == "champion"]
    assert (row["kind"], row["judged_on"]) == ("promoted", champion)
    assert house.states(f"{OWN}__training", "first_training")["promote.switch"] == "success"
    assert house.lake(OWN).rows("attempts")[0]["sentence"] in house.log(
        f"{OWN}__training", "first_training", "judge.decide"
    )


def test_a_backfill_of_partitions_is_served_by_the_champion(house: House, champion: str) -> None:
    """Airflow's own backfill, newest partition first.

    Predicts every row of each partition by the champion.
    """
    first, last = date.fromisoformat(PARTITIONS[-3]), date.fromisoformat(PARTITIONS[-2])
    house.api.backfill(f"{OWN}__batch", first, last, max_active_runs=2, run_backwards=True)
    with pytest.raises(AirflowError, match=r"(?i)already.*(running|active|progress)|409"):
        house.api.backfill(f"{OWN}__batch", first, last)
    runs = house.api.wait_backfill(f"{OWN}__batch", first, last, timeout=PATIENCE)
    assert [run["state"] for run in runs] == ["success"] * 2
    rows = house.lake(OWN).rows("predictions", {"partition": PARTITIONS[-3:-1]})
    assert len(rows) == 2 * 40
    assert {row["served_by"] for row in rows} == {"champion"}
    monitored = house.lake(OWN).rows("partitions", {"product": "monitor"})
    assert {*PARTITIONS[-3:-1]} <= {row["partition"] for row in monitored}
    found = house.api.call("GET", "/assets/events", params={"source_dag_id": f"{OWN}__batch"})
    extras = [e["extra"] for e in found["asset_events"] if e["uri"] == f"x-evergreen://{OWN}/decisions"]
    shown = sorted((extra["partition"], extra["decision"], extra["cause"], extra["rows"]) for extra in extras)
    assert shown == [(partition, "nothing", "", 1) for partition in PARTITIONS[-3:-1]]


def test_overlapping_runs_lose_and_double_nothing(house: House, champion: str) -> None:
    """A partition run three times at once, twice through the API and once by a shell.

    Is the partition run once.
    """
    partition = PARTITIONS[-3]
    assert house.run(f"{OWN}__batch", "alone", partition=partition)["state"] == "success"
    before = clocks.state(house.lake(OWN))
    with subprocess.Popen([*house.command(), "run", "ingest", OWN, "--partition", partition]) as shell:
        for run in ("overlap_1", "overlap_2"):
            house.api.trigger_run(f"{OWN}__batch", {"partition": partition}, run_id=run)
        subprocess.run([*house.command(), "run", "score", OWN, "--partition", partition], check=True)
        for run in ("overlap_1", "overlap_2"):
            assert house.api.wait_run(f"{OWN}__batch", run, timeout=PATIENCE)["state"] == "success"
    assert shell.returncode == 0
    assert clocks.state(house.lake(OWN)) == before


def test_partitions_that_request_the_same_training_start_it_once(house: House, champion: str) -> None:
    """The first starts a run that its cause names; another one within the cool-down finds that run."""
    lake, batch, ask = house.lake(OWN), f"{OWN}__batch", "monitor.request_training"
    causes = {key: f"degraded-0123456789ab-{key}" for key in PARTITIONS[-2:]}
    for partition in reversed(
        PARTITIONS[-2:]
    ):  # the older one is monitored last, and names a cause of its own
        assert house.run(batch, f"asks_{partition}", partition=partition)["state"] == "success"
        (skipped,) = [t for t in house.api.task_instances(batch, f"asks_{partition}") if t["task_id"] == ask]
        assert (skipped["state"], skipped["try_number"]) == (
            "skipped",
            0,
        )  # by the monitor, without a process
        row = {"partition": partition, "decision": "retrain", "cause": causes[partition], "reason": "planted"}
        lake.publish("decisions", pa.Table.from_pylist([row], schemas.DECISIONS), {"partition": partition})
        again = {"dag_run_id": f"asks_{partition}", "task_ids": [ask], "only_failed": False, "dry_run": False}
        house.api.call("POST", f"/dags/{batch}/clearTaskInstances", json=again)
        assert house.end(batch, f"asks_{partition}")["state"] == "success"
    started, late = (
        house.api.get_run(f"{OWN}__training", f"cause__{causes[key]}") for key in PARTITIONS[:-3:-1]
    )
    assert started
    assert started["conf"] == {"partition": PARTITIONS[-1], "cause": causes[PARTITIONS[-1]]}
    assert late is None
    why = "another partition started this training already; planted"
    assert why in house.log(batch, f"asks_{PARTITIONS[-2]}", ask)
    assert house.end(f"{OWN}__training", started["dag_run_id"])["state"] == "success"


@pytest.mark.parametrize("clock", ["batch", "training"])
def test_a_run_without_a_partition_is_refused_in_a_sentence(house: House, clock: str) -> None:
    """A client that names no partition gets no run, and is told to give one."""
    with pytest.raises(AirflowError, match=r"400 .*expected a partition, but found nothing; .*Partition"):
        house.start(f"{OWN}__{clock}", "no_partition")
    assert house.api.get_run(f"{OWN}__{clock}", "no_partition") is None


@pytest.fixture(scope="module")
def unharmed(house: House) -> dict[str, str]:
    """What the partitions leave, one after the other, in which nobody was killed."""
    lake = Lake(KILLED, str(house.folder / "unharmed"))
    for partition, *_ in KILLS:
        clocks.partition(lake, load(KILLED), partition)
    return clocks.state(lake)


@pytest.mark.parametrize("task", [task for _, task, _ in KILLS])
def test_a_killed_task_is_run_again_and_the_partition_ends_as_if_nothing_had_happened(
    house: House, unharmed: dict[str, str], task: str
) -> None:
    """`kill -9` between two writes.

    Airflow runs the task again, and the tables equal unharmed partitions'.
    """
    dag, run = f"{KILLED}__batch", f"killed_{task}"
    for _, other, _ in KILLS:
        assert house.end(dag, f"killed_{other}")["state"] == "success"
    assert not house.fault(run, task).exists(), "the kill never came"
    (killed,) = [t for t in house.api.task_instances(dag, run) if t["task_id"] == task]
    assert killed["try_number"] == 2
    assert clocks.state(house.lake(KILLED)) == unharmed


def test_a_task_starts_with_the_libraries_imported(house: House) -> None:
    """What the scheduler has imported is there in the process that it forks for a task."""
    run = f"killed_{KILLS[0][1]}"
    assert house.end(f"{KILLED}__batch", run)["state"] == "success"
    assert "warm: True" in house.log(f"{KILLED}__batch", run, "check_partition")


def test_a_partition_without_predictions_by_the_declared_hour_is_told(house: House) -> None:
    """The deadline of the scheduled run is told at its connection, once; a backfilled run has none."""
    dag = f"{LATE}__batch"
    scheduled = partial(house.api.call, "GET", f"/dags/{dag}/dagRuns")
    for hook in serving(Hook()):

        def overdue(hook: Hook = hook) -> list[str]:
            told = [said for *_, said in hook.got if said["findings"][0]["check"] == "deadline"]
            return [str(said["sentence"]) for said in told]

        ops = {"connection_id": "ops", "conn_type": "http", "host": hook.uri}
        house.api.call("POST", "/connections", json=ops)
        house.api.wait_dag(dag, timeout=PATIENCE)
        house.api.unpause(dag)
        runs = process.until(lambda: bool(scheduled()["dag_runs"]), PATIENCE, poll=POLL)
        assert runs, "the newest partition is not scheduled"
        (run,) = scheduled()["dag_runs"]
        partition = date.fromisoformat(run["partition_key"])
        before = partition - timedelta(days=1)
        house.api.backfill(dag, before, before)
        told = process.until(lambda: bool(overdue()), PATIENCE)
        assert told, log_file(house.home, "triggerer").read_text()[-3000:]
        (backfilled,) = house.api.wait_backfill(dag, before, before, timeout=PATIENCE)
        assert (run["run_type"], backfilled["run_type"]) == ("scheduled", "backfill")
        assert overdue() == [f"{LATE} {partition}: no predictions by 06:00 UTC, when they were due"]


def test_no_stranger_reaches_a_server(house: House) -> None:
    """All that the stack's processes listen on is loopback, and who hasn't logged in gets nothing."""
    servers = members(house.stack)
    assert len(servers) > 8  # Airflow's four with the scheduler's workers, and what they need
    assert only_loopback(servers)
    for address in (f"{house.home.url('airflow')}/api/v2/dags", f"{house.home.url('mlflow')}/{SEARCH}"):
        assert requests.get(address, timeout=10).status_code == 401, address


def test_a_mistyped_spec_is_an_import_error_and_takes_down_only_itself(house: House) -> None:
    """The bad declaration shows with its sentence under dags/specs.py; all others are there."""
    errors = {e["filename"].rsplit("/", 1)[-1]: e["stack_trace"] for e in house.api.import_errors()}
    assert set(errors) == {"specs.py"}
    assert "gate.objectiv: unknown key; valid here: " in errors["specs.py"]
    found = house.api.call("GET", "/dags", params={"limit": 100})["dags"]
    shipped = ("columbia_minutes", "flight_bands", "flight_delay", "flight_minutes", "hourly_rides")
    copies = (KILLED, ASKING, LATE, STORY, FORMS, BUTTONS, SPARSE, SHARDED, WORKERS, EVENTS, OWN)
    assert {dag["dag_id"] for dag in found} - {"evergreen__upkeep", f"{EVENTS}__events"} == {
        f"{usecase}__{clock}"
        for usecase in (*shipped, *copies)
        for clock in ("batch", "training", "history", "operate")
    }


def _champions(house: House, usecase: str) -> list[tuple[str, str, str]]:
    rows = ledger.champions(ledger.switches(house.lake(usecase)))
    return [(row["version"], row["kind"], row["by"]) for row in rows]


def test_a_verdict_waits_for_a_person_and_holds_up_no_training(
    house: House, begun: Future[list[dict[str, Any]]]
) -> None:
    """Asked, superseded, rejected, approved over a killed worker: the ledger names who, and why."""
    training, ask, second = f"{ASKING}__training", ASK, ASKED["second"]
    for partition, question in zip(ASKED.values(), begun.result(), strict=True):
        assert question["subject"].startswith("rubber-stamped: ")
        assert f"/report/{ASKING}/verdict/{partition}-" in question["body"]
        assert "| matured test partitions | at least 4 | " in question["body"]
    # the last was asked while the earlier ones waited
    assert {house.states(training, run)[ask] for run in ASKED} == {"awaiting_input"}
    house.api.answer(training, "first", ask, "Approve", reason="")  # no answer: it is asked again
    house.api.wait_question(training, "first", ask, timeout=PATIENCE)
    house.api.answer(training, "first", ask, "Approve", reason="looks fine")
    house.api.answer(training, "older", ask, "Reject", reason="of an old week")
    for run, why in (
        ("first", f"superseded by the verdict of {second}"),
        ("older", "rejected by admin: of an old week"),
    ):
        assert house.api.wait_run(training, run, timeout=PATIENCE)["state"] == "success"
        assert house.states(training, run)["promote.switch"] == "skipped"
        assert why in house.log(training, run, "promote.switch")
    assert _champions(house, ASKING) == []
    house.fault("second", ask).write_text("1")  # the worker dies before it can write the answer down
    house.api.answer(training, "second", ask, "Approve", reason="better than nothing")
    assert house.api.wait_run(training, "second", timeout=PATIENCE)["state"] == "success"
    assert not house.fault("second", ask).exists(), "the kill never came"
    assert _champions(house, ASKING) == [("2", "promoted", "admin")]
    rows = sorted(house.lake(ASKING).rows("approvals"), key=lambda row: row["recorded"])
    assert {(row["answer"], row["by"], row["reason"]) for row in rows} == {
        ("approved", "admin", "looks fine"),
        ("rejected", "admin", "of an old week"),
        ("approved", "admin", "better than nothing"),
    }
    live = house.lake(ASKING).rows("switches", {"role": "champion"})[0]
    assert live["reason"].endswith("; approved by admin: better than nothing")
