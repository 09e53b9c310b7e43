"""A page and a card are sections of tables, filled in once; a template makes HTML of them, or Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from include.stats import formatting

Tone = Literal["", "good", "warn", "bad"]


@dataclass(frozen=True)
class Cell:
    """A table's cell that isn't plain text: a number to the right, or a word with a colour."""

    text: str
    tone: Tone = ""
    number: bool = False


Line = list[Cell | str]


@dataclass(frozen=True)
class Table:
    """Rows below a heading.

    Parameters
    ----------
    folded : whether a page shows only the title until it is asked for more.
    """

    head: Sequence[str]
    rows: Sequence[Line]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One question and its answer.

    Parameters
    ----------
    lead : how to read what follows: units, and which way is better.
    charts : SVG, made by `include.reports.charts` alone, which escapes what it is given.
    """

    title: str
    lead: str
    tables: Sequence[Table] = ()
    charts: Sequence[str] = ()


def number_cell(text: str) -> Cell:
    """Return a number's cell."""
    return Cell(text, number=True)


def figure(value: float | None) -> str:
    """Return a number as people read it, four digits that count; a dash where there is none."""
    return "—" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def figures(one: float, other: float) -> tuple[str, str]:
    """Return two numbers as people read them, with the digits that show which is larger."""
    if max(abs(one), abs(other)) < 1e4:
        return formatting.figure_and_limit(one, other, 4, "{:,.#g}")
    return formatting.figure_and_limit(one, other, 0, "{:,.#f}")


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+,.4g}"


def percent(share: float | None, sign: bool = False, beside: float | None = None) -> str:
    """Return a share of 1 in percent; ``beside`` another one it has the digits that tell them apart."""
    if share is None:
        return "—"
    style = "{:+.#%}" if sign else "{:.#%}"
    text = style.replace("#", "1").format(share)
    if beside is not None:
        text, _ = formatting.figure_and_limit(share, beside, 1, style)
    return text.replace("%", " %")


def markdown(section: Section) -> str:
    """Return a section as Markdown, every text in it escaped."""
    found = [f"## {escape_markdown(section.title)}", escape_markdown(section.lead)]
    for table in section.tables:
        if table.title:
            found.append(f"**{escape_markdown(table.title)}**")
        rows: list[Line] = [[*table.head], ["---"] * len(table.head), *table.rows]
        found.append("\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows))
    return "\n\n".join(part for part in found if part)


def escape_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line: no tag, link or table comes of it."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*~\[\]|#])", r"\\\1", line)
    return line.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")  # a bare address is a link, too


def _cell(cell: Cell | str) -> str:
    text = cell.text if isinstance(cell, Cell) else cell
    return text if text == "---" else escape_markdown(text)
