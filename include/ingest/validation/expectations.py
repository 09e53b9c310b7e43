"""Evaluates expectations about rows: compiled to one DuckDB scan, or else with Great Expectations.

Great Expectations takes seconds to import, so it is imported only for expectations that can't be compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from include.ingest.validation import compiled
from include.ingest.validation.compiled import AGGREGATES, UNIQUE, is_simple_aggregate
from include.ingest.validation.rows import Mask
from include.spec.source import Column, Expectation
from include.storage import spill
from include.storage.schemas import column_type


def validate_expectations(
    subject: str, expectations: Sequence[Expectation], columns: Mapping[str, Column]
) -> None:
    """Reject expectations that can't be evaluated.

    Raises
    ------
    SpecError
        naming the expectation, and what is valid.
    """
    types = {name: column_type(column) for name, column in columns.items()}
    others = [
        expectation
        for expectation in expectations
        if not is_simple_aggregate(expectation, types)
        and not compiled.compile_expectation(expectation, types)
    ]
    if others:
        from include.ingest.validation import great_expectations

        great_expectations.require_supported(subject, others, list(columns))


def broken_expectations(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table, candidates: Mask
) -> Iterator[tuple[int, int, Mask]]:
    """Yield an expectation's number, a batch's first row, and which candidates in the batch break it.

    Raises
    ------
    SpecError
        for an expectation that can't be evaluated for its columns.
    """
    numbers = [n for n, one in enumerate(expectations) if one.type not in (*UNIQUE, *AGGREGATES)]
    if not numbers or not candidates.any():
        return
    types = {field.name: field.type for field in rows.schema}
    conditions = {}
    for number in numbers:
        condition = compiled.compile_expectation(expectations[number], types)
        if condition is not None:
            conditions[number] = condition
    if conditions:
        with duckdb.connect(config={"threads": 1}) as connection:
            for span, batch in spill.batches(rows):
                connection.register("rows", batch)
                masks = compiled.breaking_rows(connection, list(conditions.values()))
                for number, mask in zip(conditions, masks, strict=True):
                    yield number, span.start, mask & candidates[span]
    if others := [number for number in numbers if number not in conditions]:
        from include.ingest.validation import great_expectations

        for start in range(0, rows.num_rows, great_expectations.BATCH):
            mask = candidates[start : start + great_expectations.BATCH]
            batch = rows.slice(start, great_expectations.BATCH).filter(pa.array(mask))
            # the results come in an order of their own
            for expectation, broken in great_expectations.broken_rows(
                subject, [expectations[number] for number in others], batch
            ):
                result = np.zeros(mask.size, bool)
                result[np.flatnonzero(mask)[broken]] = True
                yield next(n for n in others if expectations[n] is expectation), start, result
