"""Ingests a partition of many sales with little memory.

And prints the most memory of its own that it had (MB).

``python -m tests.ingest.large ROWS FOLDER FORMAT`` is run by a test, once for each number of rows.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml

from benchmarks.memory import Anonymous
from include.environment import Endpoint
from include.ingest.pipeline import ingest
from include.spec.load import read
from include.storage import spill
from include.storage.lake import Lake
from tests.usecases.weekly_sales import world

PARTITION = world.partitions(1)[0]
OWN = Path(world.__file__).parent


def sales(rows: int) -> pa.Table:
    """Return a partition's rows in no order.

    Some keys come twice, and some rows aren't what they should be.
    """
    order = np.random.default_rng(7).permutation(rows)
    texts = np.char.add("item-", (order - order % 97 // 96).astype(str))
    columns = {
        "week": np.where(order % 50 == 0, "2024-02-30", PARTITION),
        "store": np.char.add("s0", (order % 10).astype(str)),
        "item": texts,
        "price_pence": order % 900 + 1,
        "promo": order % 2 == 0,
        "opens": np.full(rows, "0800"),
        "units": order % 12_000,
    }
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def main(rows: int, folder: str, kind: str) -> None:
    """Write a file, ingest it, and print the peak."""
    spill.MEMORY_LIMIT, spill.BATCH, spill.DUCKDB_MEMORY = 4 << 20, 1 << 13, "100MB"
    there = Path(folder, "weekly_sales")
    shutil.copytree(OWN, there)
    raw = yaml.safe_load((OWN / "usecase.yaml").read_text())
    source = raw["sources"]["sales"]
    source |= {"path": f"{{day}}.{kind}", "format": kind}
    source["contract"] |= {"max_rows": None, "tolerance": 0.5}
    (there / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    write = pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table
    write(sales(rows), Path(folder, f"{PARTITION}.{kind}"))
    pa.default_memory_pool().release_unused()
    lake, use = Lake("weekly_sales", folder + "/lake"), read(there / "usecase.yaml")
    uri = Path(folder).as_uri()
    with Anonymous() as memory:
        (outcome,) = ingest(lake, use, "sales", [PARTITION], lambda name: Endpoint(name, uri))
    assert outcome.outcome == "published", outcome.note
    print(memory.most)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
