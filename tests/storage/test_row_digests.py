"""A row's digest is what its page says, and another one for whatever a model could tell apart."""

from __future__ import annotations

import math
import struct
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.spec import UseCase, load
from include.storage.digests import digest_rows
from include.storage.lake import Row

MASK = (1 << 64) - 1
NUMBERS = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 1.0])
TEXTS = st.none() | st.text(max_size=3) | st.sampled_from(["", "null", "None", "NaN"])


def digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return the digest of each row's features."""
    return digest_rows(rows, spec.features.numeric, spec.features.categorical)


@pytest.fixture(scope="module")
def flights() -> UseCase:
    """A declaration with numbers and texts."""
    return load("flight_delay")


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Return some rows of features."""
    spec = load("flight_delay")
    one = dict.fromkeys(spec.features.numeric, NUMBERS) | dict.fromkeys(spec.features.categorical, TEXTS)
    return draw(st.lists(st.fixed_dictionaries(one), min_size=1, max_size=5))


def table(spec: UseCase, rows: list[Row]) -> pa.Table:
    """Return the rows in Arrow; NaN is kept apart from null."""
    numbers = {c: pa.array([row[c] for row in rows], pa.float64()) for c in spec.features.numeric}
    return pa.table(
        numbers | {c: pa.array([r[c] for r in rows], pa.string()) for c in spec.features.categorical}
    )


def written_down(spec: UseCase, row: Row) -> str:
    """Return the digest by the words of the page, one value after the other."""
    states = [0x243F6A8885A308D3, 0x13198A2E03707344]
    for name in spec.features.columns:
        value = row[name]
        halves = [0x7FF8000000000001] * 2
        if isinstance(value, str):
            halves = list(struct.unpack(">QQ", blake2b(value.encode(), digest_size=16).digest()))
        elif value is not None:
            plain = 0.0 if value == 0 else math.nan if math.isnan(value) else value
            halves = list(struct.unpack("<Q", struct.pack("<d", plain))) * 2
        for place, half in enumerate(halves):
            z = ((states[place] ^ half) + 0x9E3779B97F4A7C15) & MASK
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            states[place] = z ^ (z >> 31)
    return f"{states[0]:016x}{states[1]:016x}"


@given(rows=tables())
def test_the_digest_is_what_its_page_says(flights: UseCase, rows: list[Row]) -> None:
    """Columns at once give what one value after the other gives."""
    assert list(flights.features.columns) == [*flights.features.numeric, *flights.features.categorical]
    assert digests(flights, table(flights, rows)).to_pylist() == [written_down(flights, r) for r in rows]


@pytest.mark.full
@given(rows=tables(), data=st.data())
def test_what_a_model_could_tell_apart_has_another_digest(
    flights: UseCase, rows: list[Row], data: st.DataObject
) -> None:
    """A bit of a number, null, NaN, an empty text, or two columns swapped change the row's digest alone."""
    before, row = digests(flights, table(flights, rows)).to_pylist(), dict(rows[-1])
    a, b = data.draw(st.lists(st.sampled_from(flights.features.numeric), min_size=2, max_size=2, unique=True))
    text = data.draw(st.sampled_from(flights.features.categorical))
    bits = np.float64(row[a] or 0.0).view(np.uint64) ^ np.uint64(1 << data.draw(st.integers(0, 63)))
    others = [{a: float(bits.view(np.float64))}, {a: None}, {a: math.nan}, {text: None}, {text: ""}]
    for other in [*others, {a: row[b], b: row[a]}]:
        after = digests(flights, table(flights, [*rows[:-1], row | other])).to_pylist()
        assert after[:-1] == before[:-1]
        same = all(alike(row[name], value) for name, value in other.items())
        assert (after[-1] == before[-1]) == same


def alike(one: Any, other: Any) -> bool:
    """Tell whether two values are one to a model, and both null or neither."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def test_a_signaling_nan_is_a_nan(flights: UseCase) -> None:
    """Whatever the bits of a NaN, its row has the same digest, without a warning."""
    name = flights.features.numeric[0]
    signaling = np.array([0x7FF0000000000001], np.uint64).view(np.float64)
    rows = table(flights, [dict.fromkeys(flights.features.columns)])
    column = rows.schema.get_field_index(name)
    found = [digests(flights, rows.set_column(column, name, [pa.array(v)])) for v in (signaling, [np.nan])]
    assert found[0].equals(found[1])


@given(rows=tables(), cut=st.integers(0, 5))
def test_chunks_make_no_difference(flights: UseCase, rows: list[Row], cut: int) -> None:
    """A slice, or a table in chunks with dictionaries of their own, has the same digests."""
    whole = table(flights, rows)
    expected, cut = digests(flights, whole).to_pylist(), min(cut, len(rows))
    pieces = [whole.slice(0, cut), whole.slice(cut)]
    assert digests(flights, pa.concat_tables(pieces)).to_pylist() == expected
    assert [d for piece in pieces for d in digests(flights, piece).to_pylist()] == expected
