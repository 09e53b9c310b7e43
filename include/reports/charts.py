"""Drawings as SVG inside the page: the same bytes for the same numbers, in the page's own colours and fonts.

Matplotlib draws with stand-in colours, which become the page's own, so a drawing follows light and dark. It
is told no date, and the ids by which a drawing refers to its parts are hashed with the drawing's name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from include.judge.evidence import CHALLENGER
from include.reports.verdict_data import AttemptData, ScoredTestRows
from include.reports.wording import metric_label, model_name, rival_name
from include.stats.intervals import Gain
from include.stats.metrics import confusion, top_class

# stand-ins that no drawing would choose, and what the page's style has instead
INK, SOFT, LINE, NEW, OLD, GOOD, BAD = (f"#0102{n:02x}" for n in range(7))
COLOURS = {INK: "text", SOFT: "soft", LINE: "line", NEW: "accent", OLD: "rival", GOOD: "good", BAD: "bad"}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: smaller, found by a search, in the page's font
    "text.parse_math": False,  # a name with dollars in it is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # so that each pattern of dashes repeats
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NOTHING = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class Chart:
    """A drawing that is filled in within `chart` and is SVG afterwards."""

    svg = ""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes


@contextmanager
def chart(title: str, x: str, y: str, height: float = 3.2) -> Iterator[Chart]:
    """Give axes to draw on; `Chart.svg` holds the drawing once the block is left.

    Parameters
    ----------
    x, y : what the axes show, with their units.
    height : in inches, of a width of 5.6.
    """
    with mpl.rc_context({**SETTINGS, "svg.hashsalt": title}):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        made = Chart(figure.subplots())
        made.axes.set(title=title, xlabel=x, ylabel=y)
        yield made
        handles, labels = made.axes.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower left", ncols=2)
        made.svg = svg(figure, title)


def svg(figure: Figure, title: str) -> str:
    """Return a figure, drawn with `SETTINGS` and the title as ``svg.hashsalt``, as a part of a page."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata=NOTHING)
    return _inline(sink.getvalue(), title)


