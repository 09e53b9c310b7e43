"""Each way in which a file can be bad: the error or the quarantine names file, rule and remedy."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from include.environment import Connect
from include.errors import SpecError
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake

PARTITION = "2024-01-08"
FILE = f"sales/{PARTITION}.csv"


def header_and_rows(shop: Path) -> tuple[str, list[str]]:
    """Return the good file's header and rows."""
    header, *rows = (shop / FILE).read_text().splitlines()
    return header, rows


def spoil(shop: Path, lines: list[str]) -> None:
    """Write other lines into the file."""
    (shop / FILE).write_text("\n".join(lines) + "\n")


def nothing_published(lake: Lake) -> None:
    """Assert that no row of the partition can be read, and that its own row says it is done."""
    assert lake.rows("validated_sales", {"partition": PARTITION}) == []
    assert lake.rows("profiles", {"partition": PARTITION}) == []
    assert [row["outcome"] for row in lake.rows("partitions")] == ["refused"]


def one(lake: Lake, spec: UseCase, connect: Connect) -> Outcome:
    """Ingest the partition."""
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], connect)
    return outcome


def without(line: str, column: int) -> str:
    """Return a CSV line without a column."""
    fields = line.split(",")
    return ",".join(fields[:column] + fields[column + 1 :])


WHOLE = {
    "empty": (lambda h, r: b"", "an empty file", "delivered|deliver it again"),
    "blank": (lambda h, r: b"\n\n", "an empty file", "deliver it again"),
    "truncated gzip": (
        lambda h, r: gzip.compress("\n".join([h, *r]).encode())[:-20],
        "truncated or corrupt",
        "delivered again",
    ),
    "html": (
        lambda h, r: b"<!DOCTYPE html><html><body>Service unavailable</body></html>",
        "HTML",
        "look at what the source serves",
    ),
    "missing column": (
        lambda h, r: "\n".join(without(line, 3) for line in [h, *r]).encode(),
        "no price_pence",
        "sent again with all columns",
    ),
    "extra column": (
        lambda h, r: "\n".join([h + ",color", *(f"{x},red" for x in r)]).encode(),
        "also color",
        "`extra: ignore`",
    ),
    "renamed column": (
        lambda h, r: "\n".join([h.replace("price_pence", "price_p"), *r]).encode(),
        "no price_pence, and unknown price_p",
        "`from: price_p` under columns.price",
    ),
    "column twice": (
        lambda h, r: "\n".join([h + ",store", *(f"{x},s01" for x in r)]).encode(),
        "store more than once",
        "have it corrected",
    ),
    "wrong encoding": (
        lambda h, r: "\n".join([h, *r[:-1], r[-1].replace("tea", "thé")]).encode("latin-1"),
        "UTF8",
        "have the source write UTF-8",
    ),
    "ragged row": (
        lambda h, r: "\n".join([h, *r[:-1], r[-1] + ",7,8"]).encode(),
        "Expected 7 columns, got 9",
        "look at that row",
    ),
    "header alone": (lambda h, r: h.encode() + b"\n", "found 0", "correct it at the source"),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_a_bad_file_is_refused_whole(
    fault: str, shop: Path, lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """A file that can't be read is refused with file, finding and remedy, and nothing of it is published."""
    make, found, remedy = WHOLE[fault]
    (shop / FILE).write_bytes(make(*header_and_rows(shop)))
    outcome = one(lake, spec, connect)
    assert outcome.outcome == "refused"
    assert f"weekly_sales/sales/{PARTITION}" in outcome.note
    assert FILE in outcome.note
    assert found in outcome.note
    assert any(text in outcome.note for text in remedy.split("|"))
    nothing_published(lake)


def numbered(change: Callable[[int, list[str]], str]) -> Callable[[list[str]], list[str]]:
    """Return a change of rows by their place and fields."""
    return lambda rows: [change(place, row.split(",")) for place, row in enumerate(rows)]


def field(number: int, value: str, until: int) -> Callable[[list[str]], list[str]]:
    """Return a change of one field in the first rows."""
    return numbered(lambda place, f: ",".join([*f[:number], value, *f[number + 1 :]] if place < until else f))


MANY = {
    "another type": (field(3, "cheap", 40), "type of price in 40 rows, such as 'cheap'"),
    "out of range": (
        field(3, "1000000", 4),
        "expect_column_values_to_be_between(min_value=0.01, max_value=100) of price in 4 rows, "
        "such as '1000000'",
    ),
    "another day's file": (field(0, "2024-01-01", 40), "day of week in 40 rows, such as '2024-01-01'"),
    "future date": (field(0, "2031-01-06", 40), "day of week in 40 rows, such as '2031-01-06'"),
    "required is empty": (field(4, " ", 10), "required of promo in 10 rows, such as None"),
    "key twice": (
        lambda rows: [*rows, *(row[: row.rindex(",")] + ",999" for row in rows[:3])],
        "key of store, item in 6 rows",
    ),
    "hhmm": (field(5, "1275", 12), "type of opens in 12 rows, such as '1275'"),
}


@pytest.mark.parametrize("fault", MANY)
def test_too_many_bad_rows_refuse_the_partition(
    fault: str, shop: Path, lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """Beyond the tolerance the partition is refused with rule, value, file and remedy; the rows are kept."""
    change, found = MANY[fault]
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *change(rows)])
    outcome = one(lake, spec, connect)
    assert outcome.outcome == "refused"
    assert "at most 5.0% of rows quarantined" in outcome.note
    assert found in outcome.note
    assert FILE in outcome.note
    assert "--refetch" in outcome.note
    nothing_published(lake)
    quarantine = lake.rows("quarantine", {"source": "sales"})
    assert {row["part"] for row in quarantine} == {FILE}
    assert {row["rule"] for row in quarantine} == {found.split(" of ")[0]}
    assert len(quarantine) == outcome.quarantined


def test_a_share_just_above_the_tolerance_is_printed_so(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """A partition with 2 of 40 rows set aside, where 4.998 % may be, isn't refused for 5.0% beside 5.0%."""
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *field(3, "cheap", 2)(rows)])
    strict = declare(
        lambda raw: raw["sources"]["sales"]["contract"].update(tolerance=0.04998, tolerated_rows=1)
    )
    found = one(lake, strict, connect).note
    assert (
        "expected at most 4.998% of rows quarantined, or 1 row, but found 5.0% of 40 rows: type of price"
        in found
    )


