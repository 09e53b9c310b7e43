"""Values that a format allows and few expect are read, or refuse their file with a reason."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from include.environment import Endpoint
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake

Declare = Callable[..., UseCase]
PARTITION = "2024-01-08"


@pytest.fixture
def ingested(declare: Declare, shop: Path, tmp_path: Path) -> Callable[..., tuple[Outcome, Any]]:
    """Return a function that ingests bytes as the partition into a new lake, and returns what came of it."""

    def run(data: bytes, kind: str, delimiter: str = ",", **columns: dict[str, Any]) -> tuple[Outcome, Any]:
        def change(raw: dict[str, Any]) -> None:
            source = raw["sources"]["sales"]
            source.update(format=kind, delimiter=delimiter)
            source["contract"].update(min_rows=1)
            source["columns"].update(columns)

        spec = declare(change)
        (shop / f"sales/{PARTITION}.csv").write_bytes(data)
        other = Lake("weekly_sales", str(tmp_path / str(len(list(tmp_path.iterdir())))))
        (outcome,) = ingest(other, spec, "sales", [PARTITION], lambda name: Endpoint("shop", shop.as_uri()))
        return outcome, other.rows("validated_sales", {"partition": PARTITION})

    return run


def rows_of(shop: Path) -> list[dict[str, Any]]:
    """Return the rows of the shop's own file, with dates as text."""
    rows = pyarrow.csv.read_csv(shop / f"sales/{PARTITION}.csv").to_pylist()
    return [{name: str(value) if name == "week" else value for name, value in row.items()} for row in rows]


def test_json_lines_may_have_one_row(ingested: Callable[..., Any], shop: Path) -> None:
    """A file of one line is an object, and still a row."""
    row = rows_of(shop)[0]
    outcome, stored = ingested(json.dumps(row).encode(), "json")
    assert (outcome.outcome, outcome.rows) == ("published", 1), outcome.note
    assert stored[0]["units"] == row["units"]


def test_an_object_that_is_no_row_is_refused(ingested: Callable[..., Any]) -> None:
    """An API's or a store's error isn't a row, and the remedy is one for a file."""
    outcome, _ = ingested(b'{"error": "try later"}', "json")
    assert outcome.outcome == "refused"
    assert "expected a list of objects, but found dict" in outcome.note
    assert "look at what the source serves" in outcome.note


def test_json_may_leave_out_an_optional_column(ingested: Callable[..., Any], shop: Path) -> None:
    """Many writers leave out nulls, so a quiet day has none of it; one that must be there is missed."""
    rows = [{name: value for name, value in row.items() if name != "units"} for row in rows_of(shop)]
    outcome, stored = ingested(json.dumps(rows).encode(), "json")
    assert (outcome.outcome, outcome.rows) == ("published", len(rows)), outcome.note
    assert {row["units"] for row in stored} == {None}
    renamed = [{**row, "unit": 1} for row in rows]
    assert "no units, and unknown unit" in refused(ingested, renamed)
    needed = [{name: value for name, value in row.items() if name != "promo"} for row in rows]
    assert "no promo" in refused(ingested, needed)


def test_half_a_character_of_json_is_replaced(ingested: Callable[..., Any], shop: Path) -> None:
    """A text that was cut within an emoji has half of it, which no UTF-8 can hold."""
    rows = rows_of(shop)
    rows[0]["item"] = "tea \ud83d"
    outcome, stored = ingested(json.dumps(rows).encode(), "json")
    assert (outcome.outcome, outcome.rows) == ("published", len(rows)), outcome.note
    assert "tea \ufffd" in {row["item"] for row in stored}
    assert "also \ufffd" in refused(ingested, [{**row, "\ud83d": 1} for row in rows])


def test_parquet_of_other_text_than_utf_8_is_refused(ingested: Callable[..., Any], shop: Path) -> None:
    """As a CSV is: nothing of it is published."""
    table = pa.Table.from_pylist(rows_of(shop))
    items = [b"caf\xe9", *(text.encode() for text in table["item"].to_pylist()[1:])]
    offsets = np.cumsum([0, *map(len, items)]).astype("int32")
    latin = pa.Array.from_buffers(
        pa.string(), len(items), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(items))]
    )
    table = table.set_column(table.column_names.index("item"), "item", latin)
    outcome, stored = ingested(parquet(table), "parquet")
    assert (outcome.outcome, stored) == ("refused", [])
    assert "its text in UTF-8, but found" in outcome.note


def test_whole_numbers_of_a_float_column_are_integers(ingested: Callable[..., Any], shop: Path) -> None:
    """Pandas stores an integer column with a null as floats; a barcode is one of 13 digits."""
    rows = rows_of(shop)
    codes: list[float | None] = [4006381333931.0, None, -0.0, 2.0**53, *[7.0] * (len(rows) - 4)]
    table = pa.Table.from_pylist(rows).append_column("code", pa.array(codes, pa.float64()))
    outcome, stored = ingested(parquet(table), "parquet", code={"type": "integer"})
    assert outcome.outcome == "published", outcome.note
    assert {row["code"] for row in stored} == {4006381333931, None, 0, 7}
    assert outcome.quarantined == 1  # from 2**53 on a float may have been another integer


