"""Scores a partition of many parcels with little memory.

And prints the most memory of its own that it had (MB).

``python -m tests.score.large ROWS FOLDER`` is run by a test, once for each number of rows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.memory import Anonymous
from include.score.pipeline import score
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.lake import Lake
from tests.features import parcels

PARTITION = "2024-03-08"


def orders(use: UseCase, rows: int) -> pa.Table:
    """Return a partition's rows of `orders`."""
    schema = schemas.validated_schema(use.sources["orders"])
    known = use.clock.local(PARTITION, use.sources["orders"].available_at)
    columns = {
        "depot": pa.array(parcels.DEPOTS).take(pa.array(np.arange(rows) % 2)),
        "parcel": np.arange(rows),
        "weight": np.random.default_rng(7).random(rows),
        "express": np.arange(rows) % 3 == 0,
        "partition": pa.repeat(PARTITION, rows),
        "revision": np.zeros(rows, np.int32),
        "known_at": pa.repeat(pa.scalar(known, schemas.TIME), rows),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def main(rows: int, folder: str) -> None:
    """Fill a lake, score its large partition, and print the peak."""
    spill.MEMORY_LIMIT, spill.BATCH, spill.DUCKDB_MEMORY = 4 << 20, 1 << 13, "150MB"
    use = parcels.spec(Path(folder))
    lake = Lake("parcels", folder + "/lake")
    parcels.fill(lake, use, "2024-03-01", PARTITION)
    lake.publish("validated_orders", orders(use, rows), {"partition": PARTITION})
    with Anonymous() as memory:
        assert score(lake, use, PARTITION).rows == rows
    print(memory.most)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
