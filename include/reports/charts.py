"""Charts as inline SVG, in the page's own colors and fonts; the same numbers give the same bytes.

Matplotlib draws with placeholder colors that are replaced by the page's CSS variables, so a chart follows
light and dark mode. The SVG contains no date, and its ids are hashed with the chart's title.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from include.reports.html import metric_label
from include.reports.verdict_data import AttemptData, ScoredTestRows
from include.reports.wording import model_name, rival_name
from include.spec.clock import time_of
from include.stats.intervals import Gain
from include.stats.metrics import confusion, top_class

Array = NDArray[np.float64]
CURVE_POINTS = 120
BINS = 10  # with equally many rows
SCATTER_POINTS = 500
# one for each baseline: dashes differ in light and dark mode, and in print
DASHES = ("--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
# placeholder colors that no chart uses otherwise, and the page's CSS variables that replace them
INK, SOFT, LINE, NEW, OLD, GOOD, BAD = (f"#0102{n:02x}" for n in range(7))
COLORS = {INK: "text", SOFT: "soft", LINE: "line", NEW: "accent", OLD: "rival", GOOD: "good", BAD: "bad"}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # keeps text as text: smaller, searchable, and in the page's font
    "text.parse_math": False,  # a name with dollar signs isn't a formula
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
    "legend.handlelength": 3.2,  # long enough for each dash pattern to repeat
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
DRAWING = threading.Lock()  # Matplotlib's settings are global, and a server answers requests in threads


class Chart:
    """A chart that is drawn on ``axes`` within `chart`; ``svg`` has the result afterwards."""

    svg = ""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes


def axis_times(partitions: Iterable[str]) -> NDArray[np.datetime64]:
    """Return partitions as times on an axis, shape (n,)."""
    return np.array([time_of(partition) for partition in partitions], dtype="datetime64[m]")


@contextmanager
def chart(title: str, x: str, y: str, height: float = 3.2) -> Iterator[Chart]:
    """Yield a chart to draw on; `Chart.svg` is set when the block ends.

    Parameters
    ----------
    x, y : axis labels, with units.
    height : in inches; the width is 5.6.
    """
    with DRAWING, mpl.rc_context({**SETTINGS, "svg.hashsalt": title}):
        figure = Figure(figsize=(5.6, height), layout="constrained")
        drawing = Chart(figure.subplots())
        drawing.axes.set(title=title, xlabel=x, ylabel=y)
        yield drawing
        handles, labels = drawing.axes.get_legend_handles_labels()
        if labels:
            legend = figure.legend(handles, labels, loc="outside lower left", ncols=2)
            if legend.get_window_extent().width > figure.bbox.width:
                legend.remove()
                figure.legend(handles, labels, loc="outside lower left")
        drawing.svg = svg(figure, title)


def svg(figure: Figure, title: str) -> str:
    """Return a figure as inline SVG; it must be drawn with `SETTINGS` and the title as ``svg.hashsalt``."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata=NO_METADATA)
    return _inline(sink.getvalue(), title)


