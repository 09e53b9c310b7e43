"""A correction that withdraws what a source had delivered, as ingest publishes it."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from include.storage.lake import Lake, Where
from include.storage.schemas import PARTITIONS
from include.storage.snapshots import Snapshot, to_json


def empty(lake: Lake, source: str, partition: str, known_at: datetime) -> None:
    """Publish a revision without rows: the rows and the digest of the one before stay."""
    where: Where = {"product": source, "partition": partition}
    (row,) = lake.rows("partitions", where)
    snapshot = Snapshot(source, partition, 1, known_at.isoformat(), "", ())
    lake.create(snapshot.key, to_json(snapshot))
    table = pa.Table.from_pylist([{**row, "revision": 1, "rows": 0}], schema=PARTITIONS)
    lake.publish("partitions", table, where)
