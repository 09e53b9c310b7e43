"""Which rows share values with another of their night: a few at once by pandas, many by DuckDB, which spills.

Of many rows only those are compared whose hashes are shared.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from include import spool
from include.ingest.rows import UNIT, Codes, Mask, numbered

PLACE = "place of rows"
SHARED, BEFORE = "count(*) OVER (PARTITION BY {0})", "row_number() OVER (PARTITION BY {0} ORDER BY {1})"


def shared(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, share their values with another of them of the same unit.

    Parameters
    ----------
    rows : the columns to compare; a null is like a null.
    sizes : rows of each unit, which follow one another.
    """
    return _told(rows, sizes, _alike(rows, sizes, among), SHARED)


def said_before(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, have the values of an earlier one of them of the same unit."""
    return _told(rows, sizes, among, BEFORE)


def _told(rows: pa.Table, sizes: Codes, among: Mask, how: str) -> Mask:
    found = np.zeros(rows.num_rows, bool)
    shape = pa.schema([*_plain(rows.schema), (UNIT, pa.int64()), (PLACE, pa.int64())])
    some = spool.held(shape, _among(rows, sizes, among))
    if some.num_rows <= spool.BATCH:
        frame = some.drop_columns([PLACE]).to_pandas()
        which = frame.duplicated(keep=False if how == SHARED else "first").to_numpy()
        found[some[PLACE].to_numpy()[which]] = True
        return found
    names = [f'"{name}"' for name in some.column_names if name != PLACE]
    said = how.format(", ".join(names), f'"{PLACE}"')
    with spool.engine() as connection:
        connection.register("given", some)
        # what is pasted are names made here
        sql = f'SELECT "{PLACE}" FROM (SELECT "{PLACE}", {said} AS n FROM given) WHERE n > 1'  # noqa: S608
        for batch in connection.sql(sql).to_arrow_reader(spool.BATCH):
            found[batch.column(0).to_numpy()] = True
    return found


def _plain(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields by their place: a source's own names may be anything."""
    return [pa.field(f"c{number}", field.type) for number, field in enumerate(schema)]


def _among(rows: pa.Table, sizes: Codes, among: Mask) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in numbered(rows.rename_columns([field.name for field in _plain(rows.schema)]), sizes):
        which = np.flatnonzero(among[start : start + batch.num_rows])
        if which.size:
            yield batch.take(pa.array(which)).append_column(PLACE, pa.array(which + start))
        start += batch.num_rows


def _alike(rows: pa.Table, sizes: Codes, among: Mask) -> Mask:
    """Return which rows, of those among, may share their values with another."""
    many = int(np.count_nonzero(among))
    if many <= spool.BATCH:
        return among
    hashes = spool.room((many,)).view(np.uint64)
    at = 0
    for part in _hashes(rows, sizes):
        kept = part[1][among[part[0]]]
        hashes[at : at + kept.size] = kept
        at += kept.size
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    found = np.zeros(rows.num_rows, bool)
    if twice.size:
        for place, part_hashes in _hashes(rows, sizes):
            near = np.minimum(np.searchsorted(twice, part_hashes), twice.size - 1)
            found[place] = (twice[near] == part_hashes) & among[place]
    return found


def _hashes(rows: pa.Table, sizes: Codes) -> Iterator[tuple[slice, Codes]]:
    """Yield a hash of each row, batch by batch; what is equal has the same."""
    names = ", ".join([*(field.name for field in _plain(rows.schema)), f'"{UNIT}"'])
    start = 0
    with spool.engine() as connection:
        connection.register("given", numbered(rows.rename_columns(names.split(", ")[:-1]), sizes))
        # what is pasted are names made here
        found = connection.sql(f"SELECT hash({names}) FROM given").to_arrow_reader(spool.BATCH)  # noqa: S608
        for batch in found:
            yield slice(start, start + batch.num_rows), batch.column(0).to_numpy()
            start += batch.num_rows
