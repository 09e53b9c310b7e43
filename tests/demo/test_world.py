"""The world delivers what the source holds, to the byte, and answers as a paged service would."""

import csv
import gzip
import hashlib
import io
import sqlite3
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from demo import world
from demo.home import Home
from demo.stack import Stack
from demo.weather import WeatherServer

TOKEN = "a token"
DAY = "2013-02-08"  # a storm: half of its flights were canceled


def source_rows(name: str) -> list[dict[str, str]]:
    """The source's rows, read here in another way than the world reads them."""
    if name == "flights":
        with zipfile.ZipFile(world.source("flights.csv.zip")) as archive:
            lines = archive.read("flights.csv").decode().splitlines()
    else:
        lines = world.source(f"{name}.csv").read_text().splitlines()
    return list(csv.DictReader(lines))


def of_the_day(name: str) -> list[dict[str, str]]:
    """The source's rows of the day."""
    year, month, day = (str(int(part)) for part in DAY.split("-"))
    return [r for r in source_rows(name) if (r["year"], r["month"], r["day"]) == (year, month, day)]


@pytest.fixture(scope="module")
def delivered(begun: Stack) -> Stack:
    """The light servers, with the year's files."""
    begun.up(["landing"])
    return begun


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    """All that is delivered to the landing bucket."""
    return world.landing_objects()


def rows_of(packed: bytes) -> list[dict[str, str]]:
    """The rows of a delivered file."""
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))


@pytest.mark.full
def test_each_day_of_the_year_has_two_files(objects: dict[str, bytes]) -> None:
    """A schedule and the outcomes of each of the 365 days are delivered."""
    assert len(objects) == 730
    assert {key.split("/")[0] for key in objects} == {"schedule", "outcomes"}


@pytest.mark.full
@pytest.mark.parametrize(("folder", "columns"), [("schedule", world.SCHEDULE), ("outcomes", world.OUTCOMES)])
def test_a_day_equals_the_source(objects: dict[str, bytes], folder: str, columns: tuple[str, ...]) -> None:
    """Each field has the source's text, and NA is empty: a canceled flight has no departure time."""
    delivered = rows_of(objects[f"{folder}/{DAY}.csv.gz"])

    expected = [{c: "" if row[c] == "NA" else row[c] for c in columns} for row in of_the_day("flights")]
    assert delivered == expected
    assert list(delivered[0]) == list(columns)
    if folder == "outcomes":
        assert sum(row["dep_time"] == "" for row in delivered) == 472


@pytest.mark.full
def test_the_same_bytes_are_made_each_time(delivered: Stack, objects: dict[str, bytes]) -> None:
    """What another process has put into S3 is what this one makes: a file carries no time and no name."""
    s3 = world.s3_client(delivered.home)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=world.LANDING)
    found = {item["Key"]: item["ETag"].strip('"') for page in pages for item in page["Contents"]}

    assert found.pop(world.DELIVERED)
    assert found == {
        key: hashlib.md5(body, usedforsecurity=False).hexdigest() for key, body in objects.items()
    }


@pytest.mark.full
def test_a_second_delivery_puts_nothing(delivered: Stack) -> None:
    """The year is delivered once."""
    assert world.deliver(world.s3_client(delivered.home)) == 0


@pytest.mark.full
def test_planes_are_a_table(delivered: Stack) -> None:
    """The SQLite file holds the source's planes, numbers as numbers and NA as NULL."""
    with sqlite3.connect(delivered.home.root / "world" / "planes.sqlite") as database:
        found = database.execute("SELECT * FROM planes ORDER BY rowid").fetchall()

    numbers = {"year", "engines", "seats", "speed"}
    expected = [
        tuple(None if v == "NA" else int(v) if k in numbers else v for k, v in row.items())
        for row in source_rows("planes")
    ]
    assert found == expected


@pytest.fixture(scope="module")
def weather() -> Iterator[str]:
    """The address of a weather service in this process."""
    server = WeatherServer(world.weather_by_day(), 0, TOKEN)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, token: str = TOKEN) -> requests.Response:
    """The answer to a request that carries the token."""
    return requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5)


def test_the_pages_of_a_day_are_the_source(weather: str) -> None:
    """The pages of 24 rows, put together, are the day's rows with numbers as numbers and NA as null."""
    first = get(f"{weather}/weather?day={DAY}&page=1").json()
    rest = [get(f"{weather}/weather?day={DAY}&page={k}").json() for k in range(2, first["pages"] + 1)]

    def value(column: str, text: str) -> Any:
        return None if text == "NA" else text if column in ("origin", "time_hour") else float(text)

    expected = [{k: value(k, v) for k, v in row.items()} for row in of_the_day("weather")]
    assert [row for page in (first, *rest) for row in page["rows"]] == expected
    assert len(first["rows"]) == 24
    assert [page["page"] for page in (first, *rest)] == [1, 2, 3]


@pytest.mark.parametrize(
    "query",
    ["day=2014-06-01", "day=2013-02-30", "day=yesterday", "", f"day={DAY}&page=4", f"day={DAY}&page=0"],
)
def test_what_is_not_there_is_a_404(weather: str, query: str) -> None:
    """A day without data, a day that is none, and a page past the last are refused with a reason in JSON."""
    answer = get(f"{weather}/weather?{query}")

    assert answer.status_code == 404
    assert "error" in answer.json()


def test_a_wrong_token_is_refused(weather: str) -> None:
    """Without the right token there is no weather; health needs none."""
    assert get(f"{weather}/weather?day={DAY}", token="guess").status_code == 401
    assert requests.get(f"{weather}/weather?day={DAY}", timeout=5).status_code == 401
    assert requests.get(f"{weather}/healthz", timeout=5).status_code == 200


def test_the_served_api_takes_the_home_s_token(stack: Stack, home: Home) -> None:
    """The service of the stack listens on its port and knows the generated token."""
    answer = get(f"{home.url('weather')}/weather?day={DAY}", token=home.secrets["weather"])

    assert answer.status_code == 200
