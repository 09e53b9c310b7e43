"""Start and stop servers as process groups with pid files; only the stack's own processes are stopped."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it comes without types, and two calls don't need them

POLL = 0.05  # seconds between two checks of a condition
CLOCK_TOLERANCE = 2.0  # seconds between two readings of a process's creation time


def until(condition: Callable[[], bool], timeout: float, poll: float = POLL) -> bool:
    """Wait until the condition is true; return False if it isn't within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(poll)
    return True


def spawn(
    argv: list[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    pid_file: Path | None = None,
    digest: str = "",
    user: tuple[int, int] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in its own session, append its output to `log`, and record it in `pid_file`."""
    with open(log, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        process = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            user=user[0] if user else None,
            group=user[1] if user else None,
            extra_groups=[] if user else None,
        )
    if pid_file:
        try:
            created = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:  # it failed at once; the caller notices when it waits
            return process
        record = {"pid": process.pid, "created": created, "argv": argv, "digest": digest}
        pid_file.write_text(json.dumps(record))
    return process


def digest(content: Any) -> str:
    """Return a digest of the content, which reveals no secret."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def started_with(pid_file: Path) -> str:
    """Return the digest that the process was started with; "" without a record."""
    return str((_read(pid_file) or {}).get("digest", ""))


def running(pid_file: Path) -> psutil.Process | None:
    """Return the process of the pid file, unless it has ended or its pid has been reused."""
    record = _read(pid_file)
    if record is None:
        return None
    try:
        process = psutil.Process(record["pid"])
        ours = abs(process.create_time() - record["created"]) < CLOCK_TOLERANCE
    except psutil.NoSuchProcess:
        return None
    return process if ours and not _ended(process) else None


def family(pid_file: Path, home: Path) -> list[psutil.Process]:
    """Return the server, its descendants, and what is left of a killed server's process group."""
    record = _read(pid_file)
    if record is None:
        return []
    leader = running(pid_file)
    if leader is None and psutil.pid_exists(record["pid"]) and not _ended(psutil.Process(record["pid"])):
        return []  # the pid has been reused, which is impossible while our group has a member
    members = [] if leader is None else [leader, *_children(leader)]
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.Error):
            in_group = os.getpgid(process.pid) == record["pid"]
            # Every server starts in the home; Airflow's workers overwrite their environment with a title.
            if in_group and process not in members and Path(process.cwd()).is_relative_to(home):
                members.append(process)
    return [process for process in members if not _ended(process)]


def stop(
    processes: Iterable[psutil.Process], signaled: Iterable[psutil.Process], signum: int, timeout: float
) -> None:
    """Signal some of the processes, wait until all have ended, and kill the rest after a timeout."""
    processes = list(processes)
    _signal(signaled, signum)
    if not until(lambda: all(map(_ended, processes)), timeout):
        _signal([process for process in processes if not _ended(process)], signal.SIGKILL)
        until(lambda: all(map(_ended, processes)), timeout)


def _read(pid_file: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(pid_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # none, or its writer was killed
        return None
    return record


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Iterable[psutil.Process], signum: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)  # psutil compares the creation time first


def _ended(process: psutil.Process) -> bool:
    """Return whether the process has ended; a zombie has."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
