"""Equal content has an equal digest, and other content another one."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.references import Ref, digest_bytes, digest_json
from include.storage.digests import digest_table

SCHEMA = pa.schema({"name": pa.string(), "value": pa.float64(), "count": pa.int64(), "good": pa.bool_()})
records = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.none() | st.text(max_size=5),
            "value": st.none() | st.floats(allow_nan=False),
            "count": st.none() | st.integers(-(2**60), 2**60),
            "good": st.none() | st.booleans(),
        }
    ),
    max_size=12,
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table."""
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@given(records, st.lists(st.integers(0, 12), max_size=4), records)
def test_the_digest_does_not_depend_on_chunks(
    rows: list[dict[str, Any]], cuts: list[int], before: list[dict[str, Any]]
) -> None:
    """However a table is cut, and whatever its buffers hold beside its rows, the digest is the same."""
    whole = table(rows)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [whole.slice(a, b - a) for a, b in pairwise(bounds)]
    sliced = pa.concat_tables([table(before), whole]).combine_chunks().slice(len(before))
    assert digest_table(pa.concat_tables(pieces)) == digest_table(whole) == digest_table(sliced)


@given(records, records)
def test_other_rows_have_another_digest(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Two tables have one digest only where their rows are the same."""
    assert (digest_table(table(one)) == digest_table(table(other))) == (repr(one) == repr(other))


def test_what_lies_under_a_null_does_not_count() -> None:
    """A null is a null, whatever the library that made it left in its slot."""
    mask = np.array([False, True, False])
    columns = [pa.array(np.array([1.0, hidden, 3.0]), mask=mask) for hidden in (2.0, 9.0)]
    one, other = (pa.table({"value": column}) for column in columns)
    assert digest_table(one) == digest_table(other)


def test_metadata_does_not_count_and_types_do() -> None:
    """A pandas note in the schema changes nothing; an integer column is not a float one."""
    plain = pa.table({"count": [1, 2]})
    noted = plain.replace_schema_metadata({"pandas": "{}"})
    assert digest_table(noted) == digest_table(plain)
    assert digest_table(plain.cast(pa.schema({"count": pa.float64()}))) != digest_table(plain)


def test_a_bytes_digest_is_sha_256() -> None:
    """It is the digest that every other tool prints."""
    assert digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_json_digest_ignores_the_order_of_keys_and_refuses_nan() -> None:
    """Order within a mapping says nothing; within a list it does; NaN isn't a value to be equal to."""
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json({"a": [1, 2]}) != digest_json({"a": [2, 1]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json({"a": float("nan")})


def test_a_reference_is_small_and_plain() -> None:
    """What a task hands on is a JSON object of under 1 kB, with a long note too."""
    ref = Ref(
        "s3://lake/a_use_case/tables/validated_source", "2013-01-01..2013-12-31", "f" * 64, 1, "x" * 400
    )
    assert Ref(**json.loads(json.dumps(ref.xcom()))) == ref
    assert len(json.dumps(ref.xcom())) < 1000
