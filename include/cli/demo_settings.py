"""A shell without settings, in the folder of a demo that is up, gets that demo's. For the command line only.

A task or a test never reads them, and one setting of ours in the shell is enough to leave them alone.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

OURS = ("EVERGREEN_", "AWS_", "MLFLOW_TRACKING_URI")
WITHIN = 1.0  # seconds in which a server on loopback takes a connection


def adopt(demo: Path) -> Literal["up", "down", "none"]:
    """Set what the demo in a folder gives its tasks, where the shell has nothing of ours and the demo is up.

    Parameters
    ----------
    demo : the folder of its state, which `make demo` fills; ``ports.json`` shows that a demo has been there.

    Returns
    -------
    str
        ``up``: the settings are set; ``down``: there is a demo, whose servers aren't up; ``none``: there is
        none, or the shell has its own settings.
    """
    if any(name.startswith(OURS) for name in os.environ) or not (demo / "ports.json").exists():
        return "none"
    settings = _private(demo / "secrets" / "environment.json")
    if not _answers(settings.get("AWS_ENDPOINT_URL", "")):
        return "down"
    os.environ.update(settings)
    return "up"


def _private(file: Path) -> dict[str, str]:
    """Return what a file holds that is ours and nobody else's; nothing of another one."""
    try:
        status = file.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            return {}
        settings: dict[str, str] = json.loads(file.read_text())
        return settings
    except (OSError, ValueError):  # none while it is down
        return {}


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), WITHIN):
            return True
    except OSError:
        return False
