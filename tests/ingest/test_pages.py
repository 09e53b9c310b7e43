"""What a Parquet file's pages say decides whether its texts are read without their dictionary."""

from __future__ import annotations

import io
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.ingest import pages
from include.ingest.pages import DATA, DICTIONARY, INDICES, PLAIN

FEW, MANY = ["a", "bbb", None] * 2000, [f"order {number:09}" for number in range(200_000)]
HOW: list[dict[str, Any]] = [
    {},
    {"data_page_version": "2.0", "compression": "zstd"},
    {"row_group_size": 70_000, "write_page_checksum": True, "write_page_index": True},
]
ALONE = {"use_dictionary": False}


def written(values: list[str | None], **how: Any) -> bytes:
    """Return a Parquet file of one column."""
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"c": pa.array(values, pa.string())}), sink, **how)
    return sink.getvalue()


def about(data: bytes) -> Any:
    """Return what a file says of itself."""
    return pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata


def chunks(data: bytes) -> list[tuple[Any, int]]:
    """Return what a file says of the column in each row group, and where its pages begin."""
    found = [about(data).row_group(number).column(0) for number in range(about(data).num_row_groups)]
    return [
        (one, min(at for at in (one.dictionary_page_offset, one.data_page_offset) if at)) for one in found
    ]


def longest(data: bytes, said: Any = None) -> int | None:
    """Return the longest text that is written once for many."""
    return pages.longest(data, said or about(data), 0)


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("values", [FEW, MANY], ids=["few", "many"])
def test_pages_are_what_an_honest_footer_says(values: list[str | None], how: dict[str, Any]) -> None:
    """All values are found, and no more bytes than the column takes."""
    for column, start in chunks(data := written(values, **how)):
        found = list(pages.pages(data, start, column.total_compressed_size))
        assert sum(page.values for page in found if page.kind != DICTIONARY) == column.num_values
        assert 0 < sum(page.size for page in found) < column.total_uncompressed_size


@pytest.mark.parametrize("how", HOW, ids=str)
def test_many_texts_are_read_without_their_dictionary_and_few_with_it(how: dict[str, Any]) -> None:
    """The longest text of a dictionary bounds the rows that are unpacked at once."""
    assert longest(written(MANY, **how)) == len(MANY[0])
    assert longest(written(["x" * 5000, *MANY], **how)) == 5000
    assert longest(written(MANY, **ALONE, **how)) == 0
    assert longest(written(FEW, **how)) is None
    assert longest(written(MANY, column_encoding="DELTA_BYTE_ARRAY", **ALONE, **how)) is None


def test_a_dictionary_that_comes_after_other_pages_is_not_trusted() -> None:
    """What is measured at the beginning would not be what the rows are made from."""
    plain, few = written(["a"], **ALONE, compression="none"), written(FEW, compression="none")
    (before, first), (after, second) = chunks(plain)[0], chunks(few)[0]
    body = plain[first : first + before.total_compressed_size]
    body += few[second : second + after.total_compressed_size]
    column = SimpleNamespace(
        path_in_schema="c",
        dictionary_page_offset=None,
        data_page_offset=4,
        total_compressed_size=len(body),
        total_uncompressed_size=before.total_uncompressed_size + after.total_uncompressed_size,
        num_values=before.num_values + after.num_values,
    )
    data = b"PAR1" + body
    found = [(page.kind, page.encoding) for page in pages.pages(data, 4, len(body))]
    assert found[:2] == [(DATA, PLAIN), (DICTIONARY, PLAIN)]
    assert found[-1][1] in INDICES
    group = SimpleNamespace(num_columns=1, column=lambda place: column)
    assert longest(data, SimpleNamespace(num_row_groups=1, row_group=lambda number: group)) is None


@pytest.mark.parametrize("how", [{}, ALONE], ids=str)
def test_pages_that_are_more_than_the_footer_says_are_not_trusted(how: dict[str, Any]) -> None:
    """A file that says it is small is read by its dictionaries, which are measured as they come."""
    ((column, _),) = chunks(data := written(MANY, **how))
    assert longest(data) is not None
    names = ("path_in_schema", "dictionary_page_offset", "data_page_offset")
    same = {name: getattr(column, name) for name in (*names, "total_compressed_size", "num_values")}
    lying = SimpleNamespace(**same, total_uncompressed_size=100)
    group = SimpleNamespace(num_columns=1, column=lambda place: lying)
    assert longest(data, SimpleNamespace(num_row_groups=1, row_group=lambda number: group)) is None


def header(*fields: bytes) -> bytes:
    """Return a page's header: a data page of no bytes and one value, unless fields say otherwise."""
    return b"".join([b"\x15\x00", b"\x15\x00", b"\x15\x00", b"\x2c\x15\x02\x15\x00\x00", *fields, b"\x00"])


BIG = b"\xfe\xff\xff\xff\x7f"  # a number of 35 bits
ODD = {
    "a size twice": header(b"\x05\x06\x00"),
    "a size twice, as another type": header(b"\x06\x06\x00"),
    "a field whose number is cut to a size's": header(b"\x05\x86\x80\x08\x00"),
    "a size of 64 bits": b"\x15\x00\x16\x00" + header()[4:],
    "a size that is cut to another": b"\x15\x00\x15" + BIG + header()[4:],
}


@pytest.mark.parametrize("odd", ODD)
def test_a_header_that_another_reader_takes_otherwise_is_no_page(odd: str) -> None:
    """Arrow passes over a field of another type, takes the last of two, and cuts numbers off."""
    assert len(list(pages.pages(header(), 0, len(header())))) == 1
    with pytest.raises(pages.Strange):
        list(pages.pages(ODD[odd], 0, len(ODD[odd])))


@given(st.binary(max_size=60), st.integers(0, 40), st.integers(0, 80))
def test_bytes_that_are_no_pages_are_told(noise: bytes, at: int, size: int) -> None:
    """Nothing else is raised, and nothing runs on without end."""
    data = bytearray(written(["a", "b"]))
    data[4 + at : 4 + at + len(noise)] = noise
    with suppress(pages.Strange):
        assert len(list(pages.pages(bytes(data), 4, size))) <= size