FEW = {
    "another type": (field(3, "cheap", 1), "type", "price", "cheap"),
    "out of range": (
        field(6, "-3", 1),
        "expect_column_values_to_be_between(min_value=0, max_value=10000)",
        "units",
        "-3",
    ),
    "pattern": (
        field(1, "warehouse", 1),
        'expect_column_values_to_match_regex(regex="^s\\\\d{2}$")',
        "store",
        "warehouse",
    ),
    "future date": (field(0, "2031-01-06", 1), "day", "week", "2031-01-06"),
    "no such day": (field(0, "2024-02-30", 1), "type", "week", "2024-02-30"),
    "required is empty": (field(4, "", 1), "required", "promo", None),
    "no key": (field(2, "", 1), "required", "item", None),
}


@pytest.mark.parametrize("fault", FEW)
def test_a_bad_row_is_set_aside_and_the_rest_goes_on(
    fault: str, shop: Path, lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """Within the tolerance a row is in quarantine with file, place, rule and value; others are published."""
    change, rule, column, value = FEW[fault]
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *change(rows)])
    outcome = one(lake, spec, connect)
    assert (outcome.outcome, outcome.rows, outcome.quarantined) == ("published", 39, 1)
    (row,) = lake.rows("quarantine")
    assert (row["source"], row["partition"], row["part"], row["row"]) == ("sales", PARTITION, FILE, 1)
    assert (row["rule"], row["column"], row["value"]) == (rule, column, value)
    assert json.loads(row["record"])["item"] in ("bread", None)
    assert len(lake.rows("validated_sales")) == 39


def test_a_file_delivered_twice_over_is_counted_once(
    shop: Path, lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """Exact duplicates of rows are dropped and counted, not set aside."""
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *rows, *rows])
    outcome = one(lake, spec, connect)
    assert (outcome.outcome, outcome.rows, outcome.quarantined, outcome.duplicates) == (
        "published",
        40,
        0,
        40,
    )
    assert "40 exact duplicates dropped" in outcome.note


@pytest.mark.parametrize(
    ("prefixes", "note"),
    [
        ([""] * 31, "40 rows, 1,200 exact duplicates dropped"),
        (range(33), "100.0% of 1,320 rows: expect"),
    ],
    ids=["duplicates", "rows"],
)
def test_a_note_separates_thousands_as_the_pages_do(
    prefixes: Sequence[object], note: str, shop: Path, lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """Beside the 1,200 on a page, its note would otherwise say 1200."""
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *(row.replace(",s", f",{prefix}s") for prefix in prefixes for row in rows)])
    assert note in one(lake, spec, connect).note


