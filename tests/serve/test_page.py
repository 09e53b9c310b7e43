"""What docs/how-to/serve-online.md shows is what the server takes."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.environment import Endpoint
from include.ingest.pipeline import ingest
from include.serve import app, follower, live_performance, request_log, rows, server
from include.serve.features import MAX_FEATURE_ROWS
from include.serve.request_log import PREFIX, RequestLog
from include.serve.rows import RowReader
from include.serve.service import Service
from include.spec import load
from include.spec.load import read
from include.storage.lake import Lake
from include.validate.pipeline import errors
from tests.docs.pages import DOCS, blocks, changes, replace_once
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


@pytest.mark.full
def test_the_source_of_the_page_ingests_the_log(tmp_path: Path) -> None:
    """Its change applies to the use case, which stays valid, and each of its columns is one of the log's."""
    file = shutil.copytree(Path(world.__file__).parent, tmp_path / "weekly_sales") / "usecase.yaml"
    (diff,) = [block.text for block in blocks(PAGE) if block.language == "diff"]
    for name, old, new in changes(diff):
        file.write_text(replace_once(file.read_text(), old, new, name))
    spec = read(file)
    assert errors(spec) == []
    assert set(live_performance.STEP) <= set(spec.sources["requests"].columns)
    (tmp_path / "lake").mkdir()
    lake = Lake("weekly_sales", str(tmp_path / "lake"))
    now = datetime(2024, 4, 10, tzinfo=UTC)
    service = Service(lake, spec, lambda: now, RequestLog(tmp_path / "log", lake, spec, lambda: now))
    service.follower.refresh()
    (request,) = [
        block.text for block in blocks(PAGE) if '"price"' in block.text and block.language == "json"
    ]
    service.answer(request.encode())
    assert service.log is not None
    service.log.start(lake.require_address)
    service.log.stop()
    endpoint = Endpoint("requests", f"{lake.uri}/{PREFIX}")
    (outcome,) = ingest(lake, spec, "requests", ["2024-04-15"], lambda name: endpoint)
    assert (outcome.outcome, outcome.rows, outcome.note) == ("published", 1, "1 rows")
    (row,) = lake.rows("validated_requests")
    assert (row["price"], row["prediction"], row["for_partition"]) == (3.4, 30.0, "2024-04-08")
    assert live_performance.live_performance(lake, spec, "requests")[0]["unlabeled"] == 1


def test_the_limits_of_the_page_are_those_of_the_code() -> None:
    """Each number that the page states is a constant."""
    assert (rows.MAX_BYTES, rows.MAX_ROWS, app.MAX_REQUESTS) == (1 << 20, 1000, 64)
    assert (app.READ_SECONDS, server.GRACE_SECONDS, server.MIN_LENGTH) == (10.0, 30, 16)
    assert (follower.POLL, follower.RETRY, MAX_FEATURE_ROWS) == (2.0, 10.0, 1_000_000)
    for text in ("1 MiB or 1000 rows", "64 requests", "10 seconds", "30 seconds", "at least 16 characters"):
        assert text in " ".join(PAGE.split())
    assert (request_log.SEAL_BYTES, request_log.SEAL_SECONDS, request_log.TICK) == (8 << 20, 60.0, 1.0)
    assert timedelta(minutes=5) == request_log.SEAL_MARGIN
    for text in ("every two seconds", "every ten seconds", "a million rows"):
        assert text in " ".join(PAGE.split())
