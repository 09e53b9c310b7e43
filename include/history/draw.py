"""Draw a use case's year and store it beside the reports, as the runs of its nights do when they end."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from include.history.known import Known, known
from include.lake import Lake
from include.report import table
from include.spec import UseCase
from include.verdict.place import HISTORY

PASSES = 5  # more than the runs that are likely to end while one draws
log = logging.getLogger(__name__)


def draw(lake: Lake, spec: UseCase) -> tuple[dict[str, Any], str]:
    """Store the page as ``reports/history.html``.

    What is published meanwhile is drawn as well: of several runs that draw at once, the one that writes last
    may have read first.

    Returns
    -------
    dict, str
        What it says as plain JSON, and the page. The same tables give the same bytes.
    """
    from include.history import page  # matplotlib, which most nights of a backfill go without

    found = known(lake, spec)
    for _ in range(PASSES):
        sentence = _sentence(found)
        html = page.render(found, sentence)
        lake.replace(f"reports/{HISTORY}", html.encode())
        before, found = found, known(lake, spec)
        if found == before:
            break
    said = {
        "usecase": spec.name,
        "sentence": sentence,
        "nights": len(found.nights),
        "in_alarm": len(found.alarmed()),
        "checks": [
            {"check": check, "nights": count, "share": share} for check, count, share in page.shares(found)
        ],
        "episodes": [asdict(one) for one in found.episodes()],
        "switches": [
            {name: row[name] for name in ("effective", "role", "version", "kind", "reason")}
            for row in found.switches
        ],
        "page": f"{lake.uri}/reports/{HISTORY}",
    }
    return said, html


def redraw(lake: Lake, spec: UseCase) -> None:
    """Draw the year. What fails is logged: the night is done."""
    try:
        draw(lake, spec)
    except Exception:  # a page for eyes fails no night, whatever is wrong with it
        log.exception("%s: reports/%s couldn't be drawn", spec.name, HISTORY)


def text(said: dict[str, Any]) -> str:
    """Return what a person reads in a terminal: the shares, then the episodes without drift."""
    lines = [said["sentence"]]
    if said["checks"]:
        lines += ["", *table(said["checks"], ["check", "nights", "share"])]
    if shown := [one for one in said["episodes"] if one["check"] != "drift"]:
        lines += ["", *table(shown, ["first", "last", "nights", "check", "subject", "note"])]
    return "\n".join([*lines, "", said["page"]])


def _sentence(found: Known) -> str:
    """Return the year in a sentence."""
    if not found.nights:
        return "No night has been watched yet."
    nights, alarmed = len(found.nights), len(found.alarmed())
    runs = sum(one.check != "drift" for one in found.episodes())
    champions = sum(row["role"] == "champion" for row in found.switches)
    return (
        f"{alarmed} of {nights} nights ({100 * alarmed / nights:.1f} %) had an alarm other than drift, "
        f"in {runs} episode{'s' * (runs != 1)}; {champions} switch{'es' * (champions != 1)} of the champion."
    )
