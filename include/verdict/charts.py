"""Drawings as SVG inside the page: the same bytes for the same numbers, in the page's own colours and fonts.

Matplotlib draws with stand-in colours, which become the page's own, so a drawing follows light and dark. It
is told no date, and the ids by which a drawing refers to its parts are hashed with the drawing's name.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
