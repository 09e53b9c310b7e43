"""The overview: one line per use case, with its status, the model's age, its metric and its alarms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from evergreen.view.access import Readable
from evergreen.view.html import guarded, page

if TYPE_CHECKING:
    from include.ops.health import Health
    from include.spec import UseCase
    from include.storage.lake import Lake, Row

MAX_PARTITIONS = 28  # in the charts
router = APIRouter()


@router.get("/")
def overview(request: Request, usecases: Readable) -> HTMLResponse:
    """Show every use case that the user may read."""
    lines = [{"name": name, **guarded(name, line)} for name in usecases]
    return page(request, "overview.html", lines=lines)


def line(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return what the overview shows of a use case."""
    from include.monitor.silences import AlertLog
    from include.ops.health import scored_partitions
    from include.promote import ledger
    from include.reports.metric_chart import metric_chart

    log = AlertLog(lake)
    alerts = log.open_alerts()
    partitions, switches = lake.rows("partitions"), ledger.switches(lake)
    shown = scored_partitions(partitions)[-MAX_PARTITIONS:]
    findings: dict[str, list[Row]] = defaultdict(list)
    for row in lake.rows("findings", {"partition": shown}) if shown else []:
        findings[row["partition"]].append(row)
    champion = ledger.live_champion(switches)
    state = read_health(lake, spec, partitions, switches, findings)
    return {
        "statement": spec.problem.statement,
        "health": state,
        "champion": champion,
        "is_forced": champion is not None and ledger.was_forced(champion),
        "chart": metric_chart(lake, spec, shown, switches),
        "strip": [(partition, *_strip_cell(findings.get(partition, []))) for partition in shown],
        "alerts": alerts,
        "silenced": sum(log.silenced_by(alert.key, log.monitored[-1]) is not None for alert in alerts),
    }


def read_health(
    lake: Lake,
    spec: UseCase,
    partitions: Sequence[Row],
    switches: Sequence[Row],
    findings: Mapping[str, Sequence[Row]],
) -> Health:
    """Return the status of a use case from tables that have been read, and its newest predictions."""
    from include.ops.health import health, scored_partitions

    scored = scored_partitions(partitions)
    served = lake.read("predictions", {"partition": scored[-1]}, ["served_by"]) if scored else None
    counts = served["served_by"].value_counts().to_pylist() if served is not None else []
    return health(
        spec,
        datetime.now(UTC),
        partitions=partitions,
        switches=switches,
        served_by={row["values"]: row["counts"] for row in counts},
        findings=findings[max(findings)] if findings else [],
        scored_at=lake.written_at("predictions", scored[-1]) if scored else None,
    )


def _strip_cell(findings: Sequence[Row]) -> tuple[str, str]:
    """Return the tone of a partition in the strip, and what it means."""
    alarms = [row for row in findings if row["outcome"] == "alarm"]
    drifted = [row["subject"] for row in alarms if row["check"] == "drift"]
    others = [f"{row['check']} {row['subject']}" for row in alarms if row["check"] != "drift"]
    if others:
        return "bad", "alarms: " + ", ".join(others)
    if drifted:
        return "warn", "drift of " + ", ".join(drifted)
    return ("good", "no alarm") if findings else ("", "not monitored yet")
