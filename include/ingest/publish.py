"""Publishes the validated rows of a source's partitions, and determines which partitions are up to date.

The row in ``partitions`` is written after everything that it describes. Whether a partition is up to date
isn't decided by that row alone: its tables are checked too, so that a rerun repairs what a killed run or a
lost table left incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from include.environment import code_version
from include.spec import UseCase
from include.spec.source import Source
from include.stats.profiles import build_profile
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake, Row, Where
from include.storage.schemas import PARTITIONS, PROFILES, validated_schema
from include.storage.snapshots import Snapshot

NUMERIC = ("integer", "number", "hhmm")
CATEGORICAL = ("string", "boolean")


def lineage(source: str, revisions: Sequence[Snapshot]) -> str:
    """Return a partition's lineage as JSON: the identities of its newest snapshot and of the earlier ones."""
    newest = {f"raw/{source}": revisions[-1].identity}
    earlier = {f"raw/{source}#{snapshot.revision}": snapshot.identity for snapshot in revisions[:-1]}
    return json.dumps(newest | earlier, sort_keys=True)


def validated_digest(rows: pa.Table, source: Source) -> str:
    """Return the digest of a partition's validated rows: all its revisions, sorted by revision and key."""
    return digest_table(rows.select(validated_schema(source).names).cast(validated_schema(source)))


def by_partition(rows: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each partition that has any."""
    return split_sorted(spill.sort_rows(rows, ["partition"]))


def split_sorted(rows: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each partition that has any, from rows in which each partition's are consecutive."""
    tables, start = {}, 0
    for entry in pc.value_counts(rows["partition"]).to_pylist():  # in order of appearance
        tables[str(entry["values"])] = rows.slice(start, entry["counts"])
        start += entry["counts"]
    return tables


def publish_validated(
    lake: Lake,
    spec: UseCase,
    source: str,
    revisions: Mapping[str, Sequence[Snapshot]],
    rows: pa.Table,
    quarantine: pa.Table,
    partition_rows: Sequence[Row],
) -> None:
    """Publish partitions: quarantine, validated rows, profiles, and last their rows in ``partitions``.

    Parameters
    ----------
    revisions : all snapshots of each partition.
    rows, quarantine : the validated and quarantined rows of all revisions of these partitions.
    partition_rows : their rows in ``partitions``.
    """
    partitions = sorted(revisions)
    if partitions:
        numbers = sorted({snapshot.revision for many in revisions.values() for snapshot in many})
        _replace_rows(lake, "quarantine", quarantine, {"source": source, "partition": partitions})
        _replace_rows(lake, f"validated_{source}", rows, {"partition": partitions, "revision": numbers})
        served = {
            row["partition"]: row["revision"] for row in partition_rows if row["outcome"] == "published"
        }
        where: Where = {"product": source, "partition": partitions}
        _replace_rows(lake, "profiles", served_profiles(spec, source, rows, served), where)
    if partition_rows:
        ordered = sorted(partition_rows, key=lambda row: row["partition"])
        where = {"product": source, "partition": [row["partition"] for row in partition_rows]}
        lake.publish("partitions", pa.Table.from_pylist(ordered, schema=PARTITIONS), where)


def current_partitions(
    lake: Lake,
    spec: UseCase,
    source: str,
    partition_rows: Mapping[str, Row],
    stored: Mapping[str, Sequence[Snapshot]],
) -> set[str]:
    """Return the partitions whose tables already match their snapshots, the spec and the code.

    Parameters
    ----------
    partition_rows : the partitions' rows in ``partitions``.
    stored : the snapshots of each partition.
    """
    versions = {
        partition: (lineage(source, revisions), spec.digest_of(source), code_version())
        for partition, revisions in stored.items()
    }
    unchanged = [
        partition
        for partition, row in partition_rows.items()
        if versions.get(partition) == (row["inputs"], row["spec"], row["code"])
    ]
    if not unchanged:
        return set()
    declared = spec.sources[source]
    validated = _read(lake, f"validated_{source}", {"partition": unchanged}, validated_schema(declared))
    if validated.num_rows:
        validated = spill.sort_rows(validated, ("partition", "revision", *declared.key))
    rows = split_sorted(validated)
    quarantine = by_partition(_read(lake, "quarantine", {"source": source, "partition": unchanged}))
    profiles = by_partition(_read(lake, "profiles", {"product": source, "partition": unchanged}))
    profile_count = len(_columns(declared, NUMERIC)) + len(_columns(declared, CATEGORICAL))

    def is_intact(partition: str) -> bool:
        row = partition_rows[partition]
        if (validated_digest(rows[partition], declared) if partition in rows else "") != row["digest"]:
            return False
        actual_profiles = len(profiles[partition]) if partition in profiles else 0
        if row["outcome"] == "published" and row["rows"] and actual_profiles != profile_count:
            return False
        return bool(count_quarantined(quarantine.get(partition), row["revision"]) == row["quarantined"])

    return {partition for partition in unchanged if is_intact(partition)}


def count_quarantined(rows: pa.Table | None, revision: int) -> int:
    """Return how many rows of a revision are quarantined; a row that breaks several rules is counted once."""
    if rows is None:
        return 0
    of_revision = spill.filter_rows(rows, pc.equal(rows["revision"], revision))
    with spill.duckdb_engine() as connection:
        connection.register("quarantined", of_revision)
        query = "SELECT count(*) FROM (SELECT DISTINCT part, row FROM quarantined)"
        return int(connection.sql(query).fetchall()[0][0])


def _read(lake: Lake, table: str, where: Where, schema: pa.Schema | None = None) -> pa.Table:
    """Return rows, none if the table doesn't exist or lacks a column of the schema."""
    rows = lake.read(table, where)
    if rows is None or (schema and set(schema.names) - set(rows.column_names)):
        return pa.table({"partition": pa.array([], pa.string())})
    return rows


def _replace_rows(lake: Lake, table: str, rows: pa.Table, where: Where) -> None:
    """Publish rows, unless there are none before and after: a commit stays in the table's log."""
    if not rows.num_rows:
        existing = lake.read(table, where, columns=["partition"])
        if existing is None or not existing.num_rows:
            return
    lake.publish(table, rows, where)


def served_profiles(spec: UseCase, source: str, rows: pa.Table, served: Mapping[str, int]) -> pa.Table:
    """Return the profiles of the served revision of each partition."""
    declared = spec.sources[source]
    numeric, categorical = _columns(declared, NUMERIC), _columns(declared, CATEGORICAL)
    profiles = [
        build_profile(
            source,
            partition,
            spill.filter_rows(of_partition, pc.equal(of_partition["revision"], served[partition])),
            numeric,
            categorical,
        )
        for partition, of_partition in split_sorted(rows).items()
        if partition in served
    ]
    return pa.concat_tables([PROFILES.empty_table(), *profiles])


def _columns(declared: Source, types: Sequence[str]) -> list[str]:
    """Return the columns that are stored as one of the types; a hashed column is a string."""
    stored_types = {
        name: "string" if column.hashed else column.type for name, column in declared.columns.items()
    }
    return [name for name, stored_type in stored_types.items() if stored_type in types]
