"""The commands that look: what a person asks of the lake, and nothing but a page is written."""

from __future__ import annotations

from typing import Annotated

import typer

from include import spec as specs
from include.clock import day_of
from include.options import AsJson, Debug, Page, UseCaseName, show, writable

looks = typer.Typer()


@looks.command()
def performance(
    usecase: UseCaseName,
    by: Annotated[str, typer.Option("--by", help="day, week, version, rung or slice.")] = "week",
    known: Annotated[str, typer.Option("--known", help="A night as of which labels count, or now.")] = "now",
    first: Annotated[str, typer.Option("--first", help="The first scored night, as 2013-03-01.")] = "",
    last: Annotated[str, typer.Option("--last", help="The last one; the last 90 unless given.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what came true by day, week, version, rung or slice, as known then or now; and what is estimated.

    An estimate stands for a night whose labels haven't come, with its own error. Nothing is decided by it.
    """
    from include.lake import Lake
    from include.monitor.awaited import awaited, text
    from include.monitor.matured import matured
    from include.report import table

    spec = specs.load(usecase)
    nights = [day_of(key).isoformat() if key else "" for key in (first, last)]
    until = None if known == "now" else day_of(known).isoformat()
    lake = Lake(usecase)
    rows = matured(lake, spec, by, known=until, first=nights[0], last=nights[1])
    waiting = awaited(lake, known=until, first=nights[0], last=nights[1])
    found = {"usecase": usecase, "by": by, "known": known, "rows": rows, "estimated": waiting}
    none = f"no labels of these nights were known {'yet' if until is None else f'on {until}'}"
    said = "\n".join(table(rows, list(rows[0]))) if rows else none
    show(found, said + text(waiting), as_json)


@looks.command()
def history(
    usecase: UseCaseName,
    page: Page = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw the year: performance, drift, alarms and switches on one axis; says how many nights alarmed."""
    from include.history.draw import draw, text
    from include.lake import Lake

    writable(page)
    said, html = draw(Lake(usecase), specs.load(usecase))
    if page is not None:
        page.write_text(html)
    show(said, text(said), as_json)


@looks.command()
def metrics(
    usecase: Annotated[str | None, typer.Argument(metavar="[USECASE]", help="All, unless given.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print what Prometheus is told: the gauges of the newest nights, in its text format."""
    from include.metrics.exposition import text
    from include.metrics.gauges import ABOUT
    from include.metrics.scrape import scrape

    asked = [specs.load(usecase).name] if usecase else specs.names()
    found = [sample for name in asked for sample in scrape(name)]
    show({"samples": [vars(one) for one in found]}, text(found, ABOUT).rstrip("\n"), as_json)
