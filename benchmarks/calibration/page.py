"""The measurement as one page that needs no network: the sentence, the tables, a plot."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
