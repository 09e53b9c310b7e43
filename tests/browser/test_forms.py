"""What a person does with Airflow's forms happens, what is refused says why, and the pages tell the truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

import pytest
from playwright.sync_api import expect

from include.promote import ledger
from tests.browser.person import Person
from tests.house import FORMS, PATIENCE, WEEKS, House
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(600)]
PARTITIONS = world.partitions(WEEKS)
BATCH, TRAINING, HISTORY, OPERATE = (
    f"{FORMS}__{clock}" for clock in ("batch", "training", "history", "operate")
)
CHAMPION, OLDER = PARTITIONS[WEEKS - 5], PARTITIONS[WEEKS - 7]
ONE = PARTITIONS[-3]  # the partition that is triggered alone, inside the range that is backfilled


def _champions(house: House) -> list[tuple[str, str, str, str]]:
    rows = ledger.champions(ledger.switches(house.lake(FORMS)))
    return [(row["version"], row["kind"], row["by"], row["reason"].partition(";")[0]) for row in rows]


def _runs(house: House, dag: str) -> int:
    return int(house.api.call("GET", f"/dags/{dag}/dagRuns")["total_entries"])


@pytest.fixture(scope="module")
def loaded(house: House, person: Person) -> str:
    """What the page of a run says that loads the history up to the champion's partition."""
    return person.do(HISTORY, last=CHAMPION)


@pytest.fixture(scope="module")
def champion(house: House, person: Person, loaded: str) -> Iterator[str]:
    """A first champion, trained from the form, and a training that a test waits for; the run's id."""
    run = person.trigger(TRAINING, partition=CHAMPION)
    assert person.outcome(run) == "Success"
    house.start(TRAINING, "older", partition=OLDER)
    return run


def test_history_loads_the_range_of_the_form(house: House, loaded: str) -> None:
    """The use case's schedule is over, and the run is not an empty success."""
    assert loaded == "Success"
    partitions = house.lake(FORMS).rows("partitions", {"product": "sales"})
    assert {row["partition"] for row in partitions} == set(PARTITIONS[: WEEKS - 4])
    (run,) = house.api.call("GET", f"/dags/{HISTORY}/dagRuns")["dag_runs"]
    assert f"sales {PARTITIONS[0]} to {CHAMPION}: {WEEKS - 4} published" in run["note"]


def test_the_form_refuses_a_range_that_is_swapped(house: House, person: Person, loaded: str) -> None:
    """The dialog stays open with the reason in red, and no run is made."""
    before = _runs(house, HISTORY)
    dialog = person.open_form(HISTORY)
    person.fill_in(dialog, first=CHAMPION, last=OLDER)
    person.submit(dialog)
    expect(dialog.get_by_text(f"choose {OLDER} as the first and {CHAMPION} as the last")).to_be_visible()
    assert _runs(house, HISTORY) == before


def test_a_training_from_the_form_is_of_its_partition(house: House, person: Person, champion: str) -> None:
    """Its partition is its partition key, its note says what came of it, and the ledger has its champion."""
    run = house.api.get_run(TRAINING, champion)
    assert run is not None
    assert run["partition_key"] == CHAMPION
    note, switch = run["note"].splitlines()
    assert note == f"Partition {CHAMPION}"
    assert switch.startswith("v1 promoted, champion from ")
    assert "rubber-stamped: no champion to compare with" in switch
    assert [row[:2] for row in _champions(house)] == [("1", "promoted")]


@pytest.mark.parametrize(
    ("partition", "sentence"),
    [
        ("", "partition: expected a partition, but found nothing"),
        ("2024-06-04", "found a day on which it has none; choose 2024-06-03 or 2024-06-10"),
    ],
    ids=["empty", "not of the schedule"],
)
def test_the_form_refuses_what_is_no_partition(
    house: House, person: Person, partition: str, sentence: str
) -> None:
    """The dialog stays open with the reason in red, and no run is made."""
    before = _runs(house, BATCH)
    dialog = person.open_form(BATCH)
    person.fill_in(dialog, partition=partition)
    person.submit(dialog)
    expect(dialog.get_by_role("alert").or_(dialog.get_by_text("400 Bad Request"))).to_be_visible()
    expect(dialog.get_by_text(sentence)).to_be_visible()
    assert _runs(house, BATCH) == before


def test_a_triggered_partition_is_shown_as_that_partition(
    house: House, person: Person, champion: str
) -> None:
    """Its page, the list of runs and the events of its assets name the partition; its rows are predicted."""
    run = person.trigger(BATCH, partition=ONE)
    assert person.outcome(run) == "Success"
    expect(person.page.get_by_text(ONE, exact=True)).to_be_visible()
    expect(person.page.get_by_text(f"Partition {ONE}")).to_be_visible()
    person.page.goto(f"{person.url}/dags/{BATCH}/runs")
    expect(person.page.get_by_role("link", name=f"manual__{ONE}__")).to_be_visible()
    events = house.api.call("GET", "/assets/events", params={"source_dag_id": BATCH, "source_run_id": run})
    assert {event["partition_key"] for event in events["asset_events"]} == {ONE}
    rows = house.lake(FORMS).rows("predictions", {"partition": ONE})
    assert [(row["served_by"], row["version"]) for row in rows] == [("champion", "1")] * 40


