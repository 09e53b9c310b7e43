"""The nights whose labels haven't come, and what is estimated of them; apart from what came true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from include.lake import Lake
from include.monitor.estimate import PRODUCT
from include.monitor.state import REALISED
from include.report import table

NIGHTS = 14  # estimated nights, at most, unless a range is asked for
SHOWN = ("metric", "estimate", "error", "low", "high", "nights")


def awaited(lake: Lake, *, known: str | None = None, first: str = "", last: str = "") -> list[dict[str, Any]]:
    """Return a row for each night without labels and metric, oldest first.

    Parameters
    ----------
    known : the night as of which labels count; None for what is known now.
    first, last : the range of nights; without ``first`` the newest `NIGHTS`.

    Returns
    -------
    list of dict
        ``night``, ``version``, ``metric``, ``estimate`` (None where it can't be told), its ``error``,
        ``low`` and ``high`` at 90 % by that, ``nights`` that the error was measured on, and ``reason``.
    """
    until = min(known or "~", last or "~")
    read = lake.read("partitions", {"product": PRODUCT}, ["night"])
    there = sorted(
        {} if read is None else {key for key in read["night"].to_pylist() if first <= key <= until}
    )
    nights = there if first else there[-NIGHTS:]
    came = lake.read(REALISED, {"night": nights}, ["night", "known"]) if nights else None
    for row in [] if came is None else came.to_pylist():
        if row["night"] in nights and (known is None or row["known"] <= known):
            nights.remove(row["night"])
    rows = lake.rows(PRODUCT, {"night": nights}) if nights else []
    names = ("night", "version", "metric", "value", "error", "low", "high", "nights", "reason")
    found = [{("estimate" if name == "value" else name): row[name] for name in names} for row in rows]
    return sorted(found, key=lambda row: (row["night"], row["metric"]))


def text(rows: Sequence[dict[str, Any]]) -> str:
    """Return what a person reads: a table of what is told, and why the rest isn't."""
    if not rows:
        return ""
    told = [row for row in rows if row["estimate"] is not None]
    silent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["estimate"] is None:
            silent.setdefault((row["night"], row["reason"]), []).append(row["metric"])
    lines = ["\n", "estimated, for the labels haven't come; error: its own, on the newest nights with labels"]
    lines += table(told, ["night", "version", *SHOWN]) if told else []
    lines += [f"  {night}  not told: {', '.join(of)}: {why}" for (night, why), of in silent.items()]
    return "\n".join(lines)
