"""Point-in-time views: the feature SQL sees only what was known at each partition's decision time.

For every source there are two views:

``<source>``
    its rows with ``partition``, ``revision``, ``known_at`` and ``known_until``, when a later revision of the
    partition replaced them, also those that it doesn't have anymore.
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
from itertools import pairwise
from types import MappingProxyType

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake, Where
from include.storage.shares import Share
from include.storage.snapshots import manifest_key, read_manifest


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
        visible = spec.partitions(name, spec.clock.shift(first, -spec.features.lookback_of(name)), last)
        table, rows, times = f"validated_{name}", None, None
        version = versions[table] if versions else None
        if visible and version != -1:
            share = share_of(spec, name, *shard) if shard else None
            rows = lake.read(table, {"partition": visible}, version=version, share=share)
            if share:  # whose rows may all be gone from a revision
                times = lake.read(
                    table, {"partition": visible}, ["partition", "revision", "known_at"], version
                )
        rows = schemas.align_to_schema(rows, schemas.validated_schema(source))
        # the lake returns rows in no order, on which sums of floats and ranks among ties would depend
        rows = spill.sort_rows(rows, ("partition", "revision", *source.key))
        emptied = emptied_at(lake, name, visible)
        keep = times is None and not emptied
        tables[name] = rows if keep else with_known_until(rows, rows if times is None else times, emptied)
    return tables


def emptied_at(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, datetime]:
    """Return since when a revision without rows has replaced the earlier ones, by partition that has one."""
    where: Where = {"product": source, "partition": list(partitions), "outcome": "published", "rows": 0}
    moments = {}
    for row in lake.rows("partitions", where, ["partition", "revision"]) if partitions else ():
        if row["revision"]:  # no row says when it became known, so its manifest has to
            key = manifest_key(source, row["partition"], row["revision"])
            moments[row["partition"]] = read_manifest(lake, key).moment
    return moments


def with_known_until(
    rows: pa.Table, of: pa.Table, emptied: Mapping[str, datetime] = MappingProxyType({})
) -> pa.Table:
    """Return rows with ``known_until``: when the next revision of their partition was known, else null.

    Most partitions have one revision. If all have, another column would only take memory, and there is none.

    Parameters
    ----------
    of : all rows of these partitions.
    emptied : from `emptied_at`.
    """
    if "known_until" in rows.column_names or (len(of["revision"].unique()) <= 1 and not emptied):
        return rows
    times = of.select(["partition", "revision", "known_at"]).group_by(["partition", "revision"])
    revisions = times.aggregate([("known_at", "min")]).sort_by(
        [("partition", "ascending"), ("revision", "ascending")]
    )
    until: dict[tuple[str, int], datetime] = {}
    for earlier, later in pairwise(revisions.to_pylist()):
        if earlier["partition"] == later["partition"]:
            until[earlier["partition"], earlier["revision"]] = later["known_at_min"]
    for row in revisions.to_pylist():
        if row["partition"] in emptied:
            until.setdefault((row["partition"], row["revision"]), emptied[row["partition"]])
    keys = pc.binary_join_element_wise(rows["partition"], rows["revision"].cast(pa.string()), " ")
    encoded = keys.combine_chunks().dictionary_encode()
    names = (text.rpartition(" ") for text in encoded.dictionary.to_pylist())
    moments = pa.array([until.get((partition, int(number))) for partition, _, number in names], schemas.TIME)
    return rows.append_column("known_until", moments.take(encoded.indices))


def share_of(spec: UseCase, source: str, number: int, of: int) -> Share | None:
    """Return a shard's share of a source's rows; None for all rows, if it lacks columns of the entity."""
    has_entity = set(spec.features.entity) <= set(spec.sources[source].columns)
    return Share(spec.features.entity, number, of) if has_entity else None


def create_views(
    spec: UseCase, rows: Mapping[str, pa.Table], partitions: Sequence[str], until: datetime
) -> duckdb.DuckDBPyConnection:
    """Return an engine with the views of ``partitions``, from rows that were known by ``until``."""
    connection = spill.duckdb_engine()
    connection.register("calendar", decision_calendar(spec, partitions))
    # the SQL consists of names that the spec's patterns allow, and quoted columns
    for name in spec.sources:
        table = with_known_until(rows[name], rows[name])
        connection.register(f"_{name}", table)
        connection.execute(f'CREATE VIEW "{name}" AS {_source_view_sql(name, table, until)}')
        connection.execute(
            f"""CREATE VIEW "known_{name}" AS
            SELECT c.for_partition, c.decision_time, c.ago, s.*
            FROM "{name}" s JOIN calendar c ON s.partition = c.partition
            WHERE c.ago <= {spec.features.lookback_of(name)}
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


def _source_view_sql(name: str, rows: pa.Table, until: datetime) -> str:
    """Return the SQL of a source's view, in which what wasn't replaced is known until infinity."""
    forever = "'infinity'::TIMESTAMPTZ"
    columns = f"*, {forever} AS known_until"
    if "known_until" in rows.column_names:
        columns = f"* REPLACE (coalesce(known_until, {forever}) AS known_until)"
    # the SQL consists of names, as in `create_views`
    return f"SELECT {columns} FROM \"_{name}\" WHERE known_at <= TIMESTAMPTZ '{until.isoformat()}'"  # noqa: S608
