"""Erases rows from a source's raw bytes: those that are stored, and those that it delivers again.

A part is rewritten without the rows (`include.ingest.parsing.rewrite`), stored under its new digest, and the
manifest is replaced. A rewritten snapshot is exactly what ingesting would store, were the rows delivered
again. So refetching adds no revision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import PartitionRefused
from include.ingest.connectors.request import Part, Request, request
from include.ingest.parsing.parse import column_text
from include.ingest.parsing.rewrite import Mask, without_rows
from include.ingest.parsing.types import canonical_text, clean_column
from include.ingest.publish import (
    by_partition,
    count_quarantined,
    lineage,
    served_profiles,
    split_sorted,
    validated_digest,
)
from include.spec import UseCase
from include.spec.source import Column
from include.storage import spill
from include.storage.erasures import Erasures, read_erasures
from include.storage.lake import Lake, Where
from include.storage.schemas import align_to_schema, validated_schema
from include.storage.snapshots import (
    SNAPSHOTS,
    Snapshot,
    describe_parts,
    manifest_keys,
    read_manifest,
    snapshots,
    to_json,
)
from include.storage.spill import Data


def _told_by(erasures: Erasures, spec: UseCase, source: str) -> dict[str, Column]:
    """Return a source's columns of the erasures' keys and of the use case's key."""
    declared = spec.sources[source]
    used = {name for key in erasures.columns_of(declared.columns) for name in key} | set(spec.key)
    return {name: declared.column(name) for name in declared.columns if name in used}


def key_texts(erasures: Erasures, spec: UseCase, source: str, partition: str, rows: pa.Table) -> pa.Table:
    """Return what tells the rows of a part, which are under the source's own column names.

    Returns
    -------
    pa.Table
        ``partition``, and as texts the columns of the erasures' keys and of the use case's key that the rows
        have, under the declared names.
    """
    texts = {
        name: canonical_text(clean_column(column_text(rows, name, column), column), column)
        for name, column in _told_by(erasures, spec, source).items()
        if set(column.names_in_source(name)) <= set(rows.column_names)
    }
    return pa.table({"partition": pa.repeat(pa.scalar(partition), rows.num_rows), **texts})


def mask_text(erasures: Erasures, spec: UseCase, source: str, partition: str, rows: pa.Table) -> Mask:
    """Return which rows of a part, under the source's own column names, are erased."""
    return erasures.mask_source(spec, source, key_texts(erasures, spec, source, partition, rows))


def mask_records(erasures: Erasures, spec: UseCase, source: str, rows: pa.Table) -> Mask:
    """Return which rows of the table `quarantine` are erased; they have the clean texts of one source."""
    records = [json.loads(record) for record in rows["record"].to_pylist()]
    if source not in spec.sources or not records:
        return np.zeros(len(records), bool)
    texts = {
        name: canonical_text(pa.array([record.get(name) for record in records], pa.string()), column)
        for name, column in _told_by(erasures, spec, source).items()
    }
    return erasures.mask_source(spec, source, pa.table({"partition": rows["partition"], **texts}))


def filter_parts(
    erasures: Erasures, spec: UseCase, source: str, partition: str, parts: Sequence[Part]
) -> list[Part]:
    """Return what a source delivered without erased rows; a part that can't be read is refused later."""
    if not erasures.rows:
        return list(parts)
    one = request(spec, source, partition)
    return [(name, _filter_part(erasures, spec, source, one, name, data)[0]) for name, data in parts]


def _filter_part(
    erasures: Erasures,
    spec: UseCase,
    source: str,
    one: Request,
    name: str,
    data: Data,
    contains: Callable[[Data], bool] = lambda data: False,
) -> tuple[Data, int]:
    """Return a part without erased rows, and how many they are."""
    try:
        return without_rows(
            one, name, data, lambda rows: mask_text(erasures, spec, source, one.partition, rows)
        )
    except PartitionRefused:  # its rows can't be told apart, and none was published
        return (b"null" if one.source.volatile_fields else b"", 0) if contains(data) else (data, 0)


def erase_snapshot(
    lake: Lake,
    spec: UseCase,
    erasures: Erasures,
    key: str,
    published: Mapping[tuple[str, str], set[int]],
    contains: Callable[[Data], bool] = lambda data: False,
) -> None:
    """Erase rows from the snapshot of a manifest; its former objects stay.

    Parameters
    ----------
    key : of the manifest, which is replaced after the new objects are written.
    published : the revisions by source and partition that the contract accepted.
    contains : whether a part that can't be read holds the key; it is emptied then.
    """
    snapshot = read_manifest(lake, key)
    if snapshot.source not in spec.sources:
        return
    one = request(spec, snapshot.source, snapshot.partition, snapshot.revision)
    parts, count, changed = list[Part](), 0, False
    for part in snapshot.parts:
        data = lake.data(part.key)
        if data is None:
            return  # `verify` reports it
        rewritten, erased = _filter_part(erasures, spec, snapshot.source, one, part.name, data, contains)
        count, changed = count + erased, changed or rewritten is not data
        parts.append((part.name, rewritten))
    if changed:
        stored, identity = describe_parts(one.source, parts)
        for stored_part, (_, data) in zip(stored, parts, strict=True):
            lake.create(stored_part.key, data)
        accepted = snapshot.revision in published.get((snapshot.source, snapshot.partition), ())
        erased = snapshot.erased + count if accepted else 0
        lake.replace(key, to_json(replace(snapshot, parts=stored, identity=identity, erased=erased)))


