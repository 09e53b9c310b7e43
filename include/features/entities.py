"""Checks `features.entity`: the features of some entities' rows don't change where the others are missing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from include.errors import SpecError
from include.features.build import compute_features
from include.features.differences import differ
from include.features.point_in_time import share_of, with_known_until
from include.spec import UseCase
from include.storage import spill
from include.storage.digests import digest_table

SHARDS = 16  # in which features are computed where the declaration has fewer: few entities are apart, too
SHOWN = 3  # rows that a message names


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
            raise _error(spec, partition, f"{error.found}, where the other entities are missing") from None
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
    raise _error(spec, whole["partition"][0].as_py(), difference)


def _error(spec: UseCase, partition: str, found: str) -> SpecError:
    entity = ", ".join(spec.features.entity)
    return SpecError(
        f"{spec.name}/{partition}: {spec.features_file.name}",
        required=f"features that look only at rows of the same {entity}, as features.entity declares",
        found=found,
        where=str(spec.features_file),
        remedy=f"join, group and partition windows by {entity}, round what adds up floats, or remove "
        "features.entity",
    )
