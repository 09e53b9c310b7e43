"""The demo's own weather, undoctored: days of 23 and 25 hours, and a wind of 1,048 miles an hour."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from demo.weather import WeatherServer
from demo.world import weather_by_day
from include.environment import Connect, Endpoint
from include.ingest.run import ingest
from include.lake import Lake
from include.spec import load

SPRING, AUTUMN, STORM = "2013-03-09", "2013-11-02", "2013-02-11"  # the evenings before


@pytest.fixture(scope="module")
def weather() -> Iterator[Connect]:
    """Return the way to the demo's weather service."""
    server = WeatherServer(weather_by_day(), 0, "token")
    server.RequestHandlerClass.log_message = lambda *args: None  # type: ignore[method-assign]
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = Endpoint("weather", f"http://127.0.0.1:{server.server_address[1]}", password="token")
    yield lambda name: endpoint
    server.shutdown()
    server.server_close()


def test_days_of_23_and_25_hours_are_whole(weather: Connect, tmp_path: Path) -> None:
    """On both days each airport's hours follow each other, none twice and none on another day."""
    lake = Lake("flight_delay", str(tmp_path))
    outcomes = ingest(lake, load("flight_delay"), "weather", [SPRING, AUTUMN], weather)
    assert [(o.outcome, o.quarantined, o.duplicates) for o in outcomes] == [("published", 0, 0)] * 2
    rows = lake.rows("validated_weather")
    hours = {
        night: len({row["observed"] for row in rows if row["night"] == night}) for night in (SPRING, AUTUMN)
    }
    assert hours == {SPRING: 23, AUTUMN: 24}  # the service itself has no row for one of the 25


def test_the_wind_of_1048_mph_is_set_aside(weather: Connect, tmp_path: Path) -> None:
    """One impossible value costs its row and not the day."""
    lake = Lake("flight_delay", str(tmp_path))
    (outcome,) = ingest(lake, load("flight_delay"), "weather", [STORM], weather)
    assert (outcome.outcome, outcome.quarantined) == ("published", 1)
    (row,) = lake.rows("quarantine")
    assert row["rule"] == "expect_column_values_to_be_between(min_value=0, max_value=110)"
    assert (row["column"], row["value"]) == ("wind_speed", "1048.36058")
