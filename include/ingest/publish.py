"""Publish what was made of a source's partitions, and tell which partitions stand as they are.

The row in ``partitions`` is written after everything that it speaks of. Whether a partition stands is not
taken from that row alone: its tables are looked at too, so a rerun heals what a killed run or a lost table
left half done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.environment import code_version
from include.ingest.snapshots import Snapshot
from include.spec import UseCase
from include.spec.source import Source
from include.stats import profiles as profile
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake, Where
from include.storage.schemas import PARTITIONS, PROFILES, validated_schema

Row = dict[str, Any]
NUMERIC = ("integer", "number", "hhmm")
CATEGORICAL = ("string", "boolean")


def lineage(source: str, revisions: Sequence[Snapshot]) -> str:
    """Return the lineage of a partition as JSON.

    The identity of its newest snapshot, and of the earlier ones.
    """
    newest = {f"raw/{source}": revisions[-1].identity}
    earlier = {f"raw/{source}#{one.revision}": one.identity for one in revisions[:-1]}
    return json.dumps(newest | earlier, sort_keys=True)


def validated_digest(rows: pa.Table, source: Source) -> str:
    """Return the digest of a partition's validated rows: all its revisions, sorted by revision and key."""
    return digest_table(rows.select(validated_schema(source).names).cast(validated_schema(source)))


def by_partition(rows: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each partition that has any."""
    return in_partitions(spill.sort_rows(rows, ["partition"]))


def in_partitions(rows: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each partition that has any, where each partition's follow one another."""
    found, start = {}, 0
    for entry in pc.value_counts(rows["partition"]).to_pylist():  # in order of appearance
        found[str(entry["values"])] = rows.slice(start, entry["counts"])
        start += entry["counts"]
    return found


def publish_validated(
    lake: Lake,
    source: str,
    declared: Source,
    revisions: Mapping[str, Sequence[Snapshot]],
    good: pa.Table,
    quarantine: pa.Table,
    rows: Sequence[Row],
) -> None:
    """Publish partitions: quarantine, validated, profiles, and last their rows in ``partitions``.

    Parameters
    ----------
    revisions : of each partition, all its snapshots.
    good, quarantine : the rows of these partitions, all revisions of each.
    rows : their rows in ``partitions``.
    """
    partitions = sorted(revisions)
    if partitions:
        numbers = sorted({one.revision for many in revisions.values() for one in many})
        _replace(lake, "quarantine", quarantine, {"source": source, "partition": partitions})
        _replace(lake, f"validated_{source}", good, {"partition": partitions, "revision": numbers})
        shown = {row["partition"]: row["revision"] for row in rows if row["outcome"] == "published"}
        where: Where = {"product": source, "partition": partitions}
        _replace(lake, "profiles", _profiles(source, declared, good, shown), where)
    if rows:
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["partition"]), schema=PARTITIONS)
        where = {"product": source, "partition": [row["partition"] for row in rows]}
        lake.publish("partitions", table, where)


def up_to_date(
    lake: Lake,
    spec: UseCase,
    source: str,
    before: Mapping[str, Row],
    kept: Mapping[str, Sequence[Snapshot]],
) -> set[str]:
    """Return the partitions whose tables are already what their snapshots.

    The spec and the code make of them.
    """
    now = {
        partition: (lineage(source, many), spec.digest_of(source), code_version())
        for partition, many in kept.items()
    }
    same = [
        partition
        for partition, row in before.items()
        if partition in now and (row["inputs"], row["spec"], row["code"]) == now[partition]
    ]
    if not same:
        return set()
    declared = spec.sources[source]
    read = _read(lake, f"validated_{source}", {"partition": same}, validated_schema(declared))
    good = in_partitions(
        spill.sort_rows(read, ("partition", "revision", *declared.key)) if read.num_rows else read
    )
    aside = by_partition(_read(lake, "quarantine", {"source": source, "partition": same}))
    profiles = by_partition(_read(lake, "profiles", {"product": source, "partition": same}))
    wanted = len(_columns(declared, NUMERIC)) + len(_columns(declared, CATEGORICAL))

    def stands(partition: str) -> bool:
        row, empty = before[partition], good.get(partition) is None
        if (validated_digest(good[partition], declared) if not empty else "") != row["digest"]:
            return False
        if (
            row["outcome"] == "published"
            and (len(profiles[partition]) if partition in profiles else 0) != wanted
        ):
            return False
        return bool(_aside(aside.get(partition), row["revision"]) == row["quarantined"])

    return {partition for partition in same if stands(partition)}


def _aside(rows: pa.Table | None, revision: int) -> int:
    """Return how many rows of a revision are in quarantine; one that breaks several rules is counted once."""
    if rows is None:
        return 0
    mine = spill.filter_rows(rows, pc.equal(rows["revision"], revision))
    with spill.duckdb_engine() as connection:
        connection.register("mine", mine)
        found = connection.sql("SELECT count(*) FROM (SELECT DISTINCT part, row FROM mine)").fetchall()
    return int(found[0][0])


def _read(lake: Lake, table: str, where: Where, schema: pa.Schema | None = None) -> pa.Table:
    found = lake.read(table, where)
    if found is None or (schema and set(schema.names) - set(found.column_names)):
        return pa.table({"partition": pa.array([], pa.string())})
    return found


def _replace(lake: Lake, table: str, rows: pa.Table, where: Where) -> None:
    """Publish, unless there is nothing and there was nothing: each commit is one more to keep for ever."""
    if not rows.num_rows:
        found = lake.read(table, where, columns=["partition"])
        if found is None or not found.num_rows:
            return
    lake.publish(table, rows, where)


def _profiles(source: str, declared: Source, good: pa.Table, shown: Mapping[str, int]) -> pa.Table:
    """Return the profiles of the partitions' shown revisions."""
    numeric, categorical = _columns(declared, NUMERIC), _columns(declared, CATEGORICAL)
    made = [
        profile.build_profile(
            source,
            partition,
            spill.filter_rows(rows, pc.equal(rows["revision"], shown[partition])),
            numeric,
            categorical,
        )
        for partition, rows in in_partitions(good).items()
        if partition in shown
    ]
    return pa.concat_tables([PROFILES.empty_table(), *made])


def _columns(declared: Source, types: Sequence[str]) -> list[str]:
    """Return the columns that are kept as one of the types; a hashed one is a string."""
    kept = {name: "string" if column.hashed else column.type for name, column in declared.columns.items()}
    return [name for name, kind in kept.items() if kind in types]
