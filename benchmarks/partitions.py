"""What a partition costs through Airflow, beside its compute and Airflow itself.

``python -m benchmarks.partitions``.

Five partitions of flight_delay, one after the other; the same functions in one warm process; a chain of empty
tasks of the same shape; then two backfills, with and without the warm parent, of thirty partitions each, or
of as many as `python -m benchmarks.partitions NUMBER` says. Each figure is printed as soon as it is measured;
the progress is on standard error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import date, datetime, timedelta
from statistics import median

from demo.airflow_api import AirflowApi
from demo.home import REPOSITORY, Home
from demo.stack import Stack, clean

DAG = "flight_delay__batch"
PARTITIONS = 5
BACKFILL = int(sys.argv[1]) if len(sys.argv) > 1 else 30  # partitions
BUNDLES = [
    {
        "name": name,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(REPOSITORY / path), "refresh_interval": 10},
    }
    for name, path in (("dags", "dags"), ("benchmarks", "benchmarks/dags"))
]


def days(first: date, count: int) -> list[str]:
    """Return the keys of ``count`` partitions."""
    return [(first + timedelta(days=number)).isoformat() for number in range(count)]


def seconds(run: dict[str, object]) -> float:
    """Return how long a run took, from its start to its end as Airflow saw them."""
    begin, end = (datetime.fromisoformat(str(run[f"{side}_date"])) for side in ("start", "end"))
    return (end - begin).total_seconds()


def through_airflow(api: AirflowApi, dag: str, confs: list[dict[str, str]], run: str) -> list[float]:
    """Run a DAG once for each form, one after the other; return the seconds of all but the first."""
    taken = []
    for number, conf in enumerate(confs):
        api.trigger_run(dag, conf, run_id=f"{run}_{number}")
        finished = api.wait_run(dag, f"{run}_{number}", timeout=600)
        if finished["state"] != "success":
            sys.exit(f"{dag} {run}_{number} ended {finished['state']}")
        taken.append(seconds(finished))
    return taken[1:]


def in_one_process(stack: Stack, partitions: list[str]) -> list[dict[str, float]]:
    """Run partitions through the plain functions; return the seconds of their stages."""
    command = [sys.executable, "-m", "benchmarks.one_partition", *partitions]
    finished = subprocess.run(
        command, env=stack.environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return found


def backfill(api: AirflowApi, first: date) -> float:
    """Backfill so many partitions; return partitions a minute."""
    last = first + timedelta(days=BACKFILL - 1)
    begin = time.perf_counter()
    api.backfill(DAG, first, last, max_active_runs=4)
    runs = api.wait_backfill(DAG, first, last, timeout=3600)
    taken = time.perf_counter() - begin
    failed = [run["partition_key"] for run in runs if run["state"] != "success"]
    if failed:
        sys.exit(f"these partitions did not succeed, so nothing is claimed: {', '.join(failed)}")
    return 60 * BACKFILL / taken


def prepare(stack: Stack, api: AirflowApi) -> None:
    """Bring the servers up, load two months and promote a first champion."""
    stack.up(progress=show)
    for dag in (DAG, "flight_delay__history", "flight_delay__training", "floor"):
        api.wait_dag(dag, timeout=60)
        api.unpause(dag)
    progress("loading two months, and the first training")
    through_airflow(api, "flight_delay__history", [{"first": "2012-12-31", "last": "2013-02-28"}], "bench")
    through_airflow(api, "flight_delay__training", [{"partition": "2013-02-28"}], "bench")


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def show(server: str, event: str, taken: float) -> None:
    """Say on standard error which server is up."""
    progress(f"{server} {event} after {taken:.1f} s")


def row(name: str, value: float, digits: int = 2, note: str = "") -> None:
    """Print a figure as soon as it is measured."""
    print(f"| {name:<46} | {value:6.{digits}f} |{note}", flush=True)


def measure(warm: Stack, cold: Stack, api: AirflowApi) -> None:
    """Print every figure, first those with the warm parent."""
    prepare(warm, api)
    print(
        f"medians of {PARTITIONS} partitions, seconds; backfills of {BACKFILL} partitions, 4 at once",
        flush=True,
    )
    progress("empty tasks")
    floor = median(through_airflow(api, "floor", [{}] * (PARTITIONS + 1), "floor"))
    row("as many empty tasks through Airflow", floor)
    progress("partitions")
    partitions = [{"partition": key} for key in days(date(2013, 3, 1), PARTITIONS + 1)]
    wall = median(through_airflow(api, DAG, partitions, "bench"))
    row("a partition through Airflow", wall)
    progress("partitions in one process")
    stages = in_one_process(warm, days(date(2013, 3, 7), PARTITIONS + 1))
    compute = median(stage["partition"] for stage in stages)
    parts = (f"{name} {median(s[name] for s in stages):.2f}" for name in ("ingest", "score", "monitor"))
    row("its compute in one warm process", compute, note=f" ({', '.join(parts)})")
    row("partition / (compute + empty tasks)", wall / (compute + floor))
    then = date(2013, 3, 13)
    progress("backfill")
    row("backfill, partitions a minute", backfill(api, then), digits=1)
    warm.down()
    cold.up(progress=show)
    then += timedelta(BACKFILL)
    progress("partitions without the warm parent")
    partitions = [{"partition": key} for key in days(then, PARTITIONS + 1)]
    row("a partition without the warm parent", median(through_airflow(api, DAG, partitions, "cold")))
    progress("backfill without the warm parent")
    row("backfill without the warm parent", backfill(api, then + timedelta(PARTITIONS + 1)), digits=1)


def main() -> None:
    """Measure, and remove what was made for it."""
    home = Home(Home().root / "bench")
    env = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(BUNDLES)}
    warm, cold = Stack(home, env=env), Stack(home, env=env, warm=False)
    clean(home)  # what a failed one kept
    try:
        measure(warm, cold, AirflowApi.of(home))
    except BaseException:
        progress(f"kept for a look: {home.root}; EVERGREEN_HOME={home.root} python -m demo.stack status")
        raise
    finally:
        warm.down()
    clean(home)


if __name__ == "__main__":
    main()
