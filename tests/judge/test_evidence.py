"""Evidence is a record that can be read again to the bit, and refuses to be one that can't be judged."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.errors import EvergreenError
from include.judge.evidence import Evidence, Losses
from tests.promote.conftest import evidence, losses, partitions

finite = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(st.integers(1, 10**6), finite, finite), max_size=40), finite)
def test_what_is_written_is_read(rows: list[tuple[int, float, float]], prior: float) -> None:
    """Evidence survives JSON to the last bit, and the same evidence gives the same bytes."""
    sums = {"challenger": tuple(r[1] for r in rows), "champion": tuple(r[2] for r in rows)}
    made = evidence(Losses(partitions(len(rows)), tuple(r[0] for r in rows), sums), prior=prior)
    again = Evidence.from_json(made.to_json())
    assert again == made
    assert again.to_json() == made.to_json()
    assert again.key == made.key


def test_the_key_is_what_makes_an_attempt() -> None:
    """Another partition, declaration or data is another attempt; another commit, version or result is not."""
    made = evidence(losses([1.0]))
    for name in ("usecase", "partition", "spec", "data"):
        assert replace(made, **{name: "other"}).key != made.key, name
    for name in ("code", "version", "model", "last_fitted"):
        assert replace(made, **{name: "other"}).key == made.key, name


@pytest.mark.parametrize(
    ("sums", "rows", "said"),
    [
        ({"challenger": (1.0, float("nan"))}, (1, 1), "losses of challenger"),
        ({"challenger": (1.0,)}, (1, 1), "2 finite sums"),
        ({"champion": (1.0, 1.0)}, (1, 1), "a model named challenger"),
        ({"challenger": (1.0, 1.0)}, (1, 0), "at least one row"),
        ({"challenger": (1.0, 1.0)}, (1,), "at least one row"),
    ],
)
def test_losses_that_cannot_be_judged(
    sums: dict[str, tuple[float, ...]], rows: tuple[int, ...], said: str
) -> None:
    """Losses with a gap, without rows or without the challenger are refused in a sentence."""
    with pytest.raises(EvergreenError, match=said):
        Losses(partitions(2), rows, sums)


def test_partitions_come_once_and_in_order() -> None:
    """A partition that is counted twice would make the evidence look like more than it is."""
    for wrong in (("2013-02-02", "2013-02-01"), ("2013-02-01", "2013-02-01")):
        with pytest.raises(EvergreenError, match="each once"):
            Losses(wrong, (1, 1), {"challenger": (1.0, 1.0)})


def test_a_champion_has_a_digest_and_losses() -> None:
    """A champion's name without its losses, or the other way round, is refused."""
    with pytest.raises(EvergreenError, match="or neither"):
        evidence(losses([1.0], [1.0]), champion="")
    with pytest.raises(EvergreenError, match="or neither"):
        evidence(losses([1.0]), champion="a")


def test_evidence_from_before_a_fact_was_measured_is_read() -> None:
    """Facts that older code didn't measure have their defaults, and every figure that it stored stays."""
    stored = evidence(losses([1.0]))
    raw = json.loads(stored.to_json())
    del raw["facts"]["leakage"]["too_few_rows"], raw["facts"]["refit_loss"], raw["note"]
    assert Evidence.from_json(json.dumps(raw)) == stored


def test_evidence_without_a_fact_that_has_no_default_is_refused() -> None:
    """Whether a fresh process predicts the same is no question that a default may answer."""
    raw = json.loads(evidence(losses([1.0])).to_json())
    del raw["facts"]["serving"]["identical"]
    with pytest.raises(EvergreenError, match="Field required"):
        Evidence.from_json(json.dumps(raw))


@pytest.mark.parametrize("change", [{"schema": 1}, {"extra": 1}, {"facts": {"other": 1}}, {"prior": "0.2"}])
def test_another_schema_is_refused(change: dict[str, object]) -> None:
    """What another version of the code wrote isn't guessed at."""
    raw = json.loads(evidence(losses([1.0])).to_json()) | change
    with pytest.raises(EvergreenError, match="evaluate again"):
        Evidence.from_json(json.dumps(raw))
