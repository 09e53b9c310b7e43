"""Withdraw a partition that should not exist: off the schedule, outside its range, or too far ahead.

1. The published rows are copied to ``withdrawn/``.
2. Who withdrew it, when and why is recorded in the ledger `withdrawals`.
3. The rows are removed, and everything that depended on them is recomputed.

The operation is idempotent: run again after a kill, it ends with the same tables. A past partition of the
schedule can't be withdrawn: its predictions were served, and that is a fact. The exception is a schedule that
is over and run by hand. Its newest scored partition can be withdrawn while it skips others: a mistyped date,
and no switch takes effect before it.

The results of a training of that partition (model, verdict, switches, limits) stay, because ledgers are
append-only. Fetched bytes stay under ``raw/objects/``; without their manifest no later run uses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.errors import NotPublished, PartitionError
from include.ingest.late_sources import RETRY_PARTITIONS
from include.monitor.losses import LOSSES
from include.monitor.pipeline import monitor
from include.monitor.state import PERFORMANCE, PRODUCT
from include.ops.health import is_over
from include.promote.approval import require_person_and_reason
from include.promote.ledger import served_partitions
from include.references import Ref, digest_bytes, validate_key
from include.spec import UseCase
from include.spec.partition import check_partition
from include.stats import profiles
from include.storage.compaction import LEDGERS
from include.storage.lake import Lake, Row, Where
from include.storage.schemas import WITHDRAWALS
from include.storage.snapshots import SNAPSHOTS
from include.train.monitoring_baselines import LIMITS, REFERENCE

TABLE = "withdrawals"
NEVER_REMOVED = (*LEDGERS, "limits")
FOLDER = "withdrawn"


def withdraw(lake: Lake, spec: UseCase, partition: str, by: str, reason: str, *, now: datetime) -> Ref:
    """Remove everything that a partition published, and what was ingested only for its lookback.

    Returns
    -------
    Ref
        ``rows`` is the number of withdrawn partitions; the note has who and why.

    Raises
    ------
    PartitionError
        for a past partition of the schedule.
    NotPublished
        when nothing of the partition is published.
    """
    require_person_and_reason(f"{spec.name}: a withdrawal", by, reason)
    if not (_refused(spec, partition, now) or _is_ahead(lake, spec, partition, now)):
        raise PartitionError(
            f"{spec.name}/{partition}: a withdrawal",
            required="a partition off the schedule, outside its range or in the future; or the last one of a "
            "schedule that has ended, if partitions before it were never scored",
            found="a past partition of the schedule",
            remedy="what it served is a fact and stays; to replace its data, run it again with Refetch",
        )
    partitions = [partition, *_ingested_for_lookback(lake, spec, partition, now)]
    contents = {key: _copy_rows(lake, key) for key in partitions}
    dependents = {key: _dependents(lake, key) for key in partitions}

    def decide(rows: list[Row]) -> list[Row] | Row | None:
        new: list[Row] = []
        for key in partitions:
            earlier = [json.loads(row["contents"]).items() for row in rows if row["partition"] == key]
            # a killed withdrawal may have removed a part of what it recorded
            if contents[key] and not any(contents[key].items() <= items for items in earlier):
                why = reason if key == partition else f"{reason} (ingested for {partition})"
                new.append({
                    "partition": key, "by": by, "at": now.astimezone(UTC), "reason": why,
                    "contents": json.dumps(contents[key], sort_keys=True),
                    "dependents": json.dumps(dependents[key]),
                    "recorded": len(rows) + len(new) + 1,
                })  # fmt: skip
        same = [row for row in rows if row["partition"] == partition]
        return new or max(same, key=lambda row: int(row["recorded"]), default=None)

    row = lake.append_compare_and_swap(TABLE, WITHDRAWALS, decide)
    if row is None:
        raise NotPublished(
            f"{spec.name}/{partition}: a withdrawal",
            required="a partition with published rows",
            found="nothing",
            where=lake.uri,
            remedy="the use case's page and `status` list the partitions",
        )
    for key in partitions:
        _remove(lake, key)
    recorded = [row for row in lake.rows(TABLE) if row["partition"] in partitions]
    affected = {scored for row in recorded for scored in json.loads(row["dependents"])}
    _recompute(lake, spec, partitions, sorted(affected))
    note = (
        f"{', '.join(partitions)} withdrawn by {row['by']} at {row['at']:%Y-%m-%d %H:%M} UTC: {row['reason']}"
    )
    return Ref(f"{lake.uri}/tables/{TABLE}", partition, rows=len(partitions), note=note)


def _refused(spec: UseCase, partition: str, now: datetime) -> bool:
    """Return whether a run of the partition would be refused."""
    try:
        check_partition(spec, partition, now)
    except PartitionError:
        return True
    return False


def _is_ahead(lake: Lake, spec: UseCase, partition: str, now: datetime) -> bool:
    """Return whether it is the newest scored partition of a schedule that is over, and skips others."""
    if not is_over(spec, now):
        return False
    scored = served_partitions(lake)
    if partition not in scored:  # a withdrawal of it that was killed is completed
        return bool(lake.rows(TABLE, {"partition": partition}))
    return partition == scored[-1] and not {*spec.clock.keys(scored[0], partition)} <= {*scored}


def _ingested_for_lookback(lake: Lake, spec: UseCase, partition: str, now: datetime) -> list[str]:
    """Return the earlier partitions that only the lookback ingested.

    A run would refuse them too, or nothing is known of the partition before all of them; and of each, only
    sources were ingested.
    """
    clock, back = spec.clock, max(spec.features.lookback, RETRY_PARTITIONS)
    if clock.around(partition)[0] != partition:
        return []  # scoring it failed before the lookback
    keys = clock.keys(clock.shift(partition, -back), partition)[:-1]
    if _refused(spec, partition, now):
        keys = [key for key in keys if _refused(spec, key, now)]
    elif lake.rows("partitions", {"partition": clock.shift(keys[0], -1)}):
        return []  # they follow what was loaded on purpose
    products: dict[str, set[str]] = {}
    for row in lake.rows("partitions", {"partition": keys}) if keys else ():
        products.setdefault(row["partition"], set()).add(row["product"])
    return sorted(key for key, names in products.items() if names <= set(spec.sources))


def _published(lake: Lake, partition: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield each table's rows of a partition, `partitions` last, without those that a training published."""
    names = [name for name in lake.tables() if name not in NEVER_REMOVED]
    for table in sorted(names, key=lambda name: (name == "partitions", name)):
        opened = lake.open(table)
        if opened is None or "partition" not in (field.name for field in opened.schema().fields):
            continue
        rows = lake.read(
            table, {"partition": partition}, order=[field.name for field in opened.schema().fields]
        )
        if rows is not None and table in ("partitions", "profiles"):
            trained = pc.is_in(rows["product"], pa.array([LIMITS, REFERENCE]))
            rows = rows.filter(pc.invert(trained))
        if rows is not None and rows.num_rows:
            yield table, rows


