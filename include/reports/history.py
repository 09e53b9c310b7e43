"""Draw a use case's year and store it beside the reports, as the runs of its partitions do when they end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import groupby, pairwise
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

from include.monitor import registry
from include.promote import ledger
from include.reports.charts import BAD, GOOD, INK, NEW, OLD, SETTINGS, SOFT, svg
from include.reports.paths import HISTORY
from include.reports.text import text_table
from include.spec import UseCase
from include.stats.intervals import gain_bounds
from include.storage.lake import Lake

MAX_PARTITIONS = 371  # of a daily use case a year and a week
WEEK = 7  # partitions that are pooled
ALPHA = 0.05  # on either side, so that an interval is one of 90 %
DRIFT = "drift"  # the check that is no alert: a season moves columns as well
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over a week's partitions, and where it lies at 90 %; None of a single partition."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Week:
    """What the models that served lost a row in a week, and the baseline on the same rows.

    Parameters
    ----------
    middle : the week's middle partition.
    gain : what they lost less than the baseline, paired by partition.
    """

    middle: str
    served: Mean
    baseline: float
    gain: Mean


@dataclass(frozen=True)
class Episode:
    """Alarms of one check on one subject.

    Each less than ``monitoring.sudden_changes.quiet`` partitions after another.
    """

    check: str
    subject: str
    first: str
    last: str
    partitions: int
    note: str  # of the last partition


@dataclass(frozen=True)
class History:
    """The partitions, oldest first, and what there is to say of them.

    Parameters
    ----------
    metric, required : the first required metric, and from where on it is too low or too high.
    realised : that metric by partition.
    estimated : what was told of it before the labels came, and its interval of 90 %, by partition.
    moved : by partition the column with the largest population stability index, and the index.
    alarms : rows of `findings`.
    asked : partitions that asked for a training.
    judged : partition and verdict of each training.
    switches : rows of `deployments` of champions and challengers.
    """

    spec: UseCase
    partitions: tuple[str, ...]
    weeks: tuple[Week, ...]
    metric: str
    required: float | None
    realised: Mapping[str, float]
    estimated: Mapping[str, Mean]
    moved: Mapping[str, tuple[str, float]]
    alarms: tuple[Row, ...]
    asked: tuple[str, ...]
    judged: tuple[tuple[str, str], ...]
    switches: tuple[Row, ...]

    def alarmed(self, check: str = "") -> set[str]:
        """Return the partitions with an alarm of a check; of any check but drift unless one is given."""
        return {
            str(row["partition"])
            for row in self.alarms
            if (row["check"] == check if check else row["check"] != DRIFT)
        }

    def episodes(self) -> list[Episode]:
        """Return the alarms as episodes, the newest first."""
        place, quiet = (
            {partition: i for i, partition in enumerate(self.partitions)},
            self.spec.monitoring.sudden_changes.quiet,
        )
        by: dict[tuple[str, str], list[list[Row]]] = {}
        for row in self.alarms:
            runs = by.setdefault((row["check"], row["subject"]), [])
            if not runs or place[row["partition"]] - place[runs[-1][-1]["partition"]] >= quiet:
                runs.append([])
            runs[-1].append(row)
        found = [
            Episode(*key, run[0]["partition"], run[-1]["partition"], len(run), run[-1]["note"])
            for key, runs in by.items()
            for run in runs
        ]
        return sorted(found, key=lambda one: (one.last, one.first, one.check, one.subject), reverse=True)


def read_history(lake: Lake, spec: UseCase) -> History:
    """Read what is known of the last `MAX_PARTITIONS` partitions."""
    watched = lake.read("partitions", {"product": "monitor"}, ["partition"])
    partitions = sorted(set(watched["partition"].to_pylist()) if watched is not None else ())[
        -MAX_PARTITIONS:
    ]
    rules = spec.monitoring.requirements
    metric = rules[0].metric if rules else spec.gate.objective
    limit = (rules[0].at_least if rules[0].at_most is None else rules[0].at_most) if rules else None
    attempts = _rows(lake, "attempts", {}, ["partition", "verdict", "recorded"], partitions)
    found = _rows(
        lake, "findings", {"outcome": "alarm"}, ["partition", "check", "subject", "note"], partitions
    )
    decided = _rows(lake, "decisions", {}, ["partition", "cause"], partitions)
    return History(
        spec=spec,
        partitions=tuple(partitions),
        weeks=tuple(_weeks(_losses(lake, partitions), partitions)),
        metric=metric,
        required=limit,
        realised=_realized_metric(lake, metric, partitions),
        estimated=_estimated(lake, metric, partitions),
        moved=_largest_drift(lake, partitions),
        alarms=tuple(sorted(found, key=lambda row: (row["partition"], row["check"], row["subject"]))),
        asked=tuple(sorted(row["partition"] for row in decided if row["cause"])),
        judged=tuple(
            (row["partition"], row["verdict"])
            for row in sorted(attempts, key=lambda row: int(row["recorded"]))
        ),
        switches=tuple(row for row in ledger.switches(lake) if row["role"] != "baseline"),
    )


def _rows(
    lake: Lake, table: str, where: Mapping[str, str], columns: Sequence[str], partitions: Sequence[str]
) -> list[Row]:
    """Return the partitions' rows.

    The table is scanned once, which a list of partitions would only slow down.
    """
    read, wanted = lake.read(table, where or None, columns), set(partitions)
    return [row for row in read.to_pylist() if row["partition"] in wanted] if read is not None else []


def _realized_metric(lake: Lake, metric: str, partitions: Sequence[str]) -> dict[str, float]:
    rows = _rows(lake, "performance", {"metric": metric}, ["partition", "known", "value"], partitions)
    newest = {row["partition"]: row["value"] for row in sorted(rows, key=lambda row: str(row["known"]))}
    return {partition: value for partition, value in sorted(newest.items()) if value is not None}


def _estimated(lake: Lake, metric: str, partitions: Sequence[str]) -> dict[str, Mean]:
    rows = _rows(lake, "estimates", {"metric": metric}, ["partition", "value", "low", "high"], partitions)
    told = sorted((row for row in rows if row["value"] is not None), key=lambda row: str(row["partition"]))
    return {row["partition"]: Mean(row["value"], row["low"], row["high"]) for row in told}


def _largest_drift(lake: Lake, partitions: Sequence[str]) -> dict[str, tuple[str, float]]:
    rows = _rows(lake, "drift", {"measure": "psi"}, ["partition", "column", "value"], partitions)
    rows = [row for row in rows if row["value"] is not None]
    ranked = sorted(rows, key=lambda row: (row["partition"], row["value"], row["column"]))
    return {row["partition"]: (row["column"], row["value"]) for row in ranked}


def _losses(lake: Lake, partitions: Sequence[str]) -> dict[str, Any]:
    """Return by partition the sums of rows, loss and baseline, as last known, shape (3,)."""
    columns = ["partition", "known", "model", "rows", "loss", "baseline"]
    rows = sorted(_rows(lake, "losses", {}, columns, partitions), key=lambda row: str(row["known"]))
    newest = {(row["partition"], row["model"]): row for row in rows}
    sums: dict[str, Any] = {}
    for (partition, _), row in sorted(newest.items()):
        sums[partition] = sums.get(partition, 0.0) + np.array(
            [row["rows"], row["loss"], row["baseline"]], float
        )
    return {partition: found for partition, found in sums.items() if found[0]}


def _weeks(sums: Mapping[str, Any], partitions: Sequence[str]) -> Iterable[Week]:
    """Pool the partitions by calendar week.

    Or as many of them where partitions are further apart than days.
    """
    days = [date.fromisoformat(partition).toordinal() for partition in partitions]
    step = min((later - day for day, later in pairwise(days)), default=1)
    weeks: dict[int, list[str]] = {}
    for partition in sums:
        weeks.setdefault((date.fromisoformat(partition).toordinal() - 1) // (WEEK * step), []).append(
            partition
        )
    for _, own in sorted(weeks.items()):
        rows, lost, baseline = np.array([sums[partition] for partition in own]).T
        yield Week(
            middle=own[len(own) // 2],
            served=_mean(lost, rows),
            baseline=float(baseline.sum() / rows.sum()),
            gain=_mean(baseline - lost, rows),
        )


def _mean(sums: Any, rows: Any) -> Mean:
    """Return the mean a row; a week is too short for blocks, so its partitions count as independent."""
    if len(rows) == 1:
        return Mean(float(sums[0] / rows[0]), None, None)
    alpha = np.asarray(ALPHA)
    mean, low = gain_bounds(sums, rows, 1, alpha)
    return Mean(float(mean), float(low), -float(gain_bounds(-sums, rows, 1, alpha)[1]))


PASSES = 5  # more than the runs that are likely to end while one draws
log = logging.getLogger(__name__)


def draw_history(lake: Lake, spec: UseCase) -> tuple[dict[str, Any], str]:
    """Store the page as ``reports/history.html``.

    What is published meanwhile is drawn as well: of several runs that draw at once, the one that writes last
    may have read first.

    Returns
    -------
    dict, str
        What it says as plain JSON, and the page. The same tables give the same bytes.
    """
    pass  # MOVED  # matplotlib, which most partitions of a backfill go without

    found = read_history(lake, spec)
    for _ in range(PASSES):
        sentence = _sentence(found)
        html = render_history(found, sentence)
        lake.replace(f"reports/{HISTORY}", html.encode())
        before, found = found, read_history(lake, spec)
        if found == before:
            break
    said = {
        "usecase": spec.name,
        "sentence": sentence,
        "partitions": len(found.partitions),
        "in_alarm": len(found.alarmed()),
        "checks": [
            {"check": check, "partitions": count, "share": share}
            for check, count, share in alarm_shares(found)
        ],
        "episodes": [asdict(one) for one in found.episodes()],
        "switches": [
            {name: row[name] for name in ("effective", "role", "version", "kind", "reason")}
            for row in found.switches
        ],
        "page": f"{lake.uri}/reports/{HISTORY}",
    }
    return said, html


def redraw_if_newest(lake: Lake, spec: UseCase) -> None:
    """Draw the year. What fails is logged: the partition is done."""
    try:
        draw_history(lake, spec)
    except Exception:  # a page for eyes fails no partition, whatever is wrong with it
        log.exception("%s: reports/%s couldn't be drawn", spec.name, HISTORY)


def history_text(said: dict[str, Any]) -> str:
    """Return what a person reads in a terminal: the shares, then the episodes without drift."""
    lines = [said["sentence"]]
    if said["checks"]:
        lines += ["", *text_table(said["checks"], ["check", "partitions", "share"])]
    if shown := [one for one in said["episodes"] if one["check"] != "drift"]:
        lines += ["", *text_table(shown, ["first", "last", "partitions", "check", "subject", "note"])]
    return "\n".join([*lines, "", said["page"]])


def _sentence(found: History) -> str:
    """Return the year in a sentence."""
    if not found.partitions:
        return "No partition has been watched yet."
    partitions, alarmed = len(found.partitions), len(found.alarmed())
    runs = sum(one.check != "drift" for one in found.episodes())
    champions = sum(row["role"] == "champion" for row in found.switches)
    return (
        f"{alarmed} of {partitions} partitions ({100 * alarmed / partitions:.1f} %) had an alarm other "
        "than drift, "
        f"in {runs} episode{'s' * (runs != 1)}; {champions} switch{'es' * (champions != 1)} of the champion."
    )


CHECKS = tuple(check.name for check in registry.CHECKS)
SHOWN = 200  # episodes in either table
NAMED = 8  # runs of partitions, at most, whose most drifted column is named
HEIGHTS = (2.4, 1.5, 1.5, 1.5, 2.3)  # inches
LEAST = 0.01  # of an index, on an axis of logarithms
TITLE = "the year"  # the drawing's, from which its ids are made

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_history(known: History, sentence: str) -> str:
    """Return the page; the same tables give the same text, and everything put into it is escaped."""
    episodes = known.episodes()
    alerts = [one for one in episodes if one.check != DRIFT]
    drifted = [one for one in episodes if one.check == DRIFT]
    return templates.get_template("history.html").render(
        known=known,
        sentence=sentence,
        shares=alarm_shares(known),
        tables=[_table("Alarms", alerts), _table("Drift, which is no alert", drifted)],
        # matplotlib has escaped every text in it
        drawing=Markup(draw_panels(known)) if known.partitions else "",  # noqa: S704
    )


def alarm_shares(known: History) -> list[tuple[str, int, float]]:
    """Return of each check the partitions on which it alarmed, and their share of all."""
    return [
        (check, count, count / len(known.partitions))
        for check in CHECKS
        if (count := len(known.alarmed(check)))
    ]


def _table(title: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    return {"title": title, "shown": episodes[:SHOWN], "more": max(len(episodes) - SHOWN, 0)}


def draw_panels(known: History) -> str:
    """Return the panels as SVG, in the page's own colours."""
    with rc_context({**SETTINGS, "svg.hashsalt": TITLE}):
        figure = Figure(figsize=(11, sum(HEIGHTS)), layout="constrained")
        panels = figure.subplots(len(HEIGHTS), 1, sharex=True, height_ratios=HEIGHTS)
        for panel, make in zip(panels, (_lost, _gained, _panel_realized, _panel_drift, _alarms), strict=True):
            make(panel, known)
            for row in known.switches:
                style = "-" if row["role"] == "champion" else ":"
                panel.axvline(_day(row["effective"]), color=NEW, linestyle=style, linewidth=0.8)
        _name(panels[0], known)
        panels[-1].set_xlim(_day(known.partitions[0]) - 2, _day(known.partitions[-1]) + 2)
        axis = panels[-1].xaxis
        axis.set_major_formatter(ConciseDateFormatter(axis.get_major_locator()))  # type: ignore[no-untyped-call]  # Matplotlib's
        return svg(figure, TITLE)


