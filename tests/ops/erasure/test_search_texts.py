"""A key's text is seen in every Arrow type that a Parquet file can have it in."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.ops.erase_search import Terms
from tests.ops.erasure.conftest import PATIENT

TYPES = (
    pa.string(),
    pa.large_string(),  # as pandas 3 writes a text
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(len(PATIENT)),
    pa.json_(pa.large_string()),
    pa.list_(pa.large_string()),
    pa.large_list(pa.string_view()),
    pa.map_(pa.large_string(), pa.int64()),
    pa.struct([("name", pa.large_string())]),
    pa.dictionary(pa.int32(), pa.large_string()),
)


def parquet(kind: pa.DataType, text: str) -> bytes:
    """Return a compressed file with a text and a null, whose bytes don't show the text."""
    value: object = text
    if pa.types.is_map(kind):
        value = [(text, 1)]
    elif pa.types.is_struct(kind):
        value = {"name": text}
    elif pa.types.is_nested(kind):
        value = [text]
    elif kind == pa.json_(pa.large_string()):
        value = f'"{text}"'
    sink = io.BytesIO()
    values = pa.array([value, None] * 20, kind)
    pq.write_table(
        pa.table({"column": values}), sink, compression="gzip", write_statistics=False, store_schema=True
    )
    return sink.getvalue()


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_text_of_any_arrow_type_is_seen(kind: pa.DataType) -> None:
    """It isn't in the file's bytes, which are compressed, and somebody else's text isn't the key."""
    terms, other = Terms((PATIENT,)), PATIENT[:-1] + "8"
    data = parquet(kind, PATIENT)
    assert PATIENT.encode() not in data
    assert terms.occur_in(data)
    assert not terms.occur_in(parquet(kind, other))
