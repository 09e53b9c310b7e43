"""Draw a use case's year and store it beside the reports, as the runs of its nights do when they end."""

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

from include.promote import ledger
from include.reports.charts import BAD, GOOD, INK, NEW, OLD, SETTINGS, SOFT, svg
from include.reports.paths import HISTORY
from include.reports.text import text_table
from include.spec import UseCase
from include.stats.intervals import gain_bounds
from include.storage.lake import Lake

NIGHTS = 371  # of a daily use case a year and a week
WEEK = 7  # nights that are pooled
ALPHA = 0.05  # on either side, so that an interval is one of 90 %
DRIFT = "drift"  # the check that is no alert: a season moves columns as well
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over a week's nights, and where it lies at 90 %; None of a single night."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Week:
    """What the models that served lost a row in a week, and the baseline on the same rows.

    Parameters
    ----------
    middle : the week's middle night.
    gain : what they lost less than the baseline, paired by night.
    """

    middle: str
    served: Mean
    baseline: float
    gain: Mean


@dataclass(frozen=True)
class Episode:
    """Alarms of one check on one subject, each less than ``monitoring.jumps.quiet`` nights after another."""

    check: str
    subject: str
    first: str
    last: str
    nights: int
    note: str  # of the last night


@dataclass(frozen=True)
class History:
    """The nights, oldest first, and what there is to say of them.

    Parameters
    ----------
    metric, required : the first required metric, and from where on it is too low or too high.
    realised : that metric by night.
    estimated : what was told of it before the labels came, and its interval of 90 %, by night.
    moved : by night the column with the largest population stability index, and the index.
    alarms : rows of `findings`.
    asked : nights that asked for a training.
    judged : night and verdict of each training.
    switches : rows of `deployments` of champions and challengers.
    """

    spec: UseCase
    nights: tuple[str, ...]
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
        """Return the nights with an alarm of a check; of any check but drift unless one is given."""
        return {
            str(row["night"])
            for row in self.alarms
            if (row["check"] == check if check else row["check"] != DRIFT)
        }

    def episodes(self) -> list[Episode]:
        """Return the alarms as episodes, the newest first."""
        place, quiet = {night: i for i, night in enumerate(self.nights)}, self.spec.monitoring.jumps.quiet
        by: dict[tuple[str, str], list[list[Row]]] = {}
        for row in self.alarms:
            runs = by.setdefault((row["check"], row["subject"]), [])
            if not runs or place[row["night"]] - place[runs[-1][-1]["night"]] >= quiet:
                runs.append([])
            runs[-1].append(row)
        found = [
            Episode(*key, run[0]["night"], run[-1]["night"], len(run), run[-1]["note"])
            for key, runs in by.items()
            for run in runs
        ]
        return sorted(found, key=lambda one: (one.last, one.first, one.check, one.subject), reverse=True)


def read_history(lake: Lake, spec: UseCase) -> History:
    """Read what is known of the last `NIGHTS` nights."""
    watched = lake.read("partitions", {"product": "monitor"}, ["night"])
    nights = sorted(set(watched["night"].to_pylist()) if watched is not None else ())[-NIGHTS:]
    rules = spec.monitoring.requirements
    metric = rules[0].metric if rules else spec.gate.objective
    limit = (rules[0].at_least if rules[0].at_most is None else rules[0].at_most) if rules else None
    attempts = _rows(lake, "attempts", {}, ["night", "verdict", "recorded"], nights)
    found = _rows(lake, "findings", {"outcome": "alarm"}, ["night", "check", "subject", "note"], nights)
    decided = _rows(lake, "decisions", {}, ["night", "cause"], nights)
    return History(
        spec=spec,
        nights=tuple(nights),
        weeks=tuple(_weeks(_losses(lake, nights), nights)),
        metric=metric,
        required=limit,
        realised=_realized_metric(lake, metric, nights),
        estimated=_estimated(lake, metric, nights),
        moved=_largest_drift(lake, nights),
        alarms=tuple(sorted(found, key=lambda row: (row["night"], row["check"], row["subject"]))),
        asked=tuple(sorted(row["night"] for row in decided if row["cause"])),
        judged=tuple(
            (row["night"], row["verdict"]) for row in sorted(attempts, key=lambda row: int(row["recorded"]))
        ),
        switches=tuple(row for row in ledger.switches(lake) if row["role"] != "baseline"),
    )


def _rows(
    lake: Lake, table: str, where: Mapping[str, str], columns: Sequence[str], nights: Sequence[str]
) -> list[Row]:
    """Return the nights' rows; the table is scanned once, which a list of nights would only slow down."""
    read, wanted = lake.read(table, where or None, columns), set(nights)
    return [row for row in read.to_pylist() if row["night"] in wanted] if read is not None else []


def _realized_metric(lake: Lake, metric: str, nights: Sequence[str]) -> dict[str, float]:
    rows = _rows(lake, "performance", {"metric": metric}, ["night", "known", "value"], nights)
    newest = {row["night"]: row["value"] for row in sorted(rows, key=lambda row: str(row["known"]))}
    return {night: value for night, value in sorted(newest.items()) if value is not None}


