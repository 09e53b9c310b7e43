"""The buttons of a use case's page do what they say through Airflow's own API, and report the result."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from include.promote import ledger
from tests.browser.person import Person
from tests.house import BUTTONS, PATIENCE, WEEKS, House
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(600)]
FIRST, SECOND = world.partitions(WEEKS)[WEEKS - 5], world.partitions(WEEKS)[WEEKS - 4]
TRAINING = f"{BUTTONS}__training"


def _champions(house: House) -> list[tuple[str, str, str]]:
    rows = ledger.champions(ledger.switches(house.lake(BUTTONS)))
    return [(row["version"], row["kind"], row["by"]) for row in rows]


@pytest.fixture(scope="module")
def history(house: House) -> str:
    """The use case has its data."""
    return str(house.run(f"{BUTTONS}__history", "history", last=SECOND)["state"])


@pytest.fixture
def errors(person: Person) -> Iterator[list[str]]:
    """What the browser's console reports as errors during the test."""
    texts: list[str] = []

    def listen(line: object) -> None:
        if getattr(line, "type", "") == "error":
            texts.append(getattr(line, "text", ""))

    person.page.on("console", listen)
    yield texts
    person.page.remove_listener("console", listen)


def _answer(house: House, person: Person, partition: str, choice: str) -> str:
    """Start a training, answer its question on the use case's page, and return the run's state."""
    house.start(TRAINING, partition, partition=partition)
    house.api.wait_question(TRAINING, partition, "approve.ask", timeout=PATIENCE)
    frame = person.open_usecase(BUTTONS)
    card = frame.locator(".card").filter(has_text="Waiting for approval")
    card.locator("input[name=reason]").fill("it looks sound")
    card.locator("input[name=reason]").press("Enter")  # neither answer is the one that Enter gives
    expect(card.locator("output")).to_be_empty()
    card.get_by_role("button", name=choice).click()
    expect(card.locator("output")).to_contain_text(f"The answer, {choice}, is given")
    return str(house.end(TRAINING, partition)["state"])


def test_approve_and_roll_back(house: House, person: Person, history: str, errors: list[str]) -> None:
    """Two trainings are approved, and the first champion serves again; the ledger and the page say so."""
    assert history == "success"
    assert _answer(house, person, FIRST, "Approve") == "success"
    assert _champions(house) == [("1", "promoted", "admin")]
    assert _answer(house, person, SECOND, "Approve") == "success"
    assert [version for version, *_ in _champions(house)] == ["1", "2"]

    frame = person.open_usecase(BUTTONS)
    button = frame.locator("details.action").filter(has_text="Roll back to version 1")
    button.locator("summary").click()
    button.locator("input[name=reason]").fill("better before")
    button.get_by_role("button").click()
    expect(button.locator("output")).to_contain_text("Done: rolled back to v1 by admin")
    assert _champions(house)[-1] == ("1", "rolled back", "admin")
    button.get_by_role("link", name="Show the run").click()
    person.page.wait_for_url(re.compile(rf"/dags/{BUTTONS}__operate/runs/"))

    frame = person.open_usecase(BUTTONS)
    expect(frame.get_by_text("better before").first).to_be_visible()
    assert errors == []


def test_a_refusal_is_shown_with_its_reason(house: House, person: Person, history: str) -> None:
    """An old tab offers a rollback that is no longer possible: the page says why nothing was switched."""
    before = _champions(house)
    frame = person.open_usecase(BUTTONS)
    button = frame.locator("details.action").filter(has_text="Roll back to version 2")
    form = button.locator("form")
    form.evaluate("""form => { form.dataset.conf = '{"action": "roll back", "version": "9"}' }""")
    button.locator("summary").click()
    button.locator("input[name=reason]").fill("a slip")
    button.get_by_role("button").click()
    expect(button.locator("output")).to_contain_text(
        "rollback: found v9, which was never champion; choose one of v1, v2 as the version"
    )
    expect(button.get_by_role("button")).to_be_enabled()
    assert _champions(house) == before
