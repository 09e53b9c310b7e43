"""Scored values that were not seen in training are counted by feature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.evaluate.measure import unseen_shares
from include.spec import UseCase
from tests.train import visits

number = st.none() | st.floats(-5, 5) | st.integers(-3, 3).map(float)
category = st.none() | st.sampled_from(["north", "south", "east", "new", ""])
row = st.tuples(number, number, category)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic's declaration."""
    return visits.usecase(Path(tmp_path_factory.mktemp("unseen")))


def table(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    """Return the clinic's features."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    kinds = {"distance": pa.float64(), "earlier": pa.float64(), "place": pa.string()}
    return pa.table({n: pa.array(c, k) for (n, k), c in zip(kinds.items(), columns, strict=True)})


def expected_share(fitted: list[Any], scored: list[Any]) -> float:
    """Return the share of uncovered values, by a plain count."""
    present = [value for value in fitted if value is not None]

    def uncovered(value: Any) -> bool:
        if value is None:
            return len(present) == len(fitted)
        if not present:
            return True
        return value not in present if isinstance(value, str) else not min(present) <= value <= max(present)

    return sum(uncovered(value) for value in scored) / len(scored)


@given(st.lists(row, max_size=12), st.lists(row, min_size=1, max_size=12))
def test_shares_are_those_counted_by_hand(spec: UseCase, fitted: list[Any], scored: list[Any]) -> None:
    """Each feature's share equals a plain count, also for missing values and empty features."""
    shares = unseen_shares(spec, table(fitted), table(scored))
    assert list(shares) == ["distance", "earlier", "place"]
    for index, column in enumerate(shares):
        expected = expected_share([r[index] for r in fitted], [r[index] for r in scored])
        assert shares[column] == pytest.approx(expected), column


@given(st.lists(row, min_size=1, max_size=12))
def test_what_was_fitted_is_covered(spec: UseCase, rows: list[Any]) -> None:
    """Fitted rows, and any subset of them, are fully covered."""
    assert set(unseen_shares(spec, table(rows), table(rows[::2])).values()) == {0.0}


def test_each_way_of_being_strange_counts(spec: UseCase) -> None:
    """A new category, numbers on both sides of the range, and a gap that training never had."""
    fitted = table([(1.0, None, "north"), (3.0, None, "south")])
    scored = table([(0.9, 1.0, "new"), (3.1, None, "north"), (None, None, None), (2.0, None, "south")])
    assert unseen_shares(spec, fitted, scored) == {"distance": 0.75, "earlier": 0.25, "place": 0.5}


def test_nothing_to_score_has_no_shares(spec: UseCase) -> None:
    """Without rows there is no share, rather than a good one."""
    assert unseen_shares(spec, table([(1.0, 1.0, "north")]), table([])) == {}
