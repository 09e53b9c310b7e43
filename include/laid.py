"""A table as one batch that lies in files without names, which are mapped.

The table is gone through once: where its own file has the columns side by side and memory is too short to
keep it, each look at one column would read the others as well.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import IO

import numpy as np
import pyarrow as pa


def batch(schema: pa.Schema, parts: Iterable[Sequence[pa.Array]]) -> pa.RecordBatch:
    """Return parts of a table, one after the other, as one batch.

    Parameters
    ----------
    parts : arrays by column that begin with their buffers; all but the last of a multiple of eight rows.
    """
    with ExitStack() as files:
        columns = [_Column(field.type, files) for field in schema]
        for part in parts:
            for column, one in zip(columns, part, strict=True):
                column.add(one)
        return pa.RecordBatch.from_arrays([column.array() for column in columns], schema=schema)


def mapped(file: IO[bytes]) -> pa.Buffer:
    """Return a file's bytes; they stay when it is closed."""
    file.flush()
    size = file.seek(0, 2)
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")


class _Column:
    """A column's buffers in files; of a nested type its parts, as they are."""

    def __init__(self, kind: pa.DataType, files: ExitStack) -> None:
        self.kind, self.rows, self.nulls, self.end = kind, 0, 0, 0
        self.text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        self.nested: list[pa.Array] | None = None if self.text or pa.types.is_primitive(kind) else []
        self.valid, self.ends, self.data = (_file(files) for _ in range(3))
        self.ends.write(bytes(4))

    def add(self, part: pa.Array) -> None:
        """Write a part."""
        self.rows, self.nulls = self.rows + len(part), self.nulls + part.null_count
        if self.nested is not None:
            self.nested.append(part)
            return
        self.valid.write(_bits(part.is_valid()))
        if self.text:
            offsets = np.frombuffer(part.buffers()[1], np.int32)[: len(part) + 1]
            self.ends.write((offsets[1:] + np.int32(self.end)).tobytes())
            self.data.write(memoryview(part.buffers()[2] or b"")[: offsets[-1]])
            self.end += int(offsets[-1])
        elif pa.types.is_boolean(self.kind):
            self.data.write(_bits(part.fill_null(False)))
        else:
            self.data.write(memoryview(part.buffers()[1])[: len(part) * self.kind.bit_width // 8])

    def array(self) -> pa.Array:
        """Return the column."""
        if self.nested is not None:
            return pa.concat_arrays([*self.nested, pa.array([], self.kind)])
        validity = mapped(self.valid) if self.nulls else None
        values = [mapped(self.ends), mapped(self.data)] if self.text else [mapped(self.data)]
        return pa.Array.from_buffers(self.kind, self.rows, [validity, *values], self.nulls)


def _file(files: ExitStack) -> IO[bytes]:
    return files.enter_context(tempfile.TemporaryFile())


def _bits(booleans: pa.Array) -> bytes:
    return np.packbits(booleans.to_numpy(zero_copy_only=False), bitorder="little").tobytes()
