"""Parsed declarations, which the user's next processes read instead of parsing the same YAML again.

Each DAG file reads every declaration, in a process of its own every half minute, and most of that was YAML.
So the keys of a valid declaration are stored as JSON, by the digest of its text, and validated at each
reading. The folder is one of temporary files that only this user can write to. Without such a folder nothing
is stored.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from include.references import digest_bytes


def stored(text: str) -> dict[str, Any] | None:
    """Return the keys of a declaration's text; None if they aren't stored."""
    folder = _folder()
    if folder is None:
        return None
    try:
        raw = json.loads(_file(folder, text).read_text())
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def store(text: str, raw: dict[str, Any]) -> None:
    """Store the keys of a valid declaration's text, unless JSON would change them, as numbers as keys."""
    folder = _folder()
    if folder is None:
        return
    try:
        content = json.dumps(raw)
    except (TypeError, ValueError):  # a date, or a value within itself
        return
    if json.loads(content) != raw:
        return
    with suppress(OSError):
        handle, name = tempfile.mkstemp(dir=folder)  # mode 600
        with suppress(FileNotFoundError):  # once it has its name
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(content)
                Path(name).rename(_file(folder, text))
            finally:
                Path(name).unlink()


def _file(folder: Path, text: str) -> Path:
    return folder / f"{digest_bytes(f'{yaml.__version__} {text}'.encode())}.json"


def _folder() -> Path | None:
    """Return this user's folder, created if necessary; None if others could write to it."""
    folder = Path(tempfile.gettempdir(), f"evergreen-declarations-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()  # not of what a link leads to
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return folder if private else None
