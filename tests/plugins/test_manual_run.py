"""A new run's partition is the form's partition; what isn't a run of ours passes as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from evergreen.defaults import partition_field
from evergreen.manual_run import PartitionFromForm
from evergreen.timetable import RangeTimetable
from include.spec.load import read
from tests.plugins.site import ROOT

FORM = "/api/v2/dags/flight_delay__batch/dagRuns"
ASSET = "/api/v2/assets/7/materialize"
TASK = "/execution/dag-runs/flight_delay__training/cause__2013-03-01"
USECASES = ("tests/usecases/hourly_rides", "include/usecases/flight_delay")
RUN: dict[str, Any] = {"conf": {"partition": "2013-03-01"}}


@pytest.fixture(scope="module")
def airflow() -> TestClient:
    """What Airflow would receive behind the middleware: each request's body, as it arrives."""
    app = FastAPI()
    app.add_middleware(PartitionFromForm)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def received(request: Request) -> str:
        return (await request.body()).decode()

    return TestClient(app)


def _received(airflow: TestClient, path: str, body: Any) -> Any:
    return json.loads(airflow.post(path, json=body).json())


@pytest.mark.parametrize("path", [FORM, ASSET, TASK])
def test_the_partition_is_the_partition_key_and_the_note(airflow: TestClient, path: str) -> None:
    """Whoever starts the run; a logical date, of which a partition has none, is dropped."""
    body = _received(airflow, path, {**RUN, "logical_date": "2026-11-29T00:00:00Z"})
    assert body["partition_key"] == "2013-03-01"
    assert body["note"] == "Partition 2013-03-01"
    assert body["logical_date"] is None


def test_the_runs_id_names_the_partition_unless_one_is_given(airflow: TestClient) -> None:
    """Lists of runs show the id and hide the partition key."""
    assert _received(airflow, FORM, RUN)["dag_run_id"].startswith("manual__2013-03-01__")
    assert _received(airflow, FORM, {**RUN, "dag_run_id": "mine"})["dag_run_id"] == "mine"


def test_the_space_of_a_pasted_partition_is_dropped(airflow: TestClient) -> None:
    """It would be refused as another partition than it looks like."""
    body = _received(airflow, FORM, {"conf": {"partition": " 2013-03-01 "}})
    assert (body["partition_key"], body["conf"]) == ("2013-03-01", {"partition": "2013-03-01"})


def test_a_history_has_its_range_as_key_and_note(airflow: TestClient) -> None:
    """So its dialog can refuse the range; without both ends the first task does."""
    history = FORM.replace("batch", "history")
    body = _received(airflow, history, {"conf": {"first": "2013-01-01", "last": "2013-02-28"}})
    assert (body["partition_key"], body["note"]) == (
        "2013-01-01--2013-02-28",
        "Partitions 2013-01-01 to 2013-02-28",
    )
    assert body["dag_run_id"].startswith("manual__2013-01-01--2013-02-28__")
    assert _received(airflow, history, {"conf": {"last": "2013-02-28"}}) == {"conf": {"last": "2013-02-28"}}


def test_a_range_that_is_no_text_is_left_to_the_timetable(airflow: TestClient) -> None:
    """A client's numbers, which YAML makes of 2013, become a key that is refused, and a space is dropped."""
    history = FORM.replace("batch", "history")
    for first, last in ((2013, 2014), (" 2013 ", "2014 "), ([2013], 2014)):
        key = _received(airflow, history, {"conf": {"first": first, "last": last}})["partition_key"]
        assert key == ("[2013]--2014" if isinstance(first, list) else "2013--2014")
        with pytest.raises(InvalidPartitionKeyError, match=r"choose|give a partition"):
            RangeTimetable("flight_delay").resolve_partition_date(key)


def test_a_key_and_a_note_of_ones_own_stay(airflow: TestClient) -> None:
    """Those who know Airflow's own fields may use them."""
    own = {"conf": {}, "partition_key": "2013-03-02", "note": "once more"}
    body = _received(airflow, FORM, own)
    assert (body["partition_key"], body["note"]) == ("2013-03-02", "once more")


@pytest.mark.parametrize("body", [{}, {"conf": None}, {"conf": {"partition": None}}])
def test_an_empty_partition_becomes_a_key_that_the_timetable_refuses(airflow: TestClient, body: Any) -> None:
    """Without a key Airflow would make the run."""
    assert _received(airflow, FORM, body)["partition_key"] == "none"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TASK, {"conf": {}}),  # the run itself is red
        (ASSET, {"conf": {"region": "eu"}}),
        ("/api/v2/dags/flight_delay__operate/dagRuns", {"conf": {"action": "verify"}}),
        ("/api/v2/dags/another_teams__batch/dagRuns", {"conf": {}}),
        ("/api/v2/dags/flight_delay__batch/clearTaskInstances", RUN),
        ("/api/v2/backfills", {"dag_id": "flight_delay__batch"}),
        (FORM, []),
        (FORM, {"conf": "text"}),
    ],
)
def test_all_else_passes_as_it_came(airflow: TestClient, path: str, body: Any) -> None:
    """Other DAGs, other routes, and what Airflow refuses by itself."""
    assert _received(airflow, path, body) == body


def test_what_is_no_json_and_what_is_large_passes(airflow: TestClient) -> None:
    """A body of several pieces is put together again."""
    assert airflow.post(FORM, content=b"{").json() == "{"
    assert airflow.post(FORM, content=b"[" * 9000).json() == "[" * 9000
    large = {**RUN, "note": "n" * 1_000_000}
    assert _received(airflow, FORM, large)["note"] == large["note"]


def test_a_form_shows_what_a_partition_looks_like() -> None:
    """A key in UTC has its local time beside it, and it is one of the schedule's own."""
    specs = [read(ROOT / folder / "usecase.yaml") for folder in USECASES]
    hourly, daily = (str(partition_field(spec)["partition"].description) for spec in specs)
    assert hourly.startswith("2024-02-28T0505Z is 2024-02-28 00:05 in America/New_York. Required")
    assert daily.startswith("Such as 2013-03-01. Required")
