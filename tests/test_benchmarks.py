"""`make bench`: what it writes into the page of benchmarks."""

import re

import pytest

from benchmarks.__main__ import COMMANDS, PAGE, main, placed

TEXT = "before\n<!-- measured: a -->\nold\n<!-- end -->\nbetween\n<!-- measured: b -->\nb\n<!-- end -->\n"


def test_takes_its_place() -> None:
    """What was measured takes its own place on the page and no other."""
    assert placed(TEXT, "a", r"new \1") == TEXT.replace("old", r"new \1")


def test_nowhere_or_twice() -> None:
    """A name that is nowhere on the page, or twice, is refused before anything is measured."""
    for page in ("nothing", TEXT + TEXT):
        with pytest.raises(SystemExit, match="expected one place marked `measured: a`"):
            placed(page, "a", "new")


def test_place_for_each() -> None:
    """The page has a place for each command, and for no other."""
    assert sorted(re.findall("<!-- measured: (.*) -->", PAGE.read_text())) == sorted(COMMANDS)


@pytest.mark.full
def test_unknown_name() -> None:
    """An unknown name is refused."""
    with pytest.raises(SystemExit, match="found nought"):
        main(["nought"])
