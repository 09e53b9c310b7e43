"""The history page: a use case's performance, alarms, drift and switches over the last year of partitions.

It is drawn when it is opened, from what the tables have then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from include.judge.judge import NOT_BLESSED, NOT_ENOUGH
from include.monitor import registry
from include.monitor.losses import loss_sums
from include.promote import ledger
from include.reports.charts import BAD, DRAWING, GOOD, INK, NEW, OLD, SETTINGS, SOFT, axis_times, svg
from include.reports.html import metric_label, templates
from include.reports.text import text_table
from include.spec import UseCase
from include.spec.clock import time_of
from include.stats.intervals import gain_bounds
from include.storage.lake import Lake, Row, newest_known

MAX_PARTITIONS = 371  # for a daily use case, a year and a week
WEEK = 7  # partitions that are pooled
ALPHA = 0.05  # on either side, so that intervals have 90 %
DRIFT = "drift"  # a check that raises no alert, because columns also move with the seasons
BELOW: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0), "ncols": 2}  # not over a panel's data
CHECKS = tuple(check.name for check in registry.CHECKS)
MAX_EPISODES = 200  # in each table
MAX_DRIFT_LABELS = 8
PANEL_HEIGHTS = (2.4, 1.5, 1.5, 1.5, 2.9)  # inches
MIN_DRIFT = 0.01  # lowest value on the logarithmic axis
CHART_TITLE = "the year"  # from which the chart's ids are derived


@dataclass(frozen=True)
class Mean:
    """A mean over a week's partitions with its 90 % interval, which a single partition doesn't have."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Week:
    """The mean loss per row of the models that served in a week, and of the baseline on the same rows.

    Parameters
    ----------
    middle : the week's middle partition.
    gain : how much lower their loss was than the baseline's, paired by partition.
    """

    middle: str
    served: Mean
    baseline: float
    gain: Mean


@dataclass(frozen=True)
class Episode:
    """Consecutive alarms of one check on one subject.

    Two alarms belong to the same episode if they are less than ``monitoring.sudden_changes.quiet`` partitions
    apart.
    """

    check: str
    subject: str
    first: str
    last: str
    partitions: int
    note: str  # of the last partition


@dataclass(frozen=True)
class History:
    """The partitions, oldest first, and everything that the page shows about them.

    Parameters
    ----------
    metric, limit : the first required metric, and the limit beyond which it is too low or too high.
    realized : that metric by partition.
    estimated : its estimate before labels arrived, with a 90 % interval, by partition.
    largest_drift : by partition, the column that drifted furthest for its limit, and by which multiple of it.
    alarms : rows of `findings`.
    training_requests : partitions whose monitoring requested a training.
    verdicts : partition and verdict of each training.
    switches : rows of `switches` of champions and challengers.
    """

    spec: UseCase
    partitions: tuple[str, ...]
    weeks: tuple[Week, ...]
    metric: str
    limit: float | None
    realized: Mapping[str, float]
    estimated: Mapping[str, Mean]
    largest_drift: Mapping[str, tuple[str, float]]
    alarms: tuple[Row, ...]
    training_requests: tuple[str, ...]
    verdicts: tuple[tuple[str, str], ...]
    switches: tuple[Row, ...]

    def alarmed(self, check: str = "") -> set[str]:
        """Return the partitions with an alarm of a check, by default of any check but drift."""
        return {
            str(row["partition"])
            for row in self.alarms
            if (row["check"] == check if check else row["check"] != DRIFT)
        }

    def episodes(self) -> list[Episode]:
        """Return the alarms as episodes, the newest first."""
        index = {partition: i for i, partition in enumerate(self.partitions)}
        quiet = self.spec.monitoring.sudden_changes.quiet
        runs_by_subject: dict[tuple[str, str], list[list[Row]]] = {}
        for row in self.alarms:
            runs = runs_by_subject.setdefault((row["check"], row["subject"]), [])
            if not runs or index[row["partition"]] - index[runs[-1][-1]["partition"]] >= quiet:
                runs.append([])
            runs[-1].append(row)
        episodes = [
            Episode(*subject, run[0]["partition"], run[-1]["partition"], len(run), run[-1]["note"])
            for subject, runs in runs_by_subject.items()
            for run in runs
        ]
        return sorted(episodes, key=lambda e: (e.last, e.first, e.check, e.subject), reverse=True)


