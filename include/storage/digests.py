"""The digest of a table's rows: equal content gives an equal digest."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from include.storage import spill


def digest_table(table: pa.Table) -> str:
    """Return the SHA-256 of a table's schema and rows, in the order given.

    Equal content gives an equal digest however the table is cut into chunks: it is written as one batch.
    """
    plain = table.replace_schema_metadata(None)
    sink = _Sink()
    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), plain.schema) as writer:
        for batch in spill.as_single_batch(plain):
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
