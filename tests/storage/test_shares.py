"""A row's share depends on its entity alone."""

from __future__ import annotations

import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.storage import lake as lakes
from include.storage.lake import Lake
from include.storage.shares import Share, entity_hashes

SCHEMA = pa.schema([("name", pa.string()), ("number", pa.int64()), ("place", pa.int64())])
TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS = st.lists(st.tuples(TEXTS, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1)


EXPECTED = (
    ["e220a8397b1dcdaf", "698f600b8063ccbd", "50caf755ceb9cbd8", "122914943f71afec", "0ca9e812456091e3"],
    ["a706dd2f4d197e6f", "1c0e3ce617d27d65", "c3f3918d992b4f1a", "f0aed9f8e019a4e5", "d240bdc72d6eada0"],
)


def table(rows: list[tuple[str | None, int | None]]) -> pa.Table:
    """Return rows with their place."""
    named = [{"name": name, "number": number, "place": n} for n, (name, number) in enumerate(rows)]
    return pa.Table.from_pylist(named, SCHEMA)


@given(rows=ROWS, of=st.integers(1, 7), cut=st.integers(0, 20))
def test_each_row_is_in_one_share_with_the_others_of_its_entity(
    rows: list[tuple[str | None, int | None]], of: int, cut: int
) -> None:
    """However the table is cut into chunks, the shares are the same, and no row is lost or doubled."""
    whole = table(rows)
    parts = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    shares = [Share(("name", "number"), number, of) for number in range(of)]
    found = [share.filter(whole)["place"].to_pylist() for share in shares]
    assert [share.filter(parts)["place"].to_pylist() for share in shares] == found
    assert sorted(place for places in found for place in places) == list(range(len(rows)))
    assert [sorted(places) for places in found] == found
    entities = [{rows[place] for place in places} for places in found]
    assert sum(map(len, entities)) == len(set(rows))


def test_the_hash_of_an_entity_never_changes() -> None:
    """On another machine or with other versions the shares stay as they are."""
    texts = pa.array(["", None, "ada", "a longer name than one word", "é"])
    numbers = pa.array([0, None, -1, 2**40, 7])
    assert [f"{value:016x}" for value in entity_hashes([texts])] == EXPECTED[0]
    assert [f"{value:016x}" for value in entity_hashes([texts, numbers])] == EXPECTED[1]


def test_shares_are_of_about_the_same_size() -> None:
    """Of many entities each share has as many as the others, but for chance."""
    rows = table([(f"customer {number}", number % 7) for number in range(40_000)])
    for columns in (("name",), ("name", "number"), ("place",)):
        sizes = [Share(columns, number, 8).filter(rows).num_rows for number in range(8)]
        assert np.abs(np.array(sizes) - 5000).max() < 400  # six standard deviations


@pytest.mark.full
@pytest.mark.parametrize("small", [True, False])
def test_a_share_is_read_from_the_lake(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded files and a query give the rows that the share has in memory, also of an earlier version."""
    if not small:
        monkeypatch.setattr(lakes, "small", lambda files: False)
    rows, share = table([(f"name {number % 90}", None) for number in range(500)]), Share(("name",), 1, 3)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake("u", folder)
        first = lake.append_at("t", rows, -1)
        assert lake.read("t", share=share, order=["place"]) == share.filter(rows)
        lake.append_at("t", rows, first)
        assert lake.read("t", share=share, order=["place"], version=first) == share.filter(rows)
