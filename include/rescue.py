"""The commands before and after a disaster: back up, look at a backup, restore."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from include import spec as specs
from include.environment import endpoint, setting
from include.options import AsJson, Debug, show

rescue = typer.Typer()
Which = Annotated[str | None, typer.Argument(metavar="[USECASE]", help="All of them, unless given.")]
Name = Annotated[str, typer.Argument(metavar="BACKUP", help="Its name, as `backup` says it.")]


@rescue.command()
def backup(usecase: Which = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Copy the lake as it is at one moment, and the databases, to EVERGREEN_BACKUP: only what is new."""
    from include.backup.shelf import shelf
    from include.backup.write import ARTIFACTS
    from include.backup.write import backup as copy
    from include.lake import Lake

    wanted = [specs.load(usecase).name] if usecase else specs.names()  # also one whose declaration is broken
    lakes = [lake for name in wanted if (lake := Lake(name)).tables()]
    done = copy(lakes, shelf(), now=datetime.now(UTC), connect=endpoint, artifacts=setting(ARTIFACTS, ""))
    show({**vars(done), "note": done.note}, done.note, as_json)
    raise typer.Exit(bool(done.failed))


@rescue.command()
def prune(as_json: AsJson = False, debug: Debug = False) -> None:
    """Read the newest of everything, every byte, and remove backups beyond EVERGREEN_BACKUPS_KEPT (8)."""
    from include.backup.prune import prune as remove
    from include.backup.shelf import shelf, wanted

    done = remove(shelf(), wanted())
    show({**vars(done), "note": done.note}, done.note, as_json)


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
    from include.backup import shelf
    from include.backup.restore import look as read
    from include.backup.restore import restore as bring_back
    from include.backup.write import ARTIFACTS

    place = shelf.shelf()
    if look:
        note = f"{name}: {read(place, name):,} objects, each as it was written"
        show({"note": note}, note, as_json)
        return
    said = bring_back(place, name, usecase, artifacts=setting(ARTIFACTS, ""), dumps=dumps)
    show({"done": said}, "\n".join(said), as_json)
