"""What a source returned is kept byte for byte, so that every row can be found again and read anew.

Bytes lie under their SHA-256 (``raw/objects/``); a manifest names the parts of a partition in order
(``raw/snapshots/<source>/<partition>/<revision>.json``). Both are only ever created: the first fetch wins, a
rerun reads what it finds, and other content becomes the next revision with its own knowledge time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from include.errors import EvergreenError
from include.ingest.connectors.request import Part
from include.references import digest_bytes, digest_json
from include.spec.source import Http, Source
from include.storage.lake import Lake
from include.storage.spill import Data


@dataclass(frozen=True)
class StoredPart:
    """One part of a snapshot."""

    name: str
    sha256: str
    size: int

    @property
    def key(self) -> str:
        """Where its bytes lie."""
        return f"raw/objects/{self.sha256[:2]}/{self.sha256}"


@dataclass(frozen=True)
class Snapshot:
    """One revision of one partition.

    Parameters
    ----------
    known_at : when it could first have been known, in ISO form (UTC).
    identity : the digest of its content without the volatile fields; equal content is the same snapshot.
    """

    source: str
    partition: str
    revision: int
    known_at: str
    identity: str
    parts: tuple[StoredPart, ...]

    @property
    def moment(self) -> datetime:
        """The knowledge time."""
        return datetime.fromisoformat(self.known_at)

    @property
    def files(self) -> str:
        """The parts' names, for people."""
        return ", ".join(part.name for part in self.parts[:3]) + (", …" if len(self.parts) > 3 else "")


def snapshots(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, list[Snapshot]]:
    """Return the revisions of each of the partitions that has any, oldest first."""
    return {
        partition: sorted((_read(lake, key) for key in keys), key=lambda one: one.revision)
        for partition, keys in manifest_keys(lake, source, partitions).items()
    }


def manifest_keys(lake: Lake, source: str, partitions: Sequence[str]) -> dict[str, list[str]]:
    """Return the manifests' keys of each of the partitions that has any."""
    base, wanted = f"raw/snapshots/{source}", set(partitions)
    found: dict[str, list[str]] = defaultdict(list)
    for key in lake.keys(f"{base}/{partitions[0]}" if len(partitions) == 1 else base):
        partition = key.split("/")[-2]
        if partition in wanted:
            found[partition].append(key)
    return found


def store_snapshot(
    lake: Lake,
    source: str,
    declared: Source,
    partition: str,
    parts: Sequence[Part],
    known: Callable[[], datetime],
    *,
    anew: bool = False,
) -> Snapshot:
    """Keep a partition's parts, unless somebody kept them first or the newest revision has the same content.

    Parameters
    ----------
    known : the knowledge time of a new revision; called only for one.
    anew : other content than the newest revision's is the next one; without it the first fetch wins.

    Returns
    -------
    Snapshot
        the newest revision: this content, or that of a writer who was first.
    """
    kept = tuple(StoredPart(name, digest_bytes(data), len(data)) for name, data in parts)
    identity = digest_json([[name, _identity(declared, data)] for name, data in parts])
    while True:
        before = snapshots(lake, source, [partition]).get(partition, [])
        if before and (not anew or before[-1].identity == identity):
            return before[-1]
        for part, (_, data) in zip(kept, parts, strict=True):
            lake.create(part.key, data)
        moment = known().astimezone(UTC).isoformat()
        made = Snapshot(source, partition, len(before), moment, identity, kept)
        if lake.create(_key(made), json.dumps(asdict(made), indent=1).encode()):
            return made
        if not before:  # somebody else was first: theirs is the partition's
            return snapshots(lake, source, [partition])[partition][-1]


def read_parts(lake: Lake, snapshot: Snapshot) -> list[Part]:
    """Return a snapshot's parts in order.

    Raises
    ------
    EvergreenError
        when bytes are gone or are no longer those that were kept.
    """
    parts = []
    for part in snapshot.parts:
        data = lake.data(part.key)
        if data is None or digest_bytes(data) != part.sha256:
            raise EvergreenError(
                f"{snapshot.source}/{snapshot.partition}, revision {snapshot.revision}: {part.name}",
                required=f"bytes with the SHA-256 {part.sha256}",
                found="none" if data is None else "others",
                where=f"{lake.uri}/{part.key}",
                remedy="restore the object from a backup",
            )
        parts.append((part.name, data))
    return parts


def _key(snapshot: Snapshot) -> str:
    return f"raw/snapshots/{snapshot.source}/{snapshot.partition}/{snapshot.revision}.json"


def _read(lake: Lake, key: str) -> Snapshot:
    data = lake.get(key)
    try:
        raw = json.loads(data or b"")
        return Snapshot(**{**raw, "parts": tuple(StoredPart(**part) for part in raw["parts"])})
    except (ValueError, TypeError, KeyError):
        raise EvergreenError(
            key, required="a snapshot's manifest", found="something else", where=lake.uri, remedy="restore it"
        ) from None


def _identity(declared: Source, data: Data) -> str:
    """Return a part's digest, without the fields that change with each answer."""
    if not isinstance(declared, Http) or not declared.volatile:
        return digest_bytes(data)
    page = json.loads(bytes(data))
    if isinstance(page, dict):
        page = {name: value for name, value in page.items() if name not in declared.volatile}
    return digest_bytes(json.dumps(page, sort_keys=True).encode())
