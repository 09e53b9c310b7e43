"""The commands that look: what a person asks of the lake, and nothing but a page is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from include import spec as specs
from include.cli.options import AsJson, Debug, Page, UseCaseName, print_result, require_writable
from include.reports.text import text_table
from include.spec.clock import day_of

looks = typer.Typer()
SHOWN = ("metric", "estimate", "error", "low", "high", "partitions")


@looks.command()
def performance(
    usecase: UseCaseName,
    by: Annotated[str, typer.Option("--by", help="day, week, version, rung or slice.")] = "week",
    known: Annotated[
        str, typer.Option("--known", help="A partition as of which labels count, or now.")
    ] = "now",
    first: Annotated[str, typer.Option("--first", help="The first scored partition, as 2013-03-01.")] = "",
    last: Annotated[str, typer.Option("--last", help="The last one; the last 90 unless given.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what came true by day, week, version, rung or slice, as known then or now; and what is estimated.

    An estimate stands for a partition whose labels haven't come, with its own error. Nothing is decided by
    it.
    """
    from include.monitor.estimates import pending_estimates
    from include.monitor.performance import performance_by
    from include.storage.lake import Lake

    spec = specs.load(usecase)
    partitions = [day_of(key).isoformat() if key else "" for key in (first, last)]
    until = None if known == "now" else day_of(known).isoformat()
    lake = Lake(usecase)
    rows = performance_by(lake, spec, by, known=until, first=partitions[0], last=partitions[1])
    waiting = pending_estimates(lake, known=until, first=partitions[0], last=partitions[1])
    found = {"usecase": usecase, "by": by, "known": known, "rows": rows, "estimated": waiting}
    none = f"no labels of these partitions were known {'yet' if until is None else f'on {until}'}"
    said = "\n".join(text_table(rows, list(rows[0]))) if rows else none
    print_result(found, said + pending_text(waiting), as_json)


@looks.command()
def history(
    usecase: UseCaseName,
    page: Page = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw the year: performance, drift, alarms and switches on one axis.

    Says how many partitions alarmed.
    """
    from include.reports.history import draw_history, history_text
    from include.storage.lake import Lake

    require_writable(page)
    said, html = draw_history(Lake(usecase), specs.load(usecase))
    if page is not None:
        page.write_text(html)
    print_result(said, history_text(said), as_json)


@looks.command()
def metrics(
    usecase: Annotated[str | None, typer.Argument(metavar="[USECASE]", help="All, unless given.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Print what Prometheus is told: the gauges of the newest partitions, in its text format."""
    from include.ops.prometheus import ABOUT, exposition_text, scrape

    asked = [specs.load(usecase).name] if usecase else specs.names()
    found = [sample for name in asked for sample in scrape(name)]
    print_result(
        {"samples": [vars(one) for one in found]}, exposition_text(found, ABOUT).rstrip("\n"), as_json
    )


def pending_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return what a person reads: a table of what is told, and why the rest isn't."""
    if not rows:
        return ""
    told = [row for row in rows if row["estimate"] is not None]
    silent: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["estimate"] is None:
            silent.setdefault((row["partition"], row["reason"]), []).append(row["metric"])
    lines = [
        "\n",
        "estimated, for the labels haven't come; error: its own, on the newest partitions with labels",
    ]
    lines += text_table(told, ["partition", "version", *SHOWN]) if told else []
    lines += [f"  {partition}  not told: {', '.join(of)}: {why}" for (partition, why), of in silent.items()]
    return "\n".join(lines)
