"""The same functions that a night's tasks call, in one warm process: prints the seconds of each night.

``python -m benchmarks.night NIGHT ...`` with the stack's environment.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

from include.cli import stages
from include.spec import load
from include.storage.lake import Lake

STAGES = ("ingest", "score", "monitor")


def once(night: str) -> dict[str, float]:
    """Return the seconds that each stage of one night took."""
    spec = load("flight_delay")
    lake = Lake(spec.name)
    marks = [time.perf_counter()]
    for stage in STAGES:
        stages.run_stage(stage, lake, spec, [night], now=datetime.now(UTC))
        marks.append(time.perf_counter())
    return {stage: marks[i + 1] - marks[i] for i, stage in enumerate(STAGES)} | {
        "night": marks[-1] - marks[0]
    }


def main() -> None:
    """Measure the nights given; the first warms up and is left out."""
    print(json.dumps([once(night) for night in sys.argv[1:]][1:]))


if __name__ == "__main__":
    main()