def referenced_objects(lake: Lake) -> dict[str, list[tuple[str, Snapshot]]]:
    """Return the manifests, with their keys, that refer to each raw object; also those of withdrawals."""
    references: dict[str, list[tuple[str, Snapshot]]] = {}
    manifests = [*lake.keys(SNAPSHOTS), *(k for k in lake.keys("withdrawn") if k.endswith(".json"))]
    for key in manifests:
        snapshot = read_manifest(lake, key)
        for part in snapshot.parts:
            references.setdefault(part.key, []).append((key, snapshot))
    return references


def remove_unreferenced(lake: Lake, keys: Iterable[str]) -> None:
    """Remove those of some raw objects that no manifest refers to any more.

    A run may store a manifest of the same bytes meanwhile. If that was before the removal, they are stored
    again here, and otherwise by that run, see `store_snapshot`.
    """
    references = referenced_objects(lake)
    for removed in _objects_in_batches(lake, (key for key in keys if key not in references)):
        lake.remove([*removed])
        for key in sorted(removed.keys() & referenced_objects(lake).keys()):
            lake.create(key, removed[key])


def _objects_in_batches(lake: Lake, keys: Iterable[str]) -> Iterator[dict[str, Data]]:
    """Yield objects by key, each time as many as fit into memory."""
    batch, size = dict[str, Data](), 0
    for key in keys:
        if (data := lake.data(key)) is None:
            continue
        batch[key] = data
        size += len(data)
        if size > spill.MEMORY_LIMIT:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def erase_new(lake: Lake, spec: UseCase, source: str, partitions: Sequence[str]) -> Erasures:
    """Erase what a run that began before an erasure has stored since, and return the erasures."""
    erasures = read_erasures(lake)
    before: set[str] = set()
    for keys in manifest_keys(lake, source, partitions).values():
        for key in keys:
            before |= {part.key for part in read_manifest(lake, key).parts}
            erase_snapshot(lake, spec, erasures, key, {})
    remove_unreferenced(lake, sorted(before))
    return erasures


def describe_source(lake: Lake, spec: UseCase, source: str, partitions: Sequence[str]) -> None:
    """Publish the profiles, the digests and the counts of what is left of a source's partitions.

    They are what ingesting the rewritten snapshots would publish, except for the notes. What a run publishes
    meanwhile is described instead of replaced.
    """
    while not _describe_recorded(lake, spec, source, partitions):
        pass


def _describe_recorded(lake: Lake, spec: UseCase, source: str, partitions: Sequence[str]) -> bool:
    """Describe partitions, and return whether what is recorded of them stayed the same until then."""
    declared = spec.sources[source]
    recorded = lake.rows("partitions", {"product": source, "partition": list(partitions)})
    if not recorded:
        return True
    keys = sorted(row["partition"] for row in recorded)
    rows = align_to_schema(lake.read(f"validated_{source}", {"partition": keys}), validated_schema(declared))
    rows = spill.sort_rows(rows, ("partition", "revision", *declared.key))
    of_partition = split_sorted(rows)
    quarantine = lake.read("quarantine", {"source": source, "partition": keys})
    quarantined = by_partition(quarantine) if quarantine is not None else {}
    stored = snapshots(lake, source, keys)
    described = []
    for row in recorded:
        partition, revisions = row["partition"], stored.get(row["partition"], [])
        left = of_partition.get(partition)
        count = 0
        if left is not None and row["outcome"] == "published":
            count = int(pc.sum(pc.equal(left["revision"], row["revision"])).as_py() or 0)
        inputs = row["inputs"]
        if revisions and len(json.loads(inputs)) == len(revisions):  # else it is stale, and stays so
            inputs = lineage(source, revisions)
        described.append(
            {
                **row,
                "rows": count,
                "quarantined": count_quarantined(quarantined.get(partition), row["revision"]),
                "digest": "" if left is None else validated_digest(left, declared),
                "inputs": inputs,
                "note": f"{row['outcome']}; rows were erased since",
            }
        )
    revisions_served = {
        row["partition"]: row["revision"] for row in recorded if row["outcome"] == "published"
    }
    where: Where = {"product": source, "partition": keys}
    lake.publish("profiles", served_profiles(spec, source, rows, revisions_served), where)
    is_same = True

    def replace_recorded(rows: pa.Table) -> pa.Table:
        nonlocal is_same
        is_same = _by_partition(rows.to_pylist()) == _by_partition(recorded)
        return pa.Table.from_pylist(described, schema=rows.schema) if is_same else rows

    lake.revise("partitions", where, replace_recorded)
    return is_same


def _by_partition(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {row["partition"]: row for row in rows}
