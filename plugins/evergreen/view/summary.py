"""What a manager asks of a use case: who decides now and why, how the partitions went, what was tried."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError, StoreUnavailable
from include.reports.paths import HISTORY, page_place
from include.spec import load

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

MAX_PARTITIONS = 14  # that are shown
RUNGS = ("champion", "canary", "previous", "baseline", "prior")
log = logging.getLogger(__name__)
Rows = list[dict[str, Any]]
Metrics = dict[str, float | None]


def summary(usecase: str) -> dict[str, Any]:
    """Return what the page shows of a use case; one that can't be read says why and takes no other down."""
    from include.storage.lake import (
        Lake,  # pyarrow and deltalake: at the first request, not while Airflow starts
    )

    try:
        spec = load(usecase)
        return {"name": usecase, "error": "", **_state(Lake(usecase), spec)}
    except StoreUnavailable:  # a store's own words, its addresses among them, are for the log
        log.exception("%s can't be shown", usecase)
        return {"name": usecase, "error": "The lake could not be read; the api-server's log says more."}
    except EvergreenError as error:
        return {"name": usecase, "error": str(error)}
    except Exception as error:  # one use case takes no other down
        log.exception("%s can't be shown", usecase)
        said = f"It could not be put together ({type(error).__name__}); the api-server's log says more."
        return {"name": usecase, "error": said}


def _state(lake: Lake, spec: UseCase) -> dict[str, Any]:
    from include.ops import status  # its parts, for the whole reads each partition's rows

    partition_rows, reports = lake.rows("partitions"), set(lake.keys("reports"))
    return {
        "statement": spec.problem.statement,
        "owner": spec.problem.owner,
        "champion": status.champion(lake),
        "trials": status.on_trial(lake, spec),
        "waiting": status.pending(lake, spec),
        "mean": _watched(spec, status.performance(lake)["mean"]),
        "stale": len(status.stale(lake, spec, partition_rows)),
        "attempts": _reported(status.attempts(lake, spec)[::-1], reports),
        "partitions": _partitions(lake, spec, partition_rows, reports),
        "history": HISTORY if f"reports/{HISTORY}" in reports else "",
    }


def _partitions(lake: Lake, spec: UseCase, partition_rows: Rows, reports: set[str]) -> Rows:
    """Return a line for each of the last partitions, newest first, put together from what each stage left."""
    from include.monitor.alerts import notified

    made = {(row["partition"], row["product"]): row for row in partition_rows}
    partitions = sorted({partition for partition, product in made if product in spec.sources})[
        -MAX_PARTITIONS:
    ]
    where = {"partition": partitions}
    rungs = _rungs(lake, partitions)
    measured = _newest(lake.rows("performance", where))
    found, decided = _by_partition(lake.rows("findings", where)), _by_partition(lake.rows("decisions", where))
    recipients = notified(lake, partitions)
    return [
        {
            "partition": partition,
            "sources": [(name, made.get((partition, name))) for name in spec.sources],
            "predicted": rungs[partition].total(),
            "served_by": [(rung, rungs[partition][rung]) for rung in RUNGS if rungs[partition][rung]],
            "metrics": _watched(spec, measured[partition]),
            "alarms": [row for row in found[partition] if row["outcome"] == "alarm"],
            "alerts": [alert for row in decided[partition] for alert in json.loads(row["alerts"] or "[]")],
            "notified": recipients.get(partition, []),
            "decision": next(iter(decided[partition]), None),
            "report": f"monitor/{partition}.html" if f"reports/monitor/{partition}.html" in reports else "",
        }
        for partition in reversed(partitions)
    ]


def _reported(attempts: Rows, reports: set[str]) -> Rows:
    """Return the attempts, each with its page where there is one."""
    places = [page_place(row["partition"], row["key"]) for row in attempts]
    return [
        {**row, "report": place if f"reports/{place}" in reports else ""}
        for row, place in zip(attempts, places, strict=True)
    ]


def _rungs(lake: Lake, partitions: Sequence[str]) -> dict[str, Counter[str]]:
    """Return how many rows of each partition each rung served."""
    rungs: dict[str, Counter[str]] = defaultdict(Counter)
    scored = lake.read("predictions", {"partition": partitions}, ["partition", "served_by"])
    if scored is not None:
        for row in scored.group_by(["partition", "served_by"]).aggregate([([], "count_all")]).to_pylist():
            rungs[row["partition"]][row["served_by"]] = row["count_all"]
    return rungs


def _watched(spec: UseCase, metrics: Metrics) -> Metrics:
    """Return the metrics that there are rules for and that the gate decides by; else all of the model's."""
    names = dict.fromkeys([*(rule.metric for rule in spec.monitoring.requirements), spec.gate.objective])
    watched = {name: metrics[name] for name in names if name in metrics}
    # a baseline's metrics, as prior:roc_auc, stand beside the model's
    return watched or {name: value for name, value in metrics.items() if ":" not in name}


def _by_partition(rows: Iterable[dict[str, Any]]) -> dict[str, Rows]:
    partitions: dict[str, Rows] = defaultdict(list)
    for row in rows:
        partitions[row["partition"]].append(row)
    return partitions


def _newest(rows: Rows) -> dict[str, Metrics]:
    """Return each partition's metrics as last known."""
    partitions: dict[str, Metrics] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row["known"]):
        partitions[row["partition"]][row["metric"]] = row["value"]
    return partitions
