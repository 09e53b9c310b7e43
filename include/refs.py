"""What a task hands on: a reference under 1 kB, never rows; and the digests that make two things the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError

if TYPE_CHECKING:
    from mmap import mmap

    import pyarrow as pa  # imported where a table is digested: a DAG page reads the rest of this page


@dataclass(frozen=True)
class Ref:
    """Where something published lies.

    Parameters
    ----------
    uri : a table, object or model.
    partition : the night it belongs to, or ``first..last`` for a range.
    digest : its content's digest.
    rows : how many rows it has.
    note : the sentence a person reads.
    """

    uri: str
    partition: str
    digest: str = ""
    rows: int = 0
    note: str = ""

    def xcom(self) -> dict[str, Any]:
        """Return a dict of plain values for XCom."""
        return asdict(self)


def digest_bytes(data: bytes | mmap) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces; NaN is refused)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return digest_bytes(text.encode())


def digest_table(table: pa.Table) -> str:
    """Return the SHA-256 of a table's schema and rows, in the order given.

    Equal content gives an equal digest however the table is cut into chunks: it is written as one batch.
    """
    import pyarrow as pa

    from include import spool

    plain = table.replace_schema_metadata(None)
    sink = _Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), plain.schema) as writer:
        for batch in spool.whole(plain):
            writer.write_batch(batch)
    return sink.digest.hexdigest()


class _Sink:
    """A file of which only the digest is kept."""

    def __init__(self) -> None:
        self.digest, self.size, self.closed = hashlib.sha256(), 0, False

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += memoryview(data).nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Keep nothing back."""

    def close(self) -> None:
        self.closed = True


def inside(key: str) -> str:
    """Return a name or key that can't leave its folder; what stores may read otherwise is refused as well."""
    parts = key.removesuffix("/").split("/")  # a prefix may end with a slash
    if not all(map(str.isprintable, key)) or "\\" in key or {"", ".", ".."} & set(parts):
        raise EvergreenError(f"object key {key!r}", required="a path below the use case's folder")
    return key
