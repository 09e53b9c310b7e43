"""The most memory of its own that a process had: mapped files are the system's to drop."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType


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
