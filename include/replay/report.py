"""A replay as JSON, as a table for the terminal, and as the page ``reports/replay.html``."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

from include.replay.history import Array
from include.replay.pipeline import PolicyResult, Replay
from include.reports.charts import BAD, GOOD, INK, NEW, OLD, SETTINGS, SOFT, axis_times, svg
from include.reports.html import templates
from include.reports.paths import REPLAY
from include.reports.text import text_table
from include.storage.lake import Lake
from include.train.fits import Fit

COLUMNS = (
    "policy",
    "loss",
    "less never's",
    "90 % interval",
    "switches",
    "refreshes",
    "mean age",
    "constant",
    "worse than prior",
    "CPU s",
)
MAX_REFUSALS = 10  # of a policy, in the terminal; the page has all
ROLLING = 28  # partitions over which the chart's losses are averaged
CHART_TITLE = "the replay"  # from which the chart's ids are derived
PANEL_HEIGHTS = (3.0, 2.0, 1.6, 1.8)  # inches
COLORS = (NEW, OLD, INK, SOFT, GOOD, BAD)
DASHES = ("-", "--", ":")


def replay_json(replay: Replay) -> dict[str, Any]:
    """Return the figures of each policy as plain JSON, and those of each partition under it.

    A fit that can't predict a partition lost there what the constant loses.
    """
    return {
        "policies": [
            {
                "name": policy.name,
                "loss": replay.loss(policy),
                "switches": policy.changes,
                "constant": policy.constant,
                "worse_than_prior": policy.worse_than_prior,
                "cpu_s": round(policy.seconds, 1),
            }
            for policy in replay.policies
        ],
        "losses": [
            {
                "partition": partition,
                "policy": policy.name,
                "rows": int(rows),
                "loss": loss / rows,
                "fit": _fit_json(served.fit) if served else None,
                "canary": _fit_json(served.canary[0]) if served and served.canary else None,
            }
            for policy in replay.policies
            for partition, rows, loss, served in zip(
                replay.partitions, replay.rows.tolist(), policy.losses.tolist(), policy.served, strict=True
            )
        ],
    }


def _fit_json(fit: Fit) -> dict[str, str]:
    return {"recipe": fit.recipe, "fitted_on": fit.partition}


def replay_text(replay: Replay) -> str:
    """Return the table for the terminal, what it was measured on, and the refused fits with the reasons."""
    rows = [dict(zip(COLUMNS, line, strict=True)) for line in table_rows(replay)]
    return "\n".join([*text_table(rows, list(COLUMNS)), "", sentence(replay), *_refusals_text(replay)])


def _refusals_text(replay: Replay) -> list[str]:
    """Return the newest fits that the guards refused, a line each, below a line for each policy."""
    lines = []
    for policy in replay.policies:
        if policy.refusals:
            shown, count = policy.refusals[-MAX_REFUSALS:], len(policy.refusals)
            rest = f"; the newest {len(shown)}" if len(shown) < count else ""
            lines += ["", f"{policy.name}: {count} fit{'s' * (count != 1)} refused by a check{rest}:"]
            lines += [f"  {one.partition}  {one.recipe}: {one.reason}" for one in shown]
    return lines


def sentence(replay: Replay) -> str:
    """Return what the figures were measured on."""
    first, last, rows = replay.partitions[0], replay.partitions[-1], int(replay.rows.sum())
    return (
        f"{replay.spec.gate.objective} per row of {len(replay.partitions)} partitions, {first} to {last}, "
        f"{rows:,} rows; lower is better"
    )


def table_rows(replay: Replay) -> list[list[str]]:
    """Return a line for each policy, with a cell for each of `COLUMNS`."""
    lines = []
    for policy in replay.policies:
        mean, interval = "—", "—"
        if policy.difference:
            mean, low, high = (f"{value:+.5f}" for value in policy.difference)
            interval = f"[{low}, {high}]"
        refreshes = len(policy.switches) - policy.changes
        age = np.nanmean(policy.ages) if np.isfinite(policy.ages).any() else np.nan
        lines.append(
            [
                policy.name,
                f"{replay.loss(policy):.5g}",
                mean,
                interval,
                str(policy.changes),
                str(refreshes),
                f"{age:.1f}",
                str(policy.constant),
                str(policy.worse_than_prior),
                f"{policy.seconds:.0f}",
            ]
        )
    return lines


def publish_page(lake: Lake, replay: Replay) -> str:
    """Draw the page, store it, and return its address."""
    html = render_page(replay)
    lake.replace(f"reports/{REPLAY}", html.encode())
    return f"{lake.uri}/reports/{REPLAY}"


def render_page(replay: Replay) -> str:
    """Return the page as HTML with all text escaped."""
    best = min(replay.policies, key=replay.loss)
    return templates.get_template("replay.html").render(
        replay=replay,
        title=f"{best.name} would have served best: {replay.loss(best):.4g} a row.",
        sentence=sentence(replay),
        columns=COLUMNS,
        rows=table_rows(replay),
        rolling=ROLLING,
        chart=Markup(draw_panels(replay)),  # noqa: S704 - matplotlib has escaped every text in it
    )


def draw_panels(replay: Replay) -> str:
    """Return the panels as SVG, in the page's own colors."""
    draws: tuple[Callable[[Axes, Replay], None], ...] = (_losses, _differences, _switches, _ages)
    with rc_context({**SETTINGS, "svg.hashsalt": CHART_TITLE}):
        figure = Figure(figsize=(11, sum(PANEL_HEIGHTS)), layout="constrained")
        panels = figure.subplots(len(PANEL_HEIGHTS), 1, sharex=True, height_ratios=PANEL_HEIGHTS)
        for panel, draw in zip(panels, draws, strict=True):
            draw(panel, replay)
        axis = panels[-1].xaxis
        axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))  # type: ignore[no-untyped-call]  # Matplotlib's
        return svg(figure, CHART_TITLE)


