"""A use case's page: its status, the champion, and its last partitions, switches and verdicts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from evergreen.view.access import MayOperate, Named, Opened
from evergreen.view.html import guarded, page
from evergreen.view.overview import read_health
from include.reports.paths import REPLAY, drift_report_path, page_path
from include.spec.stages import STEPS

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

MAX_PARTITIONS = 14  # in the tables
MAX_SWITCHES = 20  # in the table
CHART = 90  # partitions in the charts
router = APIRouter()
Rows = list[dict[str, Any]]
Metrics = dict[str, float | None]


@router.get("/usecase/{usecase}")
def usecase(request: Request, name: Named, may_operate: MayOperate) -> HTMLResponse:
    """Show one use case."""
    return page(request, "usecase.html", it={"name": name, **guarded(name, state)}, may_operate=may_operate)


@router.get("/live/{usecase}")
def live(request: Request, opened: Opened) -> HTMLResponse:
    """Show loss, metric, drift, alarms, switches and trainings on one axis, framed by the use case's page.

    It is a page of its own, because drawing takes most of a second.
    """
    from include.promote import ledger
    from include.reports.history import draw_panels, read_history  # they import Matplotlib

    scored = ledger.served_partitions(opened.lake)[-CHART:]
    chart = draw_panels(read_history(opened.lake, opened.spec, scored)) if scored else ""
    return page(request, "live.html", usecase=opened.spec.name, chart=chart)


def state(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return what the page shows of a use case."""
    from include.ops import status  # single parts of it, since the whole status reads all predictions
    from include.ops.health import scored_partitions
    from include.promote import ledger
    from include.reports.metric_chart import metric_chart

    partition_rows, reports = lake.rows("partitions"), set(lake.keys("reports"))
    switches = ledger.switches(lake)
    partitions = _partitions(lake, spec, partition_rows)
    findings = {row["partition"]: row["findings"] for row in partitions if row["findings"]}
    shown = scored_partitions(partition_rows)[-CHART:]
    return {
        "statement": spec.problem.statement,
        "owner": spec.problem.owner,
        "health": read_health(lake, spec, partition_rows, switches, findings),
        "champion": _champion(lake, switches, reports),
        "why_no_champion": status.why_no_champion(lake),
        "trials": status.on_trial(lake, spec),
        "waiting": status.pending(lake, spec),
        "chart": metric_chart(lake, spec, shown, switches),
        "is_scored": bool(shown),
        "stale": status.stale_lines(status.stale(lake, spec, partition_rows)),
        "attempts": _reported(status.attempts(lake, spec)[::-1], reports),
        "switches": _switches(switches, reports),
        "unlabeled": sum(bool(row["predicted"]) and not row["metrics"] for row in partitions),
        "partitions": partitions,
        "replay": REPLAY if f"reports/{REPLAY}" in reports else "",
    }


def _champion(lake: Lake, switches: Rows, reports: set[str]) -> dict[str, Any] | None:
    """Return the newest champion, why it serves in plain words, and where its report is."""
    from include.ops import status
    from include.promote import ledger
    from include.reports.wording import why_champion

    champion = status.champion(lake)
    if champion is None:
        return None
    *_, row = champions = ledger.champions(switches)
    own = {"kind": ledger.kind_text(row["kind"]), "sentence": why_champion(champions)}
    return {**champion, **own, "report": _report(row["judged_on"], row["attempt"], reports)}


def _switches(switches: Rows, reports: set[str]) -> Rows:
    """Return the newest switches, newest first, each with what it replaced and the path of its report.

    ``restorable`` marks one champion of each model that a rollback may return to.
    """
    from include.promote import ledger

    previous: dict[str, str] = {}
    rows: Rows = []
    for row in switches:
        if row["role"] == "baseline":
            continue
        report = _report(row["judged_on"], row["attempt"], reports)
        own = {"kind": ledger.kind_text(row["kind"]), "from": previous.get(row["role"], "")}
        rows.append({**row, **own, "report": report, "restorable": False})
        previous[row["role"]] = row["version"]
    live = ledger.live_champion(switches)
    offered = {live["version"]} if live else set()
    for row in reversed(rows):
        if row["role"] == "champion" and row["version"] not in offered:
            row["restorable"] = True
            offered.add(row["version"])
    shown = rows[::-1][:MAX_SWITCHES]
    for row in shown:
        row["took_effect"] = ledger.took_effect(row, ledger.superseded_from(row, switches))
    return shown


