"""A part is rewritten without some rows in its own format, and every other row stays as it was."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv

from include.ingest.connectors.request import Request, request
from include.ingest.parsing.parse import parse, read_rows
from include.ingest.parsing.rewrite import without_rows
from include.spec import UseCase
from include.spec.load import read
from tests.ops.erasure.conftest import declare as declare_clinic

CSV = b"id,text\r\n1,a\r\n\r\n2,b\r\n3,c\r\n"
ROWS = [{"id": 1, "text": "a", "extra": 1.50}, {"id": 2, "text": "b", "note": "é"}, {"id": 3, "text": None}]


def zipped(data: bytes) -> bytes:
    """Return a zip archive of one file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return sink.getvalue()


def parquet() -> bytes:
    """Return the rows as Parquet, with types of their own."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["a", "b", None]}), sink, compression="zstd")
    return sink.getvalue()


LINES = "\n".join(map(json.dumps, ROWS)).encode()
PARTS = {
    "csv": ("csv", CSV),
    "csv with quotes": ("csv", b'id,text\n1,"a, ""x""\n"\n2,""\n3,\n'),
    "csv with semicolons": ("csv;", b'id;text\n1;"a; ""x""\n"\n2;""\n3;\n'),
    "gzip": ("csv", gzip.compress(CSV)),
    "zip": ("csv", zipped(CSV)),
    "json": ("json", json.dumps(ROWS).encode()),
    "json lines": ("json", LINES),
    "json lines in gzip": ("json", gzip.compress(LINES)),
    "json with a field": ("json", json.dumps({"total": 3, "rows": ROWS}).encode()),
    "parquet": ("parquet", parquet()),
}


@pytest.fixture
def of_format(declare: Callable[..., UseCase]) -> Callable[[str], Request]:
    """Return a function that requests a source of a format; ``csv;`` is CSV with semicolons."""

    def requested(name: str) -> Request:
        columns = {"id": {"type": "string"}, "text": {"type": "string"}}
        spec = declare(
            lambda raw: raw["sources"].update(
                other={
                    "kind": "objects",
                    "connection": "shop",
                    "path": "x/{day}",
                    "format": name.rstrip(";"),
                    "delimiter": ";" if ";" in name else ",",
                    "key": ["id"],
                    "columns": columns,
                    "contract": {"extra": "ignore"},
                }
            )
        )
        return request(spec, "other", "2024-01-01")

    return requested


@pytest.mark.full
@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("erased", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_the_other_rows_stay_as_they_were(
    part: str, erased: tuple[int, ...], of_format: Callable[[str], Request]
) -> None:
    """Text, nulls, order and compression are those of before, and a part without rows can still be parsed."""
    name, data = PARTS[part]
    wanted = of_format(name)
    rows = pa.concat_tables(list(read_rows(wanted, "part", data)))
    mask = np.isin(np.arange(3), erased)

    rewritten, count = without_rows(wanted, "part", data, lambda rows: mask)

    assert count == len(erased)
    after = pa.concat_tables(list(parse(wanted, "part", rewritten)))
    others = rows.select(["id", "text"]).filter(pa.array(~mask))
    assert after.to_pylist() == others.to_pylist()
    assert bytes(rewritten[:2]) == data[:2] or part.startswith(("csv", "json"))
    again, _ = without_rows(wanted, "part", data, lambda rows: mask)
    assert again == rewritten


@pytest.mark.parametrize(
    "data", [b'{"id": 1, "text": "a"}', b'{"id": 1}', b'[{"id": 1}]', b'{"id": "\\ud83d"}'], ids=str
)
def test_the_only_row_of_a_json_part_goes(data: bytes, of_format: Callable[[str], Request]) -> None:
    """An object is JSON lines of one row, also without an optional column: what is left has no rows."""
    lines = of_format("json")
    rewritten, count = without_rows(lines, "part", data, lambda rows: np.array([True]))
    assert count == 1
    assert pa.concat_tables(list(parse(lines, "part", rewritten))).num_rows == 0


def test_a_csv_loses_lines_and_no_other_byte(of_format: Callable[[str], Request]) -> None:
    """Line ends and blank lines stay."""
    rewritten, _ = without_rows(of_format("csv"), "part", CSV, lambda rows: np.array([False, True, False]))
    assert rewritten == b"id,text\r\n1,a\r\n\r\n3,c\r\n"


def test_a_part_without_such_rows_is_left_alone(of_format: Callable[[str], Request]) -> None:
    """Its bytes are the same object."""
    rewritten, count = without_rows(of_format("csv"), "part", CSV, lambda rows: np.zeros(3, bool))
    assert rewritten is CSV
    assert count == 0


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Request:
    """Return the request for a source of CSV files."""
    folder = tmp_path_factory.mktemp("clinic")
    declare_clinic(folder)
    return request(read(folder / "usecases" / "clinic" / "usecase.yaml"), "visits", "2024-03-01")


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), data=st.data())
def test_any_text_survives(rows: list[tuple[str, str]], data: st.DataObject, visits: Request) -> None:
    """Commas, quotes, spaces and any letter: what is left is what was parsed before."""
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    sink = io.BytesIO()
    csv.write_csv(pa.table({"visit": [row[0] for row in rows], "Patient": [row[1] for row in rows]}), sink)
    before = pa.concat_tables(list(read_rows(visits, "part", sink.getvalue())))
    rewritten, _ = without_rows(visits, "part", sink.getvalue(), lambda rows: mask)
    after = pa.concat_tables(list(read_rows(visits, "part", rewritten)))
    assert after.to_pylist() == before.filter(pa.array(~mask)).to_pylist()
