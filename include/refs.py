"""What a task hands on: a reference under 1 kB, never rows; and the digests that make two things the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError

if TYPE_CHECKING:
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


def digest_bytes(data: bytes) -> str:
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

    plain = table.combine_chunks().replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain.schema) as writer:
        for column_batch in _whole(plain):
            writer.write_batch(column_batch)
    return digest_bytes(sink.getvalue())


def _whole(table: pa.Table) -> list[pa.RecordBatch]:
    """Return the table as one batch with buffers of its own (a slice keeps its parent's)."""
    if table.num_rows == 0:
        return []
    import pyarrow as pa

    taken = table.take(pa.array(range(table.num_rows), pa.int64())).combine_chunks()
    return list(taken.to_batches())


def inside(key: str) -> str:
    """Return a name or key that can't leave its folder; what stores may read otherwise is refused as well."""
    parts = key.removesuffix("/").split("/")  # a prefix may end with a slash
    if not all(map(str.isprintable, key)) or "\\" in key or {"", ".", ".."} & set(parts):
        raise EvergreenError(f"object key {key!r}", required="a path below the use case's folder")
    return key
