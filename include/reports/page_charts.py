"""Charts of the pages in Airflow: figures by partition, and two distributions of a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter

from include.reports.charts import BAD, GOOD, INK, LINE, NEW, OLD, SOFT, axis_times, chart
from include.stats.intervals import Gain
from include.stats.profiles import Profile

# of the lines of a chart, in their order: color and dashes, so that they also differ in print
STYLES = ((NEW, "-"), (OLD, "--"), (SOFT, "-."), (INK, ":"), (GOOD, "--"), (LINE, "-"))
BINS = 40  # of a number's distribution
MAX_CATEGORIES = 12  # in a chart
LEAST = 0.01  # lowest value on a logarithmic axis


@dataclass(frozen=True)
class Series:
    """Values by partition.

    Parameters
    ----------
    partitions, values : ascending; NaN where there is none; shape (n,).
    alarms : positions of values to mark in red.
    """

    label: str
    partitions: Sequence[str]
    values: Sequence[float]
    alarms: Sequence[int] = field(default=())


def time_chart(
    title: str,
    y: str,
    series: Sequence[Series],
    *,
    limits: Sequence[Series] = (),
    switches: Sequence[str] = (),
    level: tuple[str, float] | None = None,
    log_scale: bool = False,
) -> str:
    """Draw values by partition as lines.

    Parameters
    ----------
    y : the axis' label, with the unit.
    limits : drawn as thin red lines.
    switches : partitions from which another model served.
    level : label and value of a horizontal line.
    """
    with chart(title, "partition", y) as drawing:
        axes = drawing.axes
        for one, (color, dashes) in zip(series, STYLES, strict=False):
            days, values = axis_times(one.partitions), np.asarray(one.values, float)
            if log_scale:
                values = np.maximum(values, LEAST)
            # the newest use case has one point, and a line would not show it
            marker = "." if np.isfinite(values).sum() < 2 else None
            axes.plot(days, values, dashes, color=color, linewidth=1.4, marker=marker, label=one.label)
            positions = list(one.alarms)
            axes.plot(days[positions], values[positions], "o", color=BAD, markersize=3)
        for one, (_, dashes) in zip(limits, STYLES[1:], strict=False):
            axes.plot(
                axis_times(one.partitions), one.values, dashes, color=BAD, linewidth=0.9, label=one.label
            )
        if level is not None:
            axes.axhline(level[1], color=BAD, linestyle="--", linewidth=0.9, label=level[0])
        if switches:
            over, label = axes.get_xaxis_transform(), "another model served from here on"
            lines = axes.vlines(axis_times(switches), 0, 1, color=SOFT, linewidth=0.6, label=label)
            lines.set(transform=over, alpha=0.5)
        if log_scale:
            axes.set_yscale("log")
            axes.minorticks_off()  # they take a fifth of the time of the chart
            axes.yaxis.set_major_formatter("{x:g}")
        _date_ticks(axes)
    return drawing.svg


def stacked_shares(title: str, series: Sequence[Series], *, limit: tuple[str, float] | None = None) -> str:
    """Draw shares of a partition's rows (0 to 1) as steps in percent, on top of each other."""
    with chart(title, "partition", "% of the partition's rows") as drawing:
        axes = drawing.axes
        bottom = np.zeros(len(series[0].partitions))
        for index, one in enumerate(series):
            top = bottom + 100 * np.asarray(one.values, float)
            color = STYLES[index % len(STYLES)][0]
            days = axis_times(one.partitions)
            axes.fill_between(
                days, bottom, top, step="mid", color=color, alpha=0.75, linewidth=0, label=one.label
            )
            bottom = top
        if limit is not None:
            axes.axhline(100 * limit[1], color=BAD, linestyle="--", linewidth=0.9, label=limit[0])
        axes.set_ylim(bottom=0)
        _date_ticks(axes)
    return drawing.svg


def event_chart(title: str, lines: Sequence[tuple[str, Sequence[str]]], span: tuple[str, str]) -> str:
    """Draw one line for each kind of event, with a mark for each partition that has it."""
    with chart(title, "partition", "", 0.9 + 0.24 * len(lines)) as drawing:
        for index, (_, partitions) in enumerate(lines):
            days = axis_times(partitions)
            drawing.axes.plot(days, [index] * len(days), "|", color=BAD, markersize=8)
        drawing.axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        drawing.axes.set_ylim(len(lines) - 0.5, -0.5)
        drawing.axes.set_xlim(*axis_times(span))
        _date_ticks(drawing.axes)
    return drawing.svg


