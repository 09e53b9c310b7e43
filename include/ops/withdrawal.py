"""Withdraw a partition that should not be there: off the schedule, outside of its range, or still to come.

Who did it, when and why is written first, to the ledger `withdrawals`; what was published of the partition is
laid aside under ``withdrawn/``; then it is removed, and what rested on it is made anew. A partition that the
schedule has had is never withdrawn: its predictions were served, and that is a fact. Run again after a kill
it ends with the same tables.

What a training of that partition left (its model, verdict, switches and limits) stays, for ledgers only grow.
Fetched bytes stay under ``raw/objects/``, and without their manifest no later run takes them for its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.errors import NotPublished, PartitionError
from include.ingest.lookback import AGAIN
from include.monitor.losses import LOSSES
from include.monitor.pipeline import monitor
from include.monitor.state import PRODUCT, REALISED
from include.promote.approval import require_person_and_reason
from include.promote.ledger import Row, append_compare_and_swap
from include.references import Ref, digest_bytes, validate_key
from include.reports.history import redraw_history
from include.reports.paths import HISTORY
from include.spec import UseCase
from include.spec.partition import check_partition
from include.stats import profiles
from include.storage.lake import Lake, Where
from include.storage.schemas import WITHDRAWALS

TABLE = "withdrawals"
STAY = ("attempts", "approvals", "deployments", TABLE, "limits")
FOLDER = "withdrawn"


def withdraw(lake: Lake, spec: UseCase, partition: str, by: str, reason: str, *, now: datetime) -> Ref:
    """Remove everything that a partition published, and what was ingested for its lookback alone.

    Returns
    -------
    Ref
        ``rows`` is the number of partitions that were withdrawn; its note says by whom and why.

    Raises
    ------
    PartitionError
        for a partition that the schedule has had.
    NotPublished
        when there is nothing of it.
    """
    require_person_and_reason(f"{spec.name}: a withdrawal", by, reason)
    if not _refused(spec, partition, now):
        raise PartitionError(
            f"{spec.name}/{partition}: a withdrawal",
            required="a partition off the schedule, outside of its range or still to come",
            found="one that the schedule has had",
            remedy="what it served is a fact and stays; for other data run it again with fetch_anew",
        )
    partitions = [partition, *_for_its_lookback(lake, spec, partition, now)]
    contents = {one: _lay_aside(lake, one) for one in partitions}
    resting = {one: _resting_on(lake, one) for one in partitions}

    def decide(rows: list[Row]) -> list[Row] | Row | None:
        new: list[Row] = []
        for one in partitions:
            earlier = [json.loads(row["contents"]).items() for row in rows if row["partition"] == one]
            # of a withdrawal that was killed less is left than it recorded
            if contents[one] and not any(contents[one].items() <= items for items in earlier):
                why = reason if one == partition else f"{reason} (ingested for {partition})"
                new.append({
                    "partition": one, "by": by, "at": now.astimezone(UTC), "reason": why,
                    "contents": json.dumps(contents[one], sort_keys=True),
                    "resting": json.dumps(resting[one]),
                    "recorded": len(rows) + len(new) + 1,
                })  # fmt: skip
        same = [row for row in rows if row["partition"] == partition]
        return new or max(same, key=lambda row: int(row["recorded"]), default=None)

    row = append_compare_and_swap(lake, TABLE, WITHDRAWALS, decide)
    if row is None:
        raise NotPublished(
            f"{spec.name}/{partition}: a withdrawal",
            required="a partition of which something is there",
            found="nothing",
            where=lake.uri,
            remedy="`status` lists the partitions that there are",
        )
    for one in partitions:
        _remove(lake, one)
    recorded = [row for row in lake.rows(TABLE) if row["partition"] in partitions]
    _mend(
        lake, spec, partitions, sorted({scored for row in recorded for scored in json.loads(row["resting"])})
    )
    note = (
        f"{', '.join(partitions)} withdrawn by {row['by']} at {row['at']:%Y-%m-%d %H:%M} UTC: {row['reason']}"
    )
    return Ref(f"{lake.uri}/tables/{TABLE}", partition, rows=len(partitions), note=note[:500])


def _refused(spec: UseCase, partition: str, now: datetime) -> bool:
    """Tell whether a run of the partition would be refused."""
    try:
        check_partition(spec, partition, now)
    except PartitionError:
        return True
    return False


def _for_its_lookback(lake: Lake, spec: UseCase, partition: str, now: datetime) -> list[str]:
    """Return the partitions that a run would refuse as well, and of which only sources were ingested."""
    clock, back = spec.clock, max(spec.features.lookback, AGAIN)
    if clock.around(partition)[0] != partition:
        return []  # scoring it failed before it looked back
    keys = [
        key for key in clock.keys(clock.shift(partition, -back), partition)[:-1] if _refused(spec, key, now)
    ]
    products: dict[str, set[str]] = {}
    for row in lake.rows("partitions", {"partition": keys}) if keys else ():
        products.setdefault(row["partition"], set()).add(row["product"])
    return sorted(key for key, names in products.items() if names <= set(spec.sources))


def _published(lake: Lake, partition: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield each table's rows of a partition, `partitions` last; not those that a training published."""
    names = [name for name in lake.tables() if name not in STAY]
    for table in sorted(names, key=lambda name: (name == "partitions", name)):
        opened = lake.open(table)
        if opened is None or "partition" not in (field.name for field in opened.schema().fields):
            continue
        rows = lake.read(
            table, {"partition": partition}, order=[field.name for field in opened.schema().fields]
        )
        if rows is not None and table in ("partitions", "profiles"):
            trained = pc.match_substring_regex(rows["product"], "^(limits$|reference:)")
            rows = rows.filter(pc.invert(trained))
        if rows is not None and rows.num_rows:
            yield table, rows