def draw_history(lake: Lake, spec: UseCase) -> tuple[dict[str, Any], str]:
    """Return a summary as plain JSON, and the page as HTML. The same tables give the same bytes."""
    history = read_history(lake, spec)
    sentence = _sentence(history)
    summary = {
        "usecase": spec.name,
        "sentence": sentence,
        "partitions": len(history.partitions),
        "in_alarm": len(history.alarmed()),
        "checks": [
            {"check": check, "partitions": count, "share": share}
            for check, count, share in alarm_shares(history)
        ],
        "episodes": [asdict(episode) for episode in history.episodes()],
        "switches": [
            {name: row[name] for name in ("effective_from", "role", "version", "kind", "reason")}
            for row in history.switches
        ],
    }
    return summary, render_history(history, sentence)


def history_text(summary: dict[str, Any]) -> str:
    """Return a summary for the terminal: the share of alarms by check, then the episodes without drift."""
    lines = [summary["sentence"]]
    if summary["checks"]:
        lines += ["", *text_table(summary["checks"], ["check", "partitions", "share"])]
    if episodes := [episode for episode in summary["episodes"] if episode["check"] != DRIFT]:
        columns = ["first", "last", "partitions", "check", "subject", "note"]
        lines += ["", *text_table(episodes, columns)]
    return "\n".join(lines)


def _sentence(history: History) -> str:
    """Return the year in one sentence."""
    if not history.partitions:
        return "No partition has been monitored yet."
    partitions, alarmed = len(history.partitions), len(history.alarmed())
    episodes = sum(episode.check != DRIFT for episode in history.episodes())
    kinds = Counter(row["kind"] for row in history.switches if row["role"] == "champion")
    refreshed = kinds.pop(ledger.REFRESHED, 0)
    return (
        f"{alarmed} of {partitions} partitions ({100 * alarmed / partitions:.1f} %) had an alarm other than "
        f"drift: {episodes} alarm{'s' * (episodes != 1)} of a check and subject; "
        f"the champion was switched {kinds.total()} time{'s' * (kinds.total() != 1)}, "
        f"and its recipe refitted {refreshed} time{'s' * (refreshed != 1)}."
    )


def monitored_partitions(lake: Lake) -> list[str]:
    """Return the last `MAX_PARTITIONS` monitored partitions, in order."""
    return lake.published("monitor")[-MAX_PARTITIONS:]


def read_history(lake: Lake, spec: UseCase, partitions: Sequence[str] | None = None) -> History:
    """Read the history of partitions, by default of the `monitored_partitions`, from the lake."""
    partitions = monitored_partitions(lake) if partitions is None else partitions
    first = min(partitions, default="")
    requirements = spec.monitoring.requirements
    metric, limit = str(spec.gate.objective), None
    if requirements:
        metric = requirements[0].metric
        limit = requirements[0].limit
    losses = loss_sums(lake, partitions)
    realized = _realized_metric(lake, metric, partitions)
    if not realized and metric == spec.gate.objective:  # one of the use case's own isn't a metric as well
        realized = {partition: float(loss / rows) for partition, (rows, loss, _) in losses.items()}
    attempts = _rows(lake, "attempts", {}, ["partition", "verdict", "recorded"], partitions)
    alarms = _rows(
        lake, "findings", {"outcome": "alarm"}, ["partition", "check", "subject", "note"], partitions
    )
    decisions = _rows(lake, "decisions", {}, ["partition", "cause"], partitions)
    return History(
        spec=spec,
        partitions=tuple(partitions),
        weeks=tuple(_weeks(losses, partitions)),
        metric=metric,
        limit=limit,
        realized=realized,
        estimated=_estimated_metric(lake, metric, partitions),
        largest_drift=_largest_drift(lake, partitions),
        alarms=tuple(sorted(alarms, key=lambda row: (row["partition"], row["check"], row["subject"]))),
        training_requests=tuple(sorted(row["partition"] for row in decisions if row["cause"])),
        verdicts=tuple(
            (row["partition"], row["verdict"])
            for row in sorted(attempts, key=lambda row: int(row["recorded"]))
        ),
        switches=tuple(
            row
            for row in ledger.switches(lake)
            if row["role"] != "baseline" and row["effective_from"] >= first
        ),
    )


