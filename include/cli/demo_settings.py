"""Use the running demo's settings in a shell that has none, so that the command line works after `make demo`.

Only the command line does this, never a task or a test. A single Evergreen setting in the shell turns it off.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

EVERGREEN_SETTINGS = ("EVERGREEN_", "AWS_", "MLFLOW_TRACKING_URI")
NO_SETTINGS = {"AWS_CA_BUNDLE"}  # says nothing of what to connect to, and is often set for a whole machine
CONNECT_TIMEOUT = 1.0  # seconds, on loopback


def use_demo_settings(demo: Path) -> Literal["up", "down", "none"]:
    """Set the environment variables of the demo's tasks, if the demo is up and the shell has no settings.

    Parameters
    ----------
    demo : the folder of the demo's state, which `make demo` creates and which then has a ``ports.json``.

    Returns
    -------
    str
        ``up``: the variables are set. ``down``: there is a demo, but its servers aren't up. ``none``: there
        is no demo, or the shell has settings of its own.
    """
    own = any(name.startswith(EVERGREEN_SETTINGS) for name in os.environ if name not in NO_SETTINGS)
    if own or not (demo / "ports.json").exists():
        return "none"
    settings = _read_private(demo / "secrets" / "environment.json")
    if not _accepts_connections(settings.get("AWS_ENDPOINT_URL", "")):
        return "down"
    os.environ.update(settings)
    return "up"


def _read_private(file: Path) -> dict[str, str]:
    """Return a file's settings, if only its owner, who is this user, may read it."""
    try:
        status = file.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            return {}
        settings: dict[str, str] = json.loads(file.read_text())
        return settings
    except (OSError, ValueError):  # `make down` removes the file
        return {}


def _accepts_connections(address: str) -> bool:
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), CONNECT_TIMEOUT):
            return True
    except OSError:
        return False
