"""Maintain a use case's lake: compact small files, and remove files and models that nothing refers to.

Small files are merged as tables are written (`include.storage.merging`); here they are merged further.
Replaced files stay on disk for `RETENTION_DAYS`, for running readers and for a restore. Of the sources'
tables, each version that a training was fitted on stays as long as the registry has its run. No row changes,
so nothing gets stale. Each training fits every recipe, and most of these models never serve: `remove_models`
removes those that no walk needs any more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable, write_deltalake

from include.errors import EvergreenError
from include.models import artifacts
from include.promote import ledger, verdicts
from include.references import Ref
from include.score.shards import PARTS
from include.spec import UseCase
from include.storage import queries
from include.storage.lake import Lake
from include.storage.merging import LEDGERS, NO_CLEANUP
from include.storage.store_errors import retry_commit, translate_store_errors
from include.train.fits import read_fits, recent_models

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

RETENTION_DAYS = 30
FILE_BYTES = 2 << 20  # a file is rewritten as a whole when one of its partitions changes
COMMIT_BYTES = 4 * FILE_BYTES  # that are compacted in one commit, in memory


def maintain_tables(lake: Lake, registry: Registry, *, retention_days: int = RETENTION_DAYS) -> Ref:
    """Compact every table of a use case, and remove files that were replaced ``retention_days`` ago.

    Shards that are as old, of partitions that were never published, are removed too, and so are the files of
    killed puts.

    Returns
    -------
    Ref
        ``rows`` is the number of files that were compacted.

    Raises
    ------
    EvergreenError
        when the registry doesn't answer or lacks the runs of the lake's trainings. The versions that they
        refer to are unknown then, and nothing is removed.
    StoreUnavailable
        when the lake doesn't answer.
    """
    tables = lake.tables()
    compacted = [compact(lake, name) for name in tables]
    replaced, written = (sum(counts) for counts in zip(*compacted, strict=True)) if compacted else (0, 0)
    versions = referenced_versions(registry, lake.name)
    if lake.count("attempts") and not versions:
        raise EvergreenError(
            f"{lake.name}: upkeep",
            required="the runs of its trainings, which record the table versions that they were fitted on",
            found="none in the registry",
            where=registry.address(),
            remedy="nothing was removed; check that MLFLOW_TRACKING_URI is this lake's registry",
        )
    removed = sum(vacuum(lake, name, retention_days, versions.get(name, ())) for name in tables)
    before = datetime.now(UTC) - timedelta(days=retention_days)
    parts = lake.last_modified(PARTS)  # of partitions that were never published
    lake.remove([key for key, written_at in parts.items() if written_at < before])
    removed += lake.remove_unfinished_puts(before)
    note = f"{replaced} files of {len(tables)} tables were compacted into {written}; "
    note += f"{removed} files unused for {retention_days} days were removed"
    return Ref(f"{lake.uri}/tables", "all", rows=replaced, note=note)


def remove_models(lake: Lake, spec: UseCase, *, retention_days: int = RETENTION_DAYS) -> int:
    """Remove old fits' models that no ledger refers to and no walk needs, and return how many.

    A ledger refers to each model that served, that was on trial, or that was judged, and to its baseline. The
    rows of `fits` stay.

    Parameters
    ----------
    retention_days : models that were stored later stay, also if they are of a training of the distant past.
    """
    needed = recent_models(lake, spec) | {row["model"] for row in ledger.switches(lake)}
    for attempt in verdicts.attempts(lake):
        needed |= {attempt["model"], json.loads(attempt["evidence"])["baseline_model"]}
    unneeded = {artifacts.model_key(fit.model) for fit in read_fits(lake) if fit.model not in needed}
    before = datetime.now(UTC) - timedelta(days=retention_days)
    written = lake.last_modified("models") if unneeded else {}
    old = sorted(key for key in unneeded if key in written and written[key] < before)
    if old:
        lake.remove(old)
    return len(old)


def referenced_versions(registry: Registry, usecase: str) -> Mapping[str, list[int]]:
    """Return the versions of each source's table that trainings in the registry were fitted on."""
    referenced: dict[str, set[int]] = {}
    for params in registry.run_parameters(usecase):
        for name, value in params.items():
            if name.startswith("lake.") and value.isdigit():
                referenced.setdefault(f"validated_{name.removeprefix('lake.')}", set()).add(int(value))
    return {name: sorted(versions) for name, versions in referenced.items()}


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
        small = [file for file in files if file["size_bytes"] < FILE_BYTES / 2 and file.get("max.partition")]
        where = {name: str(files[0][f"partition.{name}"]) for name in parts}
        batches = _batches(sorted(small, key=lambda file: str(file["max.partition"])))
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


@translate_store_errors
@retry_commit
def vacuum(lake: Lake, table: str, days: int, versions: Collection[int] = ()) -> int:
    """Remove files that have been unused for some days, and return how many.

    Parameters
    ----------
    versions : versions that must stay readable, besides the current one.
    """
    opened = lake.open(table)
    if opened is None:
        return 0
    existing = [version for version in versions if version <= opened.version()]  # not those of a lost table
    removed = opened.vacuum(
        days * 24, dry_run=False, enforce_retention_duration=False, full=True, keep_versions=existing
    )
    return len(removed)
