"""One folder holds all that a clone's servers need: two live side by side, and `make clean` is one removal.

Passwords are generated and ports are chosen at the first start, and both are kept: addresses and logins stay
the same until the folder is removed.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

# What a person opens comes first. The rest are weed's own: it takes a port and a gRPC port for each role.
PORTS = (
    *("airflow", "mlflow", "s3", "weather"),
    *(
        "s3-grpc",
        "master",
        "master-grpc",
        "volume",
        "volume-grpc",
        "filer",
        "filer-grpc",
        "admin",
        "admin-grpc",
    ),
)

# Below Linux's range for outgoing connections, so that none of them takes a server's port while it is down.
PORT_RANGE = range(20_000, 32_000)

# A Unix socket's path holds 107 bytes and a zero; this leaves room for the longest name put in the folder.
LONGEST_RUN_FOLDER = 107 - len("/pg/.s.PGSQL.5432.lock")


class Home:
    """The folder of one stack: `secrets/`, `ports.json`, `logs/`, `pids/` and each server's data.

    Parameters
    ----------
    root : Path, optional
        Where it lies; `$EVERGREEN_HOME`, or `.evergreen` in the repository, when left out.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("EVERGREEN_HOME") or REPOSITORY / ".evergreen").resolve()

    def folder(self, *parts: str) -> Path:
        """A private folder under the root, made when it isn't there."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root
        for part in parts:
            path = path / part
            path.mkdir(mode=0o700, exist_ok=True)
        return path

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The generated passwords and keys by name, kept in `secrets/secrets.json` (mode 600)."""
        return _kept(self.folder("secrets") / "secrets.json", _new_secrets)

    @property
    def airflow_users(self) -> Path:
        """The passwords file of Airflow's users (mode 600), in the form that SimpleAuthManager reads."""
        path = self.folder("secrets") / "airflow-users.json"
        _kept(path, lambda: {"admin": self.secrets["airflow"]})
        return path

    @property
    def environment(self) -> Path:
        """What `python -m include` reads while the servers are up (mode 600).

        See `include.cli.demo_settings`.
        """
        return self.root / "secrets" / "environment.json"

    def keep_environment(self, environment: dict[str, str]) -> None:
        """Write it."""
        self.folder("secrets")
        _replace(self.environment, environment)

    @cached_property
    def ports(self) -> dict[str, int]:
        """The port of each name in `PORTS`; `EVERGREEN_PORT_<NAME>` wins over the one that was kept."""
        path = self.folder() / "ports.json"
        kept: dict[str, int] = _kept(path, _new_ports)
        asked = {name: os.environ.get("EVERGREEN_PORT_" + name.upper().replace("-", "_")) for name in PORTS}
        chosen = kept | {name: int(port) for name, port in asked.items() if port}
        if chosen != kept:
            _replace(path, chosen)
        return chosen

    def url(self, port: str) -> str:
        """The address of the server that has the port of this name."""
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def run(self) -> Path:
        """A private folder for Unix sockets: `run/`, or one with a short path when the root's is too long."""
        path = self.root / "run"
        if len(os.fsencode(path)) <= LONGEST_RUN_FOLDER:
            return self.folder("run")
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        path = Path(tempfile.gettempdir()) / f"evergreen-{os.getuid()}-{digest}"
        path.mkdir(mode=0o700, exist_ok=True)
        if path.stat().st_uid != os.getuid():  # anyone may write to /tmp
            raise PermissionError(
                f"{path} belongs to another user; remove it, or use a shorter EVERGREEN_HOME"
            )
        return path

    def remove_sockets(self) -> None:
        """Remove the folder of the Unix sockets when no server is up: it may lie outside the root."""
        shutil.rmtree(self.run)

    @property
    def is_one(self) -> bool:
        """Whether a stack has been here, or a `status` or `down` before any; another folder is left alone."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        return "ports.json" in names or names in ({"pids"}, {"pids", "lock"})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold off a second `up` or `down` of the same folder until this one is through."""
        with (self.folder() / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _new_secrets() -> dict[str, str]:
    names = ("airflow", "mlflow", "postgres", "s3_access_key", "s3_secret_key", "weather", "weed")
    made = {name: secrets.token_urlsafe(18).replace("-", "x").replace("_", "y") for name in names}
    made |= {name: secrets.token_urlsafe(48) for name in ("airflow_api", "airflow_jwt")}
    made["airflow_fernet"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
    return made


def _new_ports() -> dict[str, int]:
    """Free ports at random, so that another clone whose servers are down now hardly ever has the same."""
    candidates = (port for port in random.sample(PORT_RANGE, len(PORT_RANGE)) if is_free(port))
    return {name: next(candidates) for name in PORTS}


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the servers do: TIME_WAIT is no owner
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the file holds; when there is none, what `make` gives, written once even if two processes try."""
    if not path.exists():
        aside = _aside(path, make())
        with suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    kept: dict[str, Any] = json.loads(path.read_text())
    return kept


def _replace(path: Path, content: dict[str, Any]) -> None:
    _aside(path, content).rename(path)


def _aside(path: Path, content: dict[str, Any]) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=2)
    return Path(name)
