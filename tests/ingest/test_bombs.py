"""A small part that would become a large one is refused by its limit, in seconds, and takes little memory."""

from __future__ import annotations

import gzip
import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from include.environment import Connect, Endpoint
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.spec.source import Fetch
from include.storage.lake import Lake
from tests.ingest.conftest import Api
from tests.usecases.weekly_sales import world

PARTITION = world.partitions(1)[0]
MB = 1 << 20
LIMIT, HELD = 32 * MB, 250 * MB  # what a part may be, and what the process may hold more
LONG = "x" * MB
Declare = Callable[..., UseCase]


def zipped(data: bytes, method: int, entries: int = 1) -> bytes:
    """Return a zip of the same file so many times."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method, compresslevel=1) as file:
        for number in range(entries):
            file.writestr(f"{number}.csv", data)
    return sink.getvalue()


def parquet(column: pa.Array, **how: Any) -> bytes:
    """Return a Parquet file of one column beside empty ones, which making takes little memory."""
    sink, others = io.BytesIO(), world.HEADER.strip().split(",")[1:]
    table = pa.table({"week": column, **{name: pa.nulls(len(column), pa.string()) for name in others}})
    pyarrow.parquet.write_table(table, sink, compression="zstd", **how)
    return sink.getvalue()


def before_others() -> bytes:
    """Return a file of one long text a hundred times, and of others that are too many for its dictionary."""
    names = world.HEADER.strip().split(",")
    schema = pa.schema([(name, pa.string()) for name in names])
    sink = io.BytesIO()
    others = [f"order {number:09}" for number in range(200_000)]
    with pyarrow.parquet.ParquetWriter(sink, schema, dictionary_pagesize_limit=2 * MB) as writer:
        for values in [[LONG] * 10] * 10 + [others]:
            nulls = [pa.nulls(len(values), pa.string()) for _ in names[1:]]
            writer.write_batch(pa.record_batch([pa.array(values), *nulls], schema=schema))
    return sink.getvalue()


def beside_each_other() -> bytes:
    """Return a file of a hundred columns, each of one text three hundred times and of others."""
    names = [f"c{number}" for number in range(100)]
    schema = pa.schema([(name, pa.string()) for name in names])
    sink = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(sink, schema, dictionary_pagesize_limit=1000) as writer:
        for values in (["x" * (MB // 10)] * 300, [f"{number}" for number in range(3000)]):
            writer.write_batch(pa.record_batch([pa.array(values)] * len(names), schema=schema))
    return sink.getvalue()


def of_one_name() -> bytes:
    """Return a file of two columns of one name, the second of which is long."""
    sink = io.BytesIO()
    few, long = pa.array([f"{number}" for number in range(20_000)]), repeated(LONG, pa.string(), 20_000)
    table = pa.Table.from_arrays([few, long], names=["week", "week"])
    pyarrow.parquet.write_table(table, sink, compression="zstd", store_schema=False)
    return sink.getvalue()


def repeated(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    """Return a column of one value, which a dictionary holds once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value], kind))


