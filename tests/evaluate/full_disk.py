"""Runs the module of the fresh process on a disk without space for its predictions."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    (Path(sys.argv[1]) / "predictions.float64").symlink_to("/dev/full")
    runpy.run_module("include.evaluate.fresh_process", run_name="__main__")
