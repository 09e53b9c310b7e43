"""The data of a use case's page: the champion and why it serves, the last partitions, the last attempts."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError, StoreUnavailable
from include.reports.paths import HISTORY, REPLAY, page_place
from include.spec import load

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

MAX_PARTITIONS = 14  # on the page
FALLBACK_STEPS = ("champion", "canary", "previous", "baseline", "prior")
log = logging.getLogger(__name__)
Rows = list[dict[str, Any]]
Metrics = dict[str, float | None]


def summary(usecase: str) -> dict[str, Any]:
    """Return what the page shows of a use case; an error in one use case doesn't affect the others."""
    from include.storage.lake import Lake  # at the first request: it imports pyarrow and deltalake

    try:
        spec = load(usecase)
        return {"name": usecase, "error": "", **_state(Lake(usecase), spec)}
    except StoreUnavailable:  # its message may contain internal addresses
        log.exception("%s can't be shown", usecase)
        return {"name": usecase, "error": "The lake could not be read; the api-server's log says more."}
    except EvergreenError as error:
        return {"name": usecase, "error": str(error)}
    except Exception as error:  # of whatever kind: the other use cases are still shown
        log.exception("%s can't be shown", usecase)
        message = f"The page failed ({type(error).__name__}); the api-server's log says more."
        return {"name": usecase, "error": message}


def _state(lake: Lake, spec: UseCase) -> dict[str, Any]:
    from include.ops import status  # single parts of it, since the whole status reads all predictions

    partition_rows, reports = lake.rows("partitions"), set(lake.keys("reports"))
    partitions = _partitions(lake, spec, partition_rows, reports)
    return {
        "statement": spec.problem.statement,
        "owner": spec.problem.owner,
        "champion": status.champion(lake),
        "vacancy": status.vacancy(lake),
        "trials": status.on_trial(lake, spec),
        "waiting": status.pending(lake, spec),
        "mean": _watched(spec, status.performance(lake)["mean"]),
        "stale": len(status.stale(lake, spec, partition_rows)),
        "attempts": _reported(status.attempts(lake, spec)[::-1], reports),
        "unscored": status.unscored(spec, partition_rows, datetime.now(UTC)),
        "unlabelled": sum(bool(row["predicted"]) and not row["metrics"] for row in partitions),
        "partitions": partitions,
        "history": HISTORY if f"reports/{HISTORY}" in reports else "",
        "replay": REPLAY if f"reports/{REPLAY}" in reports else "",
    }


def _partitions(lake: Lake, spec: UseCase, partition_rows: Rows, reports: set[str]) -> Rows:
    """Return a line for each of the last partitions, newest first, from the tables of all stages."""
    from include.monitor.alerts import notified

    products = {(row["partition"], row["product"]): row for row in partition_rows}
    ingested = {partition for partition, product in products if product in spec.sources}
    partitions = sorted(ingested)[-MAX_PARTITIONS:]
    where = {"partition": partitions}
    served_by = _served_by(lake, partitions)
    measured = _newest(lake.rows("performance", where))
    findings = _by_partition(lake.rows("findings", where))
    decisions = _by_partition(lake.rows("decisions", where))
    recipients = notified(lake, partitions)
    return [
        {
            "partition": partition,
            "sources": [(name, products.get((partition, name))) for name in spec.sources],
            "predicted": served_by[partition].total(),
            "served_by": [(step, rows) for step in FALLBACK_STEPS if (rows := served_by[partition][step])],
            "metrics": _watched(spec, measured[partition]),
            "alarms": [row for row in findings[partition] if row["outcome"] == "alarm"],
            "alerts": [alert for row in decisions[partition] for alert in json.loads(row["alerts"] or "[]")],
            "notified": recipients.get(partition, []),
            "decision": next(iter(decisions[partition]), None),
            "report": f"monitor/{partition}.html" if f"reports/monitor/{partition}.html" in reports else "",
        }
        for partition in reversed(partitions)
    ]


def _reported(attempts: Rows, reports: set[str]) -> Rows:
    """Return the attempts, each with the path of its report, if there is one."""
    places = [page_place(row["partition"], row["key"]) for row in attempts]
    return [
        {**row, "report": place if f"reports/{place}" in reports else ""}
        for row, place in zip(attempts, places, strict=True)
    ]


def _served_by(lake: Lake, partitions: Sequence[str]) -> dict[str, Counter[str]]:
    """Return how many rows of each partition each step of the fallback chain served."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    scored = lake.read("predictions", {"partition": partitions}, ["partition", "served_by"])
    if scored is not None:
        for row in scored.group_by(["partition", "served_by"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["partition"]][row["served_by"]] = row["count_all"]
    return counts


def _watched(spec: UseCase, metrics: Metrics) -> Metrics:
    """Return the metrics with requirements and the gate's objective; if there are none, all metrics."""
    names = dict.fromkeys([*(rule.metric for rule in spec.monitoring.requirements), spec.gate.objective])
    watched = {name: metrics[name] for name in names if name in metrics}
    # the prior's metrics have names such as prior:roc_auc
    return watched or {name: value for name, value in metrics.items() if ":" not in name}


def _by_partition(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    partitions: dict[str, Rows] = defaultdict(list)
    for row in rows:
        partitions[row["partition"]].append(row)
    return partitions


def _newest(rows: Rows) -> dict[str, Metrics]:
    """Return each partition's metrics as last measured."""
    partitions: dict[str, Metrics] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row["known"]):
        partitions[row["partition"]][row["metric"]] = row["value"]
    return partitions
