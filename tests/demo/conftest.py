"""A stack of the tests' own, in a folder that is removed, with a path too long for a Unix socket."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.home import Home
from demo.stack import Stack

LIGHT = ("postgres", "s3", "weather")


@pytest.fixture(scope="session")
def home() -> Iterator[Home]:
    """A home that no other test run shares; not under pytest's folder, which pytest closes to other users."""
    with tempfile.TemporaryDirectory(prefix="evergreen-test-") as folder:
        yield Home(Path(folder) / ("long-" * 16))


@pytest.fixture(scope="session")
def begun(home: Home) -> Iterator[Stack]:
    """The light servers, and the end of all servers when the tests are through."""
    stack = Stack(home)
    try:
        stack.up(LIGHT)
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(begun: Stack) -> Stack:
    """The light servers, up, whatever the test before has done to them."""
    begun.up(LIGHT)
    return begun
