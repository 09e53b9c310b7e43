"""The most memory of its own that a process had, for mapped files are the system's; or a limit of both."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

GROUPS = Path("/sys/fs/cgroup")


class Anonymous(threading.Thread):
    """Looks at the process every five milliseconds while its block runs; ``most`` is in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done, self.most = threading.Event(), 0

    def run(self) -> None:
        """Look until the block ends."""
        while not self._done.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.most = max(self.most, int(status.partition("RssAnon:")[2].split()[0]) >> 10)

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
def held(limit: int) -> Iterator[Callable[[], None] | None]:
    """Yield what a new process calls to be killed rather than have more bytes, mapped files' pages counted.

    None where this process may make no control group: `docker run -m` can do it there.
    """
    parts = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = {name: path.lstrip("/") for _, names, path in parts for name in names.split(",")}
    old = "memory" in own  # of version 1
    place = GROUPS / "memory" / own["memory"] if old else GROUPS / own.get("", "")
    group = place / f"evergreen-{os.getpid()}"
    try:
        if not (place / "cgroup.procs").exists():
            raise FileNotFoundError(place)  # a plain folder holds nobody
        group.mkdir()
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(limit))
    except OSError:
        yield None
    else:
        yield partial(_join, group)
    finally:
        if group.is_dir():
            group.rmdir()
