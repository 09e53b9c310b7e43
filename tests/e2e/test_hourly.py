"""An hourly use case through a real scheduler: history, a training, and backfills where the clocks change."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pytest

from demo.airflow_api import POLL
from demo.process import until
from include.monitor.performance import performance_by
from include.spec import load
from tests.house import HOURS, PATIENCE, SPARSE, House
from tests.usecases.hourly_rides import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(900)]
OWN, ZONES = "hourly_rides", len(world.ZONES)
LOADED = ("2024-02-28", "2024-03-09")  # the clocks go forward on the 10th
CHAMPION = "2024-03-10T0405Z"  # the last hour of the 9th


def first_champion(house: House, usecase: str) -> None:
    """Load eleven days of hours and train a first champion, as a person would."""
    first, last = LOADED
    assert house.run(f"{usecase}__history", "first_load", first=first, last=last)["state"] == "success"
    run = house.run(f"{usecase}__training", "first_training", partition=CHAMPION)
    assert run["state"] == "success"


@pytest.fixture(scope="module")
def champion(house: House) -> str:
    """The partition of a first champion."""
    first_champion(house, OWN)
    return CHAMPION


def backfill(house: House, usecase: str, first: date, last: date, timeout: float) -> list[str]:
    """Backfill the batch DAG over whole days, four runs at once, and return the partitions that succeeded."""
    dag = f"{usecase}__batch"
    # Airflow closes a backfill up to 30 s after its last run, and refuses another one until then
    assert until(lambda: house.api.active_backfill(dag) is None, PATIENCE, POLL)
    house.api.backfill(dag, first, last, max_active_runs=4)
    runs = house.api.wait_backfill(dag, first, last, timeout=timeout)
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
    assert backfill(house, OWN, date(2024, 3, 10), date(2024, 3, 10), PATIENCE * 2) == keys
    assert alerts(house, keys) == set()


def test_one_hour_can_be_triggered_by_its_key_and_a_day_cannot(house: House, champion: str) -> None:
    """The form takes the UTC minute; a date is refused with an example."""
    key = "2024-03-11T0405Z"  # the first hour after that day
    assert house.run(f"{OWN}__batch", "one_hour", partition=key)["state"] == "success"
    assert alerts(house, [key]) == set()
    with pytest.raises(Exception, match=r"required a UTC minute such as 2013-03-01T0500Z"):
        house.start(f"{OWN}__batch", "a_day", partition="2024-03-09")


@pytest.mark.timeout(3 * 3600)
def test_days_with_hours_without_rows_alert_nobody(house: House, pytestconfig: pytest.Config) -> None:
    """Of a sparse source a fifth of the hours have no file or no rows, and models are trained in between.

    By default on the day on which the clocks change.
    """
    days = pytestconfig.getoption("--days") or 1
    spec, with_rows, keys, begin = load(SPARSE), world.with_rows(HOURS), [], time.monotonic()
    first_champion(house, SPARSE)
    for first, last in stretches(days, max(2, days // 6)):
        done = backfill(house, SPARSE, first, last, 3600)
        assert done == spec.clock.keys(str(first), str(last))
        keys += done
        training = spec.trainings(str(last), str(last))[-1]
        run = house.run(f"{SPARSE}__training", f"after_{last}", partition=training)
        assert run["state"] == "success"
    seconds = time.monotonic() - begin
    lake = house.lake(SPARSE)
    alarms = lake.rows("findings", {"partition": keys, "outcome": "alarm"})
    print(f"{len(keys)} hours in {seconds:.0f} s, {60 * len(keys) / seconds:.1f} a minute; alarms: {alarms}")
    predicted = lake.rows("predictions", {"partition": keys})
    assert Counter(row["partition"] for row in predicted) == {key: ZONES for key in keys if key in with_rows}
    assert {row["served_by"] for row in predicted} == {"champion"}
    weeks = performance_by(lake, spec, "week", first=keys[0], last=keys[-1])
    assert min(week["r2"] for week in weeks) > 0.2  # as monitoring requires
    decisions = lake.rows("decisions", {"partition": keys})
    assert sorted(row["partition"] for row in decisions) == keys
    told = {row["partition"]: [item["check"] for item in json.loads(row["alerts"])] for row in decisions}
    # a better recipe may replace the champion
    assert {key: checks for key, checks in told.items() if set(checks) - {"switch"}} == {}


def stretches(days: int, length: int) -> Iterator[tuple[date, date]]:
    """Yield the first and last day of parts of so many days."""
    for start in range(0, days, length):
        first = date(2024, 3, 10) + timedelta(days=start)
        yield first, first + timedelta(days=min(length, days - start) - 1)
