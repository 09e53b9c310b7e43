"""Expectations about rows: by one scan of DuckDB where that answers the same, else by Great Expectations.

Great Expectations takes seconds to import, so it is imported only for what isn't known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from include.ingest.validation import compiled
from include.ingest.validation.compiled import ANSWERED, UNIQUE, is_simple_aggregate
from include.ingest.validation.rows import Mask
from include.spec.source import Column, Expectation
from include.storage import spill
from include.storage.schemas import column_type


def validate_expectation(
    subject: str, expectations: Sequence[Expectation], columns: Mapping[str, Column]
) -> None:
    """Refuse an expectation that can't be asked.

    Raises
    ------
    SpecError
        naming it, and what is valid.
    """
    types = {name: column_type(column) for name, column in columns.items()}
    others = [
        one
        for one in expectations
        if not is_simple_aggregate(one, types) and not compiled.compile_expectation(one, types)
    ]
    if others:
        from include.ingest.validation import great_expectations

        great_expectations.require_supported(subject, others, list(columns))


def broken_expectations(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table, among: Mask
) -> Iterator[tuple[int, int, Mask]]:
    """Yield an expectation's number, the place of some rows, and which of them, if among, break it.

    Raises
    ------
    SpecError
        for an expectation that can't be answered for its columns.
    """
    asked = [n for n, one in enumerate(expectations) if one.type not in (*UNIQUE, *ANSWERED)]
    if not asked or not among.any():
        return
    types = {field.name: field.type for field in rows.schema}
    conditions = {n: compiled.compile_expectation(expectations[n], types) for n in asked}
    ours = {n: c for n, c in conditions.items() if c is not None}
    if ours:
        with duckdb.connect(config={"threads": 1}) as connection:
            for place, part in spill.batches(rows):
                connection.register("rows", part)
                for n, which in zip(
                    ours, compiled.breaking_rows(connection, list(ours.values())), strict=True
                ):
                    yield n, place.start, which & among[place]
    if others := [n for n in asked if n not in ours]:
        from include.ingest.validation import great_expectations

        for start in range(0, rows.num_rows, great_expectations.BATCH):
            some = among[start : start + great_expectations.BATCH]
            left = rows.slice(start, great_expectations.BATCH).filter(pa.array(some))
            # it yields them in an order of its own
            for one, found in great_expectations.broken_rows(
                subject, [expectations[n] for n in others], left
            ):
                out = np.zeros(some.size, bool)
                out[np.flatnonzero(some)[found]] = True
                yield next(n for n in others if expectations[n] is one), start, out
