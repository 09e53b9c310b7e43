"""A finding is a sentence with a figure and a threshold: what a person reads, and what the policy acts on.

*Not enough* is an outcome of its own: nothing could be judged, which is neither well nor an alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from include.spec import UseCase
from include.storage.schemas import FINDINGS

Check = Literal["drift", "jump", "missing", "unseen", "performance", "fallback", "data", "labels", "concept"]
Outcome = Literal["ok", "alarm", "not enough"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    check : what was looked for.
    subject : the column, metric, source or product that it is about.
    value, threshold : the figure and where the alarm begins; None where there is none.
    """

    check: Check
    subject: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    note: str


def findings_table(partition: str, found: Iterable[Finding]) -> pa.Table:
    """Return a partition's findings as rows of `findings`, in one order."""
    rows = [{"partition": partition, **asdict(f)} for f in sorted(found, key=lambda f: (f.check, f.subject))]
    return pa.Table.from_pylist(rows, schema=FINDINGS)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the findings that rows of `findings` hold."""
    return [Finding(**{k: v for k, v in row.items() if k != "partition"}) for row in rows]


def check_fallback_share(served: Sequence[Mapping[str, Any]], champion: str) -> Finding:
    """Say which share of the partition's rows was served by a lower rung of the ladder than the champion.

    Parameters
    ----------
    served : how many ``rows`` of the partition each ``rung`` served, for what ``reason``.
    champion : its digest; empty before the first promotion, when nobody could have served better.
    """
    if not served:
        return Finding(
            "fallback", "predictions", None, 0.0, "not enough", "nothing was predicted for this partition"
        )
    rungs: Counter[str] = Counter()
    for row in served:
        rungs[str(row["served_by"])] += row["rows"]
    total = sum(rungs.values())
    lower = total - rungs["champion"] - rungs["canary"]
    names = ", ".join(f"{count} by {name}" for name, count in sorted(rungs.items()))
    reason = min((str(row["reason"]) for row in served if row["reason"]), default="")
    outcome: Outcome = "ok" if not lower else "alarm" if champion else "not enough"
    note = f"{total} rows were served: {names}" + (f" ({reason})" if reason else "")
    return Finding("fallback", "predictions", lower / total, 0.0, outcome, note)


def check_data(spec: UseCase, partition: str, partitions: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Say of each source, and of the predictions, whether they are there for the partition.

    Parameters
    ----------
    partitions : the partition's rows of `partitions` by product.
    """
    found = [
        _source(spec, name, partitions.get(name))
        for name in spec.sources
        if spec.partitions(name, partition, partition)
    ]
    row = partitions.get("predictions")
    there = row is not None and row["outcome"] == "published"
    note = "nothing was predicted for this partition"
    if row is not None and there:  # a spine without rows is a partition of none
        note = f"{row['rows']} rows were predicted" if row["rows"] else row["note"]
    return [
        *found,
        Finding("data", "predictions", 0.0 if there else 1.0, 0.0, "ok" if there else "alarm", note),
    ]


def _source(spec: UseCase, name: str, row: Mapping[str, Any] | None) -> Finding:
    """Say whether a source came, and which share of its rows was set aside."""
    contract = spec.sources[name].contract
    if row is None or row["outcome"] != "published":
        note = (
            f"{name} is {row['outcome']}: {row['note']}"
            if row
            else f"nobody has ingested {name} for this partition"
        )
        return Finding("data", name, 1.0, contract.tolerance, "alarm", note)
    total = row["rows"] + row["quarantined"]
    share = row["quarantined"] / total if total else 0.0
    note = f"{row['rows']} rows of {name}, {row['quarantined']} set aside"
    outcome: Outcome = "alarm" if contract.exceeded(row["quarantined"], total) else "ok"
    return Finding("data", name, share, contract.tolerance, outcome, note)