def test_a_backfill_runs_the_partitions_that_nobody_has_run(house: House, person: Person) -> None:
    """The dialog needs no field but the range; the partition that was triggered is not run again."""
    first, last = PARTITIONS[-4], PARTITIONS[-2]
    assert person.backfill(BATCH, first, last).startswith("2 runs")
    days = date.fromisoformat(first), date.fromisoformat(last)
    runs = house.api.wait_backfill(BATCH, *days, timeout=PATIENCE)
    assert [(run["partition_key"], run["run_type"], run["state"]) for run in runs] == [
        (first, "backfill", "success"),
        (ONE, "manual", "success"),
        (last, "backfill", "success"),
    ]
    rows = house.lake(FORMS).rows("predictions", {"partition": [first, last]})
    assert [row["served_by"] for row in rows] == ["champion"] * 80


def test_a_run_without_a_partition_is_one_red_task(house: House, person: Person) -> None:
    """Where no form asks for the partition, one task is red and says so, and no other one runs."""
    assets = house.api.call("GET", "/assets", params={"uri_pattern": f"x-evergreen://{FORMS}/findings"})
    (asset,) = assets["assets"]
    run = house.api.call("POST", f"/assets/{asset['id']}/materialize", json={})["dag_run_id"]
    person.page.goto(f"{person.url}/dags/{BATCH}/runs/{run}")
    assert person.outcome(run) == "Failed"
    states = house.states(BATCH, run)
    assert states.pop("check_partition") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    person.read_log("check_partition", "partition: expected a partition, but found nothing")


def test_verify_needs_no_other_field(person: Person) -> None:
    """The form as it opens can be submitted, and the log says what was read."""
    assert person.do(OPERATE) == "Success"
    person.read_log("operate", "all as recorded")


@pytest.mark.parametrize(("action", "fields"), [("roll back", {}), ("force", {"attempt": OLDER})])
def test_what_changes_the_champion_needs_a_reason(
    house: House, person: Person, champion: str, action: str, fields: dict[str, str]
) -> None:
    """The run is red, its log names the field, and the champion stays."""
    before = _champions(house)
    assert person.do(OPERATE, action=action, **fields) == "Failed"
    person.read_log(
        "operate", f"{action}: expected Why, but found an empty field; trigger again and fill in Why"
    )
    assert _champions(house) == before


def test_a_training_of_an_older_partition_is_recorded_and_never_deployed(house: House, champion: str) -> None:
    """It leaves an attempt, and the champion where it was."""
    assert house.end(TRAINING, "older")["state"] == "success"
    assert OLDER in {row["partition"] for row in house.lake(FORMS).rows("attempts")}
    assert house.states(TRAINING, "older")["promote.switch"] == "skipped"
    assert [row[0] for row in _champions(house)] == ["1"]


def test_force_and_roll_back_with_and_without_a_version(house: House, person: Person, champion: str) -> None:
    """Each switch is in the ledger with the person and the reason, and the overview shows the last."""
    assert house.end(TRAINING, "older")["state"] == "success"
    assert person.do(OPERATE, action="force", attempt=OLDER, reason="a try") == "Success"
    assert person.do(OPERATE, action="roll back", reason="no better") == "Success"
    assert person.do(OPERATE, action="roll back", version="2", reason="better after all") == "Success"
    assert _champions(house)[1:] == [
        ("2", "forced", "admin", "a try"),
        ("1", "rolled back", "admin", "no better"),
        ("2", "rolled back", "admin", "better after all"),
    ]
    person.page.goto(f"{person.url}/plugin/evergreen/evergreen/usecase/{FORMS}")
    overview = person.page.frame_locator("iframe")
    expect(overview.get_by_text("better after all").first).to_be_visible()


def test_a_roll_back_to_no_champion_is_refused(house: House, person: Person, champion: str) -> None:
    """The run is red, its log and its note say which versions there are, and the champion stays."""
    before = _champions(house)
    run = person.trigger(OPERATE, action="roll back", version="9", reason="a slip")
    assert person.outcome(run) == "Failed"
    sentence = "expected a version that was champion, but found v9, which was never champion"
    person.read_log("operate", sentence)
    note = house.api.call("GET", f"/dags/{OPERATE}/dagRuns/{run}")["note"]
    assert re.search(
        r"rollback: found v9, which was never champion; choose one of v1(, v\d+)* as the version", note
    )
    assert _champions(house) == before
