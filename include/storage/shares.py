"""Shares of a table's rows, by the hash of their entity.

DuckDB's own hash is another in each version, and MD5 in SQL took a third of a shard's time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.storage.digests import Bits, mix

MISSING = np.uint64(0x7FF8000000000001)
WORD = 8  # bytes of a text that are mixed at once


@dataclass(frozen=True)
class Share:
    """One of equal shares of a table's rows: those whose entity's hash lies in one range of the hashes.

    The share of a row is the same on each machine, and in whatever table the entity is. Rows without a value
    have one too.

    Parameters
    ----------
    columns : of the entity, strings or integers.
    number, of : the share's number from 0, and how many shares there are.
    """

    columns: tuple[str, ...]
    number: int
    of: int

    def filter(self, rows: pa.RecordBatch | pa.Table) -> pa.RecordBatch | pa.Table:
        """Return the rows of the share, in their order."""
        hashes = entity_hashes([rows[name] for name in self.columns])
        positions = ((hashes >> np.uint64(32)) * np.uint64(self.of)) >> np.uint64(32)
        return rows.filter(pa.array(positions == self.number))


def entity_hashes(columns: list[pa.Array | pa.ChunkedArray]) -> Bits:
    """Return the hash of each row's entity, from columns of strings or integers."""
    states = np.zeros(len(columns[0]), np.uint64)
    scratch = np.empty_like(states)
    for column in columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        missing = np.asarray(array.is_null())
        if pa.types.is_integer(array.type):
            bits = np.asarray(array.fill_null(0).cast(pa.int64())).view(np.uint64)
            mix(states, np.where(missing, MISSING, bits), scratch)
        else:
            _mix_texts(states, array, missing, scratch)
    return states


def _mix_texts(states: Bits, texts: pa.StringArray, missing: NDArray[np.bool_], scratch: Bits) -> None:
    """Mix the length and the bytes of each text into its state, a word at a time."""
    _, ends, data = texts.buffers()
    starts = np.frombuffer(ends or bytes(4), np.int32)[texts.offset : texts.offset + len(texts) + 1]
    sizes = np.where(missing, 0, np.diff(starts))
    mix(states, np.where(missing, MISSING, sizes.astype(np.uint64)), scratch)
    padded = np.frombuffer(bytes(data or b"") + bytes(WORD), np.uint8)
    words = np.ndarray(padded.size - WORD + 1, "<u8", padded, strides=(1,))  # one from each byte on
    for index in range(0, int(sizes.max(initial=0)), WORD):
        rows = np.flatnonzero(sizes > index)
        unused = np.maximum(WORD - (sizes[rows] - index), 0).astype(np.uint64) * np.uint64(8)  # bits
        bits = words[starts[:-1][rows] + index].astype(np.uint64) << unused
        mixed = states[rows]
        mix(mixed, bits, scratch[: rows.size])
        states[rows] = mixed
