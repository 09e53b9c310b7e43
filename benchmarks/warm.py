"""What a worker's warm parent saves: ``python -m benchmarks.warm [PARTITIONS]``; it needs a Docker engine.

docker-compose.yaml's stack with the demo's flights, January and February loaded, a champion, and one Celery
worker of two tasks at once. So many partitions run one after the other on a worker whose parent has imported
the heavy libraries, then as many on one whose tasks import them anew. Seconds are medians over the
partitions, from start to end as Airflow saw them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from statistics import median

from tests.stack import engine

FILES = ("docker-compose.yaml", "demo/compose.yaml", "tests/stack/rig.yaml", "benchmarks/warm.yaml")
PARTITIONS, LAST = 3, date(2013, 2, 28)
HISTORY = {"first": "2012-12-31", "last": LAST.isoformat()}
Partition = dict[str, float]


def prepare(stack: engine.Composed) -> None:
    """Bring the stack up, load two months and promote a first champion."""
    stack.compose("build", "s3", "setup", "world")
    stack.up(worker=1)
    for clock in ("history", "training", "batch"):
        stack.api.wait_dag(f"{engine.USECASE}__{clock}", timeout=300)
        stack.api.unpause(f"{engine.USECASE}__{clock}")
    for clock, conf in (("history", HISTORY), ("training", {"partition": HISTORY["last"]})):
        dag = f"{engine.USECASE}__{clock}"
        stack.api.trigger_run(dag, conf, run_id="bench")
        if stack.api.wait_run(dag, "bench", timeout=1200)["state"] != "success":
            sys.exit(f"{dag} failed")
        stack.api.call("PATCH", f"/dags/{dag}", json={"is_paused": True})  # no partition may start a training


def partition(stack: engine.Composed, day: str) -> Partition:
    """Run a partition; return the seconds of each task that wasn't skipped, of them together.

    And of the run.
    """
    run = stack.start(day, "warm")
    if stack.finished(run) != "success":
        sys.exit(f"{run} failed")
    finished_run = stack.api.get_run(engine.BATCH, run) or {}
    found = [one for one in stack.api.task_instances(engine.BATCH, run) if one["state"] == "success"]
    if again := [one["task_id"] for one in found if one["try_number"] > 1]:
        sys.exit(f"{run}: tried again, so nothing is claimed: {', '.join(again)}")
    each = {
        one["task_id"]: engine.span([one]) for one in sorted(found, key=lambda one: str(one["start_date"]))
    }
    return {**each, "these together": sum(each.values()), "the partition": engine.span([finished_run])}


def main(partitions: int = PARTITIONS) -> None:
    """Measure and print."""
    engine.FILES = FILES
    os.environ["WARM"] = "1"  # each command of compose asks for it
    with tempfile.TemporaryDirectory() as folder:
        stack = engine.Composed(Path(folder))
        try:
            prepare(stack)
            days = next_days()
            took: dict[str, list[Partition]] = {"1": [], "0": []}
            for warm, found in took.items():
                os.environ["WARM"] = warm
                stack.up(worker=1)
                for _ in range(partitions):
                    found.append(partition(stack, next(days)))
                    print(f"# warm={warm}, load {os.getloadavg()[0]:.1f}: {found[-1]}", file=sys.stderr)
        finally:
            stack.compose("down", "--volumes", "--timeout", "5")
    table(took["1"], took["0"])


def next_days() -> Iterator[str]:
    """Yield the partitions that follow the history."""
    day = LAST
    while True:
        day += timedelta(1)
        yield day.isoformat()


def table(warm: list[Partition], cold: list[Partition]) -> None:
    """Print the medians, of what every partition had."""
    print(f"| seconds, of {len(warm)} partitions each | warm parent | without |\n|---|---|---|")
    for name in warm[0]:
        if all(name in one for one in (*warm, *cold)):
            print(f"| {name} | {median(n[name] for n in warm):.1f} | {median(n[name] for n in cold):.1f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
