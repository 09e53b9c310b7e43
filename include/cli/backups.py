"""The backup commands: back up, prune old backups, check a backup, restore it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import AllOrOne, AsJson, Debug, print_result
from include.environment import endpoint, setting

backups = typer.Typer()
Name = Annotated[str, typer.Argument(metavar="BACKUP", help="Its name, as `backup` prints it.")]


@backups.command()
def backup(usecase: AllOrOne = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Copy a consistent state of the lake, and the databases, to EVERGREEN_BACKUP; only new objects."""
    from include.ops.backup import ARTIFACTS
    from include.ops.backup import backup as back_up
    from include.ops.backup_store import open_store
    from include.storage.lake import Lake

    selected = [specs.load(usecase).name] if usecase else specs.names()  # also with a broken declaration
    result = back_up(
        [Lake(name) for name in selected],
        open_store(),
        now=datetime.now(UTC),
        connect=endpoint,
        artifacts=setting(ARTIFACTS, ""),
    )
    print_result({**vars(result), "note": result.note}, result.note, as_json)
    raise typer.Exit(bool(result.failed))


@backups.command()
def prune(as_json: AsJson = False, debug: Debug = False) -> None:
    """Verify the newest backups byte by byte, then remove those beyond EVERGREEN_BACKUPS_KEPT (8)."""
    from include.ops.backup_store import backups_to_keep, open_store
    from include.ops.prune import prune as prune_backups

    result = prune_backups(open_store(), backups_to_keep())
    print_result({**vars(result), "note": result.note}, result.note, as_json)


@backups.command()
def restore(
    name: Name,
    usecase: AllOrOne = None,
    verify_only: Annotated[
        bool, typer.Option("--verify-only", help="Verify the backup, byte by byte, and restore nothing.")
    ] = False,
    dumps: Annotated[
        Path | None, typer.Option("--dumps", help="Write the database dumps to this folder.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Restore the lake of a backup, to an address where nothing is stored yet."""
    from include.ops import backup_store
    from include.ops.backup import ARTIFACTS
    from include.ops.restore import restore as restore_backup
    from include.ops.restore import verify_backup

    store = backup_store.open_store()
    if verify_only:
        note = f"{name}: {verify_backup(store, name):,} objects, each as it was written"
        print_result({"note": note}, note, as_json)
        return
    steps = restore_backup(store, name, usecase, artifacts=setting(ARTIFACTS, ""), dumps=dumps)
    print_result({"done": steps}, "\n".join(steps), as_json)
