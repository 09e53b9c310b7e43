"""Evidence survives a JSON round trip, and invalid evidence is rejected."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import EvergreenError
from include.judge.evidence import Evidence, Losses
from tests.promote.conftest import evidence, facts, losses, partitions, selection

finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(st.integers(1, 10**6), finite, finite), max_size=40), finite)
def test_what_is_written_is_read(rows: list[tuple[int, float, float]], constant: float) -> None:
    """Evidence survives JSON to the last bit, and equal evidence gives equal bytes."""
    sums = {"challenger": tuple(r[1] for r in rows), "champion": tuple(r[2] for r in rows)}
    record = evidence(Losses(partitions(len(rows)), tuple(r[0] for r in rows), sums), constant=constant)
    again = Evidence.from_json(record.to_json())
    assert again == record
    assert again.to_json() == record.to_json()
    assert again.key == record.key


def test_the_key_is_what_makes_an_attempt() -> None:
    """Another partition, declaration or data is another attempt; another commit, version or result is not."""
    record = evidence(losses([1.0]))
    for name in ("usecase", "partition", "spec", "data"):
        assert replace(record, **{name: "other"}).key != record.key, name
    for name in ("code", "version", "model", "last_fitted"):
        assert replace(record, **{name: "other"}).key == record.key, name


@pytest.mark.parametrize(
    ("sums", "rows", "message"),
    [
        ({"challenger": (1.0, float("nan"))}, (1, 1), "losses of challenger"),
        ({"challenger": (1.0,)}, (1, 1), "2 finite sums"),
        ({"champion": (1.0, 1.0)}, (1, 1), "a model named challenger"),
        ({"challenger": (1.0, 1.0)}, (1, 0), "at least one row"),
        ({"challenger": (1.0, 1.0)}, (1,), "at least one row"),
    ],
)
def test_losses_that_cannot_be_judged(
    sums: dict[str, tuple[float, ...]], rows: tuple[int, ...], message: str
) -> None:
    """Losses with a gap, without rows or without the challenger are rejected with a reason."""
    with pytest.raises(EvergreenError, match=message):
        Losses(partitions(2), rows, sums)


def test_partitions_come_once_and_in_order() -> None:
    """Repeated or unordered partitions are rejected."""
    for wrong in (("2013-02-02", "2013-02-01"), ("2013-02-01", "2013-02-01")):
        with pytest.raises(EvergreenError, match="each once"):
            Losses(wrong, (1, 1), {"challenger": (1.0, 1.0)})


@pytest.mark.parametrize(
    ("serving", "champion", "refresh"),
    [("forest", "a", True), ("ridge", "a", False), ("forest", "", False), ("", "a", False)],
)
def test_a_refresh_is_a_fit_of_the_recipe_that_serves(serving: str, champion: str, refresh: bool) -> None:
    """Of another recipe, or without a champion, it isn't a refresh."""
    record = evidence(losses([1.0]), champion=champion, selection=selection(serving))
    assert record.is_refresh == refresh


def test_evidence_from_before_a_fact_was_measured_is_read() -> None:
    """Facts that earlier code didn't measure get their defaults; stored figures stay."""
    stored = evidence(losses([1.0]), facts=facts(losses([1.0]), refit_loss=None))
    raw = json.loads(stored.to_json())
    del raw["facts"]["leakage"]["too_few_rows"], raw["facts"]["refit_loss"], raw["note"]
    assert Evidence.from_json(json.dumps(raw)) == stored


def test_evidence_without_a_fact_that_has_no_default_is_refused() -> None:
    """A missing fact without a default is an error."""
    raw = json.loads(evidence(losses([1.0])).to_json())
    del raw["facts"]["serving"]["identical"]
    with pytest.raises(EvergreenError, match="Field required"):
        Evidence.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "change", [{"schema": 1}, {"extra": 1}, {"facts": {"other": 1}}, {"constant": "0.2"}]
)
def test_another_schema_is_refused(change: dict[str, object]) -> None:
    """Evidence of another schema or with unknown fields is rejected."""
    raw = json.loads(evidence(losses([1.0])).to_json()) | change
    with pytest.raises(EvergreenError, match="evaluate again"):
        Evidence.from_json(json.dumps(raw))
