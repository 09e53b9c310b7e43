"""The same functions that a partition's tasks call, in one warm process.

Prints the seconds of each partition.

``python -m benchmarks.one_partition PARTITION ...`` with the stack's environment.
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


def once(partition: str) -> dict[str, float]:
    """Return the seconds that each stage of one partition took."""
    spec = load("flight_delay")
    lake = Lake(spec.name)
    marks = [time.perf_counter()]
    for stage in STAGES:
        stages.run_stage(stage, lake, spec, [partition], now=datetime.now(UTC))
        marks.append(time.perf_counter())
    return {stage: marks[i + 1] - marks[i] for i, stage in enumerate(STAGES)} | {
        "partition": marks[-1] - marks[0]
    }


def main() -> None:
    """Measure the partitions given; the first warms up and is left out."""
    print(json.dumps([once(partition) for partition in sys.argv[1:]][1:]))


if __name__ == "__main__":
    main()
