"""What each stage may cost: ``python -m benchmarks budget [--update]``.

The stages of the use case weekly_sales run in one warm process: 30 weeks of 40 rows, a training, then five
more weeks. The cost of a stage is its CPU time, of all threads, divided by that of a fixed loop in the same
process, because machines differ; the least of the five counts. Memory is the most that the process has had by
the end of the stage. ``benchmarks/budget.json`` has what they were when it was written; the command fails if
a stage now takes more than `TOLERANCE` times as much. ``--update`` writes the file anew.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.memory import apart
from demo.home import REPOSITORY

BUDGET = Path(__file__).with_name("budget.json")
TOLERANCE = {"cpu": 1.6, "peak_mb": 1.3}
HISTORY, MEASURED = 30, 5
STAGES = ("ingest", "score", "monitor", "rollout")
Costs = dict[str, dict[str, float]]  # by stage, ``cpu`` and ``peak_mb``


def loop() -> float:
    """Return the CPU seconds of a fixed mix of Python, NumPy and Arrow, the least of three rounds."""
    rounds = []
    for _ in range(3):
        begin = time.process_time()
        text = "".join(str(number * number % 97) for number in range(200_000))
        values = np.random.default_rng(7).random(1_000_000)
        table = pa.table({"key": np.sort(values).astype("int32") % 1000, "value": values})
        table.group_by("key").aggregate([("value", "sum")])
        json.loads(json.dumps([text[index : index + 50] for index in range(0, len(text), 50)]))
        rounds.append(time.process_time() - begin)
    return min(rounds)


def peak_mb() -> int:
    """Return the most memory that the process has had; `ru_maxrss` would count its parent's too."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) // 1024


def measure() -> Costs:
    """Return each stage's CPU time as a multiple of `loop`'s, and its peak memory in MB."""
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "EVERGREEN_LAKE": f"{folder}/lake",
            "EVERGREEN_USECASES": str(REPOSITORY / "tests" / "usecases"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        from include.cli import stages
        from include.spec import load
        from include.storage.lake import Lake
        from tests.usecases.weekly_sales import world

        keys = world.write(Path(folder), HISTORY + MEASURED)
        os.environ["AIRFLOW_CONN_SHOP"] = world.connection(Path(folder))
        spec = load("weekly_sales")
        lake = Lake(spec.name)

        def run(stage: str, partition: str) -> None:
            begin = time.process_time()
            stages.run_stage(stage, lake, spec, [partition], now=datetime.now(UTC))
            seconds[stage].append(time.process_time() - begin)
            peaks[stage] = peak_mb()

        for index, partition in enumerate(keys):
            for stage in STAGES if index >= HISTORY else STAGES[:2]:
                run(stage, partition)
            if index in (HISTORY - 2, HISTORY - 1):  # the first fits what later ones needn't
                run("train", partition)
        unit = loop()
    return {
        stage: {"cpu": round(min(taken[-MEASURED:]) / unit, 2), "peak_mb": peaks[stage]}
        for stage, taken in seconds.items()
    }


def exceeded(budget: Costs, costs: Costs) -> list[str]:
    """Return a sentence for each figure that is over its budget, or has none."""
    if set(budget) != set(costs):
        return [
            f"budget: expected the stages {', '.join(sorted(costs))}, but found {', '.join(sorted(budget))}"
        ]
    return [
        f"{stage}: expected {name} of at most {limit * TOLERANCE[name]:.4g} "
        f"({TOLERANCE[name]:g} times the budget's {limit:g}), but found {costs[stage][name]:g}"
        for stage, limits in budget.items()
        for name, limit in limits.items()
        if costs[stage][name] > limit * TOLERANCE[name]
    ]


def main(command: list[str]) -> None:
    """Measure in a process of its own, and compare with the budget or update it."""
    if command == ["measure"]:
        print(json.dumps(measure()))
        return
    costs: Costs = apart("budget", "measure")
    if command == ["--update"]:
        BUDGET.write_text(json.dumps(costs, indent=1) + "\n")
        return
    budget = json.loads(BUDGET.read_text())
    print("| stage | CPU, in loops | budget | peak MB | budget |\n|---|---|---|---|---|")
    for stage, cost in costs.items():
        limits = budget.get(stage, {})
        print(
            f"| {stage} | {cost['cpu']} | {limits.get('cpu')} | {cost['peak_mb']} | {limits.get('peak_mb')} |"
        )
    if problems := exceeded(budget, costs):
        remedy = "make it cheaper, or accept it with: python -m benchmarks budget --update"
        sys.exit("\n".join([*problems, remedy]))


if __name__ == "__main__":
    main(sys.argv[1:])