def few(labels: Sequence[str], most: int = 4) -> tuple[list[int], list[str]]:
    """Return places and labels for an axis: the first, and evenly some after it."""
    places = list(range(0, len(labels), max(1, -(-len(labels) // most))))
    return places, [labels[place] for place in places]


def _inline(text: str, title: str) -> str:
    """Return the drawing as a part of a page: no prolog, no fixed size, no id that nothing refers to."""
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', body)
    assert box is not None
    named = re.sub(r'[<>"&]', "", title)
    body = f'<svg {box.group()} role="img" aria-label="{named}">' + body[body.index(">") + 1 :]
    body = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", body)
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", body)
    for stand_in, name in COLOURS.items():
        body = body.replace(stand_in, f"var(--{name})")
    return re.sub(r"\s*\n\s*", "\n", body)


Array = NDArray[np.float64]
POINTS = 120  # of a curve
BINS = 10  # of equally many rows
DOTS = 500  # rows in a scatter plot
# of the baselines, one after the other: dashes are told apart in light and dark, and in print
DASHES = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))


def gain_by_partition(known: AttemptData, shown: Gain | None) -> str:
    """Draw how much less the challenger loses than its rival, partition by partition."""
    losses = known.evidence.losses
    rows = np.asarray(losses.rows, float)
    each = (np.asarray(losses.sums[known.rival]) - np.asarray(losses.sums[CHALLENGER])) / rows
    name = metric_label(known.spec.gate.objective)
    with chart(
        f"Gain over {rival_name(known)}, by partition", "partition", f"{name} a row; above 0 is better"
    ) as made:
        made.axes.bar(range(len(each)), each, width=0.8, color=[GOOD if v > 0 else BAD for v in each])
        made.axes.axhline(0, color=INK, linewidth=1)
        if shown is not None:
            made.axes.axhline(shown.mean, color=NEW, linewidth=1.2, label=f"mean {shown.mean:.4g}")
            text = f"at least {shown.low:.4g}, surely to {100 * shown.level:.4g} %"
            made.axes.axhline(shown.low, color=NEW, linewidth=1.2, linestyle="--", label=text)
        made.axes.set_xticks(*few(losses.partitions))
        made.axes.grid(visible=False, axis="x")
    return made.svg


def binary_charts(known: AttemptData, tested: ScoredTestRows) -> list[str]:
    """Draw ROC, precision and recall, calibration, and the scores; without two classes only the scores."""
    scores = _scores(tested)
    if len(np.unique(tested.actual)) < 2:
        return [scores]
    return [_roc(known, tested), _precision_recall(known, tested), _calibration(known, tested), scores]


def regression_charts(known: AttemptData, tested: ScoredTestRows) -> list[str]:
    """Draw predicted against actual values, residuals by prediction, and how the residuals are spread."""
    return [_scatter(known, tested), _residuals(known, tested), _spread(known, tested)]


def multiclass_charts(known: AttemptData, tested: ScoredTestRows) -> list[str]:
    """Draw what rows of each class were taken for, and whether the likeliest class is as likely as said."""
    return [_confusion(known, tested), _reliability(known, tested)]


DRAWN = {"binary": binary_charts, "regression": regression_charts, "multiclass": multiclass_charts}


def slice_chart(title: str, parts: Sequence[tuple[str, float, float, float]], tolerance: float) -> str:
    """Draw for each slice by how many percent its loss rose, with its interval.

    Parameters
    ----------
    parts : name, rise, and its bounds, in percent of the rival's loss.
    tolerance : what a slice may lose, in percent.
    """
    with chart(title, "rise of the mean loss, %; left is better", "", 1 + 0.24 * len(parts)) as made:
        for place, (_, middle, low, high) in enumerate(reversed(parts)):
            colour = BAD if low > tolerance else GOOD if high < 0 else SOFT
            made.axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            made.axes.plot([middle], [place], "o", color=colour, markersize=4)
        made.axes.axvline(0, color=INK, linewidth=1)
        made.axes.axvline(tolerance, color=BAD, linewidth=1, linestyle="--", label="tolerated")
        made.axes.set_yticks(range(len(parts)), [name[:40] for name, *_ in reversed(parts)])
        made.axes.set_ylim(-0.6, len(parts) - 0.4)
        made.axes.grid(visible=False, axis="y")
    return made.svg


def importance_chart(known: AttemptData, found: Mapping[str, float], most: int) -> str:
    """Draw what permuting each feature costs, the dearest first."""
    top = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most][::-1]
    name = metric_label(known.spec.gate.objective)
    with chart(
        "What each feature is worth", f"rise of the {name} when permuted", "", 1 + 0.24 * len(top)
    ) as made:
        made.axes.barh(range(len(top)), [value for _, value in top], color=NEW, height=0.65)
        made.axes.set_yticks(range(len(top)), [feature for feature, _ in top])
        made.axes.locator_params(axis="x", nbins=5)
        made.axes.axvline(0, color=INK, linewidth=1)
        made.axes.grid(visible=False, axis="y")
    return made.svg


def _lines(known: AttemptData, tested: ScoredTestRows) -> list[tuple[str, Array, dict[str, Any]]]:
    """Return each model to draw, the challenger last and so on top, with its label and how it is drawn."""
    looks: dict[str, dict[str, Any]] = {
        known.rival: {"color": OLD, "linewidth": 1.6},
        CHALLENGER: {"color": NEW, "linewidth": 2.0},
    }
    others = sorted(name for name in tested.predicted if name not in looks)
    dashed = {
        name: {"color": SOFT, "linewidth": 1.4, "linestyle": dashes}
        for name, dashes in zip(others, cycle(DASHES), strict=False)
    }
    looks = {name: look for name, look in (dashed | looks).items() if name in tested.predicted}
    return [
        (name, tested.predicted[name], {**look, "label": model_name(name)}) for name, look in looks.items()
    ]


def _roc(known: AttemptData, tested: ScoredTestRows) -> str:
    with chart("ROC", "false positive rate", "true positive rate; higher is better") as made:
        made.axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for _, predicted, look in _lines(known, tested):
            false, true, _ = roc_curve(tested.actual, predicted)
            made.axes.plot(*_thin(false, true), **look)
    return made.svg


def _precision_recall(known: AttemptData, tested: ScoredTestRows) -> str:
    with chart("Precision and recall", "recall", "precision; higher is better") as made:
        made.axes.axhline(float(tested.actual.mean()), color=LINE, linewidth=1)  # of choosing rows by chance
        for _, predicted, look in _lines(known, tested):
            precision, recall, _ = precision_recall_curve(tested.actual, predicted)
            # the last point stands for choosing no row, and was not measured
            made.axes.plot(*_thin(recall[:-1], precision[:-1]), **look)
        made.axes.set_ylim(0, 1.02)
    return made.svg


def _calibration(known: AttemptData, tested: ScoredTestRows) -> str:
    x, y = "mean prediction of a tenth of the rows", "observed rate; on the line is best"
    with chart("Calibration", x, y) as made:
        top = 0.0
        for name, predicted, look in _lines(known, tested):
            if name in (CHALLENGER, known.rival):
                said, came = _means(predicted, predicted), _means(predicted, tested.actual)
                made.axes.plot(said, came, marker="o", markersize=4, **look)
                top = max(top, *said, *came)
        made.axes.plot([0, top], [0, top], color=LINE, linewidth=1)
    return made.svg


def _scores(tested: ScoredTestRows) -> str:
    edges = np.linspace(0, 1, 41)
    with chart("Scores of the challenger", "predicted probability", "share of its rows") as made:
        for value, colour in ((0.0, SOFT), (1.0, NEW)):
            mine = tested.predicted[CHALLENGER][tested.actual == value]
            if mine.size:
                shares = np.histogram(mine, edges)[0] / mine.size
                made.axes.stairs(
                    shares, edges, color=colour, linewidth=1.6, label=f"rows that were {value:g}"
                )
    return made.svg


def _scatter(known: AttemptData, tested: ScoredTestRows) -> str:
    predicted = tested.predicted[CHALLENGER]
    some = np.linspace(0, len(predicted) - 1, min(DOTS, len(predicted))).astype(int)
    target = known.spec.problem.target
    title = f"Predicted and actual, {len(some):,} of {len(predicted):,} rows"
    with chart(title, f"predicted {target}", f"actual {target}; on the line is best") as made:
        ends = [
            float(min(predicted.min(), tested.actual.min())),
            float(max(predicted.max(), tested.actual.max())),
        ]
        made.axes.plot(ends, ends, color=LINE, linewidth=1)
        made.axes.plot(predicted[some], tested.actual[some], ".", color=NEW, markersize=3)
    return made.svg


def _residuals(known: AttemptData, tested: ScoredTestRows) -> str:
    target = known.spec.problem.target
    x, y = f"mean predicted {target} of a tenth of the rows", "actual less predicted; 0 is best"
    with chart("Residuals", x, y) as made:
        made.axes.axhline(0, color=LINE, linewidth=1)
        for name, predicted, look in _lines(known, tested):
            if name in (CHALLENGER, known.rival):
                said, rest = _means(predicted, predicted), tested.actual - predicted
                made.axes.plot(said, _means(predicted, rest), marker="o", markersize=4, **look)
    return made.svg


def _spread(known: AttemptData, tested: ScoredTestRows) -> str:
    target = known.spec.problem.target
    lines = [
        (predicted, look)
        for name, predicted, look in _lines(known, tested)
        if name in (CHALLENGER, known.rival)
    ]
    rests = [tested.actual - predicted for predicted, _ in lines]
    edges = np.histogram_bin_edges(np.quantile(np.concatenate(rests), [0.005, 0.995]), 40)
    title = "Residuals, without the outermost hundredth"
    with chart(title, f"actual less predicted {target}", "share of the rows; narrow is best") as made:
        for rest, (_, look) in zip(rests, lines, strict=True):
            made.axes.stairs(np.histogram(rest, edges)[0] / rest.size, edges, **look)
    return made.svg


def _confusion(known: AttemptData, tested: ScoredTestRows) -> str:
    names, counts = known.spec.problem.classes, confusion(tested.actual, tested.predicted[CHALLENGER])
    title = "What rows were taken for; on the diagonal is best"
    with chart(title, "predicted, in % of the row", "actual, and how many", 1.2 + 0.4 * len(names)) as made:
        for actual, row in enumerate(counts):
            for taken, count in enumerate(row):
                share = count / max(row.sum(), 1)
                corner = (taken - 0.5, actual - 0.5)
                made.axes.add_patch(Rectangle(corner, 1, 1, facecolor=NEW, alpha=0.6 * share, linewidth=0))
                text = f"{100 * share:.0f}" if row.sum() else "—"
                made.axes.text(taken, actual, text, color=INK, fontsize=9, ha="center", va="center")
        rows = [f"{name} ({count:,})" for name, count in zip(names, counts.sum(axis=1), strict=True)]
        made.axes.set_xticks(range(len(names)), names)
        made.axes.set_yticks(range(len(names)), rows)
        made.axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
        made.axes.grid(visible=False)
    return made.svg


def _reliability(known: AttemptData, tested: ScoredTestRows) -> str:
    x, y = (
        "mean probability it was given, of a tenth of the rows",
        "share that was; on the line is best",
    )
    with chart("Calibration of the likeliest class", x, y) as made:
        ends: list[float] = []
        for name, predicted, look in _lines(known, tested):
            if name in (CHALLENGER, known.rival):
                right, said = top_class(tested.actual, predicted)
                each = _means(said, said), _means(said, right)
                made.axes.plot(*each, marker="o", markersize=4, **look)
                ends += [value for values in each for value in values]
        made.axes.plot(*[[min(ends), max(ends)]] * 2, color=LINE, linewidth=1)
    return made.svg


def _thin(x: Array, y: Array) -> tuple[Array, Array]:
    """Return evenly chosen points of a curve, its ends among them."""
    some = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).astype(int))
    return x[some], y[some]


def _means(by: Array, values: Array) -> list[float]:
    """Return the mean of the values in each tenth of the rows, by what was predicted."""
    order = np.argsort(by, kind="stable")
    return [float(part.mean()) for part in np.array_split(values[order], BINS) if part.size]
