"""Lay a use case's small files together, and take away what nothing refers to any more.

Each night adds a file to each table, and a query costs by the file. What is replaced so stays on disk for
`KEPT` days, for readers at work and for a restore; of the sources' tables also each version that a training
was fitted on, while the registry has its run. No row changes, so nothing is stale after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from include.faults import answered
from include.lake import Lake, again
from include.refs import Ref

if TYPE_CHECKING:
    from include.registry import Registry  # it imports MLflow

KEPT = 30  # days
FILE = 16 << 20  # bytes of a file: what has to be written again when one of its nights is


def tidy(lake: Lake, registry: Registry, *, kept: int = KEPT) -> Ref:
    """Compact every table of a use case, and remove files that were replaced or left ``kept`` days ago.

    Returns
    -------
    Ref
        ``rows`` is the number of files that were laid together.

    Raises
    ------
    EvergreenError
        when the registry doesn't answer: what its trainings refer to isn't known, and nothing is removed.
    StoreUnavailable
        when the lake doesn't.
    """
    tables = lake.tables()
    laid = [compact(lake, name) for name in tables]
    together, into = (sum(files[side] for files in laid) for side in (0, 1))
    versions = referred(registry, lake.name)
    removed = sum(vacuum(lake, name, kept, versions.get(name, ())) for name in tables)
    note = f"{together} files of {len(tables)} tables were laid together into {into}; "
    note += f"{removed} were removed that no row had been in for {kept} days"
    return Ref(f"{lake.uri}/tables", "all", rows=together, note=note)


def referred(registry: Registry, usecase: str) -> Mapping[str, list[int]]:
    """Return for each source's table the versions that trainings in the registry were fitted on."""
    found: dict[str, set[int]] = {}
    for params in registry.noted(usecase):
        for name, value in params.items():
            if name.startswith("lake.") and value.isdigit():
                found.setdefault(f"validated_{name.removeprefix('lake.')}", set()).add(int(value))
    return {name: sorted(versions) for name, versions in found.items()}


@answered
@again
def compact(lake: Lake, table: str) -> tuple[int, int]:
    """Lay a table's small files together, and return how many there were, and are instead."""
    opened = lake.open(table)
    done = opened.optimize.compact(target_size=FILE) if opened else {}
    return int(done.get("numFilesRemoved", 0)), int(done.get("numFilesAdded", 0))


@answered
@again
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
