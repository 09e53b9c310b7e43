"""A small invented use case: will a parcel, promised for tomorrow, come late? It looks four partitions back.

Its lake is filled here, with each row's knowledge time in the open, so that tests can plant what they like.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa
import yaml

from include.spec import UseCase
from include.spec.load import read
from include.storage import schemas
from include.storage.lake import Lake

SPEC = """
name: parcels
problem: {kind: binary, statement: "Will it come late?", target: late}
schedule: {batch: "0 18 * * *", training: "0 20 * * 0", timezone: Europe/Berlin, start: "2024-03-01"}
sources:
  orders:
    {kind: objects, connection: c, path: "x/{day}", offset: 1, available_at: "12:00",
     key: [depot, parcel], columns: {
      depot: {type: string, required: true}, parcel: {type: integer, required: true}, weight: {type: number},
      express: {type: boolean}}}
  arrivals:
    {kind: objects, connection: c, path: "x/{day}", offset: -1, available_at: "06:00", start: "2024-03-02",
     key: [depot, parcel], columns: {
      depot: {type: string, required: true}, parcel: {type: integer, required: true}, delay: {type: number}}}
  roads:
    {kind: objects, connection: c, path: "x/{day}", offset: 1, available_at: "17:00", key: [depot], columns: {
      depot: {type: string, required: true}, ice: {type: number}, state: {type: string}}}
features:
  spine: orders
  lookback: 4
  lookbacks: {roads: 0}
  numeric: [weight, express, ice, late_share, known_arrivals]
  categorical: [depot, road]
labels: {source: arrivals, sql: delay > 10, delay: 2}
training:
  baselines: [{name: prior, estimator: prior}]
  candidates: [{name: forest, estimator: random_forest}]
gate: {objective: log_loss}
scoring: {constant: 0.25, requires: {champion: [orders, roads], previous: [roads]}}
"""

SQL = """
WITH past AS (
    SELECT for_partition, depot, count(delay) AS known, count(*) FILTER (delay > 10) AS late
    FROM known_arrivals GROUP BY for_partition, depot
)
SELECT s.depot, s.parcel, s.partition, s.weight, s.express, r.ice, r.state AS road,
       p.late / p.known AS late_share, p.known AS known_arrivals
FROM spine s
LEFT JOIN known_roads r ON r.for_partition = s.partition AND r.depot = s.depot
LEFT JOIN past p ON p.for_partition = s.partition AND p.depot = s.depot
"""

DEPOTS = ("north", "south")


def spec(folder: Path, sql: str = SQL, **changes: Any) -> UseCase:
    """Return the use case as read from a folder, with another SQL or other top-level keys where given."""
    home = folder / "parcels"
    home.mkdir(parents=True, exist_ok=True)
    (home / "usecase.yaml").write_text(yaml.safe_dump({**yaml.safe_load(SPEC), **changes}, sort_keys=False))
    (home / "features.sql").write_text(sql)
    return read(home / "usecase.yaml")


def rows(
    use: UseCase, source: str, partition: str, *, revision: int = 0, after: timedelta | None = None
) -> pa.Table:
    """Return a partition's rows, others in each revision.

    Known as declared or so long ``after`` the decision.
    """
    known = use.clock.local(partition, use.sources[source].available_at)
    if after is not None:
        known = use.clock.decision_time(partition) + after
    made: list[dict[str, Any]] = []
    for depot in DEPOTS:
        for parcel in range(6):
            chance = crc32(f"{source}{partition}{depot}{parcel}{revision}".encode())
            made.append(
                {
                    "depot": depot,
                    "parcel": parcel,
                    "weight": chance % 100 / 8,
                    "express": chance % 3 == 0,
                    "delay": None if chance % 7 == 0 else float(chance % 25),
                    "ice": chance % 50 / 4,
                    "state": ("clear", "snow")[chance % 2],
                    **{"partition": partition, "revision": revision, "known_at": known},
                }
            )
    if source == "roads":
        made = made[::6]
    return pa.Table.from_pylist(made, schema=schemas.validated_schema(use.sources[source]))


def publish(
    lake: Lake,
    use: UseCase,
    source: str,
    partition: str,
    given: Iterable[pa.Table],
    outcome: str = "published",
) -> None:
    """Publish a partition's revisions of a source, then its row in `partitions`."""
    revisions = list(given)
    for table in revisions:
        where = {"partition": partition, "revision": table["revision"][0].as_py()}
        lake.publish(f"validated_{source}", table, where)
    row = _status(source, partition, outcome, revisions[-1].num_rows if revisions else 0, len(revisions) - 1)
    lake.publish("partitions", row, {"product": source, "partition": partition})


def fill(lake: Lake, use: UseCase, first: str, last: str) -> None:
    """Publish every source from ``first`` to ``last``, each in one commit."""
    for source in use.sources:
        partitions = use.partitions(source, first, last)
        given = [rows(use, source, partition) for partition in partitions]
        lake.publish(f"validated_{source}", pa.concat_tables(given), {"partition": partitions})
        states = [_status(source, partition, "published", given[0].num_rows, 0) for partition in partitions]
        where = {"product": source, "partition": partitions}
        lake.publish("partitions", pa.concat_tables(states), where)


def _status(source: str, partition: str, outcome: str, count: int, revision: int) -> pa.Table:
    row = dict.fromkeys(schemas.PARTITIONS.names, "") | {
        **{
            "product": source,
            "partition": partition,
            "outcome": outcome,
            "revision": revision,
            "rows": count,
        },
        **{"quarantined": 0, "duplicates": 0, "note": f"{outcome} by a test"},
    }
    return pa.Table.from_pylist([row], schema=schemas.PARTITIONS)


def without_later(lake: Lake, use: UseCase, moment: datetime, to: Lake) -> None:
    """Copy the lake's validated rows, but for every row whose knowledge time is after ``moment``."""
    for source in use.sources:
        kept = [row for row in lake.rows(f"validated_{source}") if row["known_at"] <= moment]
        table = pa.Table.from_pylist(kept, schema=schemas.validated_schema(use.sources[source]))
        partitions = sorted({row["partition"] for row in kept})
        to.publish(f"validated_{source}", table, {"partition": partitions})
