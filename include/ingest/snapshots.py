"""Snapshots: the raw data of each partition, stored unchanged, from which its tables can be rebuilt.

Bytes are stored under their SHA-256 (``raw/objects/``). A manifest lists the parts of a partition in order
(``raw/snapshots/<source>/<partition>/<revision>.json``). Both are written once and never changed, so fetching
is idempotent: the first fetch wins, a rerun reads the stored snapshot, and different content becomes the next
revision with its own `known_at`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from include.errors import StoredDataError
from include.ingest.connectors.request import Part
from include.references import digest_bytes, digest_json
from include.spec import UseCase
from include.spec.source import Source
from include.storage.lake import Lake
from include.storage.manifests import SNAPSHOTS, Snapshot, StoredPart, read_manifest, to_json

if TYPE_CHECKING:
    from include.storage.spill import Data

FEW = 16  # partitions whose manifests are listed one by one


def snapshots(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, list[Snapshot]]:
    """Return the revisions of each partition that has any, oldest first."""
    return {
        partition: sorted((read_manifest(lake, key) for key in keys), key=lambda snapshot: snapshot.revision)
        for partition, keys in manifest_keys(lake, source, partitions).items()
    }


def manifest_keys(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, list[str]]:
    """Return the keys of the manifests of each partition that has any."""
    folder, requested = f"{SNAPSHOTS}/{source}", set(partitions)
    # a few are listed one by one, or a listing would be as long as the lake is old
    folders = [f"{folder}/{one}" for one in sorted(requested)] if len(requested) <= FEW else [folder]
    keys: dict[str, list[str]] = defaultdict(list)
    for key in chain.from_iterable(map(lake.keys, folders)):
        partition = key.split("/")[-2]
        if partition in requested:
            keys[partition].append(key)
    return keys


def store_snapshot(
    lake: Lake,
    spec: UseCase,
    source: str,
    partition: str,
    parts: Sequence[Part],
    known_at: Callable[[], datetime],
    *,
    add_revision: bool = False,
) -> Snapshot:
    """Store a partition's parts, unless a snapshot with the same content, or any snapshot, is stored already.

    Parameters
    ----------
    known_at : returns when a new revision became available; called only for one.
    add_revision : store content that differs from the newest revision as the next one. Without it the first
        fetch wins.

    Returns
    -------
    Snapshot
        the newest revision: with this content, or that of a concurrent writer that came first.
    """
    stored_parts, identity = describe_parts(spec.sources[source], parts)
    while True:
        revisions = snapshots(lake, source, [partition]).get(partition, [])
        if revisions and (not add_revision or revisions[-1].identity == identity):
            return revisions[-1]
        for part, (_, data) in zip(stored_parts, parts, strict=True):
            lake.create(part.key, data)
        moment = known_at().astimezone(UTC).isoformat()
        snapshot = Snapshot(source, partition, len(revisions), moment, identity, stored_parts)
        if lake.create(snapshot.key, to_json(snapshot)):
            _restore_parts(lake, snapshot, parts)
            return snapshot
        if not revisions:  # a concurrent writer was first
            return snapshots(lake, source, [partition])[partition][-1]


def _restore_parts(lake: Lake, snapshot: Snapshot, parts: Sequence[Part]) -> None:
    """Store again what an erasure has removed because no manifest referred to it before this one was stored.

    It may have replaced this manifest too, and then the part without its rows is there.
    """
    for part, (_, data) in zip(snapshot.parts, parts, strict=True):
        if lake.size(part.key) is None and read_manifest(lake, snapshot.key) == snapshot:
            lake.create(part.key, data)


def describe_parts(declared: Source, parts: Sequence[Part]) -> tuple[tuple[StoredPart, ...], str]:
    """Return the parts as a manifest lists them, and the identity of their content."""
    stored = tuple(StoredPart(name, digest_bytes(data), len(data)) for name, data in parts)
    return stored, digest_json([[name, _content_digest(declared, data)] for name, data in parts])


def read_parts(lake: Lake, snapshot: Snapshot) -> list[Part]:
    """Return a snapshot's parts in order.

    Raises
    ------
    StoredDataError
        if bytes are missing or don't match their digest.
    """
    parts = []
    for part in snapshot.parts:
        data = lake.data(part.key)
        if data is None or digest_bytes(data) != part.sha256:
            raise StoredDataError(
                f"{snapshot.source}/{snapshot.partition}, revision {snapshot.revision}: {part.name}",
                required=f"bytes with the SHA-256 {part.sha256}",
                found="no object" if data is None else "different bytes",
                where=f"{lake.uri}/{part.key}",
                remedy="restore the object from a backup",
            )
        parts.append((part.name, data))
    return parts


def _content_digest(declared: Source, data: Data) -> str:
    """Return a part's digest without the fields that change with each response."""
    if not declared.volatile_fields:
        return digest_bytes(data)
    page = json.loads(bytes(data))
    if isinstance(page, dict):
        page = {name: value for name, value in page.items() if name not in declared.volatile_fields}
    return digest_bytes(json.dumps(page, sort_keys=True).encode())
