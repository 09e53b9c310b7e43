"""Point-in-time views: the feature SQL sees only what was known at each partition's decision time.

For every source there are two views:

``<source>``
    its rows with ``partition``, ``revision``, ``known_at`` and ``known_until``, when a later revision
    replaced them.
``known_<source>``
    its rows once for each requested partition that may see them, with ``for_partition``, ``decision_time``
    and ``ago`` (how many partitions back) before the source's columns. Revisions and the lookback are applied
    already, so SQL that joins on ``for_partition`` can't leak future rows and doesn't depend on which other
    partitions are requested.

``spine`` has the rows to score with their ``decision_time``. ``calendar`` pairs each requested partition with
those that it may see. If a single partition is requested, all views end at its decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import duckdb
import pyarrow as pa

from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake
from include.storage.shares import Share


def read_sources(
    lake: Lake,
    spec: UseCase,
    partitions: Sequence[str],
    versions: Mapping[str, int] | None = None,
    shard: tuple[int, int] | None = None,
) -> dict[str, pa.Table]:
    """Return each source's rows that the features of ``partitions`` may see, if it was ever published.

    Parameters
    ----------
    versions : of the tables, -1 for one that doesn't exist; the newest by default.
    shard : its number and how many there are; only its entities' rows are read, of sources that have all
        columns of `features.entity`.
    """
    first, last = min(partitions), max(partitions)
    tables = {}
    for name, source in spec.sources.items():
        visible = spec.partitions(name, spec.clock.shift(first, -spec.features.back(name)), last)
        table, rows = f"validated_{name}", None
        version = versions[table] if versions else None
        if visible and version != -1:
            share = share_of(spec, name, *shard) if shard else None
            rows = lake.read(table, {"partition": visible}, version=version, share=share)
        rows = conform(rows, schemas.validated_schema(source))
        # the lake returns rows in no order, on which sums of floats and ranks among ties would depend
        tables[name] = spill.sort_rows(rows, ("partition", "revision", *source.key))
    return tables


def share_of(spec: UseCase, source: str, number: int, of: int) -> Share | None:
    """Return a shard's share of a source's rows; None for all rows, if it lacks columns of the entity."""
    has_entity = set(spec.features.entity) <= set(spec.sources[source].columns)
    return Share(spec.features.entity, number, of) if has_entity else None


def conform(rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Return rows in a declared schema, with nulls for missing columns; None becomes an empty table."""
    if rows is None:
        return schema.empty_table()
    names = set(rows.column_names)
    columns = [
        rows[field.name].cast(field.type) if field.name in names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def create_views(
    spec: UseCase, rows: Mapping[str, pa.Table], partitions: Sequence[str], until: datetime
) -> duckdb.DuckDBPyConnection:
    """Return an engine with the views of ``partitions``, from rows that were known by ``until``."""
    connection = spill.duckdb_engine()
    connection.register("calendar", decision_calendar(spec, partitions))
    # the SQL consists of names that the spec's patterns allow, and quoted columns
    for name, source in spec.sources.items():
        connection.register(f"_{name}", rows[name])
        connection.execute(f'CREATE VIEW "{name}" AS {_source_view_sql(name, source.key, rows[name], until)}')
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
    """Return the partitions of each requested partition's lookback, with its decision time."""
    clock, lookback = spec.clock, spec.features.lookback
    keys = clock.keys(clock.shift(min(partitions), -lookback), max(partitions))
    positions = {key: position for position, key in enumerate(keys)}
    pairs = [
        {
            "for_partition": partition,
            "decision_time": clock.decision_time(partition),
            "partition": keys[positions[partition] - ago],
            "ago": ago,
        }
        for partition in partitions
        for ago in range(lookback + 1)
    ]
    fields = [
        ("for_partition", pa.string()),
        ("decision_time", schemas.TIME),
        ("partition", pa.string()),
        ("ago", pa.int32()),
    ]
    return pa.Table.from_pylist(pairs, schema=pa.schema(fields))


def _source_view_sql(name: str, key: Sequence[str], rows: pa.Table, until: datetime) -> str:
    """Return the SQL of a source's view, which adds until when each row was the current revision."""
    same_row = ", ".join(f'"{column}"' for column in ("partition", *key))
    # most partitions have one revision, and then a window over all rows would only take time
    has_revisions = len(rows["revision"].unique()) > 1
    window = f"lead(known_at) OVER (PARTITION BY {same_row} ORDER BY revision)"
    known_until = f"coalesce({window if has_revisions else 'NULL'}, 'infinity'::TIMESTAMPTZ)"
    # the SQL consists of names, as in `create_views`
    inner = f'SELECT *, {known_until} AS known_until FROM "_{name}"'  # noqa: S608
    return f"SELECT * FROM ({inner}) WHERE known_at <= TIMESTAMPTZ '{until.isoformat()}'"  # noqa: S608