def wide() -> bytes:
    """Return a Parquet file of many columns."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({f"c{n}": [1] for n in range(2000)}), sink)
    return sink.getvalue()


HEADER = world.HEADER.encode()
BYTES, SAID = f"at most {LIMIT} bytes", "raise fetch.max_bytes in usecase.yaml"
BOMBS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip": ("csv", lambda: gzip.compress(b" " * 8 * LIMIT, 1), BYTES),
    "zip": ("csv", lambda: zipped(b" " * 8 * LIMIT, zipfile.ZIP_DEFLATED), BYTES),
    "bz2 in a zip, which unpacks whole": (
        "csv",
        lambda: zipped(b" " * 2 * LIMIT, zipfile.ZIP_BZIP2),
        "compressed by a method other than deflate",
    ),
    "a zip of many": ("csv", lambda: zipped(b"", 0, 1001), "more than 1000 entries"),
    "a header without end": ("csv", lambda: b"a," * 10 * MB, "at most 1000 columns"),
    "rows without end": ("csv", lambda: HEADER + b"\n1" * 3 * MB, "at most 2000000 rows"),
    "objects of nothing": ("json", lambda: b"[" + b"{}," * 10 * MB + b"{}]", BYTES),
    "numbers": ("json", lambda: b"[" + b"1," * 10 * MB + b"1]", BYTES),
    "lists in lists": ("json", lambda: b"[" * 100_000, "nested too deeply"),
    "an object of many fields": (
        "json",
        lambda: json.dumps([{f"c{n}": 1 for n in range(1001)}]).encode(),
        "at most 1000 columns",
    ),
    "one long text, again and again": (
        "parquet",
        lambda: parquet(repeated(LONG, pa.string(), 100_000)),
        BYTES,
    ),
    "one long text, and others that no dictionary holds": ("parquet", before_others, BYTES),
    "long texts in columns beside each other": ("parquet", beside_each_other, BYTES),
    "two columns of one name": ("parquet", of_one_name, "week more than once"),
    "one long large text, again and again": (
        "parquet",
        lambda: parquet(repeated(LONG, pa.large_string(), 100_000)),
        BYTES,
    ),
    "a text and what is new in the next": (
        "parquet",
        lambda: parquet(
            pa.array([LONG] * 100), use_dictionary=False, column_encoding={"week": "DELTA_BYTE_ARRAY"}
        ),
        BYTES,
    ),
    "fixed bytes": ("parquet", lambda: parquet(repeated(b"x" * 4096, pa.binary(4096), 20_000)), BYTES),
    "one number": ("parquet", lambda: parquet(pa.array([7] * 1_100_000).cast(pa.decimal256(40))), BYTES),
    "nothing at all": ("parquet", lambda: parquet(pa.nulls(5_000_000)), "at most 2000000 rows"),
    "columns without end": ("parquet", wide, "at most 1000 columns"),
    "lists": ("parquet", lambda: parquet(pa.array([[1]])), "lists or structures in week"),
}


def limited(raw: dict[str, Any], **source: Any) -> None:
    """Let a declaration have the limits of these tests."""
    raw["sources"]["sales"].update(source)
    raw["sources"]["sales"]["fetch"].update(max_bytes=LIMIT, max_rows=2_000_000, max_columns=1000, attempts=1)


def held() -> int:
    """Return the bytes that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.full
@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_by_its_limit(bomb: str, lake: Lake, declare: Declare, tmp_path: Path) -> None:
    """The note names the limit and the remedy; nothing is published, and the bytes that came are kept."""
    kind, made, limit = BOMBS[bomb]
    data = made()
    (tmp_path / f"{PARTITION}.{kind}").write_bytes(data)
    spec = declare(lambda raw: limited(raw, path=f"{{day}}.{kind}", format=kind))
    before = held()
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], lambda name: Endpoint(name, tmp_path.as_uri()))
    assert outcome.outcome == "refused"
    assert limit in outcome.note
    assert (SAID if limit == BYTES else "; ") in outcome.note
    assert held() - before < HELD
    assert lake.count("validated_sales") == 0


def asked(api: Api, lake: Lake, declare: Declare, answer: bytes) -> Outcome:
    """Ingest the partition of an API that gives the same answer for each page."""
    for page in range(1, 40):
        api.plant(f"/sales/{PARTITION}?page={page}", (200, answer))
    http = {"kind": "http", "path": "sales/{day}"}
    spec = declare(lambda raw: (raw["sources"]["sales"].pop("format", None), limited(raw, **http)))
    (outcome,) = ingest(lake, spec, "sales", [PARTITION], lambda name: Endpoint(name, api.uri))
    return outcome


def test_an_api_of_endless_pages_is_asked_for_none_of_them(api: Api, lake: Lake, declare: Declare) -> None:
    """The count that it gives is refused by the limit, after one request."""
    outcome = asked(api, lake, declare, json.dumps({"pages": 10**9, "rows": []}).encode())
    assert "at most 10000 pages, but found 1000000000" in outcome.note
    assert "raise fetch.max_pages" in outcome.note
    assert len(api.asked) == 1


