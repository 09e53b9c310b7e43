"""References that tasks pass on instead of rows, digests, and safe object keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError

if TYPE_CHECKING:
    from mmap import mmap


MAX_NOTE = 500  # characters in an XCom


@dataclass(frozen=True)
class Ref:
    """A reference to something published, under 1 kB.

    Parameters
    ----------
    id : of what it refers to: a table's or store's address, the key of an object or attempt, a run of MLflow,
        or a source.
    partition : the partition it belongs to, or ``first..last`` for a range.
    digest : the digest of its content.
    rows : how many rows it has.
    note : the result in one sentence.
    """

    id: str
    partition: str
    digest: str = ""
    rows: int = 0
    note: str = ""

    def xcom(self) -> dict[str, Any]:
        """Return plain values for XCom; a long note is cut."""
        return {**asdict(self), "note": self.note[:MAX_NOTE]}


def digest_bytes(data: bytes | mmap) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces; NaN is refused)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return digest_bytes(text.encode())


def validate_key(key: str) -> str:
    """Return the key if it can't leave its folder and every store reads it the same way; else raise."""
    parts = key.removesuffix("/").split("/")  # a prefix may end with a slash
    if not all(map(str.isprintable, key)) or "\\" in key or {"", ".", ".."} & set(parts):
        raise EvergreenError(
            f"object key {key!r}",
            required="a path below the use case's folder",
            remedy="write it without backslashes, unprintable characters, and parts that are empty, . or ..",
        )
    return key
