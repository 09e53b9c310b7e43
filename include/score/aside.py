"""The objects of a night's parts: rows under their digest, and read back only as what was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from include import spool
from include.features.build import schema
from include.lake import Lake
from include.refs import digest_bytes
from include.score import predictions
from include.score.plan import Plan, unfit, verified
from include.spec import UseCase

FEATURES, PREDICTIONS = "features", "predictions"  # of a part
PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
Part = Mapping[str, Any]  # what a part's task wrote down of it


def folder(made: Plan) -> str:
    """Return where the parts of a plan lie."""
    return f"{made.key.removesuffix('.json')}/"


def write(lake: Lake, made: Plan, number: int, table: pa.Table) -> list[str]:
    """Write a part's table batch by batch, and return the batches' digests."""
    digests = []
    for _, some in spool.parts(table):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, some.schema, options=PACKED) as writer:
            for batch in some.combine_chunks().to_batches():  # no batch of no rows
                writer.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        digests.append(digest_bytes(data))
        lake.create(_key(made, number, digests[-1]), data)
    return digests


def read(lake: Lake, spec: UseCase, made: Plan, parts: Sequence[Part], name: str) -> pa.Table:
    """Return a table of all parts, whose rows are those of the night in their order."""
    shape = schema(spec) if name == FEATURES else predictions.shape(spec)

    def batches() -> Iterator[pa.RecordBatch]:
        last: list[object] = []
        for part in parts:
            for digest in part["tables"][name]:
                data = verified(lake, _key(made, part["part"], digest), digest)
                for batch in pa.ipc.open_stream(data):
                    first, after = ([batch[c][place].as_py() for c in spec.key] for place in (0, -1))
                    if last and not last < first:
                        wanted = "parts in the order of the key, none twice"
                        raise unfit(f"parts of {made.night}", wanted, str(first))
                    last = after
                    yield batch

    return spool.held(shape, batches())


def _key(made: Plan, number: int, digest: str) -> str:
    return f"{folder(made)}{number}/{digest}.arrow"
