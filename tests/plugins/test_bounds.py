"""A page in the api-server reads what it shows, however much there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from evergreen.view.html import guarded
from evergreen.view.quality import MAX_QUARANTINED, quarantined_rows
from evergreen.view.usecase import state
from include.spec import load
from include.storage.lake import Lake
from tests.plugins.counting import Counting
from tests.plugins.site import PARTITIONS, ROOT, fill


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Return a lake of two partitions, the second with more rows set aside than are shown."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(ROOT / "tests" / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path))
    lake = Counting("weekly_sales")
    fill(lake, "weekly_sales")
    return lake


def tear(lake: Lake, table: str) -> None:
    """Make a table unreadable."""
    folder = Path(lake.uri.removeprefix("file://"), "tables", table, "_delta_log")
    assert folder.is_dir()
    for file in folder.glob("*.json"):
        file.write_text("torn")


def test_no_more_rows_set_aside_are_read_than_shown(lake: Counting) -> None:
    """The first by source, part and row come, with the number of all."""
    lake.handed = 0
    rows, total = quarantined_rows(lake, load("weekly_sales"), PARTITIONS["weekly_sales"][1])
    assert (lake.handed, len(rows), total) == (MAX_QUARANTINED, MAX_QUARANTINED, 250)
    assert [row["row"] for row in rows] == list(range(MAX_QUARANTINED))
    assert rows[3]["record"]["price"] == -3
    assert quarantined_rows(lake, load("weekly_sales"), PARTITIONS["weekly_sales"][0]) == ([], 0)


def test_the_summary_reads_no_rows_that_it_does_not_show(lake: Counting) -> None:
    """Every row ever set aside is the command line's to count: the page does without that table."""
    tear(lake, "quarantine")
    found = guarded("weekly_sales", state)
    assert found["error"] == ""
    assert found["champion"]["version"] == "3"
    assert [partition["partition"] for partition in found["partitions"]] == sorted(
        PARTITIONS["weekly_sales"], reverse=True
    )


def test_a_store_that_is_down_is_said_without_its_own_words(lake: Counting) -> None:
    """A page names no address of the store; the log does."""
    tear(lake, "partitions")
    error = guarded("weekly_sales", state)["error"]
    assert error == "The lake could not be read; the api-server's log says more."