def _rows(
    lake: Lake, table: str, where: Mapping[str, str], columns: Sequence[str], partitions: Sequence[str]
) -> list[Row]:
    """Return the partitions' rows; one scan of the table is faster than a filter by a list of partitions."""
    selected = set(partitions)
    return [row for row in lake.rows(table, where or None, columns) if row["partition"] in selected]


def _realized_metric(lake: Lake, metric: str, partitions: Sequence[str]) -> dict[str, float]:
    rows = _rows(lake, "performance", {"metric": metric}, ["partition", "as_of", "value"], partitions)
    newest = newest_known(rows, "partition")
    return {key: row["value"] for key, row in sorted(newest.items()) if row["value"] is not None}


def _estimated_metric(lake: Lake, metric: str, partitions: Sequence[str]) -> dict[str, Mean]:
    rows = _rows(lake, "estimates", {"metric": metric}, ["partition", "value", "low", "high"], partitions)
    rows = sorted((row for row in rows if row["value"] is not None), key=lambda row: str(row["partition"]))
    return {row["partition"]: Mean(row["value"], row["low"], row["high"]) for row in rows}


def _largest_drift(lake: Lake, partitions: Sequence[str]) -> dict[str, tuple[str, float]]:
    columns = ["partition", "subject", "value", "threshold"]
    rows = _rows(lake, "findings", {"check": DRIFT}, columns, partitions)
    rows = [row for row in rows if row["value"] is not None and row["threshold"]]
    multiples = sorted((row["partition"], row["value"] / row["threshold"], row["subject"]) for row in rows)
    return {partition: (column, multiple) for partition, multiple, column in multiples}


def _weeks(sums: Mapping[str, Any], partitions: Sequence[str]) -> Iterable[Week]:
    """Pool the partitions by calendar week.

    Partitions that are more than a day apart are pooled by `WEEK` of them, and several of a day by day.
    """
    days = [time_of(partition).toordinal() for partition in partitions]
    step = min((later - day for day, later in pairwise(days)), default=1)
    weeks: dict[int, list[str]] = {}
    for partition in sums:
        week = (time_of(partition).toordinal() - 1) // (WEEK * step or 1)
        weeks.setdefault(week, []).append(partition)
    for _, pooled in sorted(weeks.items()):
        rows, losses, baseline = np.array([sums[partition] for partition in pooled]).T
        yield Week(
            middle=pooled[len(pooled) // 2],
            served=_mean(losses, rows),
            baseline=float(baseline.sum() / rows.sum()),
            gain=_mean(baseline - losses, rows),
        )


def _mean(sums: Any, rows: Any) -> Mean:
    """Return the mean per row; a week is too short for blocks, so its partitions count as independent."""
    if len(rows) == 1:
        return Mean(float(sums[0] / rows[0]), None, None)
    alpha = np.asarray(ALPHA)
    mean, low = gain_bounds(sums, rows, 1, alpha)
    return Mean(float(mean), float(low), -float(gain_bounds(-sums, rows, 1, alpha)[1]))


def render_history(history: History, sentence: str) -> str:
    """Return the page as HTML with all text escaped; the same tables give the same bytes."""
    episodes = history.episodes()
    alerts = [episode for episode in episodes if episode.check != DRIFT]
    drift = [episode for episode in episodes if episode.check == DRIFT]
    return templates.get_template("history.html").render(
        history=history,
        sentence=sentence,
        shares=alarm_shares(history),
        tables=[_episode_table("Alarms", alerts), _episode_table("Drift (raises no alert)", drift)],
        # matplotlib has escaped every text in it
        chart=Markup(draw_panels(history)) if history.partitions else "",  # noqa: S704
    )


def alarm_shares(history: History) -> list[tuple[str, int, float]]:
    """Return for each check the number of partitions with an alarm, and their share of all partitions."""
    return [
        (check, count, count / len(history.partitions))
        for check in CHECKS
        if (count := len(history.alarmed(check)))
    ]


def _episode_table(title: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    return {
        "title": title,
        "episodes": episodes[:MAX_EPISODES],
        "more": max(len(episodes) - MAX_EPISODES, 0),
    }


def draw_panels(history: History) -> str:
    """Return the panels as SVG, in the page's own colors."""
    draw_functions = (_panel_losses, _panel_gain, _panel_metric, _panel_drift, _panel_alarms)
    with DRAWING, rc_context({**SETTINGS, "svg.hashsalt": CHART_TITLE}):
        figure = Figure(figsize=(11, sum(PANEL_HEIGHTS)), layout="constrained")
        panels = figure.subplots(len(PANEL_HEIGHTS), 1, sharex=True, height_ratios=PANEL_HEIGHTS)
        for panel, draw in zip(panels, draw_functions, strict=True):
            draw(panel, history)
            for row in history.switches:
                style = "-" if row["role"] == "champion" else ":"
                width = 0.3 if row["kind"] == ledger.REFRESHED else 0.8
                day = _day(row["effective_from"])
                panel.axvline(day, color=NEW, linestyle=style, linewidth=width, zorder=1)  # below the marks
        _label_switches(panels[0], history)
        panels[-1].set_xlim(_day(history.partitions[0]) - 2, _day(history.partitions[-1]) + 2)
        axis = panels[-1].xaxis
        axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))  # type: ignore[no-untyped-call]  # Matplotlib's
        return svg(figure, CHART_TITLE)