def _inline(text: str, title: str) -> str:
    """Return SVG for use inside a page: without prolog, fixed size, and ids that nothing refers to."""
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]+"', body)
    assert box is not None
    label = re.sub(r'[<>"&]', "", title)
    body = f'<svg {box.group()} role="img" aria-label="{label}">' + body[body.index(">") + 1 :]
    body = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", body)
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+px) [^;\"<]+", r"font-size: \1", body)
    for placeholder, variable in COLORS.items():
        body = body.replace(placeholder, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", body)


def gain_by_partition(attempt: AttemptData, gain: Gain | None) -> str:
    """Draw by partition how much lower the challenger's mean loss is than its rival's."""
    losses = attempt.evidence.losses
    rows = np.asarray(losses.rows, float)
    gains = (np.asarray(losses.sums[attempt.rival]) - np.asarray(losses.sums[CHALLENGER])) / rows
    title = f"Gain over {rival_name(attempt)}, by partition"
    objective = metric_label(attempt.spec.gate.objective)
    with chart(title, "partition", f"{objective} per row; above 0 is better") as drawing:
        colors = [GOOD if value > 0 else BAD for value in gains]
        drawing.axes.bar(range(len(gains)), gains, width=0.8, color=colors)
        drawing.axes.axhline(0, color=INK, linewidth=1)
        if gain is not None:
            drawing.axes.axhline(gain.mean, color=NEW, linewidth=1.2, label=f"mean {gain.mean:.4g}")
            bound = f"at least {gain.low:.4g} at {100 * gain.level:.4g} % confidence"
            drawing.axes.axhline(gain.low, color=NEW, linewidth=1.2, linestyle="--", label=bound)
        drawing.axes.set_xticks(*_ticks(losses.partitions))
        drawing.axes.grid(visible=False, axis="x")
    return drawing.svg


def _ticks(labels: Sequence[str], max_ticks: int = 4) -> tuple[list[int], list[str]]:
    """Return positions and labels of evenly spaced ticks, the first label among them."""
    positions = list(range(0, len(labels), max(1, -(-len(labels) // max_ticks))))
    return positions, [labels[position] for position in positions]


def slice_chart(title: str, slices: Sequence[tuple[str, float, float, float]], tolerance: float) -> str:
    """Draw by how many percent each slice's loss increased, with its interval.

    Parameters
    ----------
    slices : name, increase, and its bounds, in percent of the rival's loss.
    tolerance : the tolerated increase, in percent.
    """
    with chart(title, "increase of the mean loss, %; left is better", "", 1 + 0.24 * len(slices)) as drawing:
        for position, (_, middle, low, high) in enumerate(reversed(slices)):
            color = BAD if low > tolerance else GOOD if high < 0 else SOFT
            drawing.axes.plot([low, high], [position, position], color=color, linewidth=1.6)
            drawing.axes.plot([middle], [position], "o", color=color, markersize=4)
        drawing.axes.axvline(0, color=INK, linewidth=1)
        drawing.axes.axvline(tolerance, color=BAD, linewidth=1, linestyle="--", label="tolerated")
        drawing.axes.set_yticks(range(len(slices)), [name[:40] for name, *_ in reversed(slices)])
        drawing.axes.set_ylim(-0.6, len(slices) - 0.4)
        drawing.axes.grid(visible=False, axis="y")
    return drawing.svg


def importance_chart(attempt: AttemptData, importance: Mapping[str, float], max_features: int) -> str:
    """Draw the permutation importance of the most important features."""
    top = sorted(importance.items(), key=lambda item: (-item[1], item[0]))[:max_features][::-1]
    objective = metric_label(attempt.spec.gate.objective)
    x = f"increase of the {objective} when permuted"
    with chart("Feature importance", x, "", 1 + 0.24 * len(top)) as drawing:
        drawing.axes.barh(range(len(top)), [value for _, value in top], color=NEW, height=0.65)
        drawing.axes.set_yticks(range(len(top)), [feature for feature, _ in top])
        drawing.axes.locator_params(axis="x", nbins=5)
        drawing.axes.axvline(0, color=INK, linewidth=1)
        drawing.axes.grid(visible=False, axis="y")
    return drawing.svg


def binary_charts(attempt: AttemptData, rows: ScoredTestRows) -> list[str]:
    """Draw ROC, precision-recall, calibration and scores; only the scores if there is just one class."""
    scores = _scores(rows)
    if len(np.unique(rows.actual)) < 2:
        return [scores]
    return [_roc(attempt, rows), _precision_recall(attempt, rows), _calibration(attempt, rows), scores]


def regression_charts(attempt: AttemptData, rows: ScoredTestRows) -> list[str]:
    """Draw predicted against actual values, residuals by prediction, and the distribution of residuals."""
    return [_scatter(attempt, rows), _residuals(attempt, rows), _residual_distribution(attempt, rows)]


def multiclass_charts(attempt: AttemptData, rows: ScoredTestRows) -> list[str]:
    """Draw the confusion matrix, and the calibration of the most likely class."""
    return [_confusion(attempt, rows), _top_class_calibration(attempt, rows)]


CHARTS_BY_KIND = {
    "binary": binary_charts,
    "regression": regression_charts,
    "multiclass": multiclass_charts,
}


def _lines(attempt: AttemptData, rows: ScoredTestRows) -> list[tuple[str, Array, dict[str, Any]]]:
    """Return name, predictions and line style of each model; the challenger is last, so that it is on top."""
    styles: dict[str, dict[str, Any]] = {
        attempt.rival: {"color": OLD, "linewidth": 1.6},
        CHALLENGER: {"color": NEW, "linewidth": 2.0},
    }
    others = sorted(name for name in rows.predicted if name not in styles)
    dashed = {
        name: {"color": SOFT, "linewidth": 1.4, "linestyle": dashes}
        for name, dashes in zip(others, cycle(DASHES), strict=False)
    }
    return [
        (name, rows.predicted[name], {**style, "label": model_name(name)})
        for name, style in (dashed | styles).items()
        if name in rows.predicted
    ]


def _challenger_and_rival(attempt: AttemptData, rows: ScoredTestRows) -> list[tuple[Array, dict[str, Any]]]:
    """Return predictions and line style of the challenger and its rival."""
    return [
        (predicted, style)
        for name, predicted, style in _lines(attempt, rows)
        if name in (CHALLENGER, attempt.rival)
    ]


def _roc(attempt: AttemptData, rows: ScoredTestRows) -> str:
    with chart("ROC", "false positive rate", "true positive rate; higher is better") as drawing:
        drawing.axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for _, predicted, style in _lines(attempt, rows):
            false_positives, true_positives, _ = roc_curve(rows.actual, predicted)
            drawing.axes.plot(*_thin_out(false_positives, true_positives), **style)
    return drawing.svg


def _precision_recall(attempt: AttemptData, rows: ScoredTestRows) -> str:
    with chart("Precision and recall", "recall", "precision; higher is better") as drawing:
        chance = float(rows.actual.mean())
        drawing.axes.axhline(chance, color=LINE, linewidth=1)
        for _, predicted, style in _lines(attempt, rows):
            precision, recall, _ = precision_recall_curve(rows.actual, predicted)
            # the last point is a convention (no row selected) and not a measurement
            drawing.axes.plot(*_thin_out(recall[:-1], precision[:-1]), **style)
        drawing.axes.set_ylim(0, 1.02)
    return drawing.svg


def _calibration(attempt: AttemptData, rows: ScoredTestRows) -> str:
    x, y = "mean prediction of a tenth of the rows", "observed rate; on the line is best"
    with chart("Calibration", x, y) as drawing:
        top = 0.0
        for predicted, style in _challenger_and_rival(attempt, rows):
            predicted_means = _bin_means(predicted, predicted)
            observed_means = _bin_means(predicted, rows.actual)
            drawing.axes.plot(predicted_means, observed_means, marker="o", markersize=4, **style)
            top = max(top, *predicted_means, *observed_means)
        drawing.axes.plot([0, top], [0, top], color=LINE, linewidth=1)
    return drawing.svg


def _scores(rows: ScoredTestRows) -> str:
    edges = np.linspace(0, 1, 41)
    with chart("Scores of the challenger", "predicted probability", "share of its rows") as drawing:
        for label, color in ((0.0, SOFT), (1.0, NEW)):
            scores = rows.predicted[CHALLENGER][rows.actual == label]
            if scores.size:
                shares = np.histogram(scores, edges)[0] / scores.size
                text = f"rows with label {label:g}"
                drawing.axes.stairs(shares, edges, color=color, linewidth=1.6, label=text)
    return drawing.svg


def _scatter(attempt: AttemptData, rows: ScoredTestRows) -> str:
    predicted, actual = rows.predicted[CHALLENGER], rows.actual
    sample = np.linspace(0, len(predicted) - 1, min(SCATTER_POINTS, len(predicted))).astype(int)
    target = attempt.spec.problem.target
    title = f"Predicted and actual, {len(sample):,} of {len(predicted):,} rows"
    with chart(title, f"predicted {target}", f"actual {target}; on the line is best") as drawing:
        ends = [
            float(min(predicted.min(), actual.min())),
            float(max(predicted.max(), actual.max())),
        ]
        drawing.axes.plot(ends, ends, color=LINE, linewidth=1)
        drawing.axes.plot(predicted[sample], actual[sample], ".", color=NEW, markersize=3)
    return drawing.svg


def _residuals(attempt: AttemptData, rows: ScoredTestRows) -> str:
    target = attempt.spec.problem.target
    x, y = f"mean predicted {target} of a tenth of the rows", "actual minus predicted; 0 is best"
    with chart("Residuals", x, y) as drawing:
        drawing.axes.axhline(0, color=LINE, linewidth=1)
        for predicted, style in _challenger_and_rival(attempt, rows):
            residuals = rows.actual - predicted
            means = _bin_means(predicted, predicted), _bin_means(predicted, residuals)
            drawing.axes.plot(*means, marker="o", markersize=4, **style)
    return drawing.svg


def _residual_distribution(attempt: AttemptData, rows: ScoredTestRows) -> str:
    lines = _challenger_and_rival(attempt, rows)
    residuals = [rows.actual - predicted for predicted, _ in lines]
    edges = np.histogram_bin_edges(np.quantile(np.concatenate(residuals), [0.005, 0.995]), 40)
    title, x = "Residuals, without the outermost 1 %", f"actual minus predicted {attempt.spec.problem.target}"
    with chart(title, x, "share of the rows; narrow is best") as drawing:
        for values, (_, style) in zip(residuals, lines, strict=True):
            drawing.axes.stairs(np.histogram(values, edges)[0] / values.size, edges, **style)
    return drawing.svg


def _confusion(attempt: AttemptData, rows: ScoredTestRows) -> str:
    names, counts = attempt.spec.problem.classes, confusion(rows.actual, rows.predicted[CHALLENGER])
    title, height = "Confusion matrix; on the diagonal is best", 1.2 + 0.4 * len(names)
    with chart(title, "predicted, in % of the line", "actual, and how many", height) as drawing:
        for actual, row in enumerate(counts):
            for predicted, count in enumerate(row):
                share = count / max(row.sum(), 1)
                corner = (predicted - 0.5, actual - 0.5)
                cell = Rectangle(corner, 1, 1, facecolor=NEW, alpha=0.6 * share, linewidth=0)
                drawing.axes.add_patch(cell)
                text = f"{100 * share:.0f}" if row.sum() else "—"
                drawing.axes.text(predicted, actual, text, color=INK, fontsize=9, ha="center", va="center")
        labels = [f"{name} ({count:,})" for name, count in zip(names, counts.sum(axis=1), strict=True)]
        drawing.axes.set_xticks(range(len(names)), names)
        drawing.axes.set_yticks(range(len(names)), labels)
        drawing.axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
        drawing.axes.grid(visible=False)
    return drawing.svg


def _top_class_calibration(attempt: AttemptData, rows: ScoredTestRows) -> str:
    x = "mean predicted probability of a tenth of the rows"
    y = "share predicted correctly; on the line is best"
    with chart("Calibration of the most likely class", x, y) as drawing:
        values: list[float] = []
        for predicted, style in _challenger_and_rival(attempt, rows):
            correct, probability = top_class(rows.actual, predicted)
            means = _bin_means(probability, probability), _bin_means(probability, correct)
            drawing.axes.plot(*means, marker="o", markersize=4, **style)
            values += [*means[0], *means[1]]
        drawing.axes.plot(*[[min(values), max(values)]] * 2, color=LINE, linewidth=1)
    return drawing.svg


def _thin_out(x: Array, y: Array) -> tuple[Array, Array]:
    """Return evenly spaced points of a curve, its ends among them."""
    indices = np.unique(np.linspace(0, len(x) - 1, min(CURVE_POINTS, len(x))).astype(int))
    return x[indices], y[indices]


def _bin_means(predicted: Array, values: Array) -> list[float]:
    """Return the mean value in each tenth of the rows, ordered by prediction."""
    order = np.argsort(predicted, kind="stable")
    return [float(part.mean()) for part in np.array_split(values[order], BINS) if part.size]
