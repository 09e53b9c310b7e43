"""Manifests: the raw objects of each revision of a source's partition, in order, and when it became known."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime

from include.errors import StoredDataError
from include.storage.lake import Lake

SNAPSHOTS = "raw/snapshots"


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
