"""Text becomes values: units, clock changes, midnight, and what isn't a value at all."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ingest.connectors.objects import ObjectsSource
from include.ingest.parsing.types import TIMESTAMP, clean_text, contradicts_time_zone, to_declared_types
from include.ingest.validation.rows import RawRows, RowRange
from include.spec.source import Column
from include.storage.snapshots import Snapshot

SNAPSHOT = Snapshot("s", "2024-01-01", 0, "2024-01-01T05:00:00+00:00", "", ())


def read(
    columns: dict[str, list[str | None]], types: dict[str, dict[str, Any]], **options: Any
) -> tuple[pa.Table, dict[str, Any]]:
    """Return typed columns, and the texts of each that can't be read."""
    source = ObjectsSource(
        kind="objects", connection="c", path="x", key=tuple(types), columns=types, **options
    )
    text = clean_text(
        pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), source
    )
    rows = RawRows(
        text=text,
        ranges=[RowRange(0, "p", text.num_rows)],
        snapshots=[SNAPSHOT],
        days=[date(2024, 1, 1)],
    )
    ((_, typed, bad),) = to_declared_types(rows, source)
    return typed, {name: text[name].filter(pa.array(which)).to_pylist() for name, which in bad.items()}


def column(values: list[str | None], **declared: Any) -> tuple[list[Any], list[str]]:
    """Return one column's values, and the texts that can't be read."""
    typed, bad = read({"c": values}, {"c": declared})
    return typed["c"].to_pylist(), bad["c"]


INTEGERS = ["7", " -3", "+12", "12.0", "1.5", "x", "1e3", "9" * 19]
NUMBERS = ["1", "-.5", "2.", "1e-2", "+3", "inf", "nan", "1e999", "1,5"]
DATES = ["2024-02-29", "2024-01-02 00:00:00", "2023-02-29", "01/02/2024"]
CASES = [
    ("string", [" a ", "", "  ", None, "é"], ["a", None, None, None, "é"], 0),
    ("integer", INTEGERS, [7, -3, 12, 12, None, None, None, None], 4),
    ("number", NUMBERS, [1, -0.5, 2, 0.01, 3, None, None, None, None], 4),
    (
        "boolean",
        ["true", "F", "Yes", "n", "1", "0", "maybe"],
        [True, False, True, False, True, False, None],
        1,
    ),
    ("hhmm", ["0", "517", "0517", "5:17", "2359", "2400", "517.0"], [0, 317, 317, 317, 1439, 1440, 317], 0),
    ("hhmm", ["1275", "2401", "2460", "-5", "12345", "noon"], [None] * 6, 6),
    ("date", DATES, [date(2024, 2, 29), date(2024, 1, 2), None, None], 2),
]


@pytest.mark.parametrize(("kind", "texts", "expected", "bad"), CASES)
def test_each_type_reads_what_it_says(kind: str, texts: list[str], expected: list[Any], bad: int) -> None:
    """What a type can't read is null and said; empty text is null and is not."""
    values, unread = column(texts, type=kind)
    assert values == expected
    assert len(unread) == bad


FRENCH = "1\u202f234,5"
WRITTEN = [
    (
        {"type": "number", "decimal": ","},
        ["1.234,5", FRENCH, "1'000", "-,5", "2,6e1"],
        [1234.5, 1234.5, 1000, -0.5, 26],
    ),
    ({"type": "number", "decimal": ","}, ["1.5", "12.34,5", "1,234.5", ",", "NA"], [None] * 5),
    ({"type": "number", "decimal": "."}, ["1,234.5", "12,345", "1,5"], [1234.5, 12345, None]),
    ({"type": "integer", "decimal": ","}, ["1.234", "5", "1,5"], [1234, 5, None]),
    (
        {"type": "date", "format": "%d/%m/%Y"},
        ["31/01/2024", "1/2/2024", "30/02/2024", "2024-01-31"],
        [date(2024, 1, 31), date(2024, 2, 1), None, None],
    ),
    (
        {"type": "timestamp", "format": "%d.%m.%Y %H.%M"},
        ["31.01.2024 18.30"],
        [datetime(2024, 1, 31, 18, 30, tzinfo=UTC)],
    ),
    ({"type": "number", "null_values": ["-200", "NA"]}, ["-200", "NA", "-200.0"], [None, None, -200]),
]


