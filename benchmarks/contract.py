"""What a contract's expectations cost beside one DuckDB scan of the file: ``python -m benchmarks.contract``.

Both read a Parquet file of a million rows, and find how many rows break each of 16 expectations: Great
Expectations as ingest asks it (with the place of each broken row), DuckDB by one SELECT. The counts must
agree. Seconds are of CPU.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.drift import CATEGORICAL, NAMES, NUMERIC, batches
from include.ingest.great import broken
from include.spec.source import Expectation

ROWS = 1_000_000
BETWEEN = [
    Expectation(
        type="expect_column_values_to_be_between",
        kwargs={"column": name, "min_value": -3.5, "max_value": 3.5},
    )
    for name in NUMERIC
]
IN_SET = [
    Expectation(type="expect_column_values_to_be_in_set", kwargs={"column": name, "value_set": NAMES[:9]})
    for name in CATEGORICAL
]
LISTED = ", ".join(f"'{name}'" for name in NAMES[:9])


def expectations(path: Path) -> list[int]:
    """Return how many rows break each expectation, by Great Expectations."""
    return [int(which.sum()) for _, which in broken("bench", [*BETWEEN, *IN_SET], pq.read_table(path))]


def scan(path: Path) -> list[int]:
    """Return the same by one scan."""
    wrong = [f"{name} NOT BETWEEN -3.5 AND 3.5" for name in NUMERIC]
    wrong += [f"{name} NOT IN ({LISTED})" for name in CATEGORICAL]
    counts = ", ".join(f"count(*) FILTER (WHERE {rule})" for rule in wrong)
    with duckdb.connect() as engine:
        found = engine.execute(f"SELECT {counts} FROM read_parquet(?)", [str(path)])  # noqa: S608 - own names
        return list(found.fetchall()[0])


def main() -> None:
    """Measure and print."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        pq.write_table(pa.Table.from_batches(batches(ROWS, 1)), path)
        found = {}
        for work in (expectations, scan, expectations, scan):  # the first round warms up
            begin = time.process_time()
            found[work.__name__] = work(path)
            seconds[work.__name__] = time.process_time() - begin
    if found["expectations"] != found["scan"]:
        sys.exit(f"the two disagree, so nothing is claimed: {found}")
    print(f"| 16 expectations of {ROWS:,} rows, Great Expectations | {seconds['expectations']:.2f} s |")
    print(f"| one DuckDB scan that counts the same | {seconds['scan']:.3f} s |")
    print(f"| ratio | {seconds['expectations'] / seconds['scan']:.0f} |")


if __name__ == "__main__":
    main()
