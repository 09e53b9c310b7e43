"""Constant features: whether all rows of a partition have one value where they ordinarily have several.

It needs no limit, so it judges from the first partition of production on. A column ordinarily has several
values if no partition of the reference, nor of the last weeks, had only one. The partitions in a row that end
with the one that is judged don't count, nor do the last ones of the reference: so a column that became
constant stays an alarm when it lasts, also after a training on such partitions.
"""

from __future__ import annotations

from collections.abc import Sequence

from include.monitor.context import Finding, PartitionContext
from include.monitor.reference import ReferenceColumn
from include.stats.profiles import Profile, merge_profiles
from include.storage.lake import Row

MIN_VALUES = 30  # of a partition, since a few rows may be equal by chance
MIN_PARTITIONS = 10  # before the column became constant


def check_constant_features(context: PartitionContext) -> list[Finding]:
    """Check whether the partition has more than one value of each feature that ordinarily has several."""
    last_weeks = sorted({*context.state.familiar_partitions(context.partition), *context.window})
    earlier = [key for key in last_weeks if key < context.partition]
    return [
        check_constant(name, of.reference, of.newest, context.neighbors.column_profiles(name, earlier))
        for name, of in context.compared_features.items()
    ]


def check_constant(name: str, column: ReferenceColumn, partition: Profile, earlier: Sequence[Row]) -> Finding:
    """Judge whether a partition's values are all equal, and no earlier partition's were.

    Parameters
    ----------
    earlier : the column's rows of `profiles` in the last weeks' partitions, oldest first.
    """
    values = partition.count - partition.missing
    if values < MIN_VALUES:
        note = f"{name} has {values} values in the partition, required {MIN_VALUES}"
        return Finding("constant", name, None, None, "not enough", note)
    if not partition.is_constant:
        return Finding("constant", name, 0.0, 0.0, "ok", f"{name} has more than one value")
    both = constant_partitions(column, earlier, MIN_VALUES)
    reference, last_weeks = (_before_last_run(constant) for constant in both)
    # some partitions may be in both
    compared = max(len(reference), len(last_weeks))
    note = f"{name} has one value in all {values:,} rows that have any"
    is_never_varied = not compared and max(map(len, both)) >= MIN_PARTITIONS
    if any(reference) or any(last_weeks) or is_never_varied:
        return Finding("constant", name, 1.0, None, "ok", f"{note}, as in earlier partitions")
    if compared < MIN_PARTITIONS:
        note += f"; {compared} earlier partitions to compare, required {MIN_PARTITIONS}"
        return Finding("constant", name, 1.0, None, "not enough", note)
    note += f"; each of {len(reference)} partitions of the reference and {len(last_weeks)} of the last weeks "
    note += "had several"
    return Finding("constant", name, 1.0, 0.0, "alarm", note)


def is_ordinarily_constant(column: ReferenceColumn, earlier: Sequence[Row]) -> bool:
    """Return whether most partitions of the reference and the last weeks have one value of a column."""
    reference, last_weeks = constant_partitions(column, earlier, 1)
    constant = [*reference, *last_weeks]
    return sum(constant) > len(constant) / 2


def constant_partitions(
    column: ReferenceColumn, earlier: Sequence[Row], least: int
) -> tuple[list[bool], list[bool]]:
    """Return whether each partition of the reference, and of ``earlier``, has one value, oldest first.

    Those with less than ``least`` values are left out.
    """
    reference: list[bool] = []
    if column.partitions is not None and column.distinct is not None:
        reference = (column.distinct == 1)[column.partitions.sum(axis=1) >= least].tolist()
    profiles = [merge_profiles([row])[column.profile.column] for row in earlier]
    return reference, [one.is_constant for one in profiles if one.count - one.missing >= least]


def _before_last_run(constant: Sequence[bool]) -> Sequence[bool]:
    """Return the partitions before the constant ones with which a sequence ends."""
    last_varied = max((index for index, value in enumerate(constant) if not value), default=-1)
    return constant[: last_varied + 1]