def _lost(axes: Axes, known: History) -> None:
    """Draw what is lost a row by week, beside the baseline."""
    axes.set_title(f"{known.spec.gate.objective} a row, by week", pad=10 if not known.switches else 48)
    days = _days(week.middle for week in known.weeks)
    _band(axes, days, [week.served for week in known.weeks], NEW, "models that served")
    baseline = [week.baseline for week in known.weeks]
    axes.plot(days, baseline, color=OLD, linestyle="--", linewidth=1, label="baseline, same rows")
    if known.weeks:
        axes.legend(loc="upper left", ncols=2)


def _gained(axes: Axes, known: History) -> None:
    axes.set_title(f"{known.spec.gate.objective} saved a row against the baseline, by week")
    days = _days(week.middle for week in known.weeks)
    _band(axes, days, [week.gain for week in known.weeks], NEW, "")
    axes.axhline(0, color=SOFT, linewidth=0.8)


def _panel_realized(axes: Axes, known: History) -> None:
    axes.set_title(f"{known.metric}, by partition")
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


def _panel_drift(axes: Axes, known: History) -> None:
    """Draw the largest stability index of any column, and name the columns of the longest runs."""
    axes.set_title("largest population stability index of any column, and which")
    if not known.moved:
        return
    partitions = sorted(known.moved)
    days, values = _days(partitions), [known.moved[partition][1] for partition in partitions]
    axes.plot(days, values, color=SOFT, linewidth=1)
    axes.set(yscale="log", ylim=(max(min(values), LEAST) * 0.8, max(*values, LEAST) * 4))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    runs = [list(run) for _, run in groupby(partitions, key=lambda partition: known.moved[partition][0])]
    named: list[float] = []
    room = (_day(partitions[-1]) - _day(partitions[0])) / NAMED
    for run in sorted(runs, key=lambda run: (-len(run), run[0])):
        peak = max(run, key=lambda partition: (known.moved[partition][1], partition))
        column, value = known.moved[peak]
        if all(abs(_day(peak) - other) >= room for other in named):
            named.append(_day(peak))
            axes.annotate(
                column, (named[-1], value), (0, 4), textcoords="offset points", ha="center", color=INK, size=8
            )


