"""The first hour: a declaration from a sample, which is valid, and a replay of it without Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestRegressor
from typer.testing import CliRunner

from include.cli.app import app
from include.cli.proposal import widened
from include.cli.sample_formats import written_as
from include.cli.sample_schedule import schedule_of, schedule_of_hours
from include.cli.stages import run_stage
from include.errors import NotPublished, SpecError
from include.features.labels import labels
from include.spec.clock import Clock
from include.spec.load import read
from include.storage.lake import Lake

ROOT = Path(__file__).parents[2]
COFFEE = ROOT / "docs" / "data" / "coffee.csv"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALES = ("--kind", "regression", "--target", "sold", "--key", "item", "--time", "day")
SHOP = ("--kind", "regression", "--target", "Target", "--key", "Store No.", "--time", "Date")  # of `shop`


def init(into: Path, sample: Path, *options: str, answers: str | None = None) -> Path:
    """Run the command for the use case `shop`, and return its folder."""
    given_sample = ["--sample", str(sample)] if answers is None else []
    arguments = ["init", "shop", "--into", str(into), *given_sample, *options]
    done = CliRunner().invoke(app, arguments, input=answers)
    if done.exception:
        raise done.exception
    return into / "shop"


def problems(folder: Path) -> list[dict[str, Any]]:
    """Return what `validate` reports."""
    done = CliRunner().invoke(app, ["validate", str(folder), "--json"])
    return list(json.loads(done.stdout)["problems"])


def shop(kind: str, days: Sequence[str] = (), step: int = 1) -> pa.Table:
    """Return a sample with a target of a kind, and columns of each type with awkward names and texts."""
    random = np.random.default_rng(3)
    each = np.array(days, "datetime64[D]") if days else np.datetime64("2024-01-01") + np.arange(40) * step
    dates = np.repeat(each, 4)
    rows = len(dates)
    targets = {
        "regression": random.gamma(2.0, 10.0, rows).round(2).astype(str),
        "binary": random.choice(["on time", "late, again"], rows, p=[0.8, 0.2]),
        "multiclass": random.choice(["small", "middle", "large"], rows),
    }
    return pa.table(
        {
            "Date": dates.astype(str),
            "Store No.": np.tile(["007", "008", "009", "010"], len(each)),
            "order": random.integers(-5, 1_000_000, rows).astype(str),
            "Share %": random.random(rows).astype(str),
            "open": random.choice(["yes", "no"], rows),
            "note: # free": [f"note {number}: #{{'\n" for number in range(rows)],
            "no": random.choice(["a", "b", ""], rows),
            "Target": targets[kind],
        }
    )


def write(table: pa.Table, file: Path) -> Path:
    """Write a sample in the format of its ending."""
    if file.suffix == ".csv":
        pa.csv.write_csv(table, file)
    elif file.suffix == ".parquet":
        pa.parquet.write_table(table, file)
    else:
        file.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))
    return file


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "ending"), [("regression", "csv"), ("binary", "parquet"), ("multiclass", "jsonl")]
)
def test_what_is_proposed_is_valid(kind: str, ending: str, tmp_path: Path) -> None:
    """Each format and kind gives a declaration without an error, a warning or a hint."""
    sample = write(shop(kind), tmp_path / f"sample.{ending}")
    folder = init(tmp_path, sample, *SHOP, "--kind", kind)
    assert problems(folder) == []
    spec = read(folder / "usecase.yaml")
    assert spec.problem.kind == kind
    types = {name: column.type for name, column in spec.sources["records"].columns.items()}
    assert types == {
        "date": "date",
        "store_no": "string",
        "order_": "integer",
        "share": "number",
        "open": "boolean",
        "note_free": "string",
        "no_": "string",
    }
    assert "note_free" not in spec.features.columns  # each row has another text
    assert "-- note_free isn't a feature: 160 different values are too many" in spec.sql
    assert spec.sources["outcomes"].part_format == {"jsonl": "json"}.get(ending, ending)


def test_each_proposal_says_how_it_was_made(tmp_path: Path) -> None:
    """Bounds, types, baselines and the fallback have a comment with what the sample shows."""
    folder = init(tmp_path, COFFEE, *SALES)
    text = (folder / "usecase.yaml").read_text()
    for line in (
        "price: {type: number}  # sample: 2.1, 2.4",
        "# sample: 4 to 208; its span is added on each side, but no negative number",
        "{name: last, estimator: rule, params: {column: sold_last}}  # the last known value",
        "{name: week_ago, estimator: rule, params: {column: sold_week_ago}}  # the same day last week",
        "# sample: its mean or shares",
        "# sample: 120 days",
    ):
        assert line in text
    declared = yaml.safe_load(text)
    between = declared["sources"]["outcomes"]["contract"]["expectations"][0]["kwargs"]
    assert between == {"column": "sold", "min_value": 0, "max_value": 420}


@pytest.mark.full
def test_a_number_of_the_key_is_a_feature_or_has_the_reason_why_not(tmp_path: Path) -> None:
    """Hours are few and in even steps; a number of a till is as likely a name as an amount."""
    random = np.random.default_rng(3)
    hours, tills = ["6", "7", "8", "9"], ["3", "10", "44"]
    rows = [(f"2024-01-{day:02}", hour, till) for day in range(1, 31) for hour in hours for till in tills]
    names = ("day", "hour", "till")
    columns = {name: pa.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    sold = pa.array(random.integers(0, 90, len(rows)).astype(str))
    sample = write(pa.table({**columns, "sold": sold}), tmp_path / "sample.csv")
    folder = init(tmp_path, sample, *SALES, "--key", "hour,till")
    assert problems(folder) == []
    spec = read(folder / "usecase.yaml")
    assert "hour" in spec.features.numeric
    assert "till" not in spec.features.columns
    lines = [line.strip() for line in spec.sql.splitlines()]
    assert "spine.hour,  -- sample: 6 to 9, of the key" in lines
    assert [line for line in lines if line.startswith("spine.till,  -- no feature: a number of the key")]


@pytest.mark.full
def test_columns_that_the_predictions_have_too_are_renamed(tmp_path: Path) -> None:
    """A model of car is a key like any other, under another name; also the label of another row."""
    table = shop("multiclass").rename_columns(
        ["Version", "Model", "reason", "label", "ago", "note", "action", "Target"]
    )
    sample = write(table, tmp_path / "sample.csv")
    folder = init(
        tmp_path, sample, "--kind", "multiclass", "--target", "Target", "--key", "Model", "--time", "Version"
    )
    assert problems(folder) == []
    spec = read(folder / "usecase.yaml")
    columns = {column.source: name for name, column in spec.sources["records"].columns.items()}
    renamed = ("Model", "Version", "reason", "label", "ago", "action")
    assert {name: columns[name] for name in renamed} == {name: f"{name.lower()}_" for name in renamed}


@pytest.mark.full
@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (["8949020000123456700", "8949020000123456707", "12", "13"], "string"),
        (["1234567890123456", "1234567890123457", "12", "13"], "string"),
        (["123456789012345", "123456789012346", "12", "13"], "integer"),
    ],
)
def test_ids_of_more_digits_than_a_float_holds_are_texts(ids: list[str], kind: str, tmp_path: Path) -> None:
    """As numbers, different ones would be equal, and their rows lost."""
    table = shop("regression")
    table = table.set_column(1, "Id", pa.array(ids * 40))
    sample = write(table, tmp_path / "sample.csv")
    folder = init(tmp_path, sample, *SHOP, "--key", "Id")
    assert problems(folder) == []
    assert read(folder / "usecase.yaml").sources["records"].columns["id"].type == kind


@pytest.mark.full
def test_a_feature_of_the_past_is_named_otherwise_than_a_column(tmp_path: Path) -> None:
    """The sample's own column of that name is a feature too, or the target."""
    table = shop("regression").rename_columns(
        ["Date", "Store No.", "weekday_last", "weekday_mean_7", "open", "note", "no", "Weekday"]
    )
    sample = write(table, tmp_path / "sample.csv")
    folder = init(tmp_path, sample, *SHOP, "--target", "Weekday")
    assert problems(folder) == []
    assert read(folder / "usecase.yaml").features.numeric == (
        *("weekday_last", "weekday_mean_7"),
        *("weekday_mean_7_", "weekday_last_", "weekday_week_ago"),
    )


