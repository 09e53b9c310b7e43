"""Checks feature SQL: it is computed twice, with and without rows that must make no difference.

- `point_in_time_violations`: rows known after a decision, or before the lookback, change no feature. Planted
  are a later revision of each row, known right after the decision, and an older copy, known before the
  lookback, both with different values. No later partitions are needed, so the newest one can be checked.
- `require_independent`: under `features.entity`, the features of some entities' rows don't change where the
  others are missing.

Floats are added up in the order in which rows come, which rows that don't count can change, so that the last
bits of a sum may differ although the SQL is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import NotPublished, SpecError
from include.features.build import compute_features
from include.features.point_in_time import read_sources, share_of, with_known_until
from include.spec import UseCase
from include.spec.clock import time_of
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

RELATIVE = 1e-9  # of a value, up to which it is the same; a planted row changes it by more
CANCELED = 1e-12  # of the column's largest value: what may be left of a sum of 0
SHARDS = 16  # in which features are computed where the declaration has fewer: few entities are apart, too
SHOWN = 3  # rows that a message names


def point_in_time_violations(lake: Lake, spec: UseCase, partition: str) -> list[str]:
    """Return the feature columns that depend on rows that ``partition`` may not see, none for correct SQL.

    SQL that returns other rows for the spine because of them fails with a `SpecError`, as it would in
    training.

    Raises
    ------
    NotPublished
        if the spine has no rows in that partition, so that no change could be observed.
    """
    return violations_of(spec, read_sources(lake, spec, [partition]), partition)


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


def require_independent(spec: UseCase, rows: Mapping[str, pa.Table], partition: str) -> None:
    """Compute the features of a partition whole and in shards, and compare them.

    Parameters
    ----------
    rows : each source's rows, from `point_in_time.read_sources`.

    Raises
    ------
    SpecError
        if they differ, or can't be computed from a share of the rows.
    """
    shards, tables = max(spec.scoring.shards, SHARDS), []
    rows = {name: with_known_until(table, table) for name, table in rows.items()}
    for number in range(shards):
        shares = {name: share_of(spec, name, number, shards) for name in rows}
        own = {name: share.filter(rows[name]) if share else rows[name] for name, share in shares.items()}
        if not own[spec.features.spine].num_rows:
            continue
        try:
            tables.append(compute_features(spec, own, [partition]))
        except SpecError as error:
            raise _entity_error(
                spec, partition, f"{error.found}, where the other entities are missing"
            ) from None
    # sums may differ in their last bits, unless they are scored in shards, which are compared by digests
    exactly = spec.scoring.shards > 1
    require_equal(spec, compute_features(spec, rows, [partition]), pa.concat_tables(tables), exactly=exactly)


def require_equal(spec: UseCase, whole: pa.Table, joined: pa.Table, *, exactly: bool = True) -> None:
    """Compare the features of a partition with those of its shards, by their digests.

    Parameters
    ----------
    exactly : see `differ`.

    Raises
    ------
    SpecError
        if they differ; it names the columns, and the first rows by their key.
    """
    joined = spill.sort_rows(joined, ("partition", *spec.key))
    if digest_table(whole) == digest_table(joined):
        return
    masks = {name: differ(whole[name], joined[name], exactly=exactly) for name in spec.features.columns}
    columns = [name for name, mask in masks.items() if mask.any()]
    if not columns and not exactly:
        return
    positions = np.flatnonzero(np.any(list(masks.values()), axis=0))
    first = whole.select(spec.key).take(pa.array(positions[:SHOWN])).to_pylist()
    rows = "; ".join(" ".join(f"{name}={value}" for name, value in row.items()) for row in first)
    where = f"in {len(positions)} of {whole.num_rows} rows: {rows}{' …' if len(positions) > SHOWN else ''}"
    difference = f"other values of {', '.join(columns)} without the other entities' rows, {where}"
    raise _entity_error(spec, whole["partition"][0].as_py(), difference)


def _entity_error(spec: UseCase, partition: str, found: str) -> SpecError:
    entity = ", ".join(spec.features.entity)
    return SpecError(
        f"{spec.name}/{partition}: {spec.features_file.name}",
        required=f"features that look only at rows of the same {entity}, as features.entity declares",
        found=found,
        where=str(spec.features_file),
        remedy=f"join, group and partition windows by {entity}, round what adds up floats, or remove "
        "features.entity",
    )


def changed_features(spec: UseCase, before: pa.Table, after: pa.Table, *, exactly: bool = False) -> list[str]:
    """Return the features that differ in some row; see `differ`."""
    names = spec.features.columns
    return [name for name in names if differ(before[name], after[name], exactly=exactly).any()]


def differ(left: pa.ChunkedArray, right: pa.ChunkedArray, *, exactly: bool = False) -> NDArray[np.bool_]:
    """Return for each place whether the values differ; a null differs from any value.

    Parameters
    ----------
    exactly : also in the last bits of floats.
    """
    different: NDArray[np.bool_] = pc.xor(left.is_null(), right.is_null()).to_numpy().copy()
    if exactly or not pa.types.is_floating(left.type):
        different |= pc.fill_null(pc.not_equal(left, right), False).to_numpy()
        return different
    first, second = pc.fill_null(left, 0.0).to_numpy(), pc.fill_null(right, 0.0).to_numpy()
    sizes = np.maximum(np.abs(first), np.abs(second))
    allowed = np.maximum(RELATIVE * sizes, CANCELED * np.max(sizes, initial=0.0))
    different |= np.abs(first - second) > allowed
    return different
