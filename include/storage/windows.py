"""Which stored partition begins a window: of a sparse spine, only partitions with rows count."""

from __future__ import annotations

from collections.abc import Sequence

from include.spec import UseCase
from include.storage.lake import Lake


def partition_before(lake: Lake, spec: UseCase, partition: str, count: int) -> str:
    """Return the partition that is ``count`` before another one, or the first that there is.

    Partitions without a row don't count if the spine is sparse.
    """
    if not spec.sparse:
        return spec.clock.shift(partition, -count)
    return key_before(partitions_with_rows(lake, spec), partition, count)


def key_before(keys: Sequence[str], partition: str, count: int) -> str:
    """Return the key that is ``count`` before a partition, or the first key that is before it.

    The partition itself if there is none before it, or if ``count`` is 0.
    """
    return ([key for key in keys if key < partition][-count:] or [partition])[0] if count else partition


def window_start(lake: Lake, spec: UseCase, partition: str) -> str:
    """Return the first partition that a training may use, empty if all may be used."""
    window = spec.training.window
    return partition_before(lake, spec, partition, window) if window else ""


def partitions_with_rows(lake: Lake, spec: UseCase) -> list[str]:
    """Return the partitions whose spine was published with rows, ascending."""
    return lake.published(spec.features.spine, with_rows=True)
