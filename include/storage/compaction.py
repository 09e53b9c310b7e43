"""Merges a table's small files, so that their number doesn't grow with the lake's age. No row changes.

Each commit adds a file, and opening, reading and writing a table cost by the file.

- `merge_small_files`, as a table is written: when `FANOUT` files are of about one size, they and all smaller
  ones become one file. Each row is rewritten once for each size, so a commit's share is small.
- `compact`, once a week: the files that this leaves are merged further, up to `FILE_BYTES`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from include.storage import queries
from include.storage.queries import File, TableFiles, small
from include.storage.store_errors import retry_commit, translate_store_errors

if TYPE_CHECKING:
    from include.storage.lake import Lake  # which merges files by this module

FANOUT = 16
SIZES = (32 << 10, 256 << 10)  # bytes below which a file is of one size; larger ones stay
FILE_BYTES = 2 << 20  # a file is rewritten as a whole when one of its partitions changes
COMMIT_BYTES = 4 * FILE_BYTES  # that are compacted in one commit, in memory
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


@translate_store_errors
@retry_commit
def compact(lake: Lake, table: str) -> tuple[int, int]:
    """Compact a table's small files, and return how many were replaced and how many were written.

    The partitions of small files are rewritten in the same way as any partition, so a concurrent writer of
    one of them wins, or makes this retry. Delta's own compaction duplicated rows when two ran concurrently,
    because neither checks what the other replaces. Ledgers are skipped: they are appended to and have no
    partitions.
    """
    opened = lake.open(table)
    if opened is None or table in LEDGERS:
        return 0, 0
    before = set(opened.file_uris())
    for where in _small_partitions(opened):
        rows = queries.run_query(opened, queries.select("*", where, ["partition"]))
        write_deltalake(
            opened,
            rows,
            mode="overwrite",
            predicate=queries.condition(where),
            target_file_size=FILE_BYTES,
            post_commithook_properties=NO_CLEANUP,
        )
    after = set(opened.file_uris())
    return len(before - after), len(after - before)


def _small_partitions(opened: DeltaTable) -> list[queries.Where]:
    """Return the partitions of small files, as one condition per commit."""
    parts = opened.metadata().partition_columns
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for file in queries.list_files(opened):
        groups.setdefault("".join(str(file[f"partition.{name}"]) for name in parts), []).append(file)
    conditions: list[queries.Where] = []
    for files in groups.values():
        small_files = [
            file for file in files if file["size_bytes"] < FILE_BYTES / 2 and file.get("max.partition")
        ]
        where = {name: str(files[0][f"partition.{name}"]) for name in parts}
        batches = _batches(sorted(small_files, key=lambda file: str(file["max.partition"])))
        partitions_of = queries.select('DISTINCT "partition"', where)
        read = queries.run_query(opened, partitions_of)["partition"].to_pylist() if batches else []
        for batch in batches:
            ranges = [(file["min.partition"], file["max.partition"]) for file in batch]
            partitions = [
                partition for partition in read if any(low <= partition <= high for low, high in ranges)
            ]
            conditions.append({**where, "partition": sorted(partitions)})
    return conditions


def _batches(files: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Group files into batches of at most `COMMIT_BYTES`, without those of a single file."""
    batches: list[list[Mapping[str, Any]]] = [[]]
    for file in files:
        if sum(other["size_bytes"] for other in batches[-1]) + file["size_bytes"] > COMMIT_BYTES:
            batches.append([])
        batches[-1].append(file)
    return [batch for batch in batches if len(batch) > 1]