def _copy_rows(lake: Lake, partition: str) -> dict[str, str]:
    """Copy a partition's rows to ``withdrawn/``, and return the key of each table's copy."""
    contents = {}
    for table, rows in _published(lake, partition):
        sink = pa.BufferOutputStream()
        pq.write_table(rows.combine_chunks(), sink)
        data = sink.getvalue().to_pybytes()
        contents[table] = validate_key(f"{FOLDER}/{partition}/{table}-{digest_bytes(data)}.parquet")
        lake.create(contents[table], data)
    return contents


def _dependents(lake: Lake, partition: str) -> list[str]:
    """Return the scored partitions whose realized performance was measured with this partition's labels."""
    dependents = []
    for row in lake.rows("partitions", {"product": PERFORMANCE}):
        inputs = json.loads(row["inputs"])
        partitions = {name.partition("/")[2] for name in inputs}
        partitions |= {inputs.get("known"), *inputs.get("revised_on", ())}
        if partition in partitions and row["partition"] != partition:
            dependents.append(str(row["partition"]))
    return sorted(dependents)


def _remove(lake: Lake, partition: str) -> None:
    """Remove a partition's manifests, its rows, and last its rows in `partitions`."""
    for key in lake.keys(SNAPSHOTS):
        if key.split("/")[-2] == partition:
            data = lake.get(key) or b""
            lake.create(f"{FOLDER}/{partition}/{digest_bytes(data)}.json", data)
            lake.remove([key])
    for table, rows in _published(lake, partition):
        where: Where = {"partition": partition}
        if "product" in rows.column_names:
            where = {"product": sorted(rows["product"].unique().to_pylist()), **where}
        lake.publish(table, rows.schema.empty_table(), where)


def _recompute(lake: Lake, spec: UseCase, partitions: Sequence[str], dependents: Sequence[str]) -> None:
    """Recompute what depended on withdrawn partitions: performance, findings, decisions, the history page."""
    for scored in dependents:
        _remove_rows(lake, "profiles", {"product": profiles.LABELS, "partition": scored})
        for table in (LOSSES, PERFORMANCE):
            _remove_rows(lake, table, {"partition": scored})
        _remove_rows(lake, "partitions", {"product": [LOSSES, PERFORMANCE], "partition": scored})
    monitored = sorted(row["partition"] for row in lake.rows("partitions", {"product": PRODUCT}))
    scheduled = [key for key in monitored if spec.clock.around(key)[0] == key]
    changed = (*partitions, *dependents)
    next_monitored = {next((key for key in scheduled if key >= partition), "") for partition in changed}
    for key in sorted(next_monitored - {""}):
        monitor(lake, spec, key)


def _remove_rows(lake: Lake, table: str, where: Where) -> None:
    rows = lake.read(table, where)
    if rows is not None and rows.num_rows:
        lake.publish(table, rows.schema.empty_table(), where)