def _partitions(lake: Lake, spec: UseCase, partition_rows: Rows) -> Rows:
    """Return a line for each of the last partitions, newest first, from the tables of all stages."""
    from include.monitor.alerts import deliveries
    from include.monitor.performance import newest_metrics

    products = {(row["partition"], row["product"]): row for row in partition_rows}
    partitions = _shown(spec, products)
    where = {"partition": partitions}
    served_by = _served_by(lake, partitions)
    measured = newest_metrics(lake, partitions)
    findings = _by_partition(lake.rows("findings", where))
    decisions = _by_partition(lake.rows("decisions", where))
    sent = deliveries(lake, partitions)
    return [
        {
            "partition": partition,
            "sources": [(name, products.get((partition, name))) for name in spec.sources],
            "predicted": served_by[partition].total(),
            "served_by": [(step, rows) for step in STEPS if (rows := served_by[partition][step])],
            "metrics": _watched(spec, measured.get(partition, {})),
            "findings": findings[partition],
            "alarms": [row for row in findings[partition] if row["outcome"] == "alarm"],
            "alerts": [alert for row in decisions[partition] for alert in json.loads(row["alerts"] or "[]")],
            "notified": sent.get(partition, []),
            "decision": next(iter(decisions[partition]), None),
            "report": drift_report_path(partition) if findings[partition] else "",
        }
        for partition in reversed(partitions)
    ]


def _shown(spec: UseCase, products: Iterable[tuple[str, str]]) -> list[str]:
    """Return the last partitions that ran; before the first, the last ingested ones.

    A history may be loaded far ahead of the partitions that run.
    """
    ingested = sorted({partition for partition, product in products if product in spec.sources})
    ran = sorted({partition for partition, product in products if product in ("predictions", "monitor")})
    return (ran or ingested)[-MAX_PARTITIONS:]


def _reported(attempts: Rows, reports: set[str]) -> Rows:
    """Return the attempts, each with the path of its report, if there is one."""
    return [{**row, "report": _report(row["partition"], row["key"], reports)} for row in attempts]


def _report(partition: str, attempt: str, reports: set[str]) -> str:
    """Return the path of the report of an attempt's verdict; empty if there is none."""
    path = page_path(partition, attempt) if attempt else ""
    return path if f"reports/{path}" in reports else ""


def _served_by(lake: Lake, partitions: Sequence[str]) -> dict[str, Counter[str]]:
    """Return how many rows of each partition each step of the fallback chain served."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    scored = lake.read("predictions", {"partition": partitions}, ["partition", "served_by"])
    if scored is not None:
        for row in scored.group_by(["partition", "served_by"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["partition"]][row["served_by"]] = row["count_all"]
    return counts


def _watched(spec: UseCase, measured: dict[str, dict[str, Any]]) -> Metrics:
    """Return the metrics with requirements and the gate's objective; if there are none, all metrics."""
    metrics = {name: row["value"] for name, row in measured.items()}
    names = dict.fromkeys([*(rule.metric for rule in spec.monitoring.requirements), spec.gate.objective])
    watched = {name: metrics[name] for name in names if name in metrics}
    # the constant's metrics have names such as constant:roc_auc
    return watched or {name: value for name, value in metrics.items() if not name.startswith("constant:")}


def _by_partition(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    partitions: dict[str, Rows] = defaultdict(list)
    for row in rows:
        partitions[row["partition"]].append(row)
    return partitions
