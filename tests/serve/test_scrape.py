"""Prometheus scrapes a server of online predictions as it is shipped, and alerts when it can't follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.storage.lake import Lake
from tests.ops.prometheus.servers import needs_servers, prometheus, soon
from tests.score.conftest import LAST, Deploy
from tests.serve.conftest import Serve

TOKEN = "a-token-that-only-a-test-knows"


@pytest.mark.full
@needs_servers
def test_a_ledger_that_cannot_be_read_is_a_pending_alert(
    lake: Lake, deploy: Deploy, serve: Serve, tmp_path: Path
) -> None:
    """The shipped job scrapes with the token, and the shipped rule sees that the ledger is unreadable."""
    deploy(lake, "1", LAST)
    log = tmp_path / "lake" / "parcels" / "tables" / "switches" / "_delta_log"
    with (
        serve(token=TOKEN) as server,
        prometheus(tmp_path, f"http://127.0.0.1:{server.port}", TOKEN, job="evergreen-serve") as watched,
    ):
        soon(lambda: watched.query("evergreen_serve_following == 1"), "server that is scraped")
        (log / f"{lake.version('switches') + 1:020}.json").write_text("no commit")
        alert = 'ALERTS{alertname="EvergreenServeNotFollowing", alertstate="pending"}'
        assert len(soon(lambda: watched.query(alert), "pending alert")) == 1
