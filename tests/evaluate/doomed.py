"""Stands in for the fresh process, and ends as its second argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
from array import array
from pathlib import Path

if __name__ == "__main__":
    folder, how = Path(sys.argv[1]), sys.argv[2]
    if how in ("killed", "crashes"):
        print("a warning that explains nothing", file=sys.stderr)
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSEGV)
    if how == "hangs":
        signal.pause()
    if how == "half":
        (folder / "predictions.float64").write_bytes(array("d", [0.5] * 4).tobytes())
        (folder / "figures.json").write_text(json.dumps({"p50_ms": 1.0}))
    if how == "says":
        sys.exit(
            "a warning\n" + " ".join([*sorted(os.environ), *sorted(path.name for path in folder.iterdir())])
        )