@pytest.mark.parametrize(("declared", "texts", "expected"), WRITTEN)
def test_a_column_says_how_its_texts_are_written(
    declared: dict[str, Any], texts: list[str], expected: list[Any]
) -> None:
    """What isn't written so is invalid, also if another column could read it; a null value is none."""
    values, bad = column([*texts], **declared)
    assert values == expected
    nulls = declared.get("null_values", ())
    assert bad == [
        text for text, value in zip(texts, expected, strict=True) if value is None and text not in nulls
    ]


def test_a_format_is_read_in_the_columns_time_zone() -> None:
    """An hour that occurs twice is two moments, of two rows with the same key."""
    texts = ["27/10/2024 02:30"] * 2 + ["27/10/2024 04:00"]
    declared = {"type": "timestamp", "format": "%d/%m/%Y %H:%M", "timezone": "Europe/Rome"}
    values, bad = column([*texts], **declared)
    assert bad == []
    assert [value.hour for value in values] == [0, 1, 3]


@given(st.lists(st.floats(-1e12, 1e12).map(lambda number: round(number, 3)), min_size=1, max_size=20))
def test_a_number_comes_back_with_marks_between_its_thousands(numbers: list[float]) -> None:
    """Whichever of the two marks is the decimal one."""
    texts = [f"{number:,.3f}" for number in numbers]
    swapped = [text.translate(str.maketrans(",.", ".,")) for text in texts]
    for decimal, written in ((".", texts), (",", swapped)):
        assert column([*written], type="number", decimal=decimal) == (numbers, [])


def test_a_unit_is_converted_once() -> None:
    """°F become °C by shift and scale, in this order."""
    values, _ = column(["32", "212", "-40"], type="number", shift=-32, scale=5 / 9)
    assert values == pytest.approx([0, 100, -40])


def test_offsets_are_kept_and_naive_times_are_local() -> None:
    """A time with an offset is that moment; one without is read in the column's zone."""
    texts = ["2013-01-01T10:00:00Z", "2013-01-01 10:00:00-05:00", "2013-01-01 10:00", "2013-07-01 10:00:00.5"]
    values, bad = column(texts, type="timestamp", timezone="America/New_York")
    assert values == [
        datetime(2013, 1, 1, 10, tzinfo=UTC),
        datetime(2013, 1, 1, 15, tzinfo=UTC),
        datetime(2013, 1, 1, 15, tzinfo=UTC),
        datetime(2013, 7, 1, 14, 0, 0, 500_000, tzinfo=UTC),
    ]
    assert bad == []


def test_a_day_of_23_hours() -> None:
    """The hour that the clock skips can't be read; the day's other hours are 23 moments in a row."""
    texts = [f"2013-03-10 {hour:02}:00" for hour in range(24)]
    values, bad = column(texts, type="timestamp", timezone="America/New_York")
    assert bad == ["2013-03-10 02:00"]
    moments = [value for value in values if value is not None]
    assert {(b - a).total_seconds() for a, b in itertools.pairwise(moments)} == {3600}


def test_a_day_of_25_hours() -> None:
    """The hour that happens twice is two moments, by order, for each key of its own."""
    hours = [0, 1, 1, *range(2, 24)]
    texts = [f"2013-11-03 {hour:02}:00" for hour in hours] * 2
    places = ["EWR"] * 25 + ["JFK"] * 25
    typed, bad = read(
        {"origin": places, "observed": texts},
        {"origin": {"type": "string"}, "observed": {"type": "timestamp", "timezone": "America/New_York"}},
    )
    moments = typed["observed"].to_pylist()
    assert bad["observed"] == []
    assert moments[:25] == moments[25:]
    assert {(b - a).total_seconds() for a, b in itertools.pairwise(moments[:25])} == {3600}


def test_a_repeated_hour_said_once_is_the_earlier_moment() -> None:
    """Where only one row speaks of the hour, it is the first of the two."""
    values, _ = column(["2013-11-03 01:30"], type="timestamp", timezone="America/New_York")
    assert values == [datetime(2013, 11, 3, 5, 30, tzinfo=UTC)]


OVERRIDE = {"timezone_override": "America/New_York"}


def test_an_override_replaces_the_offset_of_a_text() -> None:
    """A local time with Z behind it is read as local; what isn't a time at all is still invalid."""
    texts = ["2013-01-01T10:00:00Z", "2013-07-01 10:00+00:00", "2013-07-01 10:00", "2013-07-01", "10:00Z"]
    typed, bad = read({"at": texts}, {"at": {"type": "timestamp"}}, **OVERRIDE)
    hours = [(1, 15), (7, 14), (7, 14), (7, 4)]
    assert typed["at"].to_pylist() == [
        *(datetime(2013, month, 1, hour, tzinfo=UTC) for month, hour in hours),
        None,
    ]
    assert bad["at"] == ["10:00Z"]


