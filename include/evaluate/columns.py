"""What a row is beside its features: a column may tell groups apart without ever reaching a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from include import tables
from include.errors import NotPublished, SpecError
from include.features import views
from include.lake import Lake
from include.spec import UseCase


def beside(lake: Lake, spec: UseCase, rows: pa.Table, names: Iterable[str]) -> pa.Table:
    """Return columns of rows: features as the model saw them, the others as the spine's source had them.

    Parameters
    ----------
    rows : with the spine's key, ``night`` and the features, shape (n, any).
    names : features or columns of the spine's source; one that is named twice is given once.

    Returns
    -------
    pa.Table
        The columns in the order of their names, a row for each of ``rows`` in their order, shape (n, k). What
        comes from the source is the revision that was known at the row's decision time.

    Raises
    ------
    SpecError
        when a name is neither.
    NotPublished
        when the source was published without the column, or hasn't the row.
    """
    wanted = list(dict.fromkeys(names))
    held = {*spec.features.columns, *spec.key}
    given = spec.sources[spec.features.spine].columns
    unknown = [name for name in wanted if name not in held and name not in given]
    if unknown:
        there = ", ".join(dict.fromkeys([*spec.features.columns, *given]))
        raise SpecError(f"{spec.name}: columns beside the rows", required=there, found=", ".join(unknown))
    sought = [name for name in wanted if name not in held]
    if sought:
        came = _sought(lake, spec, rows, sought)
        rows = rows.select([name for name in wanted if name in held])
        for name in sought:
            rows = rows.append_column(name, came[name])
    return rows.select(wanted)


def _sought(lake: Lake, spec: UseCase, rows: pa.Table, names: list[str]) -> pa.Table:
    """Return columns of the spine's validated table, found for the rows in their order."""
    moments = {night: spec.clock.moment(night) for night in rows["night"].unique().to_pylist()}
    read = lake.read(f"validated_{spec.features.spine}", {"night": sorted(moments)})
    without = [name for name in names if read is None or name not in read.column_names]
    if read is None or without:
        raise _missing(spec, lake, f"published with {', '.join(without)}", "a table without")
    decided = pa.array([moments[night] for night in read["night"].to_pylist()], tables.TIME)
    known = read.filter(pc.less_equal(read["known_at"], decided)).sort_by("revision")
    place = {key: i for i, key in enumerate(_keys(spec, known))}  # of two revisions the later one stays
    found = [place.get(key) for key in _keys(spec, rows)]
    if lost := found.count(None):
        raise _missing(spec, lake, f"{', '.join(names)} of {rows.num_rows} rows", f"{lost} that aren't there")
    source = spec.sources[spec.features.spine]
    shape = pa.schema([(name, tables.column_type(source.columns[name])) for name in names])
    return views.shaped(known.take(pa.array(found, pa.int64())), shape)


def _keys(spec: UseCase, rows: pa.Table) -> Iterator[tuple[object, ...]]:
    """Return what each row is told by."""
    return zip(*(rows[column].to_pylist() for column in ("night", *spec.key)), strict=True)


def _missing(spec: UseCase, lake: Lake, required: str, found: str) -> NotPublished:
    """Return the error about a column that is declared and can't be had."""
    return NotPublished(
        f"{spec.name}/{spec.features.spine}",
        required=required,
        found=found,
        where=f"{lake.uri}/tables/validated_{spec.features.spine}",
        remedy="ingest the test nights again with the source as it is declared now, or take the column out "
        "of gate.slices and gate.fairness",
    )
