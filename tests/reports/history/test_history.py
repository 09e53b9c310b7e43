"""The history page shows the tables' content, is deterministic, and never fails a partition."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from include.reports import history as drawing
from include.reports.history import History, Mean, draw_history, history_text, read_history
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.reports.history.conftest import PARTITIONS, partitions

PLANTED = "<script>alert('planted')</script>"


def alarm(lake: Lake, partition: str, subject: str, note: str = "planted") -> None:
    """Add an alarm to a partition's findings."""
    row = {
        "partition": partition,
        "check": "sudden_change",
        "subject": subject,
        "outcome": "alarm",
        "note": note,
    }
    there = lake.rows("findings", {"partition": partition})
    made = pa.Table.from_pylist([*there, row], schema=schemas.FINDINGS)
    lake.publish("findings", made, {"partition": partition})


def drifted(lake: Lake, partition: str, subject: str, value: float, threshold: float | None) -> None:
    """Add a finding of a column's drift to a partition's findings."""
    row = {"partition": partition, "check": "drift", "subject": subject, "value": value,
           "threshold": threshold, "outcome": "ok", "note": "planted"}  # fmt: skip
    there = lake.rows("findings", {"partition": partition})
    made = pa.Table.from_pylist([*there, row], schema=schemas.FINDINGS)
    lake.publish("findings", made, {"partition": partition})


def test_drift_is_drawn_as_a_multiple_of_the_limit_that_decided(lake: Lake, use: UseCase) -> None:
    """A column far from its reference may be within its limit, and one without a limit has no multiple."""
    newest = partitions(use)[-1]
    drifted(lake, newest, "noisy", 500.0, 1000.0)
    drifted(lake, newest, "unlimited", 900.0, None)
    drifted(lake, newest, "drifted", 90.0, 2.0)
    history = read_history(lake, use)
    assert history.largest_drift[newest] == ("drifted", 45.0)
    axes = Figure().subplots()
    drawing._panel_drift(axes, history)
    assert [1.0, 1.0] in [list(line.get_ydata()) for line in axes.lines]  # the limit


@pytest.mark.full
def test_the_same_lake_gives_the_same_bytes(lake: Lake, use: UseCase) -> None:
    """The page is the same each time it is drawn."""
    _, first = draw_history(lake, use)
    _, again = draw_history(Lake("machines", lake.uri.removesuffix("/machines")), use)
    assert first == again


@pytest.mark.full
def test_the_page_has_alarms_and_switches(lake: Lake, use: UseCase) -> None:
    """The partition with missing temperatures has an alarm with a note, and the switch is labeled."""
    said, html = draw_history(lake, use)
    last = partitions(use)[-1]
    assert f'<td class="n">{last}</td><td>1</td><td>missing</td><td>temp</td>' in html
    assert {"check": "missing", "partitions": 1, "share": 1 / PARTITIONS} in said["checks"]
    assert ">v1 promoted</text>" in html
    assert html.count("<svg") == 1
    assert said["sentence"] in history_text(said)
    assert "temp: 100.0% missing" in history_text(said)


@pytest.mark.full
def test_the_page_fetches_and_runs_nothing(lake: Lake, use: UseCase) -> None:
    """The page has no script and no external reference."""
    _, html = draw_history(lake, use)
    assert not re.findall(r"<script|@import|(?:src|href)=[\"'](?!#)|url\((?!#)", html)


def test_what_the_tables_hold_is_escaped(lake: Lake, use: UseCase) -> None:
    """A script in an alarm's subject or note, or in a column's name, is escaped."""
    alarm(lake, partitions(use)[3], PLANTED, PLANTED)
    drifted(lake, partitions(use)[3], PLANTED, 99.0, 1.0)
    _, html = draw_history(lake, use)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 2


def test_an_empty_lake_gives_a_page_that_says_so(
    tmp_path_factory: pytest.TempPathFactory, use: UseCase
) -> None:
    """Without partitions the page has a sentence and no chart."""
    lake = Lake("machines", str(tmp_path_factory.mktemp("empty")))
    said, html = draw_history(lake, use)
    assert said["partitions"] == 0
    assert "No partition has been monitored yet." in html
    assert "<svg" not in html


