"""What processes a stack has, and on which addresses they listen."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it comes without types

from demo import process
from demo.servers import SERVERS, pid_file
from demo.stack import Stack


def members(stack: Stack) -> list[psutil.Process]:
    """Every process of the stack."""
    return [
        member
        for server in SERVERS
        for member in process.family(pid_file(stack.home, server.name), stack.home.root)
    ]


def alive(one: psutil.Process) -> bool:
    """Whether the process runs; nobody may have reaped one that has ended."""
    try:
        return bool(one.is_running() and one.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def started_in(folder: Path) -> list[psutil.Process]:
    """Every process of the machine whose working directory is in the folder."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(one.cwd()).is_relative_to(folder):
                found.append(one)
    return found


def listening(processes: list[psutil.Process]) -> list[str]:
    """The addresses that these processes listen on, as the kernel's tables give them (hexadecimal)."""
    inodes = set()
    for member in processes:
        for handle in Path(f"/proc/{member.pid}/fd").iterdir():
            target = str(handle.readlink())
            if target.startswith("socket:["):
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.append(fields[1].split(":")[0])
    return found


def only_loopback(processes: list[psutil.Process]) -> bool:
    """Whether all that they listen on is 127.0.0.1; the kernel writes it with its bytes turned round."""
    return set(listening(processes)) == {"0100007F"}
