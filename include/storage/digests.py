"""Computes the digest of a table, and of each of its rows: equal content has an equal digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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


# The digest of a row: a 128-bit hash by column, computed for all rows at once.

Bits = NDArray[np.uint64]
SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)  # the first digits of pi
NAN, NULL = 0x7FF8000000000000, 0x7FF8000000000001
GAMMA, LAST_SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(31)  # of SplitMix64
MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
WIDTH = 32  # characters
HEX_PAIRS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def digest_rows(rows: pa.Table, numeric: Sequence[str], categorical: Sequence[str]) -> pa.Array:
    """Return each row's digest, 32 hexadecimal characters.

    Parameters
    ----------
    numeric, categorical : the columns that it is of, shape (n,) each.
    """
    states = np.repeat(np.array(SEEDS, np.uint64)[:, np.newaxis], rows.num_rows, axis=1)
    scratch = np.empty_like(states)
    for name in numeric:
        mix(states, _number_bits(rows[name]), scratch)
    for name in categorical:
        mix(states, _text_bits(rows[name]), scratch)
    octets = states.T.astype(">u8", order="C").view(np.uint8)
    offsets = np.arange(rows.num_rows + 1, dtype=np.int32) * np.int32(WIDTH)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(HEX_PAIRS[octets])]
    return pa.Array.from_buffers(pa.string(), rows.num_rows, buffers, 0)


def _number_bits(column: pa.ChunkedArray) -> Bits:
    column = column.cast(pa.float64(), safe=False)  # an integer beyond 2 ** 53 becomes the nearest float
    with np.errstate(invalid="ignore"):  # a signaling NaN is one NaN more
        values = column.to_numpy() + 0.0  # -0.0 becomes 0.0
    bits: Bits = values.view(np.uint64)
    bits[np.isnan(values)] = NAN
    if column.null_count:
        bits[column.is_null().to_numpy()] = NULL
    return bits


def _text_bits(column: pa.ChunkedArray) -> Bits:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in encoded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*digests, NULL.to_bytes(8, "big") * 2]), ">u8").astype(np.uint64)
    codes = encoded.indices.fill_null(len(digests)).to_numpy()
    bits: Bits = table.reshape(-1, 2).take(codes, axis=0).T
    return bits


def mix(states: Bits, bits: Bits, scratch: Bits) -> None:
    """Mix a column's bits into states, in place, as SplitMix64 does; arithmetic wraps at 2 ** 64.

    Parameters
    ----------
    states : shape (n,) or (k, n).
    bits : of the same shape, or (n,), the same for each of k states.
    scratch : as ``states``; it is overwritten.
    """
    states ^= bits
    states += GAMMA
    for shift, factor in MIX:
        np.right_shift(states, shift, out=scratch)
        states ^= scratch
        states *= factor
    np.right_shift(states, LAST_SHIFT, out=scratch)
    states ^= scratch