def _estimated(lake: Lake, metric: str, nights: Sequence[str]) -> dict[str, Mean]:
    rows = _rows(lake, "estimates", {"metric": metric}, ["night", "value", "low", "high"], nights)
    told = sorted((row for row in rows if row["value"] is not None), key=lambda row: str(row["night"]))
    return {row["night"]: Mean(row["value"], row["low"], row["high"]) for row in told}


def _largest_drift(lake: Lake, nights: Sequence[str]) -> dict[str, tuple[str, float]]:
    rows = _rows(lake, "drift", {"measure": "psi"}, ["night", "column", "value"], nights)
    rows = [row for row in rows if row["value"] is not None]
    ranked = sorted(rows, key=lambda row: (row["night"], row["value"], row["column"]))
    return {row["night"]: (row["column"], row["value"]) for row in ranked}


def _losses(lake: Lake, nights: Sequence[str]) -> dict[str, Any]:
    """Return by night the sums of rows, loss and baseline, as last known, shape (3,)."""
    columns = ["night", "known", "model", "rows", "loss", "baseline"]
    rows = sorted(_rows(lake, "losses", {}, columns, nights), key=lambda row: str(row["known"]))
    newest = {(row["night"], row["model"]): row for row in rows}
    sums: dict[str, Any] = {}
    for (night, _), row in sorted(newest.items()):
        sums[night] = sums.get(night, 0.0) + np.array([row["rows"], row["loss"], row["baseline"]], float)
    return {night: found for night, found in sums.items() if found[0]}


def _weeks(sums: Mapping[str, Any], nights: Sequence[str]) -> Iterable[Week]:
    """Pool the nights by calendar week, or as many of them where nights are further apart than days."""
    days = [date.fromisoformat(night).toordinal() for night in nights]
    step = min((later - day for day, later in pairwise(days)), default=1)
    weeks: dict[int, list[str]] = {}
    for night in sums:
        weeks.setdefault((date.fromisoformat(night).toordinal() - 1) // (WEEK * step), []).append(night)
    for _, own in sorted(weeks.items()):
        rows, lost, baseline = np.array([sums[night] for night in own]).T
        yield Week(
            middle=own[len(own) // 2],
            served=_mean(lost, rows),
            baseline=float(baseline.sum() / rows.sum()),
            gain=_mean(baseline - lost, rows),
        )


def _mean(sums: Any, rows: Any) -> Mean:
    """Return the mean a row; a week is too short for blocks, so its nights count as independent."""
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
    pass  # MOVED  # matplotlib, which most nights of a backfill go without

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
        "nights": len(found.nights),
        "in_alarm": len(found.alarmed()),
        "checks": [
            {"check": check, "nights": count, "share": share} for check, count, share in alarm_shares(found)
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
    """Draw the year. What fails is logged: the night is done."""
    try:
        draw_history(lake, spec)
    except Exception:  # a page for eyes fails no night, whatever is wrong with it
        log.exception("%s: reports/%s couldn't be drawn", spec.name, HISTORY)


def history_text(said: dict[str, Any]) -> str:
    """Return what a person reads in a terminal: the shares, then the episodes without drift."""
    lines = [said["sentence"]]
    if said["checks"]:
        lines += ["", *text_table(said["checks"], ["check", "nights", "share"])]
    if shown := [one for one in said["episodes"] if one["check"] != "drift"]:
        lines += ["", *text_table(shown, ["first", "last", "nights", "check", "subject", "note"])]
    return "\n".join([*lines, "", said["page"]])


def _sentence(found: History) -> str:
    """Return the year in a sentence."""
    if not found.nights:
        return "No night has been watched yet."
    nights, alarmed = len(found.nights), len(found.alarmed())
    runs = sum(one.check != "drift" for one in found.episodes())
    champions = sum(row["role"] == "champion" for row in found.switches)
    return (
        f"{alarmed} of {nights} nights ({100 * alarmed / nights:.1f} %) had an alarm other than drift, "
        f"in {runs} episode{'s' * (runs != 1)}; {champions} switch{'es' * (champions != 1)} of the champion."
    )


CHECKS = ("data", "labels", "rung", "missing", "unseen", "jump", "concept", "performance", DRIFT)
SHOWN = 200  # episodes in either table
NAMED = 8  # runs of nights, at most, whose most drifted column is named
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
        drawing=Markup(draw_panels(known)) if known.nights else "",  # noqa: S704
    )


def alarm_shares(known: History) -> list[tuple[str, int, float]]:
    """Return of each check the nights on which it alarmed, and their share of all."""
    return [
        (check, count, count / len(known.nights)) for check in CHECKS if (count := len(known.alarmed(check)))
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
        panels[-1].set_xlim(_day(known.nights[0]) - 2, _day(known.nights[-1]) + 2)
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


def _panel_drift(axes: Axes, known: History) -> None:
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


def _alarms(axes: Axes, known: History) -> None:
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


def _name(axes: Axes, known: History) -> None:
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