def _alarms(axes: Axes, known: History) -> None:
    """Draw a mark for each partition on which a check alarmed, a line a check; drift is lighter."""
    axes.set_title("partitions with an alarm, by check; trainings")
    lines = [*CHECKS, "asked to train", "training"]
    for place, check in enumerate(CHECKS):
        days = _days(sorted(known.alarmed(check)))
        light = check == DRIFT
        axes.plot(
            days, [place] * len(days), "|", color=SOFT if light else BAD, alpha=0.5 if light else 1, ms=8
        )
    asked = _days(known.asked)
    axes.plot(asked, [len(CHECKS)] * len(asked), "|", color=INK, ms=8)
    for partition, verdict in known.judged:
        good = verdict not in ("not blessed", "not enough evidence")
        axes.plot(
            _days([partition]), [len(CHECKS) + 1], "o" if good else "x", color=GOOD if good else SOFT, ms=5
        )
    axes.set(yticks=range(len(lines)), yticklabels=lines, ylim=(len(lines) - 0.5, -0.5))


def _name(axes: Axes, known: History) -> None:
    """Say above the lines who was switched to, and how; several of one partition stand in one text."""
    said: dict[str, Counter[str]] = {}
    for row in known.switches:
        said.setdefault(row["effective"], Counter())[f"v{row['version']} {row['kind']}"] += 1
    for partition, names in said.items():
        axes.annotate(
            ", ".join(names),
            (_day(partition), 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=30,
            size=8,
            color=NEW,
        )


def _band(axes: Axes, days: NDArray[np.datetime64], means: Sequence[Mean], colour: str, label: str) -> None:
    """Draw means with their intervals; a mean of a single partition has none."""
    axes.plot(days, [mean.value for mean in means], color=colour, linewidth=1.4, label=label or None)
    low, high = (np.array([getattr(mean, side) for mean in means], dtype=float) for side in ("low", "high"))
    axes.fill_between(days, low, high, color=colour, alpha=0.2, linewidth=0)


def _days(partitions: Iterable[str]) -> NDArray[np.datetime64]:
    """Return partitions as the axis has them, shape (n,)."""
    return np.array(list(partitions), dtype="datetime64[D]")


def _day(partition: str) -> float:
    """Return a single partition's place on the axis."""
    return float(date2num(_days([partition]))[0])  # type: ignore[no-untyped-call]  # Matplotlib's