def _pooled(history: History) -> str:
    return "day" if history.spec.clock.sub_daily else "week"


def _panel_losses(axes: Axes, history: History) -> None:
    """Draw the loss per row by week, with the baseline."""
    axes.set_title(
        f"{metric_label(history.spec.gate.objective)} per row, by {_pooled(history)}",
        pad=10 if not history.switches else 48,
    )
    days = axis_times(week.middle for week in history.weeks)
    _plot_band(axes, days, [week.served for week in history.weeks], NEW, "models that served")
    baseline = [week.baseline for week in history.weeks]
    (line,) = axes.plot(days, baseline, color=OLD, linestyle="--", linewidth=1, label="baseline, same rows")
    line.set(marker=_marker(baseline), markersize=4)
    if history.weeks:
        axes.legend(**BELOW)


def _panel_gain(axes: Axes, history: History) -> None:
    """Draw how much lower the loss per row was than the baseline's, by week."""
    objective = metric_label(history.spec.gate.objective)
    axes.set_title(f"{objective} gain per row over the baseline, by {_pooled(history)}")
    days = axis_times(week.middle for week in history.weeks)
    _plot_band(axes, days, [week.gain for week in history.weeks], NEW, "")
    axes.axhline(0, color=SOFT, linewidth=0.8)


def _panel_metric(axes: Axes, history: History) -> None:
    """Draw the realized and the estimated metric by partition."""
    axes.set_title(f"{metric_label(history.metric)}, by partition")
    days, realized = axis_times(history.realized), list(history.realized.values())
    axes.plot(days, realized, ".", color=NEW, markersize=4, label="realized")
    if estimates := list(history.estimated.values()):
        days = axis_times(history.estimated)
        low, high = ([getattr(estimate, side) for estimate in estimates] for side in ("low", "high"))
        axes.vlines(days, low, high, color=SOFT, linewidth=0.5, alpha=0.5)
        values, label = [estimate.value for estimate in estimates], "estimated before labels arrived"
        axes.plot(days, values, "o", color=INK, mfc="none", ms=3, mew=0.6, label=label)
        axes.legend(**BELOW)
    if history.limit is not None:
        axes.axhline(history.limit, color=BAD, linestyle="--", linewidth=0.8)