def _styles(replay: Replay) -> list[tuple[PolicyResult, dict[str, Any]]]:
    dashes = (dash for dash in cycle(DASHES))
    return [
        (policy, {"color": color, "linestyle": next(dashes), "linewidth": 1.3})
        for policy, color in zip(replay.policies, cycle(COLORS), strict=False)
    ]


def _mean(sums: Array, rows: Array) -> Array:
    """Return the mean per row over the newest `ROLLING` partitions, for each partition."""
    ends = np.arange(1, len(rows) + 1)
    starts = np.maximum(ends - ROLLING, 0)
    totals, counts = (np.concatenate([[0.0], np.cumsum(values)]) for values in (sums, rows))
    return np.asarray((totals[ends] - totals[starts]) / (counts[ends] - counts[starts]))


def _losses(axes: Axes, replay: Replay) -> None:
    axes.set_title(f"{replay.spec.gate.objective} per row, of the last {ROLLING} partitions")
    days = axis_times(replay.partitions)
    for policy, style in _styles(replay):
        axes.plot(days, _mean(policy.losses, replay.rows), label=policy.name, **style)
    axes.legend(loc="best", ncols=3)


def _differences(axes: Axes, replay: Replay) -> None:
    axes.set_title("the same less that of never")
    never = next(policy for policy in replay.policies if policy.name == "never")
    for policy, style in _styles(replay):
        axes.plot(axis_times(replay.partitions), _mean(policy.losses - never.losses, replay.rows), **style)


def _switches(axes: Axes, replay: Replay) -> None:
    axes.set_title("switches to another recipe (long) and to a refit (short)")
    for index, (policy, style) in enumerate(_styles(replay)):
        for is_refresh, size in ((True, 4), (False, 14)):
            days = axis_times(s.partition for s in policy.switches if s.is_refresh == is_refresh)
            axes.plot(days, [index] * len(days), "|", color=style["color"], ms=size)
    names = [policy.name for policy in replay.policies]
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))


def _ages(axes: Axes, replay: Replay) -> None:
    axes.set_title("partitions since the training of the model that served")
    for policy, style in _styles(replay):
        axes.plot(axis_times(replay.partitions), policy.ages, **style)
