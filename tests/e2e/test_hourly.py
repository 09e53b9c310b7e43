"""An hourly use case through a real scheduler: history, trainings, and a backfill where the clocks change.

A fifth of its hours have no file or no rows. By default the backfill is canceled after some hours; ``--days``
runs whole days.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pytest

from demo.airflow_api import FINAL, POLL
from demo.process import until
from include.monitor.performance import performance_by
from include.spec import load
from tests.house import HOURS, PATIENCE, SPARSE, House
from tests.usecases.hourly_rides import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(3 * 3600)]
BATCH, ZONES = f"{SPARSE}__batch", len(world.ZONES)
LOADED = ("2024-02-28", "2024-03-09")
CHAMPION = "2024-03-10T0405Z"  # the last hour of the 9th
SHORT = date(2024, 3, 10)  # the clocks go forward, from two to three
SHOWN = 5  # its hours that run by default: two of them have no rows


@pytest.fixture(scope="module")
def champion(house: House) -> str:
    """Eleven days of hours are loaded and a first champion is trained, as a person would; its partition."""
    first, last = LOADED
    history = house.run(f"{SPARSE}__history", "first_load", first=first, last=last)
    assert history["state"] == "success"
    training = house.run(f"{SPARSE}__training", "first_training", partition=CHAMPION)
    assert training["state"] == "success"
    return CHAMPION


def backfill(house: House, first: date, last: date, shown: int | None) -> list[str]:
    """Backfill whole days, runs beside each other, and return the partitions that succeeded: the first ones.

    With ``shown`` it is canceled when so many have ended.
    """
    keys = load(SPARSE).clock.keys(str(first), str(last))
    # Airflow closes a backfill up to 30 s after its last run, and refuses another one until then
    assert until(lambda: house.api.active_backfill(BATCH) is None, PATIENCE, POLL)
    started = house.api.backfill(BATCH, first, last, max_active_runs=2 if shown else 4)
    if shown:

        def ended() -> bool:
            runs = house.api.partition_runs(BATCH, first, last)
            return len(runs) == len(keys) and all(run["state"] in FINAL for run in runs[:shown])

        assert until(ended, PATIENCE, POLL)
        house.api.call("PUT", f"/backfills/{started['id']}/cancel")
    runs = house.api.wait_backfill(BATCH, first, last, timeout=3600)
    assert [run["partition_key"] for run in runs] == keys
    begun = [run for run in runs if run["start_date"]]
    assert {run["state"] for run in begun} == {"success"}
    assert len(begun) >= (shown or len(keys))
    done = [run["partition_key"] for run in begun]
    assert done == keys[: len(done)]
    return done


def test_hours_without_rows_alert_nobody(house: House, champion: str, pytestconfig: pytest.Config) -> None:
    """A date in the backfill's form means the local day's hours, each once, 23 of them on the short day.

    Those with rows are scored by the champion, those without are green, and models are trained in between.
    """
    days = pytestconfig.getoption("--days")
    spec, with_rows, keys, begin = load(SPARSE), world.with_rows(HOURS), [], time.monotonic()
    assert len(spec.clock.keys(str(SHORT), str(SHORT))) == 23
    for first, last in stretches(days or 1, max(2, (days or 1) // 6)):
        keys += backfill(house, first, last, None if days else SHOWN)
        training = spec.trainings(str(last), str(last))[-1]
        run = house.run(f"{SPARSE}__training", f"after_{last}", partition=training)
        assert run["state"] == "success"
    seconds = time.monotonic() - begin
    lake = house.lake(SPARSE)
    alarms = lake.rows("findings", {"partition": keys, "outcome": "alarm"})
    print(f"{len(keys)} hours in {seconds:.0f} s, {60 * len(keys) / seconds:.1f} a minute; alarms: {alarms}")
    assert len({*keys} - with_rows) >= 2
    predicted = lake.rows("predictions", {"partition": keys})
    assert Counter(row["partition"] for row in predicted) == {key: ZONES for key in keys if key in with_rows}
    assert {row["served_by"] for row in predicted} == {"champion"}
    weeks = performance_by(lake, spec, "week", first=keys[0], last=keys[-1])
    if days:  # a few hours have an r2 of chance
        assert min(week["r2"] for week in weeks) > 0.2  # as monitoring requires
    decisions = lake.rows("decisions", {"partition": keys})
    assert sorted(row["partition"] for row in decisions) == keys
    told = {row["partition"]: [item["check"] for item in json.loads(row["alerts"])] for row in decisions}
    # a better recipe may replace the champion
    assert {key: checks for key, checks in told.items() if set(checks) - {"switch"}} == {}


def test_one_hour_can_be_triggered_by_its_key_and_a_day_cannot(house: House, champion: str) -> None:
    """The form takes the UTC minute; a date is refused with an example."""
    key = "2024-03-11T0405Z"  # the first hour after that day
    assert house.run(BATCH, "one_hour", partition=key)["state"] == "success"
    rows = house.lake(SPARSE).rows("predictions", {"partition": key})
    assert [row["served_by"] for row in rows] == ["champion"] * ZONES
    with pytest.raises(Exception, match=r"expected a UTC minute such as 2013-03-01T0500Z"):
        house.start(BATCH, "a_day", partition="2024-03-09")


def stretches(days: int, length: int) -> Iterator[tuple[date, date]]:
    """Yield the first and last day of parts of so many days."""
    for start in range(0, days, length):
        first = SHORT + timedelta(days=start)
        yield first, first + timedelta(days=min(length, days - start) - 1)
