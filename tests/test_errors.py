"""An error says the same on the other side of a process."""

from __future__ import annotations

import pickle

import pytest

from include import errors

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.EvergreenError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[errors.EvergreenError]) -> None:
    """Kind, sentence and each field arrive as they were sent."""
    sent = kind("subject", required="this", found="that", where="here", remedy="do it")
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert str(got) == str(sent) == "subject: expected this, but found that (here); do it"
    assert vars(got) == vars(sent)


def test_parts_that_are_not_there_leave_no_trace() -> None:
    """A sentence has no empty brackets and no stray punctuation."""
    assert str(errors.SpecError("subject")) == "subject"
    assert str(errors.SpecError("subject", found="that")) == "subject: found that"
    assert str(errors.SpecError("subject", remedy="do it")) == "subject; do it"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"required": "this", "found": "that", "where": "here", "remedy": "do it"},
         "subject: found that; do it; expected this (here)"),
        ({"required": "this", "where": "here", "remedy": "do it"}, "subject: expected this; do it (here)"),
        ({"found": "that", "remedy": "do it"}, "subject: found that; do it"),
    ],
)  # fmt: skip
def test_where_only_the_beginning_is_shown_the_problem_and_the_remedy_come_first(
    fields: dict[str, str], text: str
) -> None:
    """What was expected may be long, and an address helps least."""
    assert errors.SpecError("subject", **fields).problem_first() == text


def test_every_kind_says_when_it_is_raised() -> None:
    """Each kind of error has a description of its own, so that the module can be used as a map."""
    described = [(vars(kind).get("__doc__") or "").strip() for kind in KINDS]
    assert [kind.__name__ for kind, text in zip(KINDS, described, strict=True) if not text] == []
    assert len(set(described)) == len(KINDS)
