"""Maintain a use case's lake: compact small files, and remove files and models that nothing refers to.

Replaced files stay on disk for `RETENTION_DAYS`, for running readers and for a restore. Of the sources'
tables, each version that a training was fitted on stays as long as the registry has its run. No row changes,
so nothing gets stale. Each training fits every recipe, and most of these models never serve: `remove_models`
removes those that no walk needs any more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from include.errors import EvergreenError
from include.models import artifacts
from include.promote import ledger, verdicts
from include.references import Ref
from include.score.shards import PARTS
from include.spec import UseCase
from include.storage.compaction import compact
from include.storage.lake import Lake
from include.storage.store_errors import retry_commit, translate_store_errors
from include.train.fits import read_fits, recent_models

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

RETENTION_DAYS = 30


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
