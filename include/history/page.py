"""The year as one page that asks the network for nothing: panels on one axis, then the alarms in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from include.history.known import DRIFT, Episode, Known, Mean
from include.verdict.charts import BAD, GOOD, INK, NEW, OLD, SETTINGS, SOFT, svg

CHECKS = ("data", "labels", "rung", "missing", "unseen", "jump", "concept", "performance", DRIFT)
SHOWN = 200  # episodes in either table
NAMED = 8  # runs of nights, at most, whose most drifted column is named
HEIGHTS = (2.4, 1.5, 1.5, 1.5, 2.3)  # inches
LEAST = 0.01  # of an index, on an axis of logarithms
TITLE = "the year"  # the drawing's, from which its ids are made

templates = Environment(
    loader=FileSystemLoader([Path(__file__).parent, Path(__file__).parents[1] / "verdict" / "templates"]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(known: Known, sentence: str) -> str:
    """Return the page; the same tables give the same text, and everything put into it is escaped."""
    episodes = known.episodes()
    alerts = [one for one in episodes if one.check != DRIFT]
    drifted = [one for one in episodes if one.check == DRIFT]
    return templates.get_template("history.html").render(
        known=known,
        sentence=sentence,
        shares=shares(known),
        tables=[_table("Alarms", alerts), _table("Drift, which is no alert", drifted)],
        # matplotlib has escaped every text in it
        drawing=Markup(draw(known)) if known.nights else "",  # noqa: S704
    )


def shares(known: Known) -> list[tuple[str, int, float]]:
    """Return of each check the nights on which it alarmed, and their share of all."""
    return [
        (check, count, count / len(known.nights)) for check in CHECKS if (count := len(known.alarmed(check)))
    ]


def _table(title: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    return {"title": title, "shown": episodes[:SHOWN], "more": max(len(episodes) - SHOWN, 0)}


def draw(known: Known) -> str:
    """Return the panels as SVG, in the page's own colours."""
    with rc_context({**SETTINGS, "svg.hashsalt": TITLE}):
        figure = Figure(figsize=(11, sum(HEIGHTS)), layout="constrained")
        panels = figure.subplots(len(HEIGHTS), 1, sharex=True, height_ratios=HEIGHTS)
        for panel, make in zip(panels, (_lost, _gained, _realised, _moved, _alarms), strict=True):
            make(panel, known)
            for row in known.switches:
                style = "-" if row["role"] == "champion" else ":"
                panel.axvline(_day(row["effective"]), color=NEW, linestyle=style, linewidth=0.8)
        _name(panels[0], known)
        panels[-1].set_xlim(_day(known.nights[0]) - 2, _day(known.nights[-1]) + 2)
        axis = panels[-1].xaxis
        axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))  # type: ignore[no-untyped-call]  # Matplotlib's
        return svg(figure, TITLE)


def _lost(axes: Axes, known: Known) -> None:
    """Draw what is lost a row by week, beside the baseline."""
    axes.set_title(f"{known.spec.gate.objective} a row, by week", pad=10 if not known.switches else 48)
    days = _days(week.middle for week in known.weeks)
    _band(axes, days, [week.served for week in known.weeks], NEW, "models that served")
    baseline = [week.baseline for week in known.weeks]
    axes.plot(days, baseline, color=OLD, linestyle="--", linewidth=1, label="baseline, same rows")
    if known.weeks:
        axes.legend(loc="upper left", ncols=2)


def _gained(axes: Axes, known: Known) -> None:
    axes.set_title(f"{known.spec.gate.objective} saved a row against the baseline, by week")
    days = _days(week.middle for week in known.weeks)
    _band(axes, days, [week.gain for week in known.weeks], NEW, "")
    axes.axhline(0, color=SOFT, linewidth=0.8)


