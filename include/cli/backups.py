"""The commands before and after a disaster: back up, look at a backup, restore."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.cli.options import AsJson, Debug, print_result
from include.environment import endpoint, setting

rescue = typer.Typer()
Which = Annotated[str | None, typer.Argument(metavar="[USECASE]", help="All of them, unless given.")]
Name = Annotated[str, typer.Argument(metavar="BACKUP", help="Its name, as `backup` says it.")]


@rescue.command()
def backup(usecase: Which = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Copy the lake as it is at one moment, and the databases, to EVERGREEN_BACKUP: only what is new."""
    from include.ops.backup import ARTIFACTS
    from include.ops.backup import backup as copy
    from include.ops.backup_store import open_store
    from include.storage.lake import Lake

    wanted = [specs.load(usecase).name] if usecase else specs.names()  # also one whose declaration is broken
    lakes = [lake for name in wanted if (lake := Lake(name)).tables()]
    done = copy(
        lakes, open_store(), now=datetime.now(UTC), connect=endpoint, artifacts=setting(ARTIFACTS, "")
    )
    print_result({**vars(done), "note": done.note}, done.note, as_json)
    raise typer.Exit(bool(done.failed))


@rescue.command()
def prune(as_json: AsJson = False, debug: Debug = False) -> None:
    """Read the newest of everything, every byte, and remove backups beyond EVERGREEN_BACKUPS_KEPT (8)."""
    from include.ops.backup_store import backups_to_keep, open_store
    from include.ops.prune import prune as remove

    done = remove(open_store(), backups_to_keep())
    print_result({**vars(done), "note": done.note}, done.note, as_json)


@rescue.command()
def restore(
    name: Name,
    usecase: Which = None,
    look: Annotated[bool, typer.Option("--look", help="Only read the backup, every byte of it.")] = False,
    dumps: Annotated[Path | None, typer.Option("--dumps", help="A folder for the databases' dumps.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Bring the lake back to the moment of a backup, at an address where there is nothing yet."""
    from include.ops import backup_store
    from include.ops.backup import ARTIFACTS
    from include.ops.restore import read_backup as read
    from include.ops.restore import restore as bring_back

    place = backup_store.open_store()
    if look:
        note = f"{name}: {read(place, name):,} objects, each as it was written"
        print_result({"note": note}, note, as_json)
        return
    said = bring_back(place, name, usecase, artifacts=setting(ARTIFACTS, ""), dumps=dumps)
    print_result({"done": said}, "\n".join(said), as_json)
