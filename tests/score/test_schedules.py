"""Partitions of a quarter of an hour, an office hour, a week and a month: each sees those before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from include.cli.stages import run_stage
from include.features.build import features
from include.ingest.connectors.request import request
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.usecases.hourly_rides import world as rides
from tests.usecases.weekly_sales import world as sales


def declared(tmp_path: Path, world: Path, **changes: str) -> UseCase:
    """Return a copy of a use case with changes of its text, such as `batch`."""
    folder = shutil.copytree(world.parent, tmp_path / world.parent.name)
    file, text = folder / "usecase.yaml", (folder / "usecase.yaml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return read(file)


@pytest.mark.parametrize(
    ("cron", "day", "before"),
    [
        ("*/15 * * * *", "2024-03-10", ["2024-03-10T0445Z", "2024-03-10T0500Z", "2024-03-10T0515Z"]),
        ("0 8-18 * * 1-5", "2024-03-11", ["2024-03-08T2300Z", "2024-03-11T1200Z", "2024-03-11T1300Z"]),
    ],
)
def test_several_partitions_a_day(
    cron: str, day: str, before: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lookback and label delay count partitions: a Monday's first hour follows a Friday's last."""
    spec = declared(tmp_path, Path(rides.__file__), **{'"5 * * * *"': f'"{cron}"'})
    first = spec.clock.around(day)[1]
    keys = [spec.clock.shift(first, number) for number in (-1, 0, 1)]
    assert keys == before
    (tmp_path / "counts").mkdir()
    for number, key in enumerate(keys):
        (tmp_path / "counts" / f"{key}.csv").write_text("\n".join([rides.HEADER, *lines(spec, key, number)]))
    monkeypatch.setenv("AIRFLOW_CONN_TAXIS", rides.connection(tmp_path))
    lake = Lake(spec.name, str(tmp_path / "lake"))
    for stage in ("ingest", "score"):
        run_stage(stage, lake, spec, keys, now=spec.clock.decision_time(keys[-1]))
    rows = features(lake, spec, keys[1:]).to_pylist()
    assert sorted({(row["partition"], row["rides_before"]) for row in rows}) == [
        (keys[1], 0.0),
        (keys[2], 1.0),
    ]
    assert {row["partition"] for row in lake.rows("predictions")} == set(keys)


ZONES = rides.ZONES[:3]


def lines(spec: UseCase, key: str, rides: int) -> list[str]:
    """Return a partition's lines: one row for each of three zones."""
    local = spec.clock.local_time(key)
    return [f"{local:%Y-%m-%dT%H:%M:%S},{zone},0.5,{rides}" for zone in ZONES]


@pytest.mark.parametrize(
    ("cron", "times", "outcome"),
    [
        ("5 * * * *", ["05:05", "05:59", "06:04", "04:40"], "published"),  # 04:35 is half-way
        ("5 * * * *", ["05:05", "04:05"], "refused"),  # the file of the hour before
        ("5 * * * *", ["05:05", "06:05"], "refused"),  # an offset that is wrong by an hour
        ("10 */3 * * *", ["06:10", "08:59"], "published"),
        ("10 */3 * * *", ["06:10", "03:10"], "refused"),
        ("0 8-18 * * 1-5", ["10:00", "09:00", "10:59"], "published"),  # the gap at night is another one
        ("0 8-18 * * 1-5", ["10:00", "08:59"], "refused"),
    ],
)
def test_a_row_of_another_hour_of_the_day_is_set_aside(
    cron: str, times: list[str], outcome: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in `day` is that of the partition, as its date is, so a file of another hour is noticed."""
    spec = declared(tmp_path, Path(rides.__file__), **{'"5 * * * *"': f'"{cron}"'})
    (key,) = (key for key in spec.clock.keys("2024-03-11", "2024-03-11") if about(spec, key) == times[0])
    (tmp_path / "counts").mkdir()
    rows = [f"2024-03-11T{time}:00,z{number},0.5,3" for number, time in enumerate([times[0], *times])]
    (tmp_path / "counts" / f"{key}.csv").write_text("\n".join([rides.HEADER, *rows]))
    monkeypatch.setenv("AIRFLOW_CONN_TAXIS", rides.connection(tmp_path))
    lake = Lake(spec.name, str(tmp_path / "lake"))
    run_stage("ingest", lake, spec, [key], now=spec.clock.decision_time(key))
    (row,) = lake.rows("partitions", {"product": "counts"})
    assert row["outcome"] == outcome
    broken = [(one["rule"], one["column"], one["value"]) for one in lake.rows("quarantine")]
    assert broken == [("time", "at", f"2024-03-11T{times[1]}:00")] * (outcome == "refused")


def about(spec: UseCase, key: str) -> str:
    """Return the local time of a partition."""
    return f"{spec.clock.local_time(key):%H:%M}"


@pytest.mark.full
def test_a_month(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A monthly partition is the day on which the cron fires, and its lookback is months."""
    cron = {'"0 6 * * 1"': '"0 6 1 * *"', '"0 8 * * 1"': '"0 8 1 * *"'}
    spec = declared(tmp_path, Path(sales.__file__), **cron)
    keys = spec.clock.keys("2024-01-01", "2024-04-30")
    assert keys == ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]
    (tmp_path / "sales").mkdir()
    for number, key in enumerate(keys):
        monday = sales.partitions(1, number)[0]
        text = "\n".join([sales.HEADER, *sales.week(number)]).replace(monday, key)
        (tmp_path / "sales" / f"{key}.csv").write_text(text)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", sales.connection(tmp_path))
    lake = Lake(spec.name, str(tmp_path / "lake"))
    for stage in ("ingest", "score", "monitor"):
        run_stage(stage, lake, spec, keys, now=spec.clock.decision_time(keys[-1]))
    assert {row["partition"] for row in lake.rows("predictions")} == set(keys)
    assert {row["decision"] for row in lake.rows("decisions")} == {"nothing"}
    assert [spec.clock.shift(keys[1], -1), spec.clock.partitions_in(30)] == ["2024-01-01", 30]


def test_paths_name_the_local_time_of_the_data(tmp_path: Path) -> None:
    """The offset counts partitions within a day and days otherwise; the partition itself is in UTC."""
    hourly = declared(tmp_path, Path(rides.__file__), **{"offset: 0": "offset: -1"})
    asked = request(hourly, "counts", "2024-03-10T0705Z")
    assert asked.fill_path("{day}/{hour}{minute} {partition}") == "2024-03-10/0105 2024-03-10T0705Z"
    weekly = declared(tmp_path, Path(sales.__file__), **{"offset: 0": "offset: -1"})
    assert request(weekly, "sales", "2024-01-08").fill_path("{day}/{hour}") == "2024-01-07/06"