def _panel_drift(axes: Axes, history: History) -> None:
    """Draw the largest drift of any column, beside its limit, and label the columns that lead for longest."""
    axes.set_title("largest drift of any column, as a multiple of its limit, and the column")
    drift = history.largest_drift
    if not drift:
        return
    partitions = sorted(drift)
    values = [drift[partition][1] for partition in partitions]
    axes.plot(axis_times(partitions), values, color=SOFT, linewidth=1)
    axes.axhline(1, color=BAD, linestyle="--", linewidth=0.8)
    axes.set(yscale="log", ylim=(max(min(*values, 1), MIN_DRIFT) * 0.8, max(*values, 1) * 4))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    runs = [list(run) for _, run in groupby(partitions, key=lambda partition: drift[partition][0])]
    labeled_days: list[float] = []
    min_distance = (_day(partitions[-1]) - _day(partitions[0])) / MAX_DRIFT_LABELS
    for run in sorted(runs, key=lambda run: (-len(run), run[0])):
        peak = max(run, key=lambda partition: (drift[partition][1], partition))
        column, value = drift[peak]
        day = _day(peak)
        if all(abs(day - other) >= min_distance for other in labeled_days):
            labeled_days.append(day)
            axes.annotate(
                column, (day, value), (0, 4), textcoords="offset points", ha="center", color=INK, size=8
            )


def _panel_alarms(axes: Axes, history: History) -> None:
    """Draw a mark for each partition with an alarm, one line per check, drift lighter; then the trainings."""
    axes.set_title("partitions with an alarm, by check; trainings")
    lines = [*CHECKS, "training requested", "training"]
    for position, check in enumerate(CHECKS):
        days = axis_times(sorted(history.alarmed(check)))
        color, alpha = (SOFT, 0.5) if check == DRIFT else (BAD, 1)
        axes.plot(days, [position] * len(days), "|", color=color, alpha=alpha, ms=8, mew=1.5)
    requests = axis_times(history.training_requests)
    axes.plot(requests, [len(CHECKS)] * len(requests), "|", color=INK, ms=8)
    for partition, verdict in history.verdicts:
        marker, color = ("o", GOOD) if verdict not in (NOT_BLESSED, NOT_ENOUGH) else ("x", SOFT)
        axes.plot(axis_times([partition]), [len(CHECKS) + 1], marker, color=color, ms=5)
    axes.set(yticks=range(len(lines)), yticklabels=lines, ylim=(len(lines) - 0.5, -0.5))


def _label_switches(axes: Axes, history: History) -> None:
    """Label the switches but refits with version and kind; several on one partition share a label."""
    labels: dict[str, Counter[str]] = {}
    for row in history.switches:
        if row["kind"] == ledger.REFRESHED:
            continue  # one with each training
        labels.setdefault(row["effective_from"], Counter())[
            f"v{row['version']} {ledger.kind_text(row['kind'])}"
        ] += 1
    for partition, switches in labels.items():
        axes.annotate(
            ", ".join(switches),
            (_day(partition), 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=30,
            size=8,
            color=NEW,
        )


def _plot_band(
    axes: Axes, days: NDArray[np.datetime64], means: Sequence[Mean], color: str, label: str
) -> None:
    """Draw means with their intervals, a single one as a point; the mean of a single partition has none."""
    (line,) = axes.plot(days, [mean.value for mean in means], color=color, linewidth=1.4, label=label or None)
    line.set(marker=_marker(means), markersize=4)
    low, high = (np.array([getattr(mean, side) for mean in means], dtype=float) for side in ("low", "high"))
    axes.fill_between(days, low, high, color=color, alpha=0.2, linewidth=0)


def _marker(values: Sequence[object]) -> str:
    """Return the marker of a line's points, which only a single one needs, because it has no line."""
    return "o" if len(values) == 1 else ""


def _day(partition: str) -> float:
    """Return the position of a partition on the axis."""
    return float(date2num(axis_times([partition]))[0])  # type: ignore[no-untyped-call]  # Matplotlib's
