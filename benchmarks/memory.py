"""A process of its own, the most memory of its own that it had, or a limit of that and of mapped files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

GROUPS = Path("/sys/fs/cgroup")


def apart(name: str, *command: object, join: Callable[[], None] | None = None) -> dict[str, Any]:
    """Run a part of a benchmark in a process with one OpenMP thread, and return what it prints.

    Parameters
    ----------
    join : what the process does first, see `held`.
    """
    line = [sys.executable, "-m", f"benchmarks.{name}", *map(str, command)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(line, env=env, check=True, stdout=subprocess.PIPE, preexec_fn=join)
    return dict(json.loads(process.stdout))


class Anonymous(threading.Thread):
    """Looks at the process every five milliseconds while its block runs.

    ``most`` has the most memory of its own, and ``mapped`` the most of files' pages, both in MB.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done, self.most, self.mapped = threading.Event(), 0, 0

    def run(self) -> None:
        """Look until the block ends."""
        while not self._done.wait(0.005):
            status = Path("/proc/self/status").read_text()
            own, mapped = (
                int(status.partition(name)[2].split()[0]) >> 10 for name in ("RssAnon:", "RssFile:")
            )
            self.most, self.mapped = max(self.most, own), max(self.mapped, mapped)

    def __enter__(self) -> Anonymous:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()


def _join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


@contextmanager
def memory_limit(limit: int) -> Iterator[Callable[[], None] | None]:
    """Yield what a new process calls to be killed rather than have more bytes, mapped files' pages counted.

    None where this process may make no control group: `docker run -m` can do it there.
    """
    parts = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path.lstrip("/") for _, names, path in parts for name in names.split(",")}
    old = "memory" in own  # of version 1
    index = GROUPS / "memory" / own["memory"] if old else GROUPS / own.get("", "")
    group = index / f"evergreen-{os.getpid()}"
    try:
        if not (index / "cgroup.procs").exists():
            raise FileNotFoundError(index)  # a plain folder holds nobody
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    except OSError:
        yield None
    else:
        yield partial(_join, group)
    finally:
        if group.is_dir():
            group.rmdir()
