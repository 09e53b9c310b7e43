"""Charts of the pages are the same from any thread, and show every text as text."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from include.reports.page_charts import (
    Series,
    distribution_chart,
    event_chart,
    stacked_shares,
    time_chart,
)
from include.stats.profiles import Profile, build_profile, merge_profiles

PARTITIONS = [f"2024-01-{day:02}" for day in range(1, 29)]
PLANTED = "<script>alert('planted')</script>"


def profile(values: list[str] | list[float]) -> Profile:
    """Return the profile of a column ``x``."""
    numeric = ["x"] if isinstance(values[0], float) else []
    table = build_profile("p", "2024-01-01", pa.table({"x": values}), numeric, [] if numeric else ["x"])
    return merge_profiles(table.to_pylist())["x"]


def draw(number: int) -> str:
    """Return one of a few different charts."""
    values = np.sin(np.arange(28) + number % 3).tolist()
    return time_chart(f"chart {number % 3}", "y", [Series("a", PARTITIONS, values, [number % 3])])


@pytest.mark.full
def test_threads_draw_what_one_thread_draws() -> None:
    """A server answers in threads, and Matplotlib's settings are shared by all of them."""
    alone = [draw(number) for number in range(3)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(draw, range(18)))
    assert together == alone * 6
    assert "var(--accent)" in alone[0]


def test_every_text_is_escaped() -> None:
    """A label, a category and a title that are markup are shown and do nothing."""
    series = [Series(PLANTED, PARTITIONS, [0.1] * 28)]
    charts = [
        time_chart(PLANTED, PLANTED, series),
        stacked_shares(PLANTED, series),
        event_chart(PLANTED, [(PLANTED, PARTITIONS[:3])], (PARTITIONS[0], PARTITIONS[-1])),
        distribution_chart(PLANTED, profile([PLANTED, "b"]), profile([PLANTED])),
    ]
    for chart in charts:
        assert "<script" not in chart
        assert "&lt;script&gt;" in chart


@pytest.mark.parametrize(("length", "columns"), [(10, 2), (40, 1)])
def test_a_legend_is_as_wide_as_its_chart_at_most(length: int, columns: int) -> None:
    """Labels that don't fit side by side are below each other: a browser would cut them off."""
    labels = ["a" * length, "b" * length]
    chart = time_chart("t", "y", [Series(label, PARTITIONS, [1.0] * 28) for label in labels])
    starts = {re.findall(rf'x="([\d.]+)"[^>]*>{label}<', chart)[0] for label in labels}
    assert len(starts) == columns


def test_an_alarm_is_marked() -> None:
    """The marked value is drawn in the color of what is bad, and no other is."""
    line = Series("a", PARTITIONS, [1.0] * 28)
    marked = Series("a", PARTITIONS, [1.0] * 28, [3])
    assert "var(--bad)" not in time_chart("t", "y", [line])
    assert "var(--bad)" in time_chart("t", "y", [marked])


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [1.0, float("nan")], ["a"]])
def test_few_or_equal_values_are_drawn(values: list[float]) -> None:
    """A column with a single value has a distribution too."""
    chart = distribution_chart("t", profile(values), profile(values))
    assert "training of the champion" in chart
    assert "newest partitions" in chart


def test_a_column_without_values_has_no_distribution() -> None:
    """Where nothing is known on either side, nothing is drawn."""
    assert distribution_chart("t", None, profile([float("nan")])) == ""