def test_pages_that_are_too_much_together_are_refused(api: Api, lake: Lake, declare: Declare) -> None:
    """A partition of pages is held whole, so it is measured whole, while it comes."""
    outcome = asked(api, lake, declare, json.dumps({"pages": 39, "rows": [], "x": LONG * 4}).encode())
    assert (outcome.outcome, BYTES in outcome.note) == ("refused", True)
    assert "8 pages together" in outcome.note
    assert len(api.asked) == 8


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"rows":[' + b"{}," * 10 * MB + b"{}]}"])
def test_an_apis_bomb_is_not_unpacked(body: bytes, api: Api, lake: Lake, declare: Declare) -> None:
    """Its answer is measured before it is read as JSON."""
    before = held()
    assert asked(api, lake, declare, body).outcome in ("refused", "unavailable")
    assert held() - before < HELD


def test_the_limits_are_in_no_digest_until_they_are_declared(declare: Declare) -> None:
    """Earlier results stay of the same declaration."""
    usual = declare()
    same = declare(lambda raw: raw["sources"]["sales"]["fetch"].update(max_rows=Fetch().max_rows))
    other = declare(lambda raw: raw["sources"]["sales"]["fetch"].update(max_rows=5))
    assert usual.digest == same.digest != other.digest
    assert usual.digest_of("sales") == same.digest_of("sales") != other.digest_of("sales")


HOW: list[dict[str, Any]] = [{}, {"use_dictionary": False}, {"row_group_size": 7}]
DELTA: list[dict[str, Any]] = [
    {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"},
    {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
]
HONEST = [(kind, how) for kind in (pa.string(), pa.large_string(), pa.binary()) for how in (*HOW, *DELTA)]
# Arrow reads no categories from texts that were written as differences


@pytest.mark.full
@pytest.mark.parametrize(("kind", "how"), [*HONEST, *(("category", how) for how in HOW)], ids=str)
def test_an_honest_file_is_read_however_it_is_written(
    kind: Any, how: dict[str, Any], shop: Path, lake: Lake, declare: Declare, connect: Connect, tmp_path: Path
) -> None:
    """Parquet of any encoding gives the rows that CSV gives."""
    lines = [line.split(",") for line in (shop / "sales" / f"{PARTITION}.csv").read_text().splitlines()]
    columns = dict(zip(lines[0], map(list, zip(*lines[1:], strict=True)), strict=True))
    arrays = {
        name: pa.array(values).dictionary_encode() if kind == "category" else pa.array(values).cast(kind)
        for name, values in columns.items()
    }
    pyarrow.parquet.write_table(pa.table(arrays), shop / "sales" / f"{PARTITION}.parquet", **how)
    (plain,) = ingest(lake, declare(), "sales", [PARTITION], connect)
    spec = declare(lambda raw: raw["sources"]["sales"].update(path="sales/{day}.parquet", format="parquet"))
    (outcome,) = ingest(Lake("weekly_sales", str(tmp_path / "other")), spec, "sales", [PARTITION], connect)
    assert (outcome.outcome, outcome.digest) == ("published", plain.digest), outcome.note


def test_decimals_that_are_written_as_bytes_are_read(
    shop: Path, lake: Lake, declare: Declare, connect: Connect, tmp_path: Path
) -> None:
    """Avro's writer writes them so: they aren't texts, whatever their pages look like."""
    day = shop / "sales" / f"{PARTITION}.csv"
    table = pyarrow.csv.read_csv(
        day,
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(world.HEADER.strip().split(","), pa.string())
        ),
    )
    prices = [int(one).to_bytes(4, "big", signed=True) for one in table["price_pence"].to_pylist()]
    table = table.set_column(table.column_names.index("price_pence"), "price_pence", [prices])
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, store_schema=False)
    plain, decimal = b"\x0bprice_pence\x00", b"\x0bprice_pence\x25\x0a\x15\x00\x15\x12\x00"
    data, size = sink.getvalue(), int.from_bytes(sink.getvalue()[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    assert footer.count(plain) == 1
    footer = footer.replace(plain, decimal)  # of no places and nine digits
    written = body + footer + len(footer).to_bytes(4, "little") + b"PAR1"
    assert pyarrow.parquet.read_schema(io.BytesIO(written)).field("price_pence").type == pa.decimal128(9, 0)
    (shop / "sales" / f"{PARTITION}.parquet").write_bytes(written)
    (usual,) = ingest(lake, declare(), "sales", [PARTITION], connect)
    spec = declare(lambda raw: raw["sources"]["sales"].update(path="sales/{day}.parquet", format="parquet"))
    (outcome,) = ingest(Lake("weekly_sales", str(tmp_path / "other")), spec, "sales", [PARTITION], connect)
    assert (outcome.outcome, outcome.digest) == ("published", usual.digest), outcome.note