def test_an_id_may_have_more_digits_than_a_float(ingested: Callable[..., Any], shop: Path) -> None:
    """Nothing is lost of it, also where another row has none: ids may differ in the last digit only."""
    rows = rows_of(shop)
    codes = [175928847299117063, 175928847299117064, None, None, *range(len(rows) - 4)]
    for row, code in zip(rows, codes, strict=True):
        row["code"] = code
    rows[1] |= {name: value for name, value in rows[0].items() if name != "code"}
    rows[3] |= {name: value for name, value in rows[2].items() if name != "code"}
    outcome, stored = ingested(json.dumps(rows).encode(), "json", code={"type": "integer"})
    assert outcome.outcome == "published", outcome.note
    assert outcome.duplicates == 1  # the two without an id
    assert outcome.quarantined == 2  # one key, two ids
    assert [row["code"] for row in stored if row["code"] is None] == [None]


def test_a_csv_may_be_a_header_without_a_line_break(ingested: Callable[..., Any], shop: Path) -> None:
    """It has no rows, as the same file with a line break has none."""
    header = (shop / f"sales/{PARTITION}.csv").read_bytes().split(b"\n")[0]
    notes = [ingested(data, "csv")[0].note for data in (header, header + b"\n")]
    assert notes[0] == notes[1]
    assert "Empty CSV" not in notes[0]


def test_a_file_may_be_written_as_spreadsheets_in_europe_do(ingested: Callable[..., Any], shop: Path) -> None:
    """Semicolons, decimal commas, days first, the time in a column of its own: the same rows are stored."""
    file = shop / f"sales/{PARTITION}.csv"
    rows = pd.read_csv(file)
    _, expected = ingested(file.read_bytes(), "csv")
    rows["week"] = pd.to_datetime(rows["week"]).dt.strftime("%d/%m/%Y")
    rows["price_pence"] = [
        f"{price:,.2f}".translate(str.maketrans(",.", ".,")) for price in rows["price_pence"]
    ]
    rows["units"] = rows["units"].map(lambda units: "-999" if pd.isna(units) else f"{units:.0f}")
    rows["hour"] = "18.30"
    outcome, stored = ingested(
        rows.to_csv(sep=";", index=False).encode(),
        "csv",
        delimiter=";",
        week={"type": "date", "required": True, "format": "%d/%m/%Y"},
        price={"type": "number", "required": True, "from": "price_pence", "scale": 0.01, "decimal": ","},
        units={"type": "integer", "null_values": ["-999"]},
        at={"type": "timestamp", "from": ["week", "hour"], "format": "%d/%m/%Y %H.%M"},
    )
    assert outcome.outcome == "published", outcome.note
    assert {row.pop("at").isoformat() for row in stored} == {f"{PARTITION}T18:30:00+00:00"}
    names = ("week", "store", "item", "price", "promo", "opens", "units")
    assert [[row[name] for name in names] for row in stored] == [
        [row[name] for name in names] for row in expected
    ]


def test_a_comma_may_begin_the_fraction_of_a_second(ingested: Callable[..., Any], shop: Path) -> None:
    """Python's logging writes it so."""
    text = (shop / f"sales/{PARTITION}.csv").read_text()
    moments = (f"{PARTITION} 08:00:00,123", f"{PARTITION}T09:30:00,123456789")
    text = text.replace(",0800,", f',"{moments[0]}",').replace(",930,", f',"{moments[1]}",')
    outcome, stored = ingested(text.encode(), "csv", opens={"type": "timestamp"})
    assert outcome.outcome == "published", outcome.note
    microseconds = {row["opens"].microsecond for row in stored if row["opens"]}
    assert microseconds == {123000, 123456}


@pytest.mark.parametrize("width", [16, 32])
def test_short_floats_are_read(ingested: Callable[..., Any], shop: Path, width: int) -> None:
    """They are what a machine-learning pipeline may write."""
    rows = rows_of(shop)
    heat = pa.array((np.arange(len(rows)) / 4).astype(f"float{width}"))
    most = {16: 2**11, 32: 2**24}[width]  # from there on one may have been another integer
    codes = pa.array(np.array([most, most - 1, *range(len(rows) - 2)], f"float{width}"))
    table = pa.Table.from_pylist(rows).append_column("heat", heat).append_column("code", codes)
    outcome, stored = ingested(parquet(table), "parquet", heat={"type": "number"}, code={"type": "integer"})
    assert (outcome.outcome, outcome.quarantined) == ("published", 1), outcome.note
    assert sorted(row["heat"] for row in stored) == [row / 4 for row in range(1, len(rows))]
    assert max(row["code"] for row in stored) == most - 1


def refused(ingested: Callable[..., Any], rows: list[dict[str, Any]]) -> str:
    """Return why JSON is refused."""
    outcome, _ = ingested(json.dumps(rows).encode(), "json")
    assert outcome.outcome == "refused"
    return str(outcome.note)


def parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()
