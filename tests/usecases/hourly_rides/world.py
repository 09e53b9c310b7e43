"""The taxis of hourly_rides: the same hours of CSV files at each call, so that tests can share them.

File ``counts/<partition>.csv`` holds each zone's rides in the hour that ended, so one source is both the rows
to score and, an hour later, their labels. The clocks go forward on 10 March 2024.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

FIRST = datetime(2024, 2, 28, 5, 5, tzinfo=UTC)  # the first partition: five past midnight in New York
HEADER = "at,zone,rain,rides"
ZONES = [f"z{number}" for number in range(1, 7)]
NEW_YORK = ZoneInfo("America/New_York")


def partitions(hours: int, first: int = 0) -> list[str]:
    """Return the keys of ``hours`` partitions from hour ``first`` on."""
    return [f"{_moment(number):%Y-%m-%dT%H%MZ}" for number in range(first, first + hours)]


def hour(number: int) -> list[str]:
    """Return the lines of an hour's file below its header, one a zone."""
    random = np.random.default_rng([3, number + 1000])
    local = _moment(number).astimezone(NEW_YORK)
    rain = round(float(np.clip(random.normal(), 0, None)), 2)
    usual = 30 + 20 * np.sin(2 * np.pi * (local.hour - 8) / 24) + 5 * rain
    rides = random.poisson(usual * np.linspace(0.5, 1.5, len(ZONES)))
    at = f"{local:%Y-%m-%dT%H:%M:%S%z}"
    return [f"{at},{zone},{rain},{count}" for zone, count in zip(ZONES, rides, strict=True)]


def write(folder: Path, hours: int, first: int = 0) -> list[str]:
    """Write ``hours`` files below a folder and return their partition keys."""
    (folder / "counts").mkdir(parents=True, exist_ok=True)
    keys = partitions(hours, first)
    for number, key in enumerate(keys, first):
        (folder / "counts" / f"{key}.csv").write_text("\n".join([HEADER, *hour(number)]) + "\n")
    return keys


def with_rows(hours: int) -> set[str]:
    """Return the keys of the hours with rides in a city that rests from two to five, and now and then."""
    chance = np.random.default_rng(5).random(hours)
    resting = [2 <= _moment(number).astimezone(NEW_YORK).hour < 5 for number in range(hours)]
    keys = zip(partitions(hours), resting, chance, strict=True)
    return {key for key, rests, one in keys if not rests and one > 0.1}


def write_sparse(folder: Path, hours: int) -> None:
    """Write the files of a city that rests into ``sparse/``.

    An hour without rides has no file, and one in four of them a file with a header alone.
    """
    (folder / "sparse").mkdir(parents=True)
    active = with_rows(hours)
    for number, key in enumerate(partitions(hours)):
        lines = hour(number) if key in active else []
        if lines or number % 4 == 3:
            (folder / "sparse" / f"{key}.csv").write_text("\n".join([HEADER, *lines]) + "\n")


def connection(folder: Path) -> str:
    """Return the value of AIRFLOW_CONN_TAXIS for files below a folder."""
    return json.dumps({"conn_type": "generic", "host": folder.absolute().as_uri()})


def _moment(number: int) -> datetime:
    return FIRST + timedelta(hours=number)