def test_alarms_near_each_other_are_one_episode(lake: Lake, use: UseCase) -> None:
    """Alarms less than ``quiet`` partitions apart are one episode; each subject has its own."""
    keys, quiet = partitions(use), use.monitoring.sudden_changes.quiet
    for place in (0, 2, 2 + quiet):
        alarm(lake, keys[place], "load")
    alarm(lake, keys[1], "kind")
    found = [
        (one.subject, one.first, one.last, one.partitions)
        for one in read_history(lake, use).episodes()
        if one.check == "sudden_change"
    ]
    assert found == [
        ("load", keys[2 + quiet], keys[2 + quiet], 1),
        ("load", keys[0], keys[2], 2),
        ("kind", keys[1], keys[1], 1),
    ]


def test_a_week_has_the_mean_of_its_rows_and_an_interval(lake: Lake, use: UseCase) -> None:
    """Weekly means follow from the stored losses, and the gain is the difference to the baseline."""
    weeks = read_history(lake, use).weeks
    rows = lake.rows("losses")
    total = {name: sum(row[name] for row in rows) for name in ("rows", "loss", "baseline")}
    assert len(weeks) >= 2
    for week in weeks:
        assert week.gain.value == pytest.approx(week.baseline - week.served.value)
        if week.served.low is not None and week.served.high is not None:
            assert week.served.low < week.served.value < week.served.high
    means = [week.served.value for week in weeks]
    assert min(means) < total["loss"] / total["rows"] < max(means)


def test_a_single_week_is_drawn_as_points(lake: Lake, use: UseCase) -> None:
    """A line needs two weeks, and a use case's first one would be an empty chart."""
    history = read_history(lake, use)
    for weeks, marker in ((1, "o"), (2, "")):
        axes = Figure().subplots()
        drawing._panel_losses(axes, replace(history, weeks=history.weeks[:weeks]))
        assert [line.get_marker() for line in axes.lines] == [marker, marker]


@pytest.mark.parametrize("panel", [drawing._panel_losses, drawing._panel_metric])
def test_a_legend_is_below_its_panel(
    panel: Callable[[Axes, History], None], lake: Lake, use: UseCase
) -> None:
    """It covers no figure, whatever the figures are."""
    axes = Figure().subplots()
    panel(axes, replace(read_history(lake, use), estimated={partitions(use)[0]: Mean(0.5, 0.4, 0.6)}))
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 <= axes.bbox.y0


def test_a_figure_that_was_restated_is_shown_as_last_known(lake: Lake, use: UseCase) -> None:
    """If a partition has two figures, the newest one is drawn."""
    first = partitions(use)[0]
    rows = lake.rows("performance", {"partition": first})
    assert use.monitoring.requirements[0].metric == "roc_auc"
    again = [
        {**row, "as_of": partitions(use)[-1], "value": 0.123} for row in rows if row["metric"] == "roc_auc"
    ]
    made = pa.Table.from_pylist([*rows, *again], schema=schemas.PERFORMANCE)
    lake.publish("performance", made, {"partition": first})
    assert read_history(lake, use).realized[first] == pytest.approx(0.123)


@pytest.mark.full
def test_many_alarms_are_counted_and_not_all_shown(
    lake: Lake, use: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is limited, and states how many older episodes there are."""
    monkeypatch.setattr(drawing, "MAX_EPISODES", 2)
    for subject in ("load", "kind", "weekday"):
        alarm(lake, partitions(use)[0], subject)
    _, html = draw_history(lake, use)
    alerts = [one for one in read_history(lake, use).episodes() if one.check != "drift"]
    assert f"and {len(alerts) - 2} older ones." in html


def test_weeks_of_a_weekly_use_case_pool_seven_partitions() -> None:
    """Weekly partitions are pooled by seven, so that there is an interval."""
    from include.reports.history import _weeks

    keys = [str(np.datetime64("2024-01-01") + 7 * number) for number in range(21)]
    sums = {key: np.array([10.0, 5.0 + number % 3, 6.0]) for number, key in enumerate(keys)}
    found = list(_weeks(sums, keys))
    assert 3 <= len(found) <= 4
    assert any(week.served.low is not None for week in found)
