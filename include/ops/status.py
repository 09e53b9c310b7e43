"""The state of a use case, read from the lake alone: partitions, champion, performance, stale partitions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from include.errors import PartitionError
from include.monitor.performance import newest_metrics
from include.promote import ledger, verdicts
from include.promote.promotion import attempt_outcome, awaiting_approval, read_ledgers
from include.spec import UseCase
from include.spec.metrics import default_metrics
from include.storage.lake import Lake, Row
from include.storage.snapshots import SNAPSHOTS

RECENT = 7  # partitions and attempts that are shown


def status(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return the state of a use case as plain values.

    Returns
    -------
    dict
        ``products`` (partitions by outcome, rows), ``not_published`` (each with its reason),
        ``quarantine`` (the most frequent reasons), ``champion``, ``why_no_champion`` (and what serves
        instead), ``trials`` (models in shadow, canary or watch), ``waiting`` (the attempt that waits for
        approval), ``attempts``, ``performance``, ``findings``, ``stale`` and ``withdrawn``
        (partitions that a person withdrew, and why).
    """
    partitions = lake.rows("partitions", order=["partition", "product"])
    return {
        "usecase": spec.name,
        "lake": lake.uri,
        "partitions": len({row["partition"] for row in partitions}),
        "products": _products(spec, partitions),
        "not_published": [
            _select(row, "partition", "product", "outcome", "note")
            for row in partitions
            if row["outcome"] != "published"
        ],
        "quarantine": _quarantine(lake),
        "champion": champion(lake),
        "why_no_champion": why_no_champion(lake),
        "trials": on_trial(lake, spec),
        "waiting": pending(lake, spec),
        "attempts": attempts(lake, spec),
        "performance": performance(lake, spec),
        "served_by": _served_by(lake),
        "findings": _findings(lake),
        "stale": stale(lake, spec, partitions),
        "withdrawn": [
            _select(row, "partition", "by", "at", "reason")
            for row in lake.rows("withdrawals", order=["recorded"])
        ],
    }


def _products(spec: UseCase, partitions: list[Row]) -> list[Row]:
    """Return one row per product, the sources first."""
    by_product: dict[str, list[Row]] = defaultdict(list)
    for row in partitions:
        by_product[row["product"]].append(row)
    names = [*(n for n in spec.sources if n in by_product), *(n for n in by_product if n not in spec.sources)]
    return [
        {
            "product": name,
            "first": by_product[name][0]["partition"],
            "last": by_product[name][-1]["partition"],
            **dict.fromkeys(("published", "refused", "unavailable"), 0),
            **Counter(row["outcome"] for row in by_product[name]),
            **{
                column: sum(row[column] or 0 for row in by_product[name])
                for column in ("rows", "quarantined", "duplicates")
            },
        }
        for name in names
    ]


def _quarantine(lake: Lake) -> list[Row]:
    """Return the most frequent reasons for which rows were quarantined."""
    by = ["source", "rule", "column"]
    rows = lake.read("quarantine", columns=by)
    if rows is None:
        return []
    counts = rows.group_by(by).aggregate([([], "count_all")]).rename_columns({"count_all": "rows"})
    ordered = sorted(counts.to_pylist(), key=lambda row: (-row["rows"], *(str(row[name]) for name in by)))
    return [_select(row, *by, "rows") for row in ordered[:5]]


def champion(lake: Lake) -> Row | None:
    """Return the champion, since when and why it serves, and the one a rollback would return to."""
    champions = ledger.champion_history(ledger.switches(lake))
    if not champions:
        return None
    current = champions[-1]
    return {
        **_select(current, "version", "effective_from", "judged_on", "kind", "by", "reason"),
        "model": current["model"][:12],
        "recipe": current.get("recipe") or "",  # ledgers written by earlier versions lack this column
        "forced": ledger.was_forced(current),
        "previous": _select(champions[-2], "version", "effective_from") if len(champions) > 1 else None,
    }


def why_no_champion(lake: Lake) -> str:
    """Return why there is no champion and what serves instead; empty if there is one."""
    rows = ledger.switches(lake)
    return ledger.why_no_champion(rows, max((row["effective_from"] for row in rows), default=""))


def on_trial(lake: Lake, spec: UseCase) -> list[str]:
    """Return the trials of the next partition: a model in shadow or canary, or a new champion under watch."""
    rows = ledger.switches(lake)
    try:
        partition = ledger.next_unserved(lake, spec, *(row["effective_from"] for row in rows[-1:]))
    except PartitionError:
        return []  # the schedule has ended
    return [str(trial) for trial in ledger.trials_on(rows, spec, partition)]


