"""What the feature SQL sees.

What was known at each partition's decision, and nothing further back than declared.

For every source there are two views:

``<source>``
    its rows with ``partition``, ``revision``, ``known_at`` and ``known_until``, from which a later one
    stands.
``known_<source>``
    its rows once for each asked partition that may see them: ``for_partition``, ``decision_time`` and ``ago``
    (partitions back) before the source's columns. Revisions are settled and the lookback is kept, so SQL that
    joins on ``for_partition`` can't leak and can't depend on which other partitions are asked for at the same
    time.

``spine`` holds the rows to score with ``decision_time``; ``calendar`` pairs each asked partition with those
it may see. For a single partition the views themselves end at its decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import duckdb
import pyarrow as pa

from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake

AsOf = Literal["then", "now"]


def read_sources(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, pa.Table]:
    """Return each source's rows that the features of ``partitions`` may see.

    None if it was never published.
    """
    first, last = min(partitions), max(partitions)
    found = {}
    for name, source in spec.sources.items():
        seen = spec.partitions(name, spec.clock.shift(first, -spec.features.back(name)), last)
        rows = lake.read(f"validated_{name}", {"partition": seen}) if seen else None
        # the lake's rows come in no order, and a sum of floats or a rank among ties would depend on it
        found[name] = spill.sort_rows(
            conform(rows, schemas.validated_schema(source)), ("partition", "revision", *source.key)
        )
    return found


def conform(rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Return rows in a declared shape: nulls for a column that they were published without."""
    if rows is None:
        return schema.empty_table()
    have = set(rows.column_names)
    columns = [
        rows[f.name].cast(f.type) if f.name in have else pa.nulls(rows.num_rows, f.type) for f in schema
    ]
    return pa.table(columns, schema=schema)


def create_views(
    spec: UseCase, rows: Mapping[str, pa.Table], partitions: Sequence[str], as_of: AsOf, until: datetime
) -> duckdb.DuckDBPyConnection:
    """Return an engine with the views of ``partitions``, made from rows that were known by ``until``."""
    connection = spill.duckdb_engine()
    connection.register("calendar", decision_calendar(spec, partitions))
    # what is pasted are names that the spec's own patterns allow, and quoted columns
    for name, source in spec.sources.items():
        connection.register(f"_{name}", rows[name])
        connection.execute(f'CREATE VIEW "{name}" AS {_settled(name, source.key, rows[name], as_of, until)}')
        connection.execute(
            f"""CREATE VIEW "known_{name}" AS
            SELECT c.for_partition, c.decision_time, c.ago, s.*
            FROM "{name}" s JOIN calendar c ON s.partition = c.partition
            WHERE c.ago <= {spec.features.back(name)}
              AND s.known_at <= c.decision_time AND c.decision_time < s.known_until"""  # noqa: S608
        )
    connection.execute(
        f"""CREATE TABLE spine AS
        SELECT * EXCLUDE (for_partition, ago, known_until) FROM "known_{spec.features.spine}" WHERE ago = 0"""  # noqa: S608
    )
    return connection


def decision_calendar(spec: UseCase, partitions: Sequence[str]) -> pa.Table:
    """Return each asked partition's decision time and the partitions of its lookback.

    With how far back they are.
    """
    clock, back = spec.clock, spec.features.lookback
    keys = clock.keys(clock.shift(min(partitions), -back), max(partitions))
    place = {key: i for i, key in enumerate(keys)}
    moments = {partition: clock.moment(partition) for partition in partitions}
    pairs = [
        {"for_partition": n, "decision_time": moments[n], "partition": keys[place[n] - ago], "ago": ago}
        for n in partitions
        for ago in range(back + 1)
    ]
    kinds = [
        ("for_partition", pa.string()),
        ("decision_time", schemas.TIME),
        ("partition", pa.string()),
        ("ago", pa.int32()),
    ]
    return pa.Table.from_pylist(pairs, schema=pa.schema(kinds))


def _settled(name: str, key: Sequence[str], rows: pa.Table, as_of: AsOf, until: datetime) -> str:
    """Return the SQL of a source's view: until when each row stood or, as of now, the one that stands."""
    same = ", ".join(f'"{column}"' for column in ("partition", *key))
    if as_of == "now":
        stood = "'infinity'::TIMESTAMPTZ"
        revised = "* REPLACE (min(known_at) OVER (PARTITION BY partition) AS known_at)"
        only = f"QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY revision DESC) = 1"
    else:
        # most partitions have one revision: the window over all rows is worth its time only where there are
        # more
        several = len(rows["revision"].unique()) > 1
        later = f"lead(known_at) OVER (PARTITION BY {same} ORDER BY revision)" if several else "NULL"
        stood, revised, only = f"coalesce({later}, 'infinity'::TIMESTAMPTZ)", "*", ""
    inner = f'SELECT {revised}, {stood} AS known_until FROM "_{name}" {only}'  # noqa: S608 (names, as above)
    return f"SELECT * FROM ({inner}) WHERE known_at <= TIMESTAMPTZ '{until.isoformat()}'"  # noqa: S608
