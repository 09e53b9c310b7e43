"""The pages of a use case's data quality, and of a partition's quarantined rows.

The first has each source by partition, and each rule that rows broke.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from evergreen.view.access import Opened
from evergreen.view.column import columns_of
from evergreen.view.html import page
from include.spec.clock import time_of

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake, Row

router = APIRouter()
MAX_EVENTS = 100  # in the table of partitions
MAX_RULES = 5  # in a chart; all others are drawn as one
MAX_QUARANTINED = 200  # rows on a page; a bad partition has as many as its file
QUARANTINE_ORDER = ("source", "revision", "part", "row", "rule", "column")
EVENTS = ("refused", "unavailable", "late", "revised")
Rule = tuple[str, str]  # the rule and its column


@router.get("/quality/{usecase}")
def quality(request: Request, opened: Opened) -> HTMLResponse:
    """Show the data quality of each source over the last year of partitions."""
    spec = opened.spec
    return page(
        request,
        "quality.html",
        usecase=spec.name,
        columns=list(columns_of(spec)),
        **quality_data(opened.lake, spec),
    )


def quality_data(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return what the page shows: counts by source, partition and rule, and no rows."""
    from include.reports.history import MAX_PARTITIONS

    names = ["product", "partition", "outcome", "revision", "rows", "quarantined", "duplicates", "note"]
    rows = lake.rows("partitions", {"product": list(spec.sources)}, names, order=["partition"])
    span = sorted({row["partition"] for row in rows})[-MAX_PARTITIONS:]
    if not span:
        return {"partitions": []}
    by_source: dict[str, list[Row]] = {name: [] for name in spec.sources}
    for row in rows:
        if row["partition"] >= span[0]:
            by_source[row["product"]].append(row)
    ends = span[0], span[-1]
    counts = lake.counts(
        "quarantine", ["source", "partition", "rule", "column"], {"source": list(spec.sources)}, ends
    )
    violations: dict[str, dict[Rule, Counter[str]]] = {name: defaultdict(Counter) for name in spec.sources}
    for row in counts:
        violations[row["source"]][row["rule"], row["column"] or ""][row["partition"]] += row["count"]
    sources = []
    for name, own in by_source.items():
        arrivals = _arrivals(lake, name, ends)
        sources.append(_source(spec, name, own, violations[name], arrivals))
    charts = [
        _rows_chart(by_source),
        _events_chart(sources, span),
        *_rule_charts(spec, by_source, violations),
    ]
    events = [
        {"source": source["name"], **row} for source in sources for row in source["rows"] if row["events"]
    ]
    return {
        "partitions": span,
        "sources": sources,
        "rules": _rules(violations),
        "events": sorted(events, key=lambda row: (row["partition"], row["source"]), reverse=True)[
            :MAX_EVENTS
        ],
        "more": max(len(events) - MAX_EVENTS, 0),
        "charts": [Markup(svg) for svg in charts if svg],  # noqa: S704  # matplotlib has escaped every text
    }


def _arrivals(lake: Lake, source: str, ends: tuple[str, str]) -> dict[str, list[datetime]]:
    """Return when each revision of the partitions from one to another became known, oldest first."""
    arrivals: dict[str, list[datetime]] = defaultdict(list)
    for row in lake.counts(f"validated_{source}", ["partition", "revision", "known_at"], span=ends):
        arrivals[row["partition"]].append(row["known_at"])
    return arrivals


def _source(
    spec: UseCase,
    name: str,
    rows: list[Row],
    violations: dict[Rule, Counter[str]],
    arrivals: dict[str, list[datetime]],
) -> Row:
    """Return a source's totals, and its partitions with what happened to each."""
    declared = spec.sources[name]
    own = []
    for row in rows:
        times, events = arrivals.get(row["partition"], []), []
        if row["outcome"] != "published":
            events.append(row["outcome"])
        if times and min(times) > spec.clock.local(row["partition"], declared.available_at):
            events.append("late")
        if len(times) > 1:
            events.append("revised")
        own.append({**row, "events": events, "arrived": min(times, default=None), "revisions": len(times)})
    read = sum(row["rows"] + row["quarantined"] for row in own)
    return {
        "name": name,
        "partitions": len(own),
        "published": sum(row["outcome"] == "published" for row in own),
        "events": {event: [row["partition"] for row in own if event in row["events"]] for event in EVENTS},
        "total": sum(row["rows"] for row in own),
        "quarantined": sum(row["quarantined"] for row in own),
        "share": sum(row["quarantined"] for row in own) / read if read else None,
        "duplicates": sum(row["duplicates"] or 0 for row in own),
        "tolerance": declared.contract.tolerance,
        "worst": max(violations, key=lambda rule: violations[rule].total(), default=None),
        "rows": own,
    }


