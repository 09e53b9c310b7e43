"""Expectations about rows: by one scan of DuckDB where that answers the same, else by Great Expectations.

Great Expectations takes seconds to import, so it is imported only for what isn't known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import pyarrow as pa

from include.ingest import compiled
from include.ingest.aggregates import ANSWERED, UNIQUE, plain
from include.ingest.rows import Mask
from include.spec.source import Column, Expectation
from include.tables import column_type


def checked(subject: str, expectations: Sequence[Expectation], columns: Mapping[str, Column]) -> None:
    """Refuse an expectation that can't be asked.

    Raises
    ------
    SpecError
        naming it, and what is valid.
    """
    types = {name: column_type(column) for name, column in columns.items()}
    others = [one for one in expectations if not plain(one, types) and not compiled.condition(one, types)]
    if others:
        from include.ingest import great

        great.checked(subject, others, list(columns))


def broken(
    subject: str, expectations: Sequence[Expectation], rows: pa.Table
) -> Iterator[tuple[Expectation, Mask]]:
    """Yield each expectation about rows, and which rows break it.

    Raises
    ------
    SpecError
        for an expectation that can't be answered for its columns.
    """
    asked = [one for one in expectations if one.type not in UNIQUE and one.type not in ANSWERED]
    if not asked or not rows.num_rows:
        return
    types = {field.name: field.type for field in rows.schema}
    conditions = [compiled.condition(one, types) for one in asked]
    ours = {n: c for n, c in enumerate(conditions) if c is not None}
    if ours:
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("rows", rows)
            found = compiled.broken(connection, list(ours.values()))
        yield from ((asked[n], which) for n, which in zip(ours, found, strict=True))
    others = [one for n, one in enumerate(asked) if n not in ours]
    if others:
        from include.ingest import great

        yield from great.broken(subject, others, rows)
