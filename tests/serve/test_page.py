"""What docs/how-to/serve-online.md shows is what the server takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.serve import app, follower, rows, server
from include.serve.features import MAX_FEATURE_ROWS
from include.serve.rows import RowReader
from include.spec import load
from tests.docs.pages import DOCS, blocks
from tests.usecases.weekly_sales import world

PAGE = (DOCS / "how-to" / "serve-online.md").read_text()


@pytest.fixture(autouse=True)
def usecases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's use case is one of the tests'."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(Path(world.__file__).parents[1]))


def test_the_requests_of_the_page_are_accepted() -> None:
    """The first one has all features of the use case, the second one keys alone."""
    requests = [block.text for block in blocks(PAGE) if block.language == "json"]
    first, second = (RowReader(load("weekly_sales")).read(request.encode()) for request in requests)
    assert (first.only_keys, first.has_keys, second.only_keys) == (False, True, True)


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    """Each number that the page states is a constant."""
    assert (rows.MAX_BYTES, rows.MAX_ROWS, app.MAX_REQUESTS) == (1 << 20, 1000, 64)
    assert (app.READ_SECONDS, server.GRACE_SECONDS, server.MIN_LENGTH) == (10.0, 30, 16)
    assert (follower.POLL, follower.RETRY, MAX_FEATURE_ROWS) == (2.0, 10.0, 1_000_000)
    for text in ("1 MiB or 1000 rows", "64 requests", "10 seconds", "30 seconds", "at least 16 characters"):
        assert text in " ".join(PAGE.split())
    for text in ("every two seconds", "every ten seconds", "a million rows"):
        assert text in " ".join(PAGE.split())