def _rules(violations: dict[str, dict[Rule, Counter[str]]]) -> list[Row]:
    """Return every rule that rows broke, the one with the most violations first."""
    rules = [
        {
            "source": source,
            "rule": rule,
            "column": column,
            "count": by_partition.total(),
            "partitions": len(by_partition),
            "last": max(by_partition),
        }
        for source, by_rule in violations.items()
        for (rule, column), by_partition in by_rule.items()
    ]
    return sorted(rules, key=lambda row: (-row["count"], row["source"], row["rule"], row["column"]))


def _rows_chart(by_source: dict[str, list[Row]]) -> str:
    """Draw the rows of each source, relative to its own median, since sources differ in size."""
    from include.reports.page_charts import Series, time_chart

    series = []
    for name, rows in by_source.items():
        published = [row for row in rows if row["outcome"] == "published"]
        middle = median(row["rows"] for row in published) if published else 0
        if middle:
            label = f"{name}, median {middle:,.0f} rows"
            values = [row["rows"] / middle for row in published]
            series.append(Series(label, [row["partition"] for row in published], values))
    return time_chart("Published rows", "multiples of the source's median", series) if series else ""


def _events_chart(sources: list[Row], span: list[str]) -> str:
    """Draw by source which partitions were refused, unavailable, late or revised."""
    from include.reports.page_charts import event_chart

    lines = [
        (f"{source['name']} {event}", partitions)
        for source in sources
        for event, partitions in source["events"].items()
        if partitions
    ]
    title = "Partitions that were refused, unavailable, late or revised"
    return event_chart(title, lines, (span[0], span[-1])) if lines else ""


def _rule_charts(
    spec: UseCase, by_source: dict[str, list[Row]], violations: dict[str, dict[Rule, Counter[str]]]
) -> list[str]:
    """Draw the violations of each source with any, by rule, as shares of a partition's rows."""
    from include.reports.page_charts import Series, stacked_shares

    charts = []
    for name, by_rule in violations.items():
        rows = [row for row in by_source[name] if row["rows"] + row["quarantined"]]
        if not by_rule or not rows:
            continue
        ordered = sorted(by_rule, key=lambda rule: (-by_rule[rule].total(), rule))
        groups = {_rule_label(rule): by_rule[rule] for rule in ordered[:MAX_RULES]}
        if len(ordered) > MAX_RULES:
            groups["other rules"] = sum((by_rule[rule] for rule in ordered[MAX_RULES:]), Counter())
        partitions = [row["partition"] for row in rows]
        series = [
            Series(
                label,
                partitions,
                [counts[row["partition"]] / (row["rows"] + row["quarantined"]) for row in rows],
            )
            for label, counts in groups.items()
        ]
        tolerance = spec.sources[name].contract.tolerance
        limit = (f"tolerated rows, {100 * tolerance:g} %", tolerance)
        charts.append(stacked_shares(f"Violations in {name}, by rule", series, limit=limit))
    return charts


def _rule_label(rule: Rule) -> str:
    name, column = rule
    return f"{name} of {column}" if column else name


@router.get("/quarantine/{usecase}/{partition}")
def quarantine(request: Request, opened: Opened, partition: str) -> HTMLResponse:
    """Show the quarantined rows of a partition, each with the violated rule and the value."""
    time_of(partition)  # raises for a malformed key
    if not opened.lake.rows("partitions", {"product": list(opened.spec.sources), "partition": partition}):
        raise HTTPException(
            404, f"{opened.spec.name} has no partition {partition}: no source of it was ingested."
        )
    rows, total = quarantined_rows(opened.lake, opened.spec, partition)
    return page(
        request,
        "quarantine.html",
        title=f"Quarantined on {partition}",
        usecase=opened.spec.name,
        partition=partition,
        rows=rows,
        total=total,
    )


def quarantined_rows(lake: Lake, spec: UseCase, partition: str) -> tuple[list[dict[str, Any]], int]:
    """Return the first quarantined rows of a partition, with their fields, and how many there are."""
    where = {"source": list(spec.sources), "partition": partition}
    rows = lake.rows("quarantine", where, order=QUARANTINE_ORDER, limit=MAX_QUARANTINED)
    return [{**row, "record": _fields(row["record"])} for row in rows], lake.count("quarantine", where)


def _fields(record: str | None) -> dict[str, Any]:
    """Return the fields of a stored row; a row that isn't JSON is shown as it is."""
    try:
        fields = json.loads(record or "{}")
    except ValueError:
        return {"": record}
    return fields if isinstance(fields, dict) else {"": fields}
