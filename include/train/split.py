"""The time-ordered split of a training set: the newest partitions are those on which a model is judged."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from include.spec import UseCase
from include.storage import spill


@dataclass(frozen=True)
class Split:
    """Two tables, ``test`` later than ``train``; either may be empty."""

    train: pa.Table
    test: pa.Table

    def partitions(self) -> dict[str, list[str]]:
        """Return the partitions that each part has rows of, ascending."""
        return {"train": partitions_of(self.train), "test": partitions_of(self.test)}


def partitions_of(rows: pa.Table) -> list[str]:
    """Return the partitions that have rows, ascending."""
    return sorted(str(partition) for partition in pc.unique(rows["partition"]).to_pylist())


def first_test_partition(labeled: Sequence[str], spec: UseCase, partition: str) -> str:
    """Return the first test partition: ``training.test`` back from the training, or later in a short history.

    At least half of the partitions with labels come before it, so that there is something to fit on. If the
    spine is sparse, only partitions with rows count.

    Parameters
    ----------
    labeled : the partitions with labeled rows known by ``partition``, ascending.
    """
    middle = labeled[(len(labeled) + 1) // 2] if len(labeled) > 1 else partition
    if spec.sparse:
        return max([*labeled[spec.labels.delay - spec.training.test :][:1], middle])
    return max(spec.clock.shift(partition, 1 - spec.training.test), middle)


def split(rows: pa.Table, spec: UseCase, partition: str) -> Split:
    """Split a training set by its partitions.

    Parameters
    ----------
    rows : a training set with the column ``partition``, shape (n, any).
    partition : the training's, which is the last of the test partitions.
    """
    first = first_test_partition(partitions_of(rows), spec, partition)
    is_test = pc.greater_equal(rows["partition"], first)
    train, test = (spill.filter_rows(rows, mask) for mask in (pc.invert(is_test), is_test))
    return Split(train=train, test=test)


def walk_origins(labeled: Sequence[str], spec: UseCase, partition: str) -> list[str]:
    """Return the earlier partitions on which a recipe without a walk is fitted, ascending.

    From the last partition before the first test partition, each `UseCase.walk_step` partitions after the
    one before. By that time a fit must have labels.

    Parameters
    ----------
    labeled : as in `first_test_partition`.
    """
    clock = spec.clock
    first_test = first_test_partition(labeled, spec, partition)
    if spec.sparse:
        origins = [key for key in labeled if key < partition]
        origins = origins[max(bisect_left(origins, first_test) - 1, 0) :]
    else:
        origins = clock.keys(clock.shift(first_test, -1), clock.shift(partition, -1))
    if len(labeled) < 2 or origins[0] < clock.shift(labeled[0], spec.labels.delay):
        return []
    return origins[:: spec.walk_step]
