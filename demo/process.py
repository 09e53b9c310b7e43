"""A server is a process group with a pid file; only what is provably the stack's is ever stopped."""

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

POLL = 0.05  # seconds between two looks at a condition
CLOCK = 2.0  # seconds by which a process's creation time may differ between two readings


def until(condition: Callable[[], bool], timeout: float, poll: float = POLL) -> bool:
    """Wait until the condition holds; False when it doesn't within `timeout` seconds."""
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
    """Start a process in a session of its own, its output appended to `log`, and note it in `pid_file`."""
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
        except psutil.NoSuchProcess:  # it failed at once; whoever waits for it will tell
            return process
        noted = {"pid": process.pid, "created": created, "argv": argv, "digest": digest}
        pid_file.write_text(json.dumps(noted))
    return process


def digest(content: Any) -> str:
    """A fingerprint that gives no secret away."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def started_with(pid_file: Path) -> str:
    """The digest that the process was started with; empty when none was noted."""
    return str((_noted(pid_file) or {}).get("digest", ""))


def running(pid_file: Path) -> psutil.Process | None:
    """The process that the pid file names, unless it has ended or its number is another's by now."""
    noted = _noted(pid_file)
    if noted is None:
        return None
    try:
        process = psutil.Process(noted["pid"])
        ours = abs(process.create_time() - noted["created"]) < CLOCK
    except psutil.NoSuchProcess:
        return None
    return process if ours and not _over(process) else None


def family(pid_file: Path, home: Path) -> list[psutil.Process]:
    """The server, its descendants, and what a server that was killed left behind of its process group."""
    noted = _noted(pid_file)
    if noted is None:
        return []
    leader = running(pid_file)
    if leader is None and psutil.pid_exists(noted["pid"]) and not _over(psutil.Process(noted["pid"])):
        return []  # the number is a stranger's, which it can't be while our group has a member
    members = [] if leader is None else [leader, *_children(leader)]
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.Error):
            in_group = os.getpgid(process.pid) == noted["pid"]
            # Every server is started in the home. Airflow's workers overwrite their environment with a title.
            if in_group and process not in members and Path(process.cwd()).is_relative_to(home):
                members.append(process)
    return [process for process in members if not _over(process)]


def stop(
    processes: Iterable[psutil.Process], told: Iterable[psutil.Process], how: int, timeout: float
) -> None:
    """Signal those to be told, wait until all are gone, and kill what is left after `timeout` seconds."""
    processes = list(processes)
    _signal(told, how)
    if not until(lambda: all(map(_over, processes)), timeout):
        _signal([process for process in processes if not _over(process)], signal.SIGKILL)
        until(lambda: all(map(_over, processes)), timeout)


def _noted(pid_file: Path) -> dict[str, Any] | None:
    try:
        noted: dict[str, Any] = json.loads(pid_file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # none, or its writer was killed
        return None
    return noted


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _signal(processes: Iterable[psutil.Process], how: int) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(how)  # psutil compares the creation time first


def _over(process: psutil.Process) -> bool:
    """Whether the process has ended; one that nobody has reaped has."""
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