def test_an_override_tells_a_repeated_hour_and_a_skipped_one() -> None:
    """As for texts without an offset: two rows are two moments, and a time that is skipped is invalid."""
    texts = ["2013-11-03T01:00:00Z", "2013-11-03T01:00:00Z", "2013-03-10T02:00:00Z"]
    typed, bad = read(
        {"origin": ["EWR"] * 3, "at": texts},
        {"origin": {"type": "string"}, "at": {"type": "timestamp"}},
        **OVERRIDE,
    )
    assert typed["at"].to_pylist() == [
        datetime(2013, 11, 3, 5, tzinfo=UTC),
        datetime(2013, 11, 3, 6, tzinfo=UTC),
        None,
    ]
    assert len(bad["at"]) == 1


def test_an_override_and_another_zone_of_a_column_contradict() -> None:
    """One of them is wrong, so the declaration is refused."""
    with pytest.raises(
        ValueError, match=r"columns.at.timezone: timezone_override is America/New_York; remove"
    ):
        read({"at": []}, {"at": {"type": "timestamp", "timezone": "UTC"}}, **OVERRIDE)
    with pytest.raises(ValueError, match="'New York' is not a time zone's name"):
        read({"at": []}, {"at": {"type": "timestamp"}}, timezone_override="New York")


def test_a_hash_needs_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same value under another key is another hash, and never the value."""
    hashes = []
    for key in ("one", "two"):
        monkeypatch.setenv("EVERGREEN_HASH_KEY", key)
        values, _ = column(["ann", "bob", " ann", ""], type="string", hashed=True)
        assert values[0] == values[2] != values[1]
        assert values[3] is None
        assert len(values[0]) == 64
        hashes.append(values[0])
    assert hashes[0] != hashes[1]


ZONES = [None, "UTC", "America/New_York", "Asia/Tokyo", "Pacific/Kiritimati"]


@pytest.mark.parametrize("zone", ZONES)
def test_fractions_of_a_microsecond_are_cut_off(zone: str | None) -> None:
    """.NET and SQL Server write seven digits."""
    texts: list[str | None] = ["2024-01-01T10:00:00.1234567", "2024-01-01T10:00:00.123456"]
    values, bad = column(texts, type="timestamp", timezone=zone)
    assert bad == []
    assert values[0] == values[1]
    assert values[0].microsecond == 123456


def test_the_last_moment_of_a_type_is_one_only_where_it_is_in_year_9999_in_utc() -> None:
    """It stands for "no end" in many databases; what is in the year 10000 in UTC can't be stored."""
    last = "9999-12-31T23:59:59"
    moment = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for texts, zone in (([last], None), ([last], "UTC"), ([f"{last}Z"], None)):
        assert column([*texts], type="timestamp", timezone=zone) == ([moment], [])
    assert column([last], type="timestamp", timezone="Asia/Tokyo") == ([moment - timedelta(hours=9)], [])
    for text, zone in (
        (last, "America/New_York"),
        (f"{last}-05:00", None),
        ("0001-01-01T00:00:00+05:00", None),
    ):
        assert column([text], type="timestamp", timezone=zone) == ([None], [text])


@pytest.mark.full
@given(st.lists(st.from_regex(TIMESTAMP, fullmatch=True), min_size=1, max_size=10), st.sampled_from(ZONES))
def test_whatever_looks_like_a_timestamp_is_one_or_said_to_be_none(
    texts: list[str], zone: str | None
) -> None:
    """No year, day or offset raises."""
    texts = [text for text in texts if text.isascii()]
    values, bad = column([*texts], type="timestamp", timezone=zone)
    assert values.count(None) == len(bad)
    contradicts_time_zone(pa.array(texts, pa.string()), Column(type="timestamp", timezone=zone))


@given(st.lists(st.one_of(st.none(), st.text(max_size=8)), min_size=1, max_size=20))
def test_nothing_is_silently_null(texts: list[str | None]) -> None:
    """Any text is a value, empty, or said to be unreadable; nothing raises."""
    for kind in ("integer", "number", "boolean", "date", "timestamp", "hhmm"):
        values, bad = column(texts, type=kind)
        empty = sum(1 for text in texts if text is None or not text.strip())
        assert sum(1 for value in values if value is None) == empty + len(bad)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_number_comes_back(numbers: list[float]) -> None:
    """What Python writes of a finite float is read as that float, to the bit."""
    values, bad = column([repr(number) for number in numbers], type="number")
    assert (values, bad) == (numbers, [])
