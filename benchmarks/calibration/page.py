"""The measurement as one page that needs no network: the sentence, the table, two plots."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.calibration.resample import GATE

if TYPE_CHECKING:
    from benchmarks.calibration.gate import Result

# the same numbers give the same bytes
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "evergreen",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
}
SETTINGS |= {"axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False}
templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)


def render(data: dict[str, Any], results: Sequence[Result]) -> str:
    """Return the page; everything that is put into it is escaped."""
    with rc_context(SETTINGS):
        plots = {
            "Sequences without a true gain that promoted something, up to each attempt": _noise(
                data["alpha"], results
            ),
            "Sequences that promoted a true gain": _power(data["alpha"], results),
        }
    return templates.get_template("gate.html").render(data=data, results=results, plots=plots)


def alarms(
    data: dict[str, Any], partitions: Sequence[str], heights: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> str:
    """Return the page of the alarms' calibration.

    Parameters
    ----------
    partitions : the judged ones.
    heights : by partition, the largest jump of any column in spreads, and the limit, shape (partitions,)
        each.
    """
    with rc_context(SETTINGS):
        figure, axes = _axes("spreads above the column's median")
        days = [date.fromisoformat(partition) for partition in partitions]
        axes.plot(days, heights[0], linewidth=0.8, label="largest jump")
        axes.step(days, heights[1], color="grey", linestyle="--", where="post", label="limit")
        for one in data["alerts"]:
            axes.axvline(date.fromisoformat(one["partition"]), color="tab:red", linewidth=0.8)
        image = _image(figure)
    return templates.get_template("alarms.html").render(data=data, image=image)


def _noise(alpha: float, results: Sequence[Result]) -> str:
    """Draw the share of sequences that promoted noise, gate by gate."""
    figure, axes = _axes("share of the sequences")
    for one in results:
        if one.pairs == results[0].pairs and one.recentred and not one.gain:
            axes.plot(range(1, len(one.by_attempt) + 1), one.by_attempt, marker=".", label=one.gate)
    axes.axhline(alpha, color="grey", linestyle="--", label=f"alpha {alpha:g}")
    axes.set(xlabel="attempt", xticks=[1, 5, 10, 15, 20], ylim=(0, 1.02))
    return _image(figure)


def _power(alpha: float, results: Sequence[Result]) -> str:
    """Draw what the gate promotes against the true gain, for each kind of champion."""
    figure, axes = _axes("share of the sequences")
    for name in dict.fromkeys(one.pairs for one in results):
        selected = [one for one in results if one.pairs == name and one.gate == GATE and one.recentred]
        gains = [100 * one.gain for one in selected]
        (line,) = axes.plot(
            gains, [one.within.share for one in selected], marker=".", label=f"{name}, within 20"
        )
        first = [one.first.share for one in selected]
        axes.plot(gains, first, color=line.get_color(), linestyle=":", label=f"{name}, the first")
    axes.axhline(alpha, color="grey", linestyle="--", label=f"alpha {alpha:g}")
    axes.set(xlabel="true gain, % of the champion's mean loss", ylim=(0, 1.02))
    return _image(figure)


def _axes(label: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel(label)
    return figure, axes


def _image(figure: Figure) -> str:
    """Return a figure as the address of an image that holds itself."""
    figure.legend(loc="outside right upper")
    sink = io.BytesIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(sink.getvalue()).decode()}"
