"""A destination with two flights a week through a real scheduler: days without a flight have no files."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import date, timedelta

import pytest

from include.spec import load
from tests.house import PATIENCE, House
from tests.usecases.flight_bands import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(3600)]
OWN, COLUMBIA = "columbia_minutes", "CAE"
LOADED, FIRST = ("2013-01-01", "2013-09-03"), date(2013, 9, 4)  # of its three days the second has a flight
TRAINED = "2013-09-01"


def test_days_without_a_flight_are_green_and_alert_nobody(house: House, pytestconfig: pytest.Config) -> None:
    """Their partitions have no rows, the champion serves the others, and trainings on them succeed."""
    days, spec, lake = pytestconfig.getoption("--days") or 3, load(OWN), house.lake(OWN)
    last = FIRST + timedelta(days=days - 1)
    world.write(house.columbia, spec, LOADED[0], str(last), COLUMBIA)
    history = house.run(f"{OWN}__history", "first_load", first=LOADED[0], last=LOADED[1])
    assert history["state"] == "success"
    assert house.run(f"{OWN}__training", "first", partition=TRAINED)["state"] == "success"
    begin = time.monotonic()
    house.api.backfill(f"{OWN}__batch", FIRST, last, max_active_runs=4)
    runs = house.api.wait_backfill(f"{OWN}__batch", FIRST, last, timeout=PATIENCE + 60 * days)
    seconds = time.monotonic() - begin
    keys = spec.clock.keys(str(FIRST), str(last))
    assert [(run["partition_key"], run["state"]) for run in runs] == [(key, "success") for key in keys]
    for training in spec.trainings(keys[0], keys[-1])[-1:]:
        assert house.run(f"{OWN}__training", "later", partition=training)["state"] == "success"
    alarms = lake.rows("findings", {"partition": keys, "outcome": "alarm"})
    print(f"{days} days in {seconds:.0f} s, {60 * days / seconds:.1f} a minute; alarms: {alarms}")
    assert alarms == []
    flights = Counter(row["partition"] for row in lake.rows("validated_departures", {"partition": keys}))
    assert 0 < len(flights) < len(keys) / 2
    predicted = lake.rows("predictions", {"partition": keys})
    assert Counter(row["partition"] for row in predicted) == flights
    assert {row["served_by"] for row in predicted} == {"champion"}
    states = lake.rows("partitions", {"partition": keys, "outcome": "published"})
    scored = {row["partition"]: row["rows"] for row in states if row["product"] == "predictions"}
    assert scored == {key: flights[key] for key in keys}
    decisions = lake.rows("decisions", {"partition": keys})
    assert sorted(row["partition"] for row in decisions) == keys
    told = {row["partition"]: [item["check"] for item in json.loads(row["alerts"])] for row in decisions}
    # a recipe with the lower recent loss may replace the champion
    assert {key: checks for key, checks in told.items() if set(checks) - {"switch"}} == {}
