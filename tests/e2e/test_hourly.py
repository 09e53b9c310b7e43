"""An hourly use case through a real scheduler: history, a training, and backfills where the clocks change."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from demo.airflow_api import POLL
from demo.process import until
from include.spec import load
from tests.house import PATIENCE, House
from tests.usecases.hourly_rides import world

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]
OWN, ZONES = "hourly_rides", len(world.ZONES)
LOADED = ("2024-02-28", "2024-03-09")  # the clocks go forward on the 10th
CHAMPION = "2024-03-10T0405Z"  # the last hour of the 9th


@pytest.fixture(scope="module")
def champion(house: House) -> str:
    """Eleven days of hours and a first champion, made as a person would; returns its partition."""
    first, last = LOADED
    run = house.run(f"{OWN}__history", "first_load", first=first, last=last)
    assert run["state"] == "success"
    assert house.run(f"{OWN}__training", "first_training", partition=CHAMPION)["state"] == "success"
    return CHAMPION


def backfill(house: House, first: date, last: date, timeout: float) -> list[str]:
    """Backfill the batch DAG over whole days, four runs at once, and return the partitions that succeeded."""
    # Airflow closes a backfill up to 30 s after its last run, and refuses another one until then
    assert until(lambda: house.api.active_backfill(f"{OWN}__batch") is None, PATIENCE, POLL)
    house.api.backfill(f"{OWN}__batch", first, last, max_active_runs=4)
    runs = house.api.wait_backfill(f"{OWN}__batch", first, last, timeout=timeout)
    assert {run["state"] for run in runs} == {"success"}
    return [run["partition_key"] for run in runs]


def alerts(house: House, keys: list[str]) -> set[str]:
    """Require that each of these hours was scored by the champion, and return the checks that alert."""
    rows = house.lake(OWN).rows("predictions", {"partition": keys})
    assert len(rows) == ZONES * len(keys)
    assert {row["served_by"] for row in rows} == {"champion"}
    decisions = house.lake(OWN).rows("decisions", {"partition": keys})
    assert len(decisions) == len(keys)
    return {item["check"] for row in decisions for item in json.loads(row["alerts"])}


def test_a_backfill_of_the_short_day_scores_its_23_hours(house: House, champion: str) -> None:
    """A date in the backfill's form means the local day's hours, each once."""
    keys = load(OWN).clock.keys("2024-03-10", "2024-03-10")
    assert len(keys) == 23
    assert backfill(house, date(2024, 3, 10), date(2024, 3, 10), PATIENCE * 2) == keys
    assert alerts(house, keys) == set()


def test_one_hour_can_be_triggered_by_its_key_and_a_day_cannot(house: House, champion: str) -> None:
    """The form takes the UTC minute; a date is refused with an example."""
    key = "2024-03-11T0405Z"  # the first hour after that day
    assert house.run(f"{OWN}__batch", "one_hour", partition=key)["state"] == "success"
    assert alerts(house, [key]) == set()
    with pytest.raises(Exception, match=r"required a UTC minute such as 2013-03-01T0500Z"):
        house.start(f"{OWN}__batch", "a_day", partition="2024-03-09")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_four_days_of_hours_alert_nobody(house: House, champion: str) -> None:
    """A hundred partitions, with a training in between as the schedule has one each day."""
    first, half, last = (date(2024, 3, 10) + timedelta(days=days) for days in (0, 1, 3))
    spec = load(OWN)
    keys = spec.clock.keys(str(first), str(last))
    assert backfill(house, first, half, 900) == spec.clock.keys(str(first), str(half))
    (training,) = spec.trainings(str(half), str(half))
    assert house.run(f"{OWN}__training", "in_between", partition=training)["state"] == "success"
    backfill(house, half + timedelta(days=1), last, 900)
    assert alerts(house, keys) <= {"switch"}  # a better recipe may replace the champion