def _realised(axes: Axes, known: Known) -> None:
    axes.set_title(f"{known.metric}, by night")
    days, told = _days(known.realised), known.estimated
    axes.plot(days, list(known.realised.values()), ".", color=NEW, markersize=4, label="realised")
    if told:
        when, low, high = (
            _days(told),
            *([getattr(one, side) for one in told.values()] for side in ("low", "high")),
        )
        axes.vlines(when, low, high, color=SOFT, linewidth=0.5, alpha=0.5)
        values = [one.value for one in told.values()]
        axes.plot(
            when, values, "o", color=INK, mfc="none", ms=3, mew=0.6, label="estimated before labels came"
        )
        axes.legend(loc="lower left", ncols=2)
    if known.required is not None:
        axes.axhline(known.required, color=BAD, linestyle="--", linewidth=0.8)


def _moved(axes: Axes, known: Known) -> None:
    """Draw the largest stability index of any column, and name the columns of the longest runs."""
    axes.set_title("largest population stability index of any column, and which")
    if not known.moved:
        return
    nights = sorted(known.moved)
    days, values = _days(nights), [known.moved[night][1] for night in nights]
    axes.plot(days, values, color=SOFT, linewidth=1)
    axes.set(yscale="log", ylim=(max(min(values), LEAST) * 0.8, max(*values, LEAST) * 4))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    runs = [list(run) for _, run in groupby(nights, key=lambda night: known.moved[night][0])]
    named: list[float] = []
    room = (_day(nights[-1]) - _day(nights[0])) / NAMED
    for run in sorted(runs, key=lambda run: (-len(run), run[0])):
        peak = max(run, key=lambda night: (known.moved[night][1], night))
        column, value = known.moved[peak]
        if all(abs(_day(peak) - other) >= room for other in named):
            named.append(_day(peak))
            axes.annotate(
                column, (named[-1], value), (0, 4), textcoords="offset points", ha="center", color=INK, size=8
            )


def _alarms(axes: Axes, known: Known) -> None:
    """Draw a mark for each night on which a check alarmed, a line a check; drift is lighter."""
    axes.set_title("nights with an alarm, by check; trainings")
    lines = [*CHECKS, "asked to train", "training"]
    for place, check in enumerate(CHECKS):
        days = _days(sorted(known.alarmed(check)))
        light = check == DRIFT
        axes.plot(
            days, [place] * len(days), "|", color=SOFT if light else BAD, alpha=0.5 if light else 1, ms=8
        )
    asked = _days(known.asked)
    axes.plot(asked, [len(CHECKS)] * len(asked), "|", color=INK, ms=8)
    for night, verdict in known.judged:
        good = verdict not in ("not blessed", "not enough evidence")
        axes.plot(_days([night]), [len(CHECKS) + 1], "o" if good else "x", color=GOOD if good else SOFT, ms=5)
    axes.set(yticks=range(len(lines)), yticklabels=lines, ylim=(len(lines) - 0.5, -0.5))


def _name(axes: Axes, known: Known) -> None:
    """Say above the lines who was switched to, and how; several of one night stand in one text."""
    said: dict[str, Counter[str]] = {}
    for row in known.switches:
        said.setdefault(row["effective"], Counter())[f"v{row['version']} {row['kind']}"] += 1
    for night, names in said.items():
        axes.annotate(
            ", ".join(names),
            (_day(night), 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=30,
            size=8,
            color=NEW,
        )


def _band(axes: Axes, days: NDArray[np.datetime64], means: Sequence[Mean], colour: str, label: str) -> None:
    """Draw means with their intervals; a mean of a single night has none."""
    axes.plot(days, [mean.value for mean in means], color=colour, linewidth=1.4, label=label or None)
    low, high = (np.array([getattr(mean, side) for mean in means], dtype=float) for side in ("low", "high"))
    axes.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0)


def _days(nights: Iterable[str]) -> NDArray[np.datetime64]:
    """Return nights as the axis has them, shape (n,)."""
    return np.array(list(nights), dtype="datetime64[D]")


def _day(night: str) -> float:
    """Return a single night's place on the axis."""
    return float(date2num(_days([night]))[0])  # type: ignore[no-untyped-call]  # Matplotlib's