def pending(lake: Lake, spec: UseCase) -> Row | None:
    """Return the attempt that waits for approval."""
    row = awaiting_approval(lake, spec)
    return row and _select(row, "key", "partition", "version", "sentence")


def attempts(lake: Lake, spec: UseCase) -> list[Row]:
    """Return the last verdicts, oldest first, each with its approval and what blocks its switch."""
    names = ("key", "partition", "verdict", "version", "sentence")
    ledgers, rows = read_ledgers(lake, spec), verdicts.attempts(lake)[-RECENT:]
    return [{**_select(row, *names), "outcome": attempt_outcome(ledgers, row)} for row in rows]


def performance(lake: Lake, spec: UseCase) -> Row:
    """Return the metrics of the last partitions with labels, as last measured, and their means.

    ``judged`` names the metrics that models are chosen by or that are required.
    """
    newest = newest_metrics(lake)
    partitions = {
        partition: {metric: row["value"] for metric, row in sorted(newest[partition].items())}
        for partition in sorted(newest)[-RECENT:]
    }
    metrics = sorted({metric for values in partitions.values() for metric in values})
    # an objective such as squared_error isn't a metric, but its kind's first one is
    names = (spec.gate.objective, *default_metrics(spec.problem.kind))
    first = next((name for name in names if name in metrics), spec.gate.objective)
    compared = [metric for metric in metrics if metric.endswith(f":{first}")]
    judged = dict.fromkeys((first, *compared, *(rule.metric for _, rule in spec.requirements)))
    return {
        "judged": [name for name in judged if name in metrics],
        "partitions": partitions,
        "mean": {metric: _mean(partitions.values(), metric) for metric in metrics},
    }


def _mean(partitions: Iterable[dict[str, float | None]], metric: str) -> float | None:
    values = [values[metric] for values in partitions if values.get(metric) is not None]
    return sum(v for v in values if v is not None) / len(values) if values else None


def _served_by(lake: Lake) -> dict[str, int]:
    """Return how many predictions each step of the fallback chain served."""
    predictions = lake.read("predictions", columns=["served_by"])
    counts = predictions["served_by"].value_counts().to_pylist() if predictions is not None else []
    return {row["values"]: row["counts"] for row in counts}


def _findings(lake: Lake) -> Row:
    """Return the alarms of the last monitored partition, and the last decision."""
    findings = lake.rows("findings", order=["partition", "check", "subject"])
    partition = findings[-1]["partition"] if findings else ""
    latest = [row for row in findings if row["partition"] == partition]
    decision = max(lake.rows("decisions"), key=lambda row: str(row["partition"]), default=None)
    return {
        "partition": partition,
        "checks": len(latest),
        "alarms": [
            _select(r, "check", "subject", "value", "threshold", "note")
            for r in latest
            if r["outcome"] == "alarm"
        ],
        "decision": decision and _select(decision, "partition", "decision", "cause", "reason"),
    }


def stale(lake: Lake, spec: UseCase, partitions: list[Row]) -> list[Row]:
    """Return the published partitions that a rerun would change, with the reason.

    A partition of a source is compared with its newest snapshot. Whether the inputs of predictions have
    changed takes reading those rows, which only `verify` does.
    """
    newest: dict[tuple[str, str], int] = {}
    for key in lake.keys(SNAPSHOTS):
        *_, source, partition, name = key.split("/")
        number = int(name.removesuffix(".json"))
        newest[source, partition] = max(number, newest.get((source, partition), 0))
    stale_rows = []
    for row in partitions:
        if row["outcome"] != "published":
            continue
        published = row["revision"] or 0
        revision = newest.get((row["product"], row["partition"]), published)
        recorded, current = row["spec"] or "", spec.digest_of(row["product"])
        why = f"the declaration has changed since ({recorded[:12]})" if recorded != current else ""
        if revision > published:
            why = f"revision {revision} exists, published is revision {published}"
        if why:
            stale_rows.append({**_select(row, "partition", "product"), "why": why})
    return stale_rows


def stale_lines(stale_rows: list[Row]) -> list[str]:
    """Return a line for each product and reason, with the number of partitions, the first and the last."""
    partitions: dict[tuple[str, str], list[str]] = {}
    for row in stale_rows:
        partitions.setdefault((row["product"], row["why"]), []).append(row["partition"])
    return [
        f"{product}: {keys[0] if len(keys) == 1 else _span(keys)}, {why}"
        for (product, why), keys in sorted(partitions.items())
    ]


def _span(partitions: list[str]) -> str:
    return f"{len(partitions):,} of the partitions from {min(partitions)} to {max(partitions)}"


def _select(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names}
