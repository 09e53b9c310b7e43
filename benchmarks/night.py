"""The same functions that a night's tasks call, in one warm process: prints the seconds of each night.

``python -m benchmarks.night NIGHT ...`` with the stack's environment.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

from include.environment import endpoint
from include.ingest.run import ingest
from include.ingest.settle import settle
from include.lake import Lake
from include.monitor.run import monitor
from include.score.run import score
from include.spec import load


def once(night: str) -> dict[str, float]:
    """Return the seconds that each stage of one night took."""
    spec = load("flight_delay")
    lake = Lake(spec.name)
    marks = [time.perf_counter()]
    for source in spec.sources:
        ingest(lake, spec, source, [night], endpoint, now=datetime.now(UTC))
    marks.append(time.perf_counter())
    settle(lake, spec, night, endpoint)
    score(lake, spec, night)
    marks.append(time.perf_counter())
    monitor(lake, spec, night)
    marks.append(time.perf_counter())
    stages = ("ingest", "score", "monitor")
    return {stage: marks[i + 1] - marks[i] for i, stage in enumerate(stages)} | {
        "night": marks[-1] - marks[0]
    }


def main() -> None:
    """Measure the nights given; the first warms up and is left out."""
    print(json.dumps([once(night) for night in sys.argv[1:]][1:]))


if __name__ == "__main__":
    main()
