"""The page for eyes: drawn from a sample, and it says so; nothing is fetched from anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from include.errors import NotPublished
from include.monitor import report
from include.monitor.pipeline import monitor
from include.monitor.report import drift_report
from include.score.pipeline import score
from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor import machines


@pytest.fixture
def page(lake: Lake, use: UseCase, week: list[str]) -> str:
    """The page of the second partition."""
    for partition in week[:2]:
        score(lake, use, partition)
        monitor(lake, use, partition)
    return drift_report(lake, use, week[1])


@pytest.mark.full
def test_a_page_says_that_it_is_a_sample(page: str, lake: Lake, use: UseCase, week: list[str]) -> None:
    """The page's own text has the sample's size and the rows that it is of, on both sides."""
    shown = f"drawn from samples: 200 of the 240 rows of 2 partitions up to {week[1]}, and 200 of the "
    assert (
        shown + f"{machines.fitted_rows(lake, use):,} rows of the partitions that the model was fitted on, "
        "rows without a label among them" in page
    )
    assert page.index("drawn from samples") < page.index("drawDashboard")


@pytest.mark.full
def test_a_page_has_charts_of_the_prediction_and_the_columns(page: str) -> None:
    """Evidently's data for the prediction and each column is inside."""
    for column in ("prediction", "temp", "load", "weekday", "kind"):
        assert f"column: {column}" in page or f"column '{column}'" in page or f'"{column}"' in page
    assert "drawDashboard" in page


def test_a_page_has_every_measure(page: str) -> None:
    """The rows of `drift` are a table above the charts, five measures a column, by its kind."""
    table = page[page.index("All measures, on all rows") : page.index("drawDashboard")]
    lines = dict(re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", table))
    assert set(lines) == {"kind", "load", "prediction", "temp", "weekday"}
    filled = {name: len(re.findall(r"<td align=right>[^<]", line)) for name, line in lines.items()}
    assert filled == dict.fromkeys(lines, 5)


def test_a_page_fetches_nothing(page: str) -> None:
    """Scripts, styles and fonts are all inside, and no telemetry is called."""
    assert re.findall(r"<script[^>]+src=", page) == []
    assert re.findall(r"<link[^>]+href=", page) == []
    assert re.findall(r"url\((?!['\"]?data:)[^)]*https?:", page) == []
    assert (
        "analytics" not in page.lower().replace("evidently analytics", "") or "google-analytics" not in page
    )


@pytest.mark.full
def test_a_page_is_the_same_each_time(page: str, lake: Lake, use: UseCase, week: list[str]) -> None:
    """Drawn again, the page has the same bytes: its ids aren't random."""
    assert drift_report(lake, use, week[1]) == page


def test_a_page_rebuilds_no_more_partitions_than_its_sample_needs(
    lake: Lake, use: UseCase, week: list[str]
) -> None:
    """Of a long window some are drawn, so the API server does no more for it than for a short one."""
    monitoring = use.monitoring.model_copy(update={"report_rows": 100})
    small = use.model_copy(update={"monitoring": monitoring})
    for partition in week[:3]:
        score(lake, small, partition)
    sample, rows, rebuilt = report.window_sample(lake, small, week[2], week[:3])
    assert (sample.num_rows, rows, rebuilt) == (100, 240, 2)
    assert len(sample["partition"].unique()) == 2


def test_each_partition_has_a_sample_of_its_own() -> None:
    """Also one of an hour, whose key has a time."""
    assert [report.seed_of(key) for key in ("2024-03-01", "2024-03-01T0500Z")] == [20240301, 202403010500]


def test_a_partition_that_is_not_monitored_has_no_page(lake: Lake, use: UseCase, week: list[str]) -> None:
    """The error says what to run."""
    with pytest.raises(NotPublished, match="run machines__batch for that partition"):
        drift_report(lake, use, week[-1])


@pytest.mark.full
def test_a_feature_that_was_declared_since_is_told(
    page: str, lake: Lake, week: list[str], tmp_path: Path
) -> None:
    """The champion's sample lacks it: the partition is judged, and the page draws the others."""
    features = "{spine: readings, lookback: 0, numeric: [temp, load, weekday], categorical: [kind, again]}"
    newer = machines.spec(tmp_path, features=features)
    sql = machines.SQL.replace("kind", "kind, kind AS again")
    (tmp_path / "machines" / "features.sql").write_text(sql)
    score(lake, newer, week[2])
    monitor(lake, newer, week[2])
    (row,) = lake.rows("findings", {"partition": week[2], "check": "drift", "subject": "again"})
    assert (row["outcome"], row["note"]) == ("not enough", "again has no reference")
    assert "drawDashboard" in drift_report(lake, newer, week[2])


def test_without_a_model_a_page_says_why_it_has_no_charts(lake: Lake, use: UseCase) -> None:
    """Before the first promotion the link leads to a page all the same."""
    score(lake, use, machines.TRAINED)
    monitor(lake, use, machines.TRAINED)
    found = drift_report(lake, use, machines.TRAINED)
    assert "There are no charts: no model was promoted yet." in found