@pytest.mark.full
def test_a_long_name_is_cut_to_what_a_declaration_may_have(tmp_path: Path) -> None:
    """Two that begin alike stay apart, and each is read under the file's name."""
    question = "How many cups of coffee did the shop sell today"
    names = [f"{question} in total", f"{question} to go"]
    table = shop("regression").rename_columns(
        ["Date", "Store No.", names[1], "share", "open", "note", "no", names[0]]
    )
    sample = write(table, tmp_path / "sample.csv")
    folder = init(tmp_path, sample, *SHOP, "--target", names[0])
    assert problems(folder) == []
    spec = read(folder / "usecase.yaml")
    assert spec.problem.target == "how_many_cups_of_coffee_did_the_shop_s_7"
    column = spec.sources["records"].columns["how_many_cups_of_coffee_did_the_shop_sel"]
    assert (spec.sources["outcomes"].columns[spec.problem.target].source, column.source) == tuple(names)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_sample_with_a_column_twice_is_refused_by_its_name(ending: str, tmp_path: Path) -> None:
    """Neither of the two is meant for sure; nothing is written."""
    names = ["day", "item", "sold", "item"]
    table = pa.table([["2024-01-01"], ["tea"], ["3"], ["cake"]], names=names)
    sample = write(table, tmp_path / f"sample.{ending}")
    with pytest.raises(SpecError, match="expected columns with different names, but found item more than"):
        init(tmp_path / "into", sample, *SALES)
    assert not (tmp_path / "into").exists()


