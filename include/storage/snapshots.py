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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain

from include.errors import StoredDataError
from include.references import digest_bytes, digest_json
from include.spec import UseCase
from include.spec.source import Source
from include.storage.lake import Lake
from include.storage.spill import Data

SNAPSHOTS = "raw/snapshots"
FEW = 16  # partitions whose manifests are listed one by one


@dataclass(frozen=True)
class StoredPart:
    """One part of a snapshot: a file, a page or a query's result."""

    name: str
    sha256: str
    size: int

    @property
    def key(self) -> str:
        """Return the key of its bytes in the lake."""
        return f"raw/objects/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Snapshot:
    """The raw data of one revision of one partition. Its fields are stored as JSON.

    Parameters
    ----------
    known_at : when the revision became available, in ISO form (UTC).
    identity : the digest of its content without volatile fields; equal content is the same snapshot.
    parts : in the order of the source.
    erased : how many rows were erased from it since it was published. They count for the contract, as on
        arrival.
    """

    source: str
    partition: str
    revision: int
    known_at: str
    identity: str
    parts: tuple[StoredPart, ...]
    erased: int = 0

    @property
    def key(self) -> str:
        """Return the key of its manifest in the lake."""
        return manifest_key(self.source, self.partition, self.revision)

    @property
    def moment(self) -> datetime:
        """Return when the revision became available."""
        return datetime.fromisoformat(self.known_at)

    @property
    def files(self) -> str:
        """Return the names of the first parts, for messages."""
        return ", ".join(part.name for part in self.parts[:3]) + (", …" if len(self.parts) > 3 else "")


def manifest_key(source: str, partition: str, revision: int) -> str:
    """Return the key of a revision's manifest in the lake."""
    return f"{SNAPSHOTS}/{source}/{partition}/{revision}.json"


def to_json(snapshot: Snapshot) -> bytes:
    """Return a manifest's bytes."""
    content = {name: value for name, value in asdict(snapshot).items() if name != "erased" or value}
    return json.dumps(content, indent=1).encode()


def read_manifest(lake: Lake, key: str) -> Snapshot:
    """Return the snapshot that a manifest describes.

    Raises
    ------
    StoredDataError
        if there is no such object, or one that isn't a manifest.
    """
    data = lake.get(key)
    try:
        fields = json.loads(data or b"")
        return Snapshot(**{**fields, "parts": tuple(StoredPart(**part) for part in fields["parts"])})
    except (ValueError, TypeError, KeyError):
        raise StoredDataError(
            key,
            required="the manifest of a snapshot",
            found="no object" if data is None else "an object that can't be read as one",
            where=lake.uri,
            remedy="restore the object from a backup",
        ) from None


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
    parts: Sequence[tuple[str, Data]],
    known_at: Callable[[], datetime],
    *,
    add_revision: bool = False,
) -> Snapshot:
    """Store a partition's parts, unless a snapshot with the same content, or any snapshot, is stored already.

    Parameters
    ----------
    parts : the name and the bytes of each, in the order of the source.
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


def _restore_parts(lake: Lake, snapshot: Snapshot, parts: Sequence[tuple[str, Data]]) -> None:
    """Store again what an erasure has removed because no manifest referred to it before this one was stored.

    It may have replaced this manifest too, and then the part without its rows is there.
    """
    for part, (_, data) in zip(snapshot.parts, parts, strict=True):
        if lake.size(part.key) is None and read_manifest(lake, snapshot.key) == snapshot:
            lake.create(part.key, data)


def describe_parts(declared: Source, parts: Sequence[tuple[str, Data]]) -> tuple[tuple[StoredPart, ...], str]:
    """Return the parts as a manifest lists them, and the identity of their content."""
    stored = tuple(StoredPart(name, digest_bytes(data), len(data)) for name, data in parts)
    return stored, digest_json([[name, _content_digest(declared, data)] for name, data in parts])


def read_parts(lake: Lake, snapshot: Snapshot) -> list[tuple[str, Data]]:
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
