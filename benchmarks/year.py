"""The flights' year as it was lived.

A first training, then each partition scored, watched and stepped, in order.

    EVERGREEN_LAKE=file:///... MLFLOW_TRACKING_URI=sqlite:////... python -m benchmarks.year [WEEKS [UNTIL]]

on a lake with the year's sources; partitions that are done are left out. A challenger is trained every WEEKS
(4) on a Sunday, none after UNTIL. Then `python -m include history flight_delay` draws the year and counts the
partitions with an alarm.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from include.cli import stages
from include.spec import load
from include.storage.lake import Lake

TRAINED, SUNDAY = "2013-02-28", "2013-03-03"
LAST = "2013-12-28"  # whose labels the year's last partition brings
STAGES = ("score", "monitor", "rollout")


def main() -> None:
    """Live the year and print a line for each task, as it ends."""
    spec = load("flight_delay")
    lake = Lake(spec.name)
    every = 7 * (int(sys.argv[1]) if len(sys.argv) > 1 else 4)
    until = sys.argv[2] if len(sys.argv) > 2 else LAST
    # pages decide nothing, and take longer than a partition's figures
    watched = {row["partition"] for row in lake.rows("partitions", {"product": "monitor"})}
    trained = {row["partition"] for row in lake.rows("attempts")}
    sundays = spec.clock.keys(SUNDAY, until)[every::every]
    for partition in spec.clock.keys(TRAINED, LAST):
        due = () if partition == TRAINED or partition in watched else STAGES
        if partition in (TRAINED, *sundays) and partition not in trained:
            due = (*due, "train")
        for stage in due:
            for ref in stages.run_stage(stage, lake, spec, [partition], now=datetime.now(UTC)):
                print(partition, stage, ref.note, flush=True)


if __name__ == "__main__":
    main()
