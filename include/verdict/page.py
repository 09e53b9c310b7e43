"""The page of a verdict: one file that asks the network for nothing and runs nothing, for any browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from include.verdict import sections
from include.verdict.changes import changes
from include.verdict.known import Known
from include.verdict.parts import Cell, Section
from include.verdict.words import headline

templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


PARTS: dict[str, Callable[[Known], Section | None]] = {
    "checks": sections.checks,
    "comparison": sections.comparison,
    "slices": sections.slices,
    "fairness": sections.fairness,
    "importance": sections.importance,
    "edge cases": sections.edge_cases,
    "serving": sections.serving,
    "doubts": sections.doubts,
    "changes": changes,
}


def answers(known: Known) -> dict[str, Section]:
    """Return the sections that there is something to say in, in the page's order, by name."""
    return {name: part for name, make in PARTS.items() if (part := make(known)) is not None}


def page(known: Known, parts: Mapping[str, Section]) -> str:
    """Return the whole page; the same attempt gives the same text.

    Parameters
    ----------
    parts : the `answers`.
    """
    return templates.get_template("verdict.html").render(
        spec=known.spec,
        row=known.row,
        evidence=known.evidence,
        said=headline(known),
        rows=known.rows,
        stale=known.spec.digest != known.evidence.spec,
        sections=parts.values(),
        drawn=_drawn,
        is_cell=lambda cell: isinstance(cell, Cell),
    )


def _drawn(svg: str) -> Markup:
    """Return a drawing as it is: `include.verdict.charts` has escaped every text in it."""
    return Markup(svg)  # noqa: S704
