"""A model's whole life through scheduler and REST API, from a refusal to a rollback that nobody asked for.

Until week 20 a shop sells as it does; then something happens, and each item sells as much as any other. The
champion of the day has learned too well how they differ, and the one before it hardly had.
"""

from __future__ import annotations

import pytest

from include.promote import ledger
from tests.house import PATIENCE, STORY, House
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(1800)]
WEEKS, TURN = 24, 20
PARTITIONS = world.partitions(WEEKS)
ASK = "approve.ask"


def _deliver(house: House) -> None:
    """Write the shop's files; what is sold from the turn on is the same for every item."""
    folder = house.shop / "story"
    folder.mkdir()
    for number, key in enumerate(PARTITIONS):
        lines = world.week(number)
        if number > TURN:
            lines = [line.rpartition(",")[0] + ",35" for line in lines]
        (folder / f"{key}.csv").write_text("\n".join([world.HEADER, *lines]) + "\n")


def _train(house: House, number: int, answer: str = "") -> str:
    """Train on a week, let a person answer where asked, and return the state of the switch."""
    run, dag = f"week_{number}", f"{STORY}__training"
    house.api.trigger_run(dag, {"partition": PARTITIONS[number]}, run_id=run)
    if answer:
        question = house.api.wait_question(dag, run, ASK, timeout=PATIENCE)
        assert f"/report/{STORY}/verdict/{PARTITIONS[number]}-" in question["body"]
        house.api.answer(dag, run, ASK, "Approve", reason=answer)
    assert house.api.wait_run(dag, run, timeout=PATIENCE)["state"] == "success"
    return house.states(dag, run)["promote.switch"]


def _partitions(house: House, first: int, last: int) -> dict[int, str]:
    """Run partitions one after the other until one takes a step; return its week and what it says of it."""
    for number in range(first, last + 1):
        dag, run = f"{STORY}__batch", f"partition_{number}"
        assert house.run(dag, run, partition=PARTITIONS[number])["state"] == "success"
        if house.states(dag, run)["rollout.advance"] == "success":
            return {number: house.log(dag, run, "rollout.advance")}
    return {}


def _served(house: House, number: int) -> set[tuple[str, str]]:
    rows = house.lake(STORY).rows("predictions", {"partition": PARTITIONS[number]})
    return {(row["served_by"], row["version"]) for row in rows}


def test_the_whole_story(house: House) -> None:
    """Asked and approved; refreshed; shadow, canary, champion; a live regression, and away by itself."""
    lake = house.lake(STORY)
    _deliver(house)
    assert (
        house.run(f"{STORY}__history", "load", first=PARTITIONS[0], last=PARTITIONS[11])["state"] == "success"
    )
    assert _train(house, 11, answer="a beginning") == "success"
    assert _partitions(house, 12, 12) == {}

    assert _train(house, 12) == "success"  # nobody is asked: the recipe that serves was fitted anew
    house.redeclare(STORY, "max_iter: 4", "max_iter: 60")
    assert _partitions(house, 13, 13) == {}
    assert _train(house, 13, answer="it learns more now") == "success"

    steps = _partitions(house, 14, 16)
    assert list(steps) == [16], "the shadow became a canary"
    assert "shadow of v3 against v2" in steps[16]
    assert _served(house, 16) == {("champion", "2")}
    assert {row["version"] for row in lake.rows("shadows", {"partition": PARTITIONS[16]})} == {"3"}
    steps = _partitions(house, 17, 19)
    assert list(steps) == [19], "the canary became champion"
    assert _served(house, 17) == {("champion", "2"), ("canary", "3")}

    assert _partitions(house, 20, 23), "the champion left"
    assert _served(house, 20) == {("champion", "3")}
    rows = [row for row in ledger.switches(lake) if row["role"] != "baseline"]
    assert [(row["role"], row["kind"], row["version"], row["by"]) for row in rows[:5]] == [
        ("champion", "promoted", "1", "admin"),
        ("champion", "refreshed", "2", ""),
        ("challenger", "shadow", "3", "admin"),
        ("challenger", "canary", "3", "admin"),
        ("champion", "promoted", "3", "admin"),
    ]
    # the watch goes back to the champion before, or the walks let a better recipe serve
    assert {row["kind"] for row in rows[5:]} & {"rolled back", "replaced"}
    assert {row["by"] for row in rows[5:]} == {"evergreen"}
    assert "approved by admin: it learns more now" in rows[4]["reason"]
    answers = {(row["answer"], row["by"], row["reason"]) for row in lake.rows("approvals")}
    assert answers == {("approved", "admin", "a beginning"), ("approved", "admin", "it learns more now")}
