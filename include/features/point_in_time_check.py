"""Checks feature SQL for leaks: rows known after a decision, or before the lookback, change no feature.

The features of a partition are computed twice: from the rows that it may see, and again after planting rows
that it may not see. The planted rows are a later revision of each row, known right after the decision, and an
older copy, known before the lookback, both with different values. The features must be equal, but for the
last bits of sums. No later partitions are needed, so the newest partition can be checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import NotPublished
from include.features import point_in_time
from include.features.build import compute_features
from include.features.differences import changed_features
from include.spec import UseCase
from include.spec.clock import time_of
from include.storage import schemas
from include.storage.lake import Lake


def point_in_time_violations(lake: Lake, spec: UseCase, partition: str) -> list[str]:
    """Return the feature columns that depend on rows that ``partition`` may not see, none for correct SQL.

    SQL that returns other rows for the spine because of them fails with a `SpecError`, as it would in
    training.

    Raises
    ------
    NotPublished
        if the spine has no rows in that partition, so that no change could be observed.
    """
    return violations_of(spec, point_in_time.read_sources(lake, spec, [partition]), partition)


def violations_of(spec: UseCase, rows: Mapping[str, pa.Table], partition: str) -> list[str]:
    """Return what `point_in_time_violations` returns, from the sources' rows."""
    decision_time = spec.clock.decision_time(partition)
    visible = {name: _known_at(table, decision_time) for name, table in rows.items()}
    expected = compute_features(spec, visible, [partition])
    if expected.num_rows == 0:
        raise NotPublished(
            f"{spec.name}/{spec.features.spine}/{partition}",
            required="published rows to check the features on",
            found="no rows",
            remedy="choose a partition that was ingested",
        )
    planted = {
        name: pa.concat_tables([table, *_hidden_rows(spec, name, table, partition)])
        for name, table in visible.items()
    }
    # the views' own cutoff is moved to a later time, because here the SQL's conditions are checked
    actual = compute_features(spec, planted, [partition], until=decision_time + timedelta(days=1))
    return changed_features(spec, expected, actual)


def _known_at(rows: pa.Table, moment: datetime) -> pa.Table:
    # without `known_until`, which the views compute anew from the planted revisions
    rows = rows.select([name for name in rows.column_names if name != "known_until"])
    return rows.filter(pc.less_equal(rows["known_at"], pa.scalar(moment, schemas.TIME)))


def _hidden_rows(spec: UseCase, name: str, rows: pa.Table, partition: str) -> list[pa.Table]:
    """Return rows that ``partition`` may not see: revisions that are too late, copies that are too old."""
    different = _with_different_values(rows, spec.sources[name].key)
    late = pa.scalar(spec.clock.decision_time(partition) + timedelta(microseconds=1), schemas.TIME)
    revision = pc.add(rows["revision"], pa.scalar(1000, pa.int32()))
    too_late = _replace_columns(different, revision=revision, known_at=pa.repeat(late, rows.num_rows))
    before_lookback = spec.clock.shift(partition, -spec.features.lookback_of(name) - 1)
    shift = pa.scalar(time_of(before_lookback) - time_of(partition), pa.duration("us"))
    # older rows are about older times too, since SQL may limit its lookback by either
    dates = {
        field.name: pc.add(rows[field.name], shift).cast(field.type)
        for field in rows.schema
        if pa.types.is_temporal(field.type)
    }
    old_partition = pa.repeat(pa.scalar(before_lookback), rows.num_rows)
    too_old = _replace_columns(different, partition=old_partition, **dates)
    return [too_late, too_old.filter(pc.equal(rows["partition"], partition))]


def _with_different_values(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """Return the rows with another value in each column that isn't part of the key."""
    changed = {}
    for field in rows.schema:
        values, data_type = rows[field.name], field.type
        if field.name in (*key, "partition", "revision", "known_at"):
            continue
        if pa.types.is_floating(data_type) or pa.types.is_integer(data_type):
            # of a large number more than the tolerance of sums
            far = pc.add(pc.abs(pc.fill_null(values, 0)), pa.scalar(977, data_type))
            changed[field.name] = pc.add(pc.fill_null(values, 0), far)
        elif pa.types.is_boolean(data_type):
            changed[field.name] = pc.invert(pc.fill_null(values, False))
        elif pa.types.is_temporal(data_type):
            changed[field.name] = pc.add(values, pa.scalar(timedelta(days=1))).cast(data_type)
        elif pa.types.is_string(data_type):
            changed[field.name] = pc.binary_join_element_wise(pc.fill_null(values, ""), "~", "")
    return _replace_columns(rows, **changed)


def _replace_columns(rows: pa.Table, **columns: pa.Array) -> pa.Table:
    for name, values in columns.items():
        position = rows.schema.get_field_index(name)
        rows = rows.set_column(position, rows.schema.field(position), values)
    return rows
