"""Computes the digest of a table: equal content has an equal digest."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from include.storage import spill


def digest_table(table: pa.Table) -> str:
    """Return the SHA-256 of a table's schema and rows, in their order.

    The digest doesn't depend on how the table is split into chunks, because it is written as a single batch.
    """
    plain = table.replace_schema_metadata(None)
    sink = _DigestFile()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), plain.schema) as writer:
        for batch in spill.as_single_batch(plain):
            writer.write_batch(batch)
    return sink.digest.hexdigest()


class _DigestFile:
    """A writable file that keeps only the digest of its content."""

    def __init__(self) -> None:
        self.digest, self.size, self.closed = hashlib.sha256(), 0, False

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += memoryview(data).nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    def close(self) -> None:
        self.closed = True
