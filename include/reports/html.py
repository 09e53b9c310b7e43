"""Sections, tables and cells, which pages render as HTML and cards as Markdown; formats of text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.stats import formatting

Tone = Literal["", "good", "warn", "bad"]


def template_environment(folder: Path) -> Environment:
    """Return the templates of a folder: every value is escaped, and a name that isn't given is an error."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


templates = template_environment(Path(__file__).parent / "templates")  # of the pages drawn without Airflow


@dataclass(frozen=True)
class Cell:
    """A table cell that isn't plain text: a right-aligned number, or a colored word."""

    text: str
    tone: Tone = ""
    number: bool = False


Line = list[Cell | str]


@dataclass(frozen=True)
class Table:
    """Rows below a header.

    Parameters
    ----------
    folded : whether a page shows only the title until the reader opens the table.
    """

    head: Sequence[str]
    rows: Sequence[Line]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a page or card.

    Parameters
    ----------
    lead : how to read the section: units, and which direction is better.
    charts : SVG; only from `include.reports.charts`, which escapes all text.
    """

    title: str
    lead: str
    tables: Sequence[Table] = ()
    charts: Sequence[str] = ()


def number_cell(text: str) -> Cell:
    """Return the cell of a number."""
    return Cell(text, number=True)


def metric_label(name: str) -> str:
    """Return a metric's or an objective's name as words: ``log loss``."""
    return name.replace("_", " ")


def figure(value: float | None) -> str:
    """Return a number with four significant digits, a dash if there is none."""
    return "—" if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def figure_pair(first: float, second: float) -> tuple[str, str]:
    """Return two numbers with enough digits to show which is larger."""
    if max(abs(first), abs(second)) < 1e4:
        return formatting.figure_and_limit(first, second, 4, "{:,.#g}")
    return formatting.figure_and_limit(first, second, 0, "{:,.#f}")


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+,.4g}"


def percent(share: float | None, sign: bool = False, limit: float | None = None) -> str:
    """Return a share of 1 in percent, with enough digits to show on which side of a limit it is."""
    if share is None:
        return "—"
    style = "{:+.#%}" if sign else "{:.#%}"
    text = style.replace("#", "1").format(share)
    if 0 < share < 0.0005:  # 0.0 % would look like none
        text = style.replace(".#%", ".1g").format(100 * share) + "%"
    if limit is not None:
        text, _ = formatting.figure_and_limit(share, limit, 1, style)
    return text.replace("%", " %")


def markdown(section: Section) -> str:
    """Return a section as Markdown, with every text escaped."""
    blocks = [f"## {escape_markdown(section.title)}", escape_markdown(section.lead)]
    for table in section.tables:
        if table.title:
            blocks.append(f"**{escape_markdown(table.title)}**")
        blocks.append(markdown_table(table))
    return "\n\n".join(block for block in blocks if block)


def markdown_table(table: Table) -> str:
    """Return a table's head and rows as Markdown."""
    rows: list[Line] = [[*table.head], ["---"] * len(table.head), *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def escape_markdown(text: str) -> str:
    """Return a text on one line that Markdown shows literally, without tags, links or tables."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*~\[\]|#])", r"\\\1", line)
    return line.replace("://", ":&#47;&#47;").replace(
        "www.", "www&#46;"
    )  # a bare URL would become a link, too


def _cell(cell: Cell | str) -> str:
    text = cell.text if isinstance(cell, Cell) else cell
    return text if text == "---" else escape_markdown(text)
