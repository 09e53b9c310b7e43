"""How a use case stands, from the lake alone.

Its partitions, its champion and why, how it did, what is stale.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from include.promote import ledger
from include.promote.promotion import approval_status, awaiting_approval, read_ledgers
from include.promote.trials import trials_on
from include.spec import UseCase
from include.storage.lake import Lake

RECENT = 7  # partitions, attempts and rules that are shown
Row = dict[str, Any]


def status(lake: Lake, spec: UseCase) -> dict[str, Any]:
    """Return how a use case stands, as plain values.

    Returns
    -------
    dict
        ``products`` (partitions by outcome, rows), ``not_published`` (with each one's sentence),
        ``quarantine`` (the most frequent rules), ``champion``, ``trials`` (who is scored beside it, and why),
        ``waiting`` (the attempt that waits for approval), ``attempts``, ``performance``, ``findings``,
        ``stale`` and ``withdrawn`` (the partitions that a person withdrew, and why).
    """
    partitions = sorted(lake.rows("partitions"), key=lambda row: (row["partition"], row["product"]))
    return {
        "usecase": spec.name,
        "lake": lake.uri,
        "partitions": len({row["partition"] for row in partitions}),
        "products": _products(spec, partitions),
        "not_published": [
            _part(row, "partition", "product", "outcome", "note")
            for row in partitions
            if row["outcome"] != "published"
        ],
        "quarantine": _quarantine(lake),
        "champion": champion(lake),
        "trials": on_trial(lake, spec),
        "waiting": pending(lake, spec),
        "attempts": attempts(lake, spec),
        "performance": performance(lake),
        "served_by": _rungs(lake),
        "findings": _findings(lake),
        "stale": stale(lake, spec, partitions),
        "withdrawn": [
            _part(row, "partition", "by", "at", "reason")
            for row in sorted(lake.rows("withdrawals"), key=lambda row: int(row["recorded"]))
        ],
    }


def _products(spec: UseCase, partitions: list[Row]) -> list[Row]:
    """Return one row a product, the sources first."""
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
                what: sum(row[what] or 0 for row in by_product[name])
                for what in ("rows", "quarantined", "duplicates")
            },
        }
        for name in names
    ]


def _quarantine(lake: Lake) -> list[Row]:
    """Return the most frequent reasons for which rows were set aside."""
    found = lake.read("quarantine", columns=["source", "rule", "column"])
    by = ["source", "rule", "column"]
    if found is None:
        return []
    counts = found.group_by(by).aggregate([([], "count_all")]).rename_columns({"count_all": "rows"})
    ordered = sorted(counts.to_pylist(), key=lambda row: (-row["rows"], *(str(row[name]) for name in by)))
    return [_part(row, *by, "rows") for row in ordered[:5]]


def champion(lake: Lake) -> Row | None:
    """Return who serves from now on, since when and by what, and whom a rollback would bring back."""
    line = ledger.succession(ledger.switches(lake))
    if not line:
        return None
    shown = _part(line[-1], "version", "effective", "evidence", "kind", "by", "reason")
    return {
        **shown,
        "model": line[-1]["model"][:12],
        "forced": ledger.was_forced(line[-1]),
        "previous": _part(line[-2], "version", "effective") if len(line) > 1 else None,
    }


def on_trial(lake: Lake, spec: UseCase) -> list[str]:
    """Return what is being tried from the next partition on.

    A model in shadow or canary, or a new champion.
    """
    rows = ledger.switches(lake)
    partition = ledger.next_unserved(lake, spec, *(row["effective"] for row in rows[-1:]))
    return [str(trial) for trial in trials_on(rows, spec, partition)]


def pending(lake: Lake, spec: UseCase) -> Row | None:
    """Return the attempt that waits for a person's approval."""
    row = awaiting_approval(lake, spec)
    return row and _part(row, "key", "partition", "version", "sentence")


def attempts(lake: Lake, spec: UseCase) -> list[Row]:
    """Return the last verdicts, oldest first, each with what became of its approval."""
    names = ("key", "partition", "attempt", "verdict", "version", "sentence")
    now, rows = read_ledgers(lake, spec), ledger.attempts(lake)[-RECENT:]
    return [{**_part(row, *names), "approval": approval_status(now, row)} for row in rows]


def performance(lake: Lake) -> Row:
    """Return each metric of the last partitions whose labels came, as known last, and its mean over them."""
    newest: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in sorted(lake.rows("performance"), key=lambda row: str(row["known"])):
        newest[row["partition"]][row["metric"]] = row
    partitions = {
        partition: {metric: row["value"] for metric, row in sorted(newest[partition].items())}
        for partition in sorted(newest)[-RECENT:]
    }
    metrics = sorted({metric for values in partitions.values() for metric in values})
    return {
        "partitions": partitions,
        "mean": {metric: _mean(partitions.values(), metric) for metric in metrics},
    }


def _mean(partitions: Iterable[dict[str, float | None]], metric: str) -> float | None:
    values = [values[metric] for values in partitions if values.get(metric) is not None]
    return sum(v for v in values if v is not None) / len(values) if values else None


def _rungs(lake: Lake) -> dict[str, int]:
    """Return how many predictions each rung of the ladder gave."""
    found = lake.read("predictions", columns=["served_by"])
    counts = found["served_by"].value_counts().to_pylist() if found is not None else []
    return {row["values"]: row["counts"] for row in counts}


def _findings(lake: Lake) -> Row:
    """Return the alarms of the last partition that was watched, and the last decision."""
    found, decided = lake.rows("findings"), lake.rows("decisions")
    partition = max((row["partition"] for row in found), default="")
    latest = sorted(
        (row for row in found if row["partition"] == partition), key=lambda r: (r["check"], r["subject"])
    )
    decision = max(decided, key=lambda row: str(row["partition"]), default=None)
    return {
        "partition": partition,
        "checks": len(latest),
        "alarms": [
            _part(r, "check", "subject", "value", "threshold", "note")
            for r in latest
            if r["outcome"] == "alarm"
        ],
        "decision": decision and _part(decision, "partition", "decision", "cause", "reason"),
    }


def stale(lake: Lake, spec: UseCase, partitions: list[Row]) -> list[Row]:
    """Return the published partitions that would be made otherwise now, with the reason.

    A partition of a source is compared with its newest snapshot. Whether predictions saw other rows
    can only be told by reading those rows: `verify` does.
    """
    newest: dict[tuple[str, str], int] = {}
    for key in lake.keys("raw/snapshots"):
        *_, source, partition, name = key.split("/")
        number = int(name.removesuffix(".json"))
        newest[source, partition] = max(number, newest.get((source, partition), 0))
    found = []
    for row in partitions:
        if row["outcome"] != "published":
            continue
        made = row["revision"] or 0
        revision = newest.get((row["product"], row["partition"]), made)
        made_for, now = row["spec"] or "", spec.digest_of(row["product"])
        why = f"declared otherwise then ({made_for[:12]})" if made_for != now else ""
        if revision > made:
            why = f"revision {revision} came, this is of revision {made}"
        if why:
            found.append({**_part(row, "partition", "product"), "why": why})
    return found


def _part(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names}
