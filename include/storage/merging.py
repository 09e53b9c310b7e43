"""Merges a table's small files as it is written, so that their number doesn't grow with the lake's age.

Each commit adds a file, and opening, reading and writing a table cost by the file. When `FANOUT` files are of
about one size, they and all smaller ones become one file. Each row is rewritten once for each size, so a
commit's share is small. No row changes.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from include.storage import queries
from include.storage.queries import File, TableFiles, small

FANOUT = 16
SIZES = (32 << 10, 256 << 10)  # bytes below which a file is of one size; larger ones stay
# the log is kept for ten years; to look for older commits lists all of it, on each commit
NO_CLEANUP = PostCommitHookProperties(cleanup_expired_logs=False)
# the tables that only grow
LEDGERS = ("attempts", "approvals", "switches", "silences", "withdrawals", "erasures")


def merge_small_files(table: DeltaTable, files: TableFiles, *, ledger: bool) -> None:
    """Merge files of the table's current version; a concurrent commit wins, and a later commit merges.

    Parameters
    ----------
    table, files : of the same version.
    ledger : whether rows are only appended, by compare-and-swap.
    """
    groups: dict[str, list[File]] = defaultdict(list)
    for file in files.select(None):
        groups[str(file.values)].append(file)
    if not ledger and "partition" not in files.schema.names:
        return
    for group in groups.values():
        merged = mergeable(group)
        if not merged or not small(merged):
            continue
        if ledger:
            rows = files.read(files.select(None), None, files.schema.names)
            only_version = CommitProperties(max_commit_retries=0)
            with suppress(CommitFailedError):
                write_deltalake(
                    table,
                    rows,
                    mode="overwrite",
                    commit_properties=only_version,
                    post_commithook_properties=NO_CLEANUP,
                )
            return
        partitions = sorted(files.read(merged, None, ["partition"])["partition"].unique().to_pylist())
        where: queries.Where = {**merged[0].values, "partition": partitions}
        others = [file for file in group if file not in merged]
        if not partitions or any(_overlaps(file, partitions[0], partitions[-1]) for file in others):
            condition = queries.condition(where)
        else:  # a list of a thousand partitions takes longer than all else
            condition = queries.range_condition(merged[0].values, partitions[0], partitions[-1])
        rows = files.read(files.select(where), where, files.schema.names).sort_by("partition")
        with suppress(CommitFailedError):
            write_deltalake(
                table,
                rows,
                mode="overwrite",
                predicate=condition,
                post_commithook_properties=NO_CLEANUP,
            )
        files.follow()


def _overlaps(file: File, low: str, high: str) -> bool:
    """Return whether a file may have rows of the partitions from ``low`` to ``high``."""
    return file.low is None or file.high is None or (file.low <= high and low <= file.high)


def mergeable(files: list[File]) -> list[File]:
    """Return the files to merge: those of the largest size that has enough files, and smaller ones."""
    for limit, least in reversed(list(zip(SIZES, (0, *SIZES), strict=False))):
        if sum(least <= file.size < limit for file in files) >= FANOUT:
            return [file for file in files if file.size < limit]
    return []