def test_a_key_that_disagrees_is_set_aside_whole(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """Of two different rows of one key neither is believed, even where one of them was sent twice."""
    spec = declare(lambda raw: raw["sources"]["sales"]["contract"].update(tolerance=0.2))
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *rows, rows[0], rows[0][: rows[0].rindex(",")] + ",999"])
    outcome = one(lake, spec, connect)
    assert (outcome.rows, outcome.quarantined, outcome.duplicates) == (39, 2, 1)
    assert {row["rule"] for row in lake.rows("quarantine")} == {"key"}
    assert [json.loads(row["value"]) for row in lake.rows("quarantine")] == [
        {"store": "s01", "item": "bread"},
        {"store": "s01", "item": "bread"},
    ]


def test_a_moment_is_of_the_day_that_it_is_locally(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """A row whose local date is another than the day asked for breaks the rule, whatever its date in UTC."""

    def hourly(raw: dict) -> None:  # type: ignore[type-arg]
        raw["schedule"]["timezone"] = "America/New_York"
        sales = raw["sources"]["sales"]
        sales["columns"]["week"] = {"type": "timestamp", "required": True, "timezone": "UTC"}
        sales["key"] = ["store", "item", "week"]

    header, rows = header_and_rows(shop)
    hours = [f"{PARTITION} {hour:02}:30,{row.split(',', 1)[1]}" for row in rows for hour in (0, 12, 23)]
    spoil(shop, [header, *hours])  # New York's wall time, said to be UTC
    outcome = one(lake, declare(hourly), connect)
    assert outcome.outcome == "refused"
    assert f"day of week in 40 rows, such as '{PARTITION} 00:30'" in outcome.note
    nothing_published(lake)


@pytest.mark.parametrize(
    ("zone", "offset", "contradicts"),
    [
        ("Europe/Berlin", "+01:00", False),
        ("Europe/Berlin", "", False),
        ("Europe/Berlin", "Z", True),
        ("Europe/Berlin", "+02:00", True),  # its offset in summer; this is January
        ("UTC", "Z", False),
        ("UTC", "+00:00", False),
        ("UTC", " -0500", True),
        (None, "-05:00", False),
    ],
)
def test_an_offset_that_contradicts_the_declared_time_zone_sets_rows_aside(
    zone: str | None,
    offset: str,
    contradicts: bool,
    shop: Path,
    lake: Lake,
    declare: Callable[..., UseCase],
    connect: Connect,
) -> None:
    """Which of the two is right can't be told: the rule says how to declare that the text's own is."""

    def timed(raw: dict) -> None:  # type: ignore[type-arg]
        sales = raw["sources"]["sales"]
        sales["columns"]["week"] = {"type": "timestamp", "required": True}
        sales["columns"]["week"] |= {"timezone": zone} if zone else {}

    header, rows = header_and_rows(shop)
    spoil(shop, [header, *(f"{PARTITION} 12:00{offset},{row.split(',', 1)[1]}" for row in rows)])
    outcome = one(lake, declare(timed), connect)
    assert outcome.outcome == ("refused" if contradicts else "published")
    if contradicts:
        rule = f"timezone(offset of {zone} at that time; "
        rule += "without `timezone` in usecase.yaml the offset in the text counts)"
        assert f"{rule} of week in 40 rows, such as '{PARTITION} 12:00{offset}'" in outcome.note
        assert {row["rule"] for row in lake.rows("quarantine")} == {rule}


@pytest.mark.parametrize(
    ("wall", "hhmm", "good"),
    [("23:30", "2330", True), ("00:10", "2400", True), ("00:10", "0010", True), ("23:30", "2400", False)],
)
def test_the_hour_of_midnight_is_hour_0(
    wall: str,
    hhmm: str,
    good: bool,
    shop: Path,
    lake: Lake,
    declare: Callable[..., UseCase],
    connect: Connect,
) -> None:
    """A moment agrees with an hhmm column by its local hour; 2400 is hour 0, an empty field no hour."""

    def hourly(raw: dict) -> None:  # type: ignore[type-arg]
        raw["schedule"]["timezone"] = "America/New_York"
        week = {"type": "timestamp", "timezone": "America/New_York", "agrees_with": "opens"}
        raw["sources"]["sales"]["columns"]["week"] = week

    header, rows = header_and_rows(shop)
    fields = [row.split(",") for row in rows]
    lines = [
        [f"{PARTITION} {wall}", *f[1:5], hhmm if place == 0 else "", f[6]] for place, f in enumerate(fields)
    ]
    spoil(shop, [header, *(",".join(line) for line in lines)])
    outcome = one(lake, declare(hourly), connect)
    assert (outcome.outcome, outcome.quarantined) == ("published", 0 if good else 1)
    assert {row["rule"] for row in lake.rows("quarantine")} == (set() if good else {"agrees"})


def test_a_refusal_for_times_that_disagree_says_which_times(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """The sentence has one row's moment as the wall time of the schedule's zone, beside the column's."""

    def hourly(raw: dict) -> None:  # type: ignore[type-arg]
        raw["schedule"]["timezone"] = "America/New_York"
        raw["sources"]["sales"].pop("day", None)
        raw["sources"]["sales"]["columns"]["week"] = {
            "type": "timestamp",
            "timezone": "UTC",
            "agrees_with": "opens",
        }

    header, rows = header_and_rows(shop)
    fields = [row.split(",") for row in rows]
    spoil(shop, [header, *(",".join([f"{PARTITION} 14:15", *f[1:5], "1415", f[6]]) for f in fields)])
    note = one(lake, declare(hourly), connect).note
    assert (
        f'agrees of week, opens in 40 rows, such as \'{{"week": "{PARTITION} 14:15", "opens": "1415"}}\', '
        in note
    )
    assert f"where week is {PARTITION} 09:15 in America/New_York and opens is 14:15" in note


@pytest.mark.parametrize(
    ("column", "agrees_with", "sentence"),
    [
        ("week", "closes", "columns.week.agrees_with: 'closes' isn't an hhmm column of the source"),
        ("week", "units", "columns.week.agrees_with: 'units' isn't an hhmm column of the source"),
        ("units", "opens", "columns.units.agrees_with: only a timestamp has one, but found integer"),
    ],
)
def test_only_a_timestamp_agrees_and_only_with_hhmm(
    column: str, agrees_with: str, sentence: str, declare: Callable[..., UseCase]
) -> None:
    """A declaration that compares anything else is refused when it is read."""

    def compared(raw: dict) -> None:  # type: ignore[type-arg]
        columns = raw["sources"]["sales"]["columns"]
        columns["week"] = {"type": "timestamp"}
        columns[column]["agrees_with"] = agrees_with

    with pytest.raises(SpecError, match=sentence):
        declare(compared)


def test_an_extra_column_can_be_ignored(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """With `extra: ignore` a column that the spec doesn't know is left out."""
    header, rows = header_and_rows(shop)
    spoil(shop, [header + ",color", *(f"{row},red" for row in rows)])
    outcome = one(lake, declare(lambda r: r["sources"]["sales"]["contract"].update(extra="ignore")), connect)
    assert (outcome.outcome, outcome.rows) == ("published", 40)
    assert "color" not in lake.read("validated_sales").column_names


def test_a_renamed_column_is_read_under_its_own_name(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """The remedy that the refusal offers works: `from:` in the spec."""
    good = ingest(lake, declare(), "sales", [PARTITION], connect)[0]
    header, rows = header_and_rows(shop)
    spoil(shop, [header.replace("price_pence", "price_p"), *rows])
    other = Lake("weekly_sales", lake.uri + "-other")
    renamed = declare(lambda raw: raw["sources"]["sales"]["columns"]["price"].update({"from": "price_p"}))
    assert ingest(other, renamed, "sales", [PARTITION], connect)[0].digest == good.digest


@pytest.mark.parametrize("packed", ["gzip", "zip"])
def test_a_bomb_is_refused_by_its_size(
    packed: str, shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect
) -> None:
    """A small archive that unpacks to more than max_bytes is refused without unpacking it all."""
    import io
    import zipfile

    plain = (shop / FILE).read_bytes() + b" " * 5_000_000
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("sales.csv", plain)
    (shop / FILE).write_bytes(gzip.compress(plain) if packed == "gzip" else archive.getvalue())
    spec = declare(lambda raw: raw["sources"]["sales"]["fetch"].update(max_bytes=100_000))
    outcome = one(lake, spec, connect)
    assert outcome.outcome == "refused"
    assert "at most 100000 bytes" in outcome.note
    assert "fetch.max_bytes" in outcome.note
    nothing_published(lake)


def test_a_hashed_column_is_nowhere_in_the_tables(
    shop: Path, lake: Lake, declare: Callable[..., UseCase], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that is hashed at the door is in no table in the clear, the quarantine included."""
    monkeypatch.setenv("EVERGREEN_HASH_KEY", "a key")
    header, rows = header_and_rows(shop)
    spoil(shop, [header, *field(3, "cheap", 1)(rows)])
    outcome = one(
        lake, declare(lambda raw: raw["sources"]["sales"]["columns"]["item"].update(hashed=True)), connect
    )
    assert (outcome.rows, outcome.quarantined) == (39, 1)
    tables = [lake.rows(name) for name in ("validated_sales", "quarantine", "profiles", "partitions")]
    assert "bread" not in str(tables)
    assert len({row["item"] for row in lake.rows("validated_sales")}) == 5
