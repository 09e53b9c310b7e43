"""A digest of each row's features, which a recomputed row must have again.

It is defined over numbers and texts, not over a library's way to print or hash, and is worked out for columns
at once. A number is its IEEE 754 bits, where minus nought is nought and NaN is one; null is a NaN of its own.
A text is the 16 bytes of BLAKE2b of its UTF-8, null as no text is. Two states of 64 bits start from `SEEDS`.
For each feature, numeric ones first, each state is mixed with the value's bits (of a text its first and last
8 bytes) by exclusive or, and goes through the finalizer of SplitMix64 (G. Steele, D. Lea and C. Flood, Fast
splittable pseudorandom number generators, OOPSLA 2014), a bijection: so a row that differs in one number has
another digest for certain, and any other row with a chance of 2 ** -128 to have the same. The digest is both
states in hexadecimal. It guards against mistakes; who could forge rows is stopped by the partition's SHA-256.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.spec import UseCase

Bits = NDArray[np.uint64]
SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)  # of pi, as good as any
NAN, NULL = 0x7FF8000000000000, 0x7FF8000000000001
GAMMA, LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(31)
MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
WIDTH = 32  # characters
DIGITS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def row_digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return each row's digest, 32 hexadecimal characters."""
    states = np.repeat(np.array(SEEDS, np.uint64)[:, np.newaxis], rows.num_rows, axis=1)
    spare = np.empty_like(states)
    for name in spec.features.numeric:
        _mix(states, _number(rows[name]), spare)
    for name in spec.features.categorical:
        _mix(states, _text(rows[name]), spare)
    plain = states.T.astype(">u8", order="C").view(np.uint8)
    ends = np.arange(rows.num_rows + 1, dtype=np.int32) * np.int32(WIDTH)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(DIGITS[plain])]
    return pa.Array.from_buffers(pa.string(), rows.num_rows, buffers, 0)


def _number(column: pa.ChunkedArray) -> Bits:
    column = column.cast(pa.float64(), safe=False)  # a whole number beyond 2 ** 53 is the nearest float
    values = column.to_numpy() + 0.0  # minus nought is nought
    bits: Bits = values.view(np.uint64)
    bits[np.isnan(values)] = NAN
    if column.null_count:
        bits[column.is_null().to_numpy()] = NULL
    return bits


def _text(column: pa.ChunkedArray) -> Bits:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    known = [blake2b(text.encode(), digest_size=16).digest() for text in coded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*known, NULL.to_bytes(8, "big") * 2]), ">u8").astype(np.uint64)
    codes = coded.indices.fill_null(len(known)).to_numpy()
    found: Bits = table.reshape(-1, 2).take(codes, axis=0).T
    return found


def _mix(states: Bits, bits: Bits, spare: Bits) -> None:
    """Mix a column's bits, or those for each state, into the states in place; they wrap at 2 ** 64."""
    states ^= bits
    states += GAMMA
    for shift, factor in MIX:
        np.right_shift(states, shift, out=spare)
        states ^= spare
        states *= factor
    np.right_shift(states, LAST, out=spare)
    states ^= spare
