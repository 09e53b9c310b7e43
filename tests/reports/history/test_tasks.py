"""The history page is drawn by the last run of a backfill, by every other run, and on request."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evergreen.operators.monitor import MonitorOperator
from evergreen.operators.operate import OperateOperator
from include.reports import history as drawing
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.reports.history.conftest import partitions

PLACE = "reports/history.html"


@pytest.fixture
def drawn(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Configure tasks for the lake, and return the list of pages that they draw."""
    machines.spec(tmp_path)
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path))
    monkeypatch.setenv("EVERGREEN_LAKE", lake.uri.removesuffix("/machines"))
    real, pages = drawing.draw_history, []

    def draw(*args: Any) -> Any:
        result = real(*args)
        pages.append(result[1])
        return result

    monkeypatch.setattr(drawing, "draw_history", draw)
    return pages


def watch(partition: str, run_type: str, waiting: int) -> None:
    """Run a partition's `monitor.watch` while so many others of its DAG haven't begun."""

    def get_ti_count(dag_id: str, task_ids: list[str], states: list[str]) -> int:
        assert (dag_id, task_ids) == ("machines__batch", ["monitor.watch"])
        assert {"null", "scheduled", "queued", "up_for_retry"} == set(states)
        return waiting

    context: Any = {
        "dag_run": SimpleNamespace(partition_key=partition, run_type=run_type),
        "params": {},
        "outlet_events": defaultdict(lambda: SimpleNamespace(extra={})),
        "ti": SimpleNamespace(get_ti_count=get_ti_count, dag_id="machines__batch", task_id="monitor.watch"),
    }
    MonitorOperator(task_id="watch", usecase="machines").execute(context)


def test_a_backfill_ends_with_all_its_partitions_on_the_page(
    lake: Lake, use: UseCase, drawn: list[str]
) -> None:
    """A backfill draws the page once, by its last run."""
    keys = partitions(use)
    lake.publish(
        "partitions", schemas.PARTITIONS.empty_table(), {"product": "monitor", "partition": keys[-3:]}
    )
    for partition, waiting in zip(reversed(keys[-3:]), (2, 1, 0), strict=True):
        watch(partition, "backfill", waiting)
    assert len(drawn) == 1
    assert f"partitions {keys[0]} to {keys[-1]}" in drawn[0]
    assert "of 10</th>" in drawn[0]


def test_a_run_that_is_no_backfill_draws(use: UseCase, drawn: list[str]) -> None:
    """A scheduled run draws the page, whatever other runs are waiting."""
    watch(partitions(use)[-1], "scheduled", waiting=5)
    assert len(drawn) == 1


def test_a_person_redraws_the_year(lake: Lake, drawn: list[str]) -> None:
    """The action needs no reason, because it changes no table; it returns the page's place."""
    context: Any = {
        "params": {"action": "redraw the year", "reason": None},
        "dag_run": SimpleNamespace(triggering_user_name=None),
        "run_id": "r",
    }
    result = OperateOperator(task_id="operate", usecase="machines").execute(context)
    assert result["uri"] == f"{lake.uri}/{PLACE}"
    assert "10 partitions" in result["note"]
    assert lake.get(PLACE) == drawn[0].encode()
