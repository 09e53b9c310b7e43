"""The folder with all state of a clone's servers: secrets, ports, logs, pid files and data.

Passwords and ports are chosen at the first start and stored. So addresses and logins stay the same until
`make clean` removes the folder, and two clones don't interfere.
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

# The first are for people; the rest are for weed, which needs a port and a gRPC port for each role.
PORTS = (
    "airflow",
    "mlflow",
    "s3",
    "weather",
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

# Below Linux's range for outgoing connections, so that no connection takes the port of a stopped server.
PORT_RANGE = range(20_000, 32_000)

# The path of a Unix socket has at most 107 bytes; this leaves room for the longest name in the folder.
MAX_RUN_FOLDER = 107 - len("/pg/.s.PGSQL.5432.lock")


class Home:
    """The folder of one stack: `secrets/`, `ports.json`, `logs/`, `pids/` and the servers' data.

    Parameters
    ----------
    root : Path, optional
        The folder; default: `$EVERGREEN_HOME`, or `.evergreen` in the repository.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root or os.environ.get("EVERGREEN_HOME") or REPOSITORY / ".evergreen").resolve()

    def folder(self, *parts: str) -> Path:
        """Return a private folder under the root, created if necessary."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.root
        for part in parts:
            path = path / part
            path.mkdir(mode=0o700, exist_ok=True)
        return path

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The generated passwords and keys by name, stored in `secrets/secrets.json` (mode 600)."""
        return _load_or_create(self.folder("secrets") / "secrets.json", _new_secrets)

    @property
    def airflow_users(self) -> Path:
        """The passwords file of Airflow's users (mode 600), in SimpleAuthManager's format."""
        path = self.folder("secrets") / "airflow-users.json"
        _load_or_create(path, lambda: {"admin": self.secrets["airflow"]})
        return path

    @property
    def environment(self) -> Path:
        """The variables for `python -m include` while the servers are up (mode 600).

        See `include.cli.demo_settings`.
        """
        return self.root / "secrets" / "environment.json"

    def write_environment(self, environment: dict[str, str]) -> None:
        """Write the variables for `python -m include`."""
        self.folder("secrets")
        _replace(self.environment, environment)

    @cached_property
    def ports(self) -> dict[str, int]:
        """The port of each name in `PORTS`; `EVERGREEN_PORT_<NAME>` overrides the stored one."""
        path = self.folder() / "ports.json"
        stored: dict[str, int] = _load_or_create(path, _new_ports)
        overrides = {
            name: os.environ.get("EVERGREEN_PORT_" + name.upper().replace("-", "_")) for name in PORTS
        }
        ports = stored | {name: int(port) for name, port in overrides.items() if port}
        if ports != stored:
            _replace(path, ports)
        return ports

    def url(self, port: str) -> str:
        """Return the URL of the server with the port of this name."""
        return f"http://127.0.0.1:{self.ports[port]}"

    @property
    def run(self) -> Path:
        """A private folder for Unix sockets: `run/`, or one with a shorter path if the root's is too long."""
        path = self.root / "run"
        if len(os.fsencode(path)) <= MAX_RUN_FOLDER:
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
        """Remove the folder of the Unix sockets, which may be outside the root, when no server is up."""
        shutil.rmtree(self.run)

    @property
    def is_home(self) -> bool:
        """Whether the folder belongs to a stack, also after a `status` or `down` without an `up`."""
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        return "ports.json" in names or names in ({"pids"}, {"pids", "lock"})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder, so that only one `up` or `down` runs."""
        with (self.folder() / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _new_secrets() -> dict[str, str]:
    names = ("airflow", "mlflow", "postgres", "s3_access_key", "s3_secret_key", "weather", "weed")
    generated = {name: secrets.token_urlsafe(18).replace("-", "x").replace("_", "y") for name in names}
    generated |= {name: secrets.token_urlsafe(48) for name in ("airflow_api", "airflow_jwt")}
    generated["airflow_fernet"] = base64.urlsafe_b64encode(os.urandom(32)).decode()
    return generated


def _new_ports() -> dict[str, int]:
    """Return random free ports, so that a clone with stopped servers is unlikely to have the same ones."""
    candidates = (port for port in random.sample(PORT_RANGE, len(PORT_RANGE)) if is_free(port))
    return {name: next(candidates) for name in PORTS}


def is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # as the servers do, so that TIME_WAIT doesn't count as taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _load_or_create(path: Path, create: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the file's content; create the file first if necessary, once even if two processes try."""
    if not path.exists():
        temporary = _write_temporary(path, create())
        with suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _replace(path: Path, content: dict[str, Any]) -> None:
    _write_temporary(path, content).rename(path)


def _write_temporary(path: Path, content: dict[str, Any]) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=2)
    return Path(name)
