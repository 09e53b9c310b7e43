"""The page of one partition: what came in, which models served it, what monitoring concluded, its lineage."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import HTMLResponse

from evergreen.links import runs_path
from evergreen.view.access import Opened
from evergreen.view.html import page
from include.reports.paths import data_docs_path, drift_report_path, page_path
from include.spec.clock import time_of
from include.spec.partition import check_partition, how_to_run
from include.spec.usecase import PRODUCTS

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake, Row

router = APIRouter()


@router.get("/partition/{usecase}/{partition}")
def partition(request: Request, opened: Opened, partition: str) -> HTMLResponse:
    """Show one partition."""
    lake, spec = opened.lake, opened.spec
    time_of(partition)  # raises for a malformed key
    where = {"product": [*spec.sources, *PRODUCTS], "partition": partition}
    products = {row["product"]: row for row in lake.rows("partitions", where)}
    if not products.keys() & {*spec.sources, "predictions"}:
        raise _missing(lake, spec, partition)
    return page(
        request,
        "partition.html",
        usecase=spec.name,
        partition=partition,
        target=spec.problem.target,
        columns={*spec.features.columns, *spec.problem.outputs, spec.problem.target},
        how_to_run=how_to_run(spec.name, partition),
        runs=runs_path(f"{spec.name}__batch", partition),
        trainings=runs_path(f"{spec.name}__training", partition),
        **partition_data(lake, spec, partition, products),
    )


def _missing(lake: Lake, spec: UseCase, partition: str) -> Exception:
    """Return the error of a partition without anything published, with the reason and what to do."""
    for row in lake.rows("withdrawals", {"partition": partition}):
        return HTTPException(
            404, f"{spec.name}: {partition} was withdrawn by {row['by']}: {row['reason'] or 'no reason'}."
        )
    check_partition(spec, partition, datetime.now(UTC))  # raises for one off the schedule or in the future
    remedy = how_to_run(spec.name, partition)
    return HTTPException(404, f"{spec.name}: nothing of {partition} was ingested yet; {remedy}.")


def partition_data(lake: Lake, spec: UseCase, partition: str, products: Mapping[str, Row]) -> dict[str, Any]:
    """Return what the page shows of a partition.

    Parameters
    ----------
    products : the partition's rows of `partitions`, by product.
    """
    from include.monitor.alerts import deliveries
    from include.promote.promotion import attempt_outcome, read_ledgers

    where = {"partition": partition}
    decision = next(iter(lake.rows("decisions", where)), None)
    findings = _findings(lake, partition)
    earlier, later = _neighbors(lake, spec, partition)
    ledgers = read_ledgers(lake, spec)
    violations = ["source", "revision", "rule", "column"]
    return {
        "earlier": earlier,
        "later": later,
        "sources": [_source(spec, name, partition, products.get(name)) for name in spec.sources],
        "violations": lake.counts("quarantine", violations, {"source": list(spec.sources), **where}),
        "predictions": _with_inputs(products.get("predictions")),
        "served": _served(lake, spec, partition),
        "actions": _actions(lake, partition),
        "shadows": products.get("shadows"),
        "findings": findings,
        "decision": decision,
        "alerts": json.loads(decision["alerts"] or "[]") if decision else [],
        "notified": deliveries(lake, [partition]).get(partition, []),
        "report": drift_report_path(partition) if any(findings.values()) else "",
        "attempts": [
            {
                **row,
                "outcome": attempt_outcome(ledgers, row),
                "report": _stored_report(lake, row["partition"], row["key"]),
            }
            for row in lake.rows("attempts", where, order=["recorded"])
        ],
        "labels": _with_inputs(products.get("performance")),
        "metrics": _metrics(lake, spec, partition),
        "losses": _losses(lake, spec, partition),
        "estimates": lake.rows("estimates", where),
    }


def _neighbors(lake: Lake, spec: UseCase, partition: str) -> tuple[str, str]:
    """Return the ingested partitions before and after one, empty where there is none."""
    ingested = lake.rows("partitions", {"product": list(spec.sources)}, ["partition"])
    keys = sorted({row["partition"] for row in ingested})
    before, after = keys[: bisect_left(keys, partition)], keys[bisect_right(keys, partition) :]
    return next(reversed(before), ""), next(iter(after), "")


def _with_inputs(row: Row | None) -> Row | None:
    """Return a row of `partitions` with its inputs parsed, None without a row."""
    return row and {**row, "inputs": json.loads(row["inputs"] or "{}")}


def _source(spec: UseCase, name: str, partition: str, row: Row | None) -> Row:
    """Return a source's outcome, and the identity of the raw bytes that its rows come from."""
    inputs = json.loads(row["inputs"] or "{}") if row else {}
    return {
        "name": name,
        "row": row,
        "raw": str(inputs.get(f"raw/{name}", "")),
        "docs": data_docs_path(name, partition),
        "declared": partition in spec.partitions(name, partition, partition),
    }