def _lay_aside(lake: Lake, partition: str) -> dict[str, str]:
    """Write a partition's rows to ``withdrawn/``, and return each table's object there."""
    contents = {}
    for table, rows in _published(lake, partition):
        sink = pa.BufferOutputStream()
        pq.write_table(rows.combine_chunks(), sink)
        data = sink.getvalue().to_pybytes()
        contents[table] = validate_key(f"{FOLDER}/{partition}/{table}-{digest_bytes(data)}.parquet")
        lake.create(contents[table], data)
    return contents


def _resting_on(lake: Lake, partition: str) -> list[str]:
    """Return the scored partitions whose realised figures were known by this partition, or brought by it."""
    resting = []
    for row in lake.rows("partitions", {"product": REALISED}):
        inputs = json.loads(row["inputs"])
        partitions = {name.partition("/")[2] for name in inputs}
        partitions |= {inputs.get("known"), *inputs.get("restated", ())}
        if partition in partitions and row["partition"] != partition:
            resting.append(str(row["partition"]))
    return sorted(resting)


def _remove(lake: Lake, partition: str) -> None:
    """Remove a partition: its manifests and report, its rows, and last its rows in `partitions`."""
    for key in lake.keys("raw/snapshots"):
        if key.split("/")[-2] == partition:
            data = lake.get(key) or b""
            lake.create(f"{FOLDER}/{partition}/{digest_bytes(data)}.json", data)
            lake.remove([key])
    lake.remove([f"reports/monitor/{partition}.html"])
    for table, rows in _published(lake, partition):
        where: Where = {"partition": partition}
        if "product" in rows.column_names:
            where = {"product": sorted(rows["product"].unique().to_pylist()), **where}
        lake.publish(table, rows.schema.empty_table(), where)


def _mend(lake: Lake, spec: UseCase, partitions: Sequence[str], resting: Sequence[str]) -> None:
    """Make anew what rested on withdrawn partitions: realised figures, findings, decisions and the year."""
    for scored in resting:
        _empty(lake, "profiles", {"product": profiles.LABELS, "partition": scored})
        for table in (LOSSES, REALISED):
            _empty(lake, table, {"partition": scored})
        _empty(lake, "partitions", {"product": [LOSSES, REALISED], "partition": scored})
    watched = sorted(row["partition"] for row in lake.rows("partitions", {"product": PRODUCT}))
    there = [key for key in watched if spec.clock.around(key)[0] == key]
    for key in sorted(
        {next((one for one in there if one >= key), "") for key in (*partitions, *resting)} - {""}
    ):
        monitor(lake, spec, key)
    if watched:
        redraw_history(lake, spec)
    else:
        lake.remove([f"reports/{HISTORY}"])


def _empty(lake: Lake, table: str, where: Where) -> None:
    rows = lake.read(table, where)
    if rows is not None and rows.num_rows:
        lake.publish(table, rows.schema.empty_table(), where)
