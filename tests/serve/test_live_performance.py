"""Labels judge online predictions as they judge those of batch scoring."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.environment import Endpoint
from include.errors import SpecError
from include.ingest.pipeline import ingest
from include.monitor.performance import performance_by
from include.score.pipeline import score
from include.serve.live_performance import live_performance
from include.serve.request_log import PREFIX, RequestLog
from include.serve.service import Service
from include.spec import UseCase
from include.storage.lake import Lake
from tests.score.conftest import Deploy
from tests.serve.conftest import FEATURES
from tests.serve.requests import NOW

SCORED = "2024-03-06"  # its labels are those of the partition two later


def serve_and_ingest(lake: Lake, spec: UseCase, folder: Path, rows: Any, now: datetime) -> None:
    """Answer a request, and bring it to the source's table, twice."""
    request_log = RequestLog(folder, lake, spec, lambda: now)
    service = Service(lake, spec, lambda: now, request_log)
    service.follower.refresh()
    service.answer(json.dumps({"rows": rows}).encode())
    request_log.start(lake.require_address)
    request_log.stop()
    partitions = sorted({key.split("/")[1] for key in lake.keys(PREFIX)})

    def connect(name: str) -> Endpoint:
        return Endpoint(name, f"{lake.uri}/{PREFIX}")

    for refetch in (False, True):
        ingest(lake, spec, "requests", partitions, connect, refetch=refetch, now=NOW.replace(year=2030))


@pytest.mark.full
def test_labels_judge_online_predictions(
    lake: Lake, logging_use: UseCase, deploy: Deploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows, asked by key, have the figures that batch scoring has; rows without a key have none."""
    use = logging_use
    deploy(lake, "1", "2024-03-01")
    for partition in ("2024-03-05", SCORED):
        score(lake, use, partition)
    (batch,) = performance_by(lake, use, "version", first=SCORED, last=SCORED)
    keys = [{name: row[name] for name in use.key} for row in lake.rows("predictions", {"partition": SCORED})]
    now = use.clock.decision_time(SCORED).replace(hour=20)
    serve_and_ingest(lake, use, tmp_path / "one", keys, now)
    (online,) = live_performance(lake, use, "requests")
    assert (online["served_by"], online["version"]) == ("champion", "1")
    for name in ("partitions", "rows", "unlabeled", "log_loss", "roc_auc"):
        assert online[name] == pytest.approx(batch[name])
    serve_and_ingest(lake, use, tmp_path / "two", [FEATURES], now)
    (with_another,) = live_performance(lake, use, "requests")
    assert (with_another["rows"], with_another["unlabeled"]) == (online["rows"], online["unlabeled"] + 1)
    monkeypatch.setenv("EVERGREEN_USECASES", str(use.folder.parent))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    printed = CliRunner().invoke(app, ["performance", "parcels", "--requests", "requests", "--json"])
    assert json.loads(printed.stdout)["rows"] == [pytest.approx(with_another)]


def test_before_the_first_request_there_is_nothing_to_judge(lake: Lake, logging_use: UseCase) -> None:
    """An empty result, and no error."""
    assert live_performance(lake, logging_use, "requests") == []


def test_a_source_that_is_no_log_is_refused(lake: Lake, logging_use: UseCase) -> None:
    """The error names the column that it lacks."""
    with pytest.raises(
        SpecError, match=r"source orders: .*, but found no column for_partition; declare it as"
    ):
        live_performance(lake, logging_use, "orders")
    with pytest.raises(SpecError, match=r"source nothing: .*, but found no such source; declare it as"):
        live_performance(lake, logging_use, "nothing")
