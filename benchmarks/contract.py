"""What a contract's expectations cost beside one DuckDB scan: ``python -m benchmarks.contract``.

Each way finds the rows of a million that break each of 16 expectations, once where none is broken and once
where each is: Great Expectations and the compiled query tell which rows, the plain scan only counts them. The
rows are in a Parquet file, then in memory, as ingest holds them. What is found must agree. Seconds are of
CPU, the best of five rounds in which the ways take turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.drift import CATEGORICAL, NAMES, NUMERIC, batches
from include.ingest.validation import compiled, great_expectations
from include.spec.source import Expectation

ROWS = 1_000_000
ROUNDS = 5
Found = list[int] | list[bytes]


def suite(limit: float, names: list[str]) -> list[Expectation]:
    """Return an expectation a column: limits of a number, the names of a category."""
    limits = {"min_value": -limit, "max_value": limit}
    between, in_set = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
    numeric = [Expectation(type=between, kwargs={"column": name, **limits}) for name in NUMERIC]
    named = [Expectation(type=in_set, kwargs={"column": name, "value_set": names}) for name in CATEGORICAL]
    return numeric + named


SUITES = {"none broken": suite(10, NAMES), "each broken": suite(3.5, NAMES[:9])}


@contextmanager
def opened(held: Path | pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection in which the rows are `rows`."""
    with duckdb.connect(config={"threads": 1}) as connection:
        if isinstance(held, pa.Table):
            connection.register("rows", held)
        else:
            connection.read_parquet(str(held)).create_view("rows")
        yield connection


def _conditions(asked: list[Expectation]) -> list[compiled.Condition]:
    types: dict[str, pa.DataType] = {name: pa.float64() for name in NUMERIC}
    types |= {name: pa.string() for name in CATEGORICAL}
    return [one for one in (compiled.compile_expectation(each, types) for each in asked) if one is not None]


def expectations(held: Path | pa.Table, asked: list[Expectation]) -> Found:
    """Ask Great Expectations for the rows that break each."""
    rows = held if isinstance(held, pa.Table) else pq.read_table(held)
    return [which.tobytes() for _, which in great_expectations.broken_rows("bench", asked, rows)]


def query(held: Path | pa.Table, asked: list[Expectation]) -> Found:
    """Ask the compiled query for the same."""
    with opened(held) as connection:
        return [which.tobytes() for which in compiled.breaking_rows(connection, _conditions(asked))]


def scan(held: Path | pa.Table, asked: list[Expectation]) -> Found:
    """Only count them, by the SQL that one would write by hand."""
    wrong = []
    for one in asked:
        kwargs = one.kwargs
        limits = f"NOT BETWEEN {kwargs.get('min_value')} AND {kwargs.get('max_value')}"
        among = ", ".join(f"'{name}'" for name in kwargs.get("value_set", ()))
        wrong.append(f"{kwargs['column']} {f'NOT IN ({among})' if among else limits}")
    counts = ", ".join(f"count(*) FILTER (WHERE {rule})" for rule in wrong)
    with opened(held) as connection:
        return list(connection.execute(f"SELECT {counts} FROM rows").fetchall()[0])  # noqa: S608 - own names


WAYS: tuple[Callable[[Path | pa.Table, list[Expectation]], Found], ...] = (expectations, query, scan)


def measured(held: Path | pa.Table, asked: list[Expectation]) -> dict[str, float]:
    """Return the best seconds of each way; the rounds after the first are measured.

    Raises
    ------
    SystemExit
        if they don't find the same.
    """
    best = {way.__name__: float("inf") for way in WAYS}
    for number in range(ROUNDS + 1):
        found = {}
        for way in WAYS:
            begin = time.process_time()
            found[way.__name__] = way(held, asked)
            if number:
                best[way.__name__] = min(best[way.__name__], time.process_time() - begin)
        counted = [mask.count(b"\x01") for mask in found["query"] if isinstance(mask, bytes)]
        if found["expectations"] != found["query"] or counted != found["scan"]:
            sys.exit(f"they disagree, so nothing is claimed: {counted, found['scan']}")
    return best


def main() -> None:
    """Measure and print."""
    print("| seconds of CPU | Great Expectations | compiled, the same result | plain scan |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        rows = pa.Table.from_batches(batches(ROWS, 1))
        pq.write_table(rows, path)
        for location, held in {"file": path, "memory": rows}.items():
            for name, asked in SUITES.items():
                best = measured(held, asked)
                seconds = " | ".join(f"{best[way.__name__]:.3f}" for way in WAYS)
                print(f"| {location}, {name} | {seconds} |")
                ratios = " | ".join(f"{best[way.__name__] / best['scan']:.2f}" for way in WAYS)
                print(f"| … in scans | {ratios} |")


if __name__ == "__main__":
    main()