@pytest.mark.full
def test_a_weekly_sample_gives_a_weekly_schedule(tmp_path: Path) -> None:
    """The outcomes are those of the week before."""
    sample = write(shop("regression", step=7), tmp_path / "sample.csv")
    spec = read(init(tmp_path, sample, *SHOP) / "usecase.yaml")
    assert (spec.schedule.batch, spec.sources["outcomes"].offset) == ("0 6 * * 1", -7)
    assert problems(tmp_path / "shop") == []


def days_of(cron: str, first: str = "2024-01-01", last: str = "2024-03-31") -> list[str]:
    """Return the days on which a schedule fires."""
    return Clock(f"0 6 {cron}", "UTC").keys(first, last)


@pytest.mark.parametrize(
    ("days", "cron"),
    [
        (days_of("* * *"), "* * *"),
        (days_of("* * 3"), "* * 3"),
        (days_of("* * 1-5"), "* * 1-5"),
        (days_of("* * 1-5")[:30] + days_of("* * 1-5")[32:], "* * 1-5"),
        (days_of("* * 1-6"), "* * 1-6"),
        (days_of("* * 0,2-6"), "* * 2,3,4,5,6,0"),
        (days_of("1 * *"), "1 * *"),
        (days_of("15 */3 *", last="2025-12-31"), "15 1,4,7,10 *"),
        (days_of("15 */3 *", last="2025-09-30"), "15 * *"),  # one quarter was seen once
        (days_of("1 * *", last="2024-06-30"), "1 * *"),
        (days_of("* * 1-5")[:5], "* * *"),  # a weekend wasn't seen
        (days_of("*/11 * *"), "* * *"),
        (["2024-01-01"], "* * *"),
    ],
)
def test_the_schedule_is_that_of_the_days(days: list[str], cron: str) -> None:
    """Days of the week or of months are recognized, holidays or not; any others are those of each day."""
    assert schedule_of(days).days == cron


