"""Prove of a feature SQL that nothing known after a decision, or before the lookback, moves a feature.

The rows that a partition may see are kept, and beside them rows are planted that it may not see: a later
revision of each, known right after the decision, and an older copy, known before the lookback, both with
other values. What the SQL then says must equal what it says without them. This needs no later partitions, so
the newest can be checked.
"""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import NotPublished
from include.features import point_in_time
from include.features.build import compute_features
from include.spec import UseCase
from include.spec.clock import day_of
from include.storage import schemas
from include.storage.lake import Lake


def point_in_time_violations(lake: Lake, spec: UseCase, partition: str) -> list[str]:
    """Return the feature columns that see what ``partition`` may not see, none for a sound SQL.

    A SQL that gives other rows for the spine because of them fails as a `SpecError`, as it would in training.

    Raises
    ------
    NotPublished
        The spine has no rows that partition, so nothing could be seen to change.
    """
    decided = spec.clock.moment(partition)
    seen = {
        name: _known(rows, decided)
        for name, rows in point_in_time.read_sources(lake, spec, [partition]).items()
    }
    honest = compute_features(spec, seen, [partition])
    if honest.num_rows == 0:
        raise NotPublished(
            f"{spec.name}/{spec.features.spine}/{partition}",
            required="published rows to check the features on",
            found="none",
            remedy="choose a partition that was ingested",
        )
    planted = {
        name: pa.concat_tables([rows, *_planted(spec, name, rows, partition)]) for name, rows in seen.items()
    }
    # the cut is moved out of the way: here the SQL's own conditions are what is tested
    tempted = compute_features(spec, planted, [partition], until=decided + timedelta(days=1))
    return [name for name in spec.features.columns if not honest[name].equals(tempted[name])]


def _known(rows: pa.Table, decided: object) -> pa.Table:
    return rows.filter(pc.less_equal(rows["known_at"], pa.scalar(decided, schemas.TIME)))


def _planted(spec: UseCase, name: str, rows: pa.Table, partition: str) -> list[pa.Table]:
    """Return rows that ``partition`` may not see: revisions that came too late, copies from too long ago."""
    other = _other(rows, spec.sources[name].key)
    late = pa.scalar(spec.clock.moment(partition) + timedelta(microseconds=1), schemas.TIME)
    revised = pc.add(rows["revision"], pa.scalar(1000, pa.int32()))
    too_late = _with(other, revision=revised, known_at=pa.repeat(late, rows.num_rows))
    before = spec.clock.shift(partition, -spec.features.back(name) - 1)
    apart = pa.scalar(day_of(before) - day_of(partition), pa.duration("us"))
    # what is older is about older days as well: SQL may bound its lookback by either
    dated = {
        f.name: pc.add(rows[f.name], apart).cast(f.type) for f in rows.schema if pa.types.is_temporal(f.type)
    }
    too_old = _with(other, partition=pa.repeat(pa.scalar(before), rows.num_rows), **dated)
    return [too_late, too_old.filter(pc.equal(rows["partition"], partition))]


def _other(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Return the rows with another value in each column that is no key, so that seeing them shows."""
    changed = {}
    for field in rows.schema:
        values, kind = rows[field.name], field.type
        if field.name in (*key, "partition", "revision", "known_at"):
            continue
        if pa.types.is_floating(kind) or pa.types.is_integer(kind):
            changed[field.name] = pc.add(pc.fill_null(values, 0), pa.scalar(977, kind))
        elif pa.types.is_boolean(kind):
            changed[field.name] = pc.invert(pc.fill_null(values, False))
        elif pa.types.is_string(kind):
            changed[field.name] = pc.binary_join_element_wise(pc.fill_null(values, ""), "~", "")
    return _with(rows, **changed)


def _with(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), values)
    return rows
