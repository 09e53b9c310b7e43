"""The demo's own data: days of 23 and 25 hours, a wind of 1,048 miles an hour, and hours of another zone."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from demo.weather import WeatherServer
from demo.world import landing_objects, weather_by_day
from include.environment import Connect, Endpoint
from include.ingest.pipeline import ingest
from include.spec import load
from include.storage.lake import Lake

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
        partition: len({row["observed"] for row in rows if row["partition"] == partition})
        for partition in (SPRING, AUTUMN)
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


DAYS = ("2013-03-10", "2013-11-03", "2013-02-12")  # the clocks go forward, go back, do nothing


@pytest.fixture(scope="module")
def delivered() -> dict[str, bytes]:
    """Return three days' files of flights, as the demo delivers them."""
    return {key: data for key, data in landing_objects().items() if key.split("/")[1][:10] in DAYS}


def landed(folder: Path, files: dict[str, bytes]) -> Connect:
    """Write files into a folder and return the way to it."""
    for key, data in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return lambda name: Endpoint(name, folder.as_uri())


def five_hours_earlier(data: bytes) -> bytes:
    """Return a file whose UTC moments are New York's winter wall times, with the Z still behind them."""

    def earlier(found: re.Match[str]) -> str:
        return f"{datetime.fromisoformat(found[0][:-1]) - timedelta(hours=5):%Y-%m-%dT%H:%M:%SZ}"

    shifted = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", earlier, gzip.decompress(data).decode())
    return gzip.compress(shifted.encode())


@pytest.mark.full
def test_flights_agree_with_their_hours(delivered: dict[str, bytes], tmp_path: Path) -> None:
    """Each departure's moment is in the hour of its wall time, on the days of 23 and 25 hours as well."""
    spec, lake = load("flight_delay"), Lake("flight_delay", str(tmp_path / "lake"))
    connect = landed(tmp_path, delivered)
    for source in ("schedule", "outcomes"):
        offset = timedelta(days=spec.sources[source].offset)
        partitions = [f"{datetime.fromisoformat(day) - offset:%Y-%m-%d}" for day in DAYS]
        found = ingest(lake, spec, source, partitions, connect)
        assert [(o.outcome, o.quarantined) for o in found] == [("published", 0)] * 3


@pytest.mark.full
@pytest.mark.parametrize(("source", "partition"), [("schedule", "2013-02-11"), ("outcomes", "2013-02-13")])
def test_a_shift_of_the_time_zone_is_caught(
    source: str, partition: str, delivered: dict[str, bytes], tmp_path: Path
) -> None:
    """New York's wall times said to be UTC stay on their day, and still the partition is refused for them."""
    file = f"{source}/2013-02-12.csv.gz"
    connect = landed(tmp_path, {file: five_hours_earlier(delivered[file])})
    lake = Lake("flight_delay", str(tmp_path / "lake"))
    (outcome,) = ingest(lake, load("flight_delay"), source, [partition], connect)
    assert outcome.outcome == "refused"
    assert re.search(
        r"100\.0% of [\d,]+ rows: agrees of scheduled, sched_dep_time in [\d,]+ rows", outcome.note
    )
    assert f"({file}); correct it at the source and run the partition again with *Refetch*" in outcome.note
    aside = lake.rows("quarantine")
    assert sum(row["rule"] == "day" for row in aside) < 0.05 * len(aside)
    first = min((row for row in aside if row["rule"] == "agrees"), key=lambda row: int(row["row"]))
    assert json.loads(first["value"]).keys() == {"scheduled", "sched_dep_time"}