def _served(lake: Lake, spec: UseCase, partition: str) -> list[Row]:
    """Return how many rows each model and fallback step served and why, the most rows first."""
    by = ["served_by", "version", "model", "reason"]
    counts = lake.counts("predictions", by, {"partition": partition})
    models = {row["model"]: model for row in counts if (model := row["model"])}
    about = _model_facts(lake, list(models))
    total = sum(row["count"] for row in counts)
    return [
        {**row, "share": row["count"] / total, "about": about.get(row["model"])}
        for row in sorted(counts, key=lambda row: (-row["count"], row["served_by"], row["version"]))
    ]


def _actions(lake: Lake, partition: str) -> list[Row]:
    """Return how many rows have each action, the most rows first; none without costs."""
    opened = lake.open("predictions")
    if opened is None or "action" not in (field.name for field in opened.schema().fields):
        return []
    counts = lake.counts("predictions", ["action"], {"partition": partition})
    return sorted((row for row in counts if row["action"]), key=lambda row: (-row["count"], row["action"]))


def _model_facts(lake: Lake, models: Sequence[str]) -> dict[str, Row]:
    """Return each model's recipe, training, fitted rows and last fitted partition, by its digest.

    A figure that no ledger has is empty or None.
    """
    from include.promote import ledger

    if not models:
        return {}
    fits = {row["model"]: row for row in lake.rows("fits", {"model": list(models)})}
    switches = {row["model"]: row for row in ledger.switches(lake)}
    facts = {}
    for model in models:
        fit, switch = fits.get(model, {}), switches.get(model, {})
        facts[model] = {
            "recipe": switch.get("recipe") or fit.get("recipe") or "",
            "trained": fit.get("partition") or switch.get("judged_on", ""),
            "rows": fit.get("rows"),
            "last_fitted": fit.get("last_fitted", ""),
            "data": fit.get("data", ""),
            "report": _stored_report(lake, switch["judged_on"], switch["attempt"]) if switch else "",
        }
    return facts


def _stored_report(lake: Lake, partition: str, key: str) -> str:
    """Return the path of an attempt's report, empty if it isn't stored."""
    path = page_path(partition, key)
    return path if lake.size(f"reports/{path}") is not None else ""


def _findings(lake: Lake, partition: str) -> dict[str, list[Row]]:
    """Return the findings by outcome: ``alarm``, ``not enough`` and ``ok``."""
    findings: dict[str, list[Row]] = {"alarm": [], "not enough": [], "ok": []}
    rows = lake.rows("findings", {"partition": partition})
    for row in sorted(rows, key=lambda row: (row["check"], row["subject"])):
        findings[row["outcome"]].append(row)
    return findings


def _metrics(lake: Lake, spec: UseCase, partition: str) -> list[Row]:
    """Return the realized metrics as known now, with the constant's and what is required."""
    from include.monitor.performance import CONSTANT_PREFIX, newest_metrics

    newest = newest_metrics(lake, [partition]).get(partition, {})
    metrics = []
    for name, row in sorted(newest.items()):
        if name.startswith(CONSTANT_PREFIX):
            continue
        value = row["value"]
        rules = [rule for rule in spec.monitoring.requirements if rule.metric == name]
        constant = newest.get(CONSTANT_PREFIX + name)
        metrics.append(
            {
                **row,
                "constant": constant and constant["value"],
                "required": ", ".join(f"{rule.side} {rule.limit:g}" for rule in rules),
                "missed": value is not None and not all(rule.is_met(value) for rule in rules),
            }
        )
    return sorted(metrics, key=lambda row: not row["required"])


def _losses(lake: Lake, spec: UseCase, partition: str) -> list[Row]:
    """Return each model's mean loss per labeled row as known now, and the baseline's on the same rows."""
    from include.storage.lake import newest_known

    newest = newest_known(lake.rows("losses", {"partition": partition}), "model")
    return [
        {
            "version": row["version"],
            "rows": row["rows"],
            "loss": row["loss"] / row["rows"],
            "baseline": row["baseline"] / row["rows"],
            "against": row["against"],
            "objective": spec.gate.objective,
        }
        for row in newest.values()
        if row["rows"]
    ]
