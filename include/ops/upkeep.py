"""Lay a use case's small files together, and take away what nothing refers to any more.

Each partition adds a file to each table, and a query costs by the file. What is replaced so stays on disk for
`KEPT` days, for readers at work and for a restore; of the sources' tables also each version that a training
was fitted on, while the registry has its run. No row changes, so nothing is stale after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable, write_deltalake

from include.errors import EvergreenError
from include.references import Ref
from include.storage import predicates
from include.storage.lake import Lake
from include.storage.store_errors import retry_commit, translate_store_errors

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

KEPT = 30  # days
FILE = 16 << 20  # bytes of a file: what has to be written again when one of its partitions is
AT_ONCE = 4 * FILE  # bytes that are laid together in one commit, and held in memory
LEDGERS = ("attempts", "approvals", "deployments", "withdrawals")


def maintain_tables(lake: Lake, registry: Registry, *, kept: int = KEPT) -> Ref:
    """Compact every table of a use case, and remove files that were replaced or left ``kept`` days ago.

    Returns
    -------
    Ref
        ``rows`` is the number of files that were laid together.

    Raises
    ------
    EvergreenError
        when the registry doesn't answer or has none of the trainings that the lake knows of: what they refer
        to isn't known, and nothing is removed.
    StoreUnavailable
        when the lake doesn't.
    """
    tables = lake.tables()
    laid = [compact(lake, name) for name in tables]
    together, into = (sum(files[side] for files in laid) for side in (0, 1))
    versions = referenced_versions(registry, lake.name)
    if lake.count("attempts") and not versions:
        raise EvergreenError(
            f"{lake.name}: upkeep",
            required="the runs of its trainings, which name the versions of tables that they were fitted on",
            found="none in the registry",
            where=registry.address(),
            remedy="nothing was removed: see that MLFLOW_TRACKING_URI is this lake's registry",
        )
    removed = sum(vacuum(lake, name, kept, versions.get(name, ())) for name in tables)
    note = f"{together} files of {len(tables)} tables were laid together into {into}; "
    note += f"{removed} were removed that no row had been in for {kept} days"
    return Ref(f"{lake.uri}/tables", "all", rows=together, note=note)


def referenced_versions(registry: Registry, usecase: str) -> Mapping[str, list[int]]:
    """Return for each source's table the versions that trainings in the registry were fitted on."""
    found: dict[str, set[int]] = {}
    for params in registry.run_parameters(usecase):
        for name, value in params.items():
            if name.startswith("lake.") and value.isdigit():
                found.setdefault(f"validated_{name.removeprefix('lake.')}", set()).add(int(value))
    return {name: sorted(versions) for name, versions in found.items()}


@translate_store_errors
@retry_commit
def compact(lake: Lake, table: str) -> tuple[int, int]:
    """Lay a table's small files together, and return how many were read, and are there instead.

    The partitions of small files are written again as any partition is, so that whoever writes one of them
    meanwhile wins or makes this start again. Delta's own compaction was seen to double rows when two ran at
    once: what one of them replaces, the other doesn't look at. A ledger is appended to and has no partitions:
    it is left.
    """
    opened = lake.open(table)
    if opened is None or table in LEDGERS:
        return 0, 0
    before = set(opened.file_uris())
    for where in _small(opened):
        rows = predicates.run_query(opened, predicates.select("*", where, ["partition"]))
        write_deltalake(
            opened, rows, mode="overwrite", predicate=predicates.condition(where), target_file_size=FILE
        )
    after = set(opened.file_uris())
    return len(before - after), len(after - before)


def _small(opened: DeltaTable) -> list[predicates.Where]:
    """Return the partitions of files that are laid together, a condition for each commit."""
    parts = opened.metadata().partition_columns
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for file in predicates.list_files(opened):
        groups.setdefault("".join(str(file[f"partition.{name}"]) for name in parts), []).append(file)
    found: list[predicates.Where] = []
    for files in groups.values():
        small = [file for file in files if file["size_bytes"] < FILE / 2 and file.get("max.partition")]
        where = {name: str(files[0][f"partition.{name}"]) for name in parts}
        batches = _batches(sorted(small, key=lambda file: str(file["max.partition"])))
        partitions_of = predicates.select('DISTINCT "partition"', where)
        read = predicates.run_query(opened, partitions_of)["partition"].to_pylist() if batches else []
        for some in batches:
            ranges = [(file["min.partition"], file["max.partition"]) for file in some]
            partitions = [
                partition for partition in read if any(low <= partition <= high for low, high in ranges)
            ]
            found.append({**where, "partition": sorted(partitions)})
    return found


def _batches(files: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Cut files into runs of at most `AT_ONCE` bytes, and leave a run of one as it is."""
    found: list[list[Mapping[str, Any]]] = [[]]
    for file in files:
        if sum(one["size_bytes"] for one in found[-1]) + file["size_bytes"] > AT_ONCE:
            found.append([])
        found[-1].append(file)
    return [run for run in found if len(run) > 1]


@translate_store_errors
@retry_commit
def vacuum(lake: Lake, table: str, days: int, versions: Collection[int] = ()) -> int:
    """Remove files that no row has been in for so many days, and return how many.

    Parameters
    ----------
    versions : those that can still be read afterwards, beside the table as it is.
    """
    opened = lake.open(table)
    if opened is None:
        return 0
    there = [version for version in versions if version <= opened.version()]  # not those of a lost table
    removed = opened.vacuum(
        days * 24, dry_run=False, enforce_retention_duration=False, full=True, keep_versions=there
    )
    return len(removed)
