"""Whether a partition's sources and predictions are there, and how many rows a fallback served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from include.monitor.context import NO_PREDICTIONS, Finding, Outcome, PartitionContext
from include.spec import UseCase


def check_availability(context: PartitionContext) -> list[Finding]:
    """Check that each source and the predictions are published for the partition."""
    products = (*context.spec.sources, "predictions")
    rows = {name: context.state.partition_row(name, context.partition) for name in products}
    published = {name: row for name, row in rows.items() if row is not None}
    return check_data(context.spec, context.partition, published)


def check_data(
    spec: UseCase, partition: str, partition_rows: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """Check each source that the partition expects, and then its predictions.

    Parameters
    ----------
    partition_rows : the partition's rows of `partitions` by product.
    """
    findings = [
        _check_source(spec, name, partition_rows.get(name))
        for name in spec.sources
        if spec.partitions(name, partition, partition)
    ]
    row = partition_rows.get("predictions")
    if row is None or row["outcome"] != "published":
        return [*findings, Finding("data", "predictions", 1.0, 0.0, "alarm", NO_PREDICTIONS)]
    # an empty spine is a published partition without rows, and its note says so
    note = f"{row['rows']:,} rows were predicted" if row["rows"] else row["note"]
    return [*findings, Finding("data", "predictions", 0.0, 0.0, "ok", note)]


def _check_source(spec: UseCase, name: str, row: Mapping[str, Any] | None) -> Finding:
    """Check that a source was published, and that the share of quarantined rows is tolerated."""
    contract = spec.sources[name].contract
    if row is None or row["outcome"] != "published":
        note = f"{name} is {row['outcome']}: {row['note']}" if row else f"{name} was not ingested"
        return Finding("data", name, 1.0, contract.tolerance, "alarm", note)
    total = row["rows"] + row["quarantined"]
    share = row["quarantined"] / total if total else 0.0
    note = f"{row['rows']:,} rows of {name}, {row['quarantined']:,} quarantined"
    outcome: Outcome = "alarm" if contract.exceeded(row["quarantined"], total) else "ok"
    return Finding("data", name, share, contract.tolerance, outcome, note)


def check_fallback(context: PartitionContext) -> list[Finding]:
    """Check the share of the partition's rows that a fallback step below the champion served."""
    served = [row for row in context.neighbors.served if row["partition"] == context.partition]
    return [fallback_share(served, context.model)]


def fallback_share(served: Sequence[Mapping[str, Any]], champion: str) -> Finding:
    """Judge the share of rows that a fallback served; any such row is an alarm once there is a champion.

    Parameters
    ----------
    served : how many ``rows`` of the partition each fallback step (``served_by``) served, with its
        ``reason``.
    champion : its digest; empty before the first promotion, when no better model could have served.
    """
    if not served:
        return Finding("fallback", "predictions", None, 0.0, "not enough", NO_PREDICTIONS)
    rows: Counter[str] = Counter()
    for row in served:
        rows[str(row["served_by"])] += row["rows"]
    total = sum(rows.values())
    by_fallback = total - rows["champion"] - rows["canary"]
    counts = ", ".join(f"{count:,} by {step}" for step, count in sorted(rows.items()))
    reason = min((str(row["reason"]) for row in served if row["reason"]), default="")
    outcome: Outcome = "ok" if not by_fallback else "alarm" if champion else "not enough"
    note = f"{total:,} rows were served: {counts}" + (f" ({reason})" if reason else "")
    return Finding("fallback", "predictions", by_fallback / total, 0.0, outcome, note)