def distribution_chart(title: str, then: Profile | None, now: Profile | None) -> str:
    """Draw the distribution of a column in the champion's training, and in the newest partitions.

    Numbers are drawn as shares by bin, without the outermost 0.5 % of both sides; categories as shares of the
    values, the most frequent of either side.
    """
    pairs = ((then, OLD, "training of the champion"), (now, NEW, "newest partitions"))
    sides = [(side, color, label) for side, color, label in pairs if side and side.count > side.missing]
    if not sides:
        return ""
    numeric = sides[0][0].kind == "numeric"
    return _numbers(title, sides) if numeric else _categories(title, sides)


def _numbers(title: str, sides: Sequence[tuple[Profile, str, str]]) -> str:
    ends = np.array([side.quantiles((0.005, 0.995)) for side, _, _ in sides])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    with chart(title, sides[0][0].column, "% of the values in a bin") as drawing:
        for side, color, label in sides:
            # the lowest edge belongs to the first bin
            cumulative = np.array(side.cdf([np.nextafter(low, -np.inf), *edges[1:]]))
            shares = 100 * np.diff(cumulative)
            drawing.axes.stairs(shares, edges, color=color, linewidth=1.6, label=label)
        drawing.axes.set_ylim(bottom=0)
    return drawing.svg


def _categories(title: str, sides: Sequence[tuple[Profile, str, str]]) -> str:
    shares = [
        {name: 100 * count / (side.count - side.missing) for name, count in side.items().items()}
        for side, _, _ in sides
    ]
    largest = {name: max(of.get(name, 0.0) for of in shares) for of in shares for name in of}
    names = sorted(largest, key=lambda name: (-largest[name], name))[:MAX_CATEGORIES]
    labels = [name[:40] for name in names]
    if len(largest) > len(names):
        labels.append(f"{len(largest) - len(names):,} others")
    positions = np.arange(len(labels))
    with chart(title, "% of the values", "", 1.2 + 0.3 * len(labels)) as drawing:
        for number, ((_, color, label), of) in enumerate(zip(sides, shares, strict=True)):
            values = [of.get(name, 0.0) for name in names]
            values += [max(100 - sum(values), 0.0)] * (len(labels) - len(names))
            offset = (number - (len(sides) - 1) / 2) * 0.38
            drawing.axes.barh(positions + offset, values, color=color, height=0.36, label=label)
        drawing.axes.set_yticks(positions, labels)
        drawing.axes.invert_yaxis()
        drawing.axes.grid(visible=False, axis="y")
    return drawing.svg


def difference_chart(
    title: str,
    y: str,
    partitions: Sequence[str],
    gains: Sequence[float],
    gain: Gain | None,
    high: float | None,
) -> str:
    """Draw a difference by partition, with its mean over all rows and the mean's interval.

    Parameters
    ----------
    gains : per row; above 0 is better; shape (n,).
    gain, high : the mean with its lower bound, and its upper bound at the same level; None for too few
        partitions.
    """
    with chart(title, "partition", y) as drawing:
        axes, days = drawing.axes, axis_times(partitions)
        values = np.asarray(gains, float)
        axes.vlines(days, 0, values, color=[GOOD if value > 0 else BAD for value in values], linewidth=1.2)
        axes.axhline(0, color=INK, linewidth=1)
        if gain is not None and high is not None:
            axes.axhline(gain.mean, color=NEW, linewidth=1.2, label=f"mean {gain.mean:.4g}")
            bounds = f"{100 * (2 * gain.level - 1):.4g} % interval, {gain.low:.4g} to {high:.4g}"
            axes.axhspan(gain.low, high, color=NEW, alpha=0.15, linewidth=0, label=bounds)
        _date_ticks(axes)
    return drawing.svg


def _date_ticks(axes: Axes) -> None:
    axes.xaxis.axis_date()
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]  # Matplotlib's