@pytest.mark.full
@pytest.mark.parametrize(
    ("days", "seasons"),
    [
        (days_of("* * 1-5")[:20] + days_of("* * 1-5")[21:45], ["mean_5", "last", "week_ago"]),
        (days_of("1 * *", last="2025-11-30"), ["mean_4", "last"]),  # one month was seen once
        (days_of("1 * *", last="2025-12-31"), ["mean_12", "last", "year_ago"]),
        (days_of("15 */3 *", last="2025-12-31"), ["mean_4", "last", "year_ago"]),
    ],
)
def test_files_of_weekdays_and_of_months_are_found(
    days: list[str], seasons: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scheduled day has a file, also a holiday, and the labels of the partition before it."""
    sample = write(shop("regression", days), tmp_path / "sample.csv")
    spec = read(init(tmp_path, sample, *SHOP, "--split", str(tmp_path / "days")) / "usecase.yaml")
    assert problems(spec.folder) == []
    assert [name for name in spec.features.numeric if "target" in name] == [
        f"target_{one}" for one in seasons
    ]
    connection = json.dumps({"conn_type": "generic", "host": (tmp_path / "days").as_uri()})
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", connection)
    lake, partitions = Lake("shop", str(tmp_path)), spec.clock.keys(days[0], days[-1])
    done = run_stage("ingest", lake, spec, partitions, now=NOW)
    assert {ref.outcome for ref in done} == {"published"}
    assert len(done) == 2 * len(partitions) - 1
    target = pc.round(labels(lake, spec, partitions, as_of=None)["target"], 2)
    assert target.to_pylist() == [float(text) for text in pa.csv.read_csv(sample)["Target"][:-4].to_pylist()]


@pytest.mark.full
def test_a_series_needs_no_key(tmp_path: Path) -> None:
    """The date identifies its only row of a month, and the outcomes before it are of the same series."""
    days = days_of("1 * *", last="2026-12-31")
    series = pa.table({"month": days, "scripts": [str(number % 12) for number in range(len(days))]})
    sample, flags = write(series, tmp_path / "series.csv"), ("--kind", "regression", "--target", "scripts")
    spec = read(init(tmp_path, sample, *flags, "--time", "month") / "usecase.yaml")
    assert problems(spec.folder) == []
    assert spec.key == ("month",)
    assert spec.features.numeric == ("month_of_year", "scripts_mean_12", "scripts_last", "scripts_year_ago")


@pytest.mark.parametrize(
    ("times", "cron"),
    [
        (pd.date_range("2024-01-01", periods=72, freq="h"), "5 * * * *"),
        (pd.date_range("2024-01-01 00:58", periods=72, freq="h"), "3 * * * *"),
        (pd.date_range("2024-01-01", periods=24, freq="3h").repeat(2), "5 */3 * * *"),
        (pd.date_range("2024-01-01", periods=48, freq="h")[::3][1:-1], "5 */3 * * *"),
        (
            pd.DatetimeIndex([f"2024-01-0{day} {hour}:00" for day in (1, 2) for hour in (8, 12)]),
            "5 8,12 * * *",
        ),
        (pd.date_range("2024-01-01", periods=72, freq="15min"), None),
        (pd.date_range("2024-01-01", periods=72, freq="3601s"), None),
        (pd.date_range("2024-01-01 08:00", periods=72), None),
        (pd.date_range("2024-01-01", periods=72, freq="25h"), None),  # most hours of a day have no row
    ],
)
def test_rows_at_one_minute_of_several_hours_give_a_schedule_of_hours(
    times: pd.DatetimeIndex, cron: str | None
) -> None:
    """Five minutes after them, so that their file has come; of other rows a partition is a day."""
    schedule = schedule_of_hours(pd.Series(times))
    assert (schedule and schedule.clock.cron) == cron


def hourly(days: int, step: int, *, series: bool = False) -> pa.Table:
    """Return the loads of two stations, or of one, every ``step`` hours."""
    times = pd.date_range("2024-01-01", periods=24 // step * days, freq=f"{step}h").strftime("%Y-%m-%d %H:%M")
    stations = 1 if series else 2
    rows = len(times) * stations
    table = pa.table({"at": np.repeat(times.to_numpy(str), stations), "load": np.arange(rows).astype(str)})
    return table if series else table.append_column("station", pa.array(["a", "b"] * len(times)))


@pytest.mark.full
@pytest.mark.parametrize(("step", "series"), [(1, True), (6, False)])
def test_an_hourly_sample_gives_a_schedule_of_hours(
    step: int, series: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hour has a file, the labels of the hour before, and features of the day and the week before."""
    per_day = 24 // step
    table = hourly(20, step, series=series)
    sample = write(table.slice(2), tmp_path / "sample.csv")  # it begins in the middle of a day
    flags = ["--kind", "regression", "--target", "load", "--time", "at", "--split", str(tmp_path / "hours")]
    spec = read(init(tmp_path, sample, *flags, *([] if series else ["--key", "station"])) / "usecase.yaml")
    assert problems(spec.folder) == []
    assert (spec.clock.sub_daily, spec.schedule.start) == (True, "2024-01-02")
    assert spec.features.lookback == 7 * per_day - 1
    assert spec.training.candidates[-1].recent_intercept == 14 * per_day
    assert spec.features.numeric[:3] == ("hour_of_day", "weekday", f"load_mean_{per_day}")
    assert spec.features.numeric[3:] == ("load_last", "load_day_ago", "load_week_ago")
    monkeypatch.setenv(
        "AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "generic", "host": (tmp_path / "hours").as_uri()})
    )
    lake, partitions = Lake("shop", str(tmp_path)), spec.clock.keys("2024-01-02", "2024-01-20")
    assert len(partitions) == 19 * per_day
    refs = run_stage("ingest", lake, spec, partitions, now=NOW)
    assert {ref.outcome for ref in refs} == {"published"}
    loads = labels(lake, spec, partitions, as_of=None)["load"].to_pylist()
    stations = 1 if series else 2
    # outcomes are there from the second day on
    assert sorted(loads) == list(range((2 * per_day - 1) * stations, table.num_rows - stations))


WRITTEN = {
    "day first": ("31/01/2024", {"type": "date", "format": "%d/%m/%Y"}),
    "month first": ("01/31/2024", {"type": "date", "format": "%m/%d/%Y"}),
    "compact": ("20240131", {"type": "date", "format": "%Y%m%d"}),
    "a month's name": ("31 Jan 2024", {"type": "date", "format": "%d %b %Y"}),
    "a time of day": ("31.01.2024 18.05", {"type": "timestamp", "format": "%d.%m.%Y %H.%M"}),
    "decimal comma": ("1.234,5", {"type": "number", "decimal": ","}),
    "decimal point": ("1,234.5", {"type": "number", "decimal": "."}),
    "thousands": ("1,234", {"type": "integer", "decimal": "."}),
    "an id": ("007", {"type": "string"}),
    "a version": ("1.2.3", {"type": "string"}),
}


@pytest.mark.parametrize("case", list(WRITTEN))
def test_how_a_column_is_written_is_found(case: str) -> None:
    """One text in a form of its own is enough, and a word for a missing value in between."""
    text, keys = WRITTEN[case]
    assert written_as(pa.array([text, None, text]), ",") == keys
    nulls = {} if keys["type"] == "string" else {"null_values": ("NA",)}
    assert written_as(pa.array([text, "NA"]), ",") == {**keys, **nulls}


def test_of_two_readings_of_dates_the_shorter_span_counts() -> None:
    """The first days of a month, whichever comes first."""
    days = [f"{day:02}" for day in range(1, 13)]
    for texts, pattern in (
        ((f"{day}/03/2024" for day in days), "%d/%m/%Y"),
        ((f"03/{day}/2024" for day in days), "%m/%d/%Y"),
    ):
        assert written_as(pa.array([*texts]), ",") == {"type": "date", "format": pattern}


def test_a_comma_before_three_digits_is_a_decimal_mark_where_it_does_not_delimit() -> None:
    """In a file with semicolons, 1,234 is a little more than one."""
    assert written_as(pa.array(["1,234"]), ";") == {"type": "number", "decimal": ","}


@pytest.mark.parametrize(
    ("texts", "nulls"),
    [
        ([*"123456789", "10", "11", "-200", "-200"], ("-200",)),
        (["-5", *"123456789", "10", "-999", "-999"], ("-999",)),
        ([*"123456789", "10", "11", "9999", "9999"], ("9999",)),
        ([*"123456789", "10", "11", "-200"], ()),  # once: an outlier
        (["-5", "-4", *"12345678", "9", "-6", "-6"], ()),
        ([*"123456789", "10", "11", "8000", "8000"], ()),
    ],
)
def test_a_number_that_must_mean_a_missing_value_is_proposed_as_one(
    texts: list[str], nulls: tuple[str, ...]
) -> None:
    """It is repeated, and negative or of nines, and far from all others or the only negative one."""
    assert written_as(pa.array(texts), ",").get("null_values", ()) == nulls


@pytest.mark.full
def test_a_sample_as_spreadsheets_in_europe_write_it_is_proposed_as_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semicolons, decimal commas, date and hour in two columns: the same features and stored labels."""
    plain = hourly(20, 6).to_pandas()
    plain["load"] = plain["load"].astype(float) / 4
    stored = {}
    for name in ("plain", "exported"):
        rows, options, time = plain.copy(), {}, "at"
        if name == "exported":
            moments = pd.to_datetime(rows.pop("at"))
            rows["Date"], rows["Hour"] = moments.dt.strftime("%d/%m/%Y"), moments.dt.hour
            rows["load"] = [f"{load:.2f}".replace(".", ",") for load in rows["load"]]
            options, time = {"sep": ";"}, "Date,Hour"
        folder = tmp_path / name
        folder.mkdir()
        rows.to_csv(folder / "sample.csv", index=False, **options)
        flags = ["--kind", "regression", "--target", "load", "--key", "station", "--time", time]
        spec = read(
            init(folder, folder / "sample.csv", *flags, "--split", str(folder / "hours")) / "usecase.yaml"
        )
        assert problems(spec.folder) == []
        host = {"conn_type": "generic", "host": (folder / "hours").as_uri()}
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(host))
        lake, partitions = Lake("shop", str(folder)), spec.clock.keys("2024-01-01", "2024-01-20")
        refs = run_stage("ingest", lake, spec, partitions, now=NOW)
        assert {ref.outcome for ref in refs} == {"published"}
        table = labels(lake, spec, partitions, as_of=None)
        stored[name] = table.select(["partition", "station", "load"]).to_pylist(), spec.features.numeric[-4:]
    assert stored["plain"] == stored["exported"]
    assert len(stored["plain"][0]) == len(plain) - 8  # outcomes begin on the second day


@pytest.mark.parametrize("key", ["at,station", "load"])
def test_hours_that_a_key_tells_apart_stay_rows_of_a_day(key: str, tmp_path: Path) -> None:
    """A decision may be about all hours of the next day, so it says where hours are explained."""
    table = hourly(9, 1).append_column("wind", pa.array(["1.5", "2.5", "3.5"] * 144))
    sample = write(table, tmp_path / "sample.csv")
    flags = ("--kind", "regression", "--target", "wind", "--time", "at", "--key", key)
    folder = init(tmp_path, sample, *flags)
    assert read(folder / "usecase.yaml").schedule.batch == "0 6 * * *"
    assert "a day's rows have several hours: for partitions of hours" in (folder / "usecase.yaml").read_text()


@pytest.mark.full
def test_a_sample_with_gaps_is_daily_and_says_so(tmp_path: Path) -> None:
    """Whoever reads the schedule learns how many of its days would be without a file."""
    sample = write(shop("regression", days_of("*/11 * *")), tmp_path / "sample.csv")
    folder = init(tmp_path, sample, *SHOP)
    assert problems(folder) == []
    assert (
        '  batch: "0 6 * * *"      # sample: 9 of 83 days have rows' in (folder / "usecase.yaml").read_text()
    )


WRONG = {
    "--sample": (["--sample", "nowhere.csv"], "expected a .csv with a header"),
    "--kind": (["--kind", "forecast"], "expected one of binary, regression, multiclass, but found forecast"),
    "--target": (["--target", "profit"], "expected a column of the sample: day, item, price"),
    "--key": (["--key", "promoted"], "columns that identify a row within a day, but found"),
    "--time": (["--time", "price"], "expected a date or a timestamp in each row, such as 2024-01-31"),
    "text": (["--target", "item", "--key", "price"], "expected numbers, for a regression"),
    "values": (["--kind", "binary"], "expected two different values, for a binary problem"),
}


@pytest.mark.parametrize("option", WRONG)
def test_what_the_sample_contradicts_is_refused(option: str, tmp_path: Path) -> None:
    """The error names what the sample has, and no folder is left."""
    changed, message = WRONG[option]
    with pytest.raises(SpecError, match=message):
        init(tmp_path / "into", COFFEE, *SALES, *changed)
    assert not (tmp_path / "into").exists()


def test_a_row_without_its_key_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    """It is found wherever it is."""
    lines = COFFEE.read_text().splitlines()
    place = lines[0].split(",").index("item")
    fields = lines[7].split(",")
    lines[7] = ",".join([*fields[:place], "", *fields[place + 1 :]])
    sample = tmp_path / "sample.csv"
    sample.write_text("\n".join(lines))
    with pytest.raises(SpecError, match="but found a row without it: 20"):
        init(tmp_path / "into", sample, *SALES)
    assert not (tmp_path / "into").exists()


def test_flags_without_a_sample_are_refused(tmp_path: Path) -> None:
    """They would be ignored by the template."""
    with pytest.raises(SpecError, match="init: expected --sample, but found --target"):
        init(tmp_path, COFFEE, "--target", "sold", answers="")


@pytest.mark.full
def test_on_a_terminal_it_asks_for_what_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample, and each option without a flag; an empty answer gives the template."""
    monkeypatch.setattr("include.cli.app.on_terminal", lambda: True)
    folder = init(
        tmp_path / "a",
        COFFEE,
        "--time",
        "day",
        answers=f"{COFFEE}\nregression\nsold\nitem\n{tmp_path}/days\n",
    )
    assert problems(folder) == []
    assert len(list((tmp_path / "days").rglob("*.csv"))) == 120
    series = write(pa.table({"day": days_of("* * *"), "sold": ["1"] * 91}), tmp_path / "series.csv")
    folder = init(tmp_path / "c", series, answers=f"{series}\nregression\nsold\nday\n\n\n")
    assert read(folder / "usecase.yaml").key == ("day",)  # what an empty answer stands for
    template = init(tmp_path / "b", COFFEE, answers="\n")
    assert "items" in yaml.safe_load((template / "usecase.yaml").read_text())["sources"]


@given(st.floats(-1e9, 1e9, width=32), st.floats(0, 1e9, width=32))
@settings(max_examples=200)
def test_bounds_are_beyond_what_was_seen(low: float, span: float) -> None:
    """Every value of the sample is inside, and a quantity that wasn't negative can't become so."""
    high = low + span
    lowest, highest = widened(low, high)
    assert lowest <= low
    assert high <= highest
    assert lowest == 0 or low < 0


YARDSTICK = 0.9  # CPU seconds of it on the machine of docs/reference/benchmarks.md


def yardstick() -> float:
    """Return the CPU seconds of a fixed fit here: shared cores can be half as fast as one's own."""
    features = np.random.default_rng(1).normal(size=(3000, 8))
    began = time.process_time()
    RandomForestRegressor(100, random_state=1).fit(features, features.sum(axis=1))
    return time.process_time() - began


@pytest.mark.full  # the tutorial, which is followed in tests/docs, does the same
def test_from_nothing_to_a_page_with_a_replayed_policy(
    tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two commands of a person, on a CSV that the repository ships, end with a page and a sentence.

    They take 60 CPU seconds at most, in seconds of the machine of the benchmarks.
    """
    measured = [yardstick()]
    began = time.monotonic()
    folder = tmp_path / "landing"
    init(tmp_path, COFFEE, *SALES, "--split", str(folder))
    connection = json.dumps({"conn_type": "generic", "host": folder.as_uri()})
    shell = {name: value for name, value in os.environ.items() if not name.startswith("EVERGREEN_")}
    output, errors = tmp_path / "output", tmp_path / "errors"
    with output.open("w") as stdout, errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "include", "try", "shop", "--lake", str(tmp_path / "lake")],
            cwd=ROOT,
            env={**shell, "EVERGREEN_USECASES": str(tmp_path), "AIRFLOW_CONN_SHOP": connection},
            stdout=stdout,
            stderr=stderr,
        )
        # of this process alone: servers of other tests that end meanwhile would count in os.times()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, errors.read_text()
    used = usage.ru_utime + usage.ru_stime
    record_property("cpu_seconds", used)
    with capsys.disabled():
        print(f" {used:.0f} CPU s, {time.monotonic() - began:.0f} s ", end="")
    measured.append(yardstick())
    *_, page, sentence = output.read_text().splitlines()
    assert sentence.startswith("Served as declared, shop would have lost ")
    assert "% less than the prior's" in sentence
    html = Path(page.removeprefix("file://")).read_text()
    for policy in ("declared", "never", "newest", "new-not-worse"):
        assert f"<td>{policy}</td>" in html
    shown = errors.read_text()
    assert "ingest" in shown
    assert "239 of 239" in shown
    assert used * YARDSTICK / (sum(measured) / 2) < 60, (used, measured)


def test_a_trial_without_any_file_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No empty page: the first refusal and the remedy are in the error."""
    init(tmp_path, COFFEE, *SALES)
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "generic", "host": nowhere.as_uri()}))
    done = CliRunner().invoke(app, ["try", "shop", "--lake", str(tmp_path / "lake"), "--until", "2024-01-05"])
    assert isinstance(done.exception, NotPublished)
    assert "shop/2024-01-01.csv" in str(done.exception)
    assert "choose --from and --until" in str(done.exception)
