"""Folders that take long to make and milliseconds to copy: made once, and copied for each test."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# in memory, since a process that a test kills or forks would leave a folder behind
_MADE: dict[Hashable, dict[str, bytes]] = {}


def fill_folder(key: Hashable, folder: Path, make: Callable[[Path], None]) -> None:
    """Fill a folder with what ``make`` writes, which is asked once for each key."""
    if key not in _MADE:
        with TemporaryDirectory(prefix="kept-") as name:
            make(made := Path(name))
            files = [path for path in made.rglob("*") if path.is_file()]
            _MADE[key] = {str(path.relative_to(made)): path.read_bytes() for path in files}
    for name, data in _MADE[key].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder that ``make`` fills, once for all of a run's workers; it is only read."""
    base = factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = base / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)  # whoever comes second waits for the first
        if not made.tell():
            make(folder)
            made.write("made")
    return folder
