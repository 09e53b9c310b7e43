"""What a night in parts gains from more workers: ``python -m benchmarks.shards [ROWS [SHARDS]]``.

A night of the flights with so many rows, served by boosting, is scored by one task, then in so many parts by
one process and by two, each with one OpenMP thread. Seconds are the clock's and, in brackets, of CPU over all
processes. The tables must be those of one task, or the command fails.

``python -m benchmarks.shards stack [ROWS [SHARDS]]`` does so by Airflow on docker-compose.yaml, with one and
two Celery workers of one task each, in turn; it needs a Docker engine. Seconds are those from the start of
the first task to the end of the last one, as Airflow saw them, of the middle of three nights, then the least
and the most; the load is the machine's at the nights' ends.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.batch import KINDS, LARGE, SMALL, fill, prepare, promote
from include import models, tables
from include.features.build import compute
from include.lake import Lake
from include.promote import ledger
from include.refs import Ref, digest_json
from include.score import parts
from include.score.plan import plan
from include.score.run import score, seen_by
from include.spec import UseCase, load
from include.train.fit import fit

REPOSITORY = Path(__file__).parents[1]
USECASE, ROWS, SHARDS, WORKERS = "flight_delay", 1_000_000, 2, (1, 2)
Timed = tuple[Any, float, float]
HERE = ("exec", "-T", "worker", "python", "-m", "benchmarks.shards")  # what is done in a worker
ROUNDS = 3
# The workers named take tasks, those on standard input none.
ATTEND = """
import os, sys
from celery import Celery
control = Celery(broker=os.environ["AIRFLOW__CELERY__BROKER_URL"]).control
for act, names in ((control.add_consumer, sys.argv[1:]), (control.cancel_consumer, sys.stdin.read().split())):
    done = act("default", destination=names, reply=True, timeout=30) if names else []
    assert len(done) == len(names), done
"""


@dataclass(frozen=True)
class Night:
    """A night by Airflow: seconds of its steps and of all, the load at its end, what it left."""

    parts: tuple[str, ...]
    night: float
    load: float
    digest: str


def usecase(shards: int) -> UseCase:
    """Return the flights with so many shards."""
    spec = load(USECASE)
    return spec.model_copy(update={"scoring": spec.scoring.model_copy(update={"shards": shards})})


def timed(work: Callable[[], Any]) -> Timed:
    """Return what something gave, and the seconds that it took, of the clock and of CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def whole_task(folder: str) -> Timed:
    """Score the night as one task does."""
    return timed(lambda: score(Lake(USECASE, folder), usecase(1), LARGE))


def plan_task(folder: str, shards: int) -> Timed:
    """Plan the night."""
    return timed(lambda: plan(Lake(USECASE, folder), usecase(shards), LARGE))


def part_task(folder: str, shards: int, key: str, number: int) -> Timed:
    """Write one part aside."""
    return timed(lambda: parts.score_part(Lake(USECASE, folder), usecase(shards), key, number).xcom())


def publish_task(folder: str, shards: int, refs: Sequence[dict[str, Any]]) -> Timed:
    """Publish the parts."""
    lake, spec = Lake(USECASE, folder), usecase(shards)

    def lost() -> Ref:
        raise AssertionError("the parts weren't used")

    return timed(lambda: parts.publish(lake, spec, LARGE, refs, lost))


def state(folder: str) -> dict[str, str]:
    """Return a digest of what the night left, whichever order its rows lie in."""
    lake, found = Lake(USECASE, folder), {}
    for table in ("predictions", "profiles", "partitions"):
        rows = lake.read(table, {"night": LARGE})
        assert rows is not None
        found[table] = digest_json(sorted(map(repr, rows.to_pylist())))
    return found


def in_processes(rows: int, shards: int) -> None:
    """Measure on a folder, with processes that have imported everything."""
    row("by", "plan", "parts", "publish", "seconds (of CPU)", "rows a second")
    row(*["---"] * 6)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, rows)
        anew(folder)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            pool.submit(time.sleep, 0).result()
            one = pool.submit(whole_task, folder).result()
        row("one task", "", "", "", took(one[1:]), f"{rows / one[1]:,.0f}")
        alone = state(folder)
        for workers in WORKERS:
            anew(folder)
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
                list(pool.map(time.sleep, [0.5] * workers))  # each has started, and imports this page
                begin = time.perf_counter()
                made = pool.submit(plan_task, folder, shards).result()
                each = [pool.submit(part_task, folder, shards, made[0].uri, n) for n in range(shards)]
                done, middle = [part.result() for part in each], time.perf_counter()
                last = pool.submit(publish_task, folder, shards, [part[0] for part in done]).result()
                wall = time.perf_counter() - begin
            if state(folder) != alone:
                sys.exit("the night in parts is another than that of one task")
            cpu = sum(one[2] for one in (made, *done, last))
            of_parts = middle - begin - made[1], sum(part[2] for part in done)
            cells = took(made[1:]), took(of_parts), took(last[1:]), took((wall, cpu)), f"{rows / wall:,.0f}"
            row(f"{shards} parts, {workers} process{'es' * (workers > 1)}", *cells)


def anew(folder: str) -> None:
    """Let boosting serve, and the large night be unserved."""
    promote(Lake(USECASE, folder), folder, KINDS[0])
    score(Lake(USECASE, folder), usecase(1), SMALL)


def took(seconds: Iterable[float]) -> str:
    """Return seconds of the clock and, in brackets, of CPU."""
    wall, cpu = seconds
    return f"{wall:.1f} ({cpu:.1f})"


def row(*cells: str) -> None:
    """Print a line of the table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def fill_stack(rows: int) -> None:
    """In a worker: make the lake's nights, and a champion that learnt noise."""
    spec = load(USECASE)
    lake = Lake(USECASE)
    fill(lake, spec, rows)
    seen = compute(spec, seen_by(lake, spec, SMALL), [SMALL])
    late = seen["departs_minute"].to_numpy() % 5 == 0
    known = seen.append_column(spec.problem.target, pa.array(late.astype(float)))
    boosting = next(one for one in spec.training.candidates if one.name == KINDS[0])
    model = models.store(lake, models.dump(fit(spec, boosting, known)))
    champion: dict[str, Any] = dict.fromkeys(tables.DEPLOYMENTS.names, "")
    champion |= {"role": "champion", "version": "1", "model": model, "prior": 0.2, "effective": SMALL}
    ledger.switch(lake, lambda rows: [champion | {"kind": "promoted"}])


def forget() -> str:
    """In a worker: let the large night be unserved, and return a digest of what was recorded of it."""
    lake = Lake(USECASE)
    (found,) = lake.rows("partitions", {"product": "predictions", "night": LARGE})  # their digest in it
    for table, where in (("predictions", {}), ("partitions", {"product": "predictions"})):
        there = lake.read(table, {**where, "night": LARGE})
        assert there is not None
        lake.publish(table, there.slice(0, 0), {**where, "night": LARGE})
    return digest_json(found)


def in_stack(rows: int, shards: int) -> None:
    """Measure by Airflow and Celery, in containers."""
    from tests.stack import engine

    with tempfile.TemporaryDirectory() as folder:
        declared = Path(folder, USECASE)
        shutil.copytree(REPOSITORY / "include" / "usecases" / USECASE, declared)
        Path(folder).chmod(0o755)  # a container's user is another
        os.environ |= {"SHARDS_USECASE": str(declared), "WORKER_CONCURRENCY": "1"}
        engine.FILES = ("docker-compose.yaml", "benchmarks/shards.yaml")
        stack = engine.Composed(Path(folder))
        try:
            stack.compose("build", "s3", "setup")
            stack.up(worker=max(WORKERS))
            stack.compose(*HERE, "fill", str(rows))
            stack.api.wait_dag(engine.NIGHTLY, timeout=300)
            stack.api.unpause(engine.NIGHTLY)
            took = nights(stack, {1: 1}, "one task")
            declare(stack, engine.until, declared / "usecase.yaml", shards)
            took |= nights(stack, dict.fromkeys(WORKERS, shards), f"{shards} parts")
        finally:
            stack.compose("down", "--volumes", "--timeout", "5")
    if len({one.digest for many in took.values() for one in many}) != 1:
        sys.exit("a night in parts is another than that of one task")
    row("by", "plan", "parts", "publish", f"night, of {ROUNDS}", "rows a second", "load")
    row(*["---"] * 7)
    for by, many in took.items():
        middle = sorted(many, key=lambda one: one.night)[ROUNDS // 2]
        night = f"{middle.night:.1f} ({min(n.night for n in many):.1f} to {max(n.night for n in many):.1f})"
        loads = f"{min(n.load for n in many):.1f} to {max(n.load for n in many):.1f}"
        row(by, *middle.parts, night, f"{rows / middle.night:,.0f}", loads)


def nights(stack: Any, shards: Mapping[int, int], name: str) -> dict[str, list[Night]]:
    """Run nights by so many workers, in turn, since other work on the machine comes and goes."""
    found: dict[str, list[Night]] = {}
    for number in range(ROUNDS):
        for workers, of in shards.items():
            attend(stack, workers)
            by = f"{name}, {workers} worker{'s' * (workers > 1)}"
            found.setdefault(by, []).append(night_of(stack, f"{of}by{workers}-{number}", of, workers))
            print(f"# {by}: {found[by][-1]}", file=sys.stderr, flush=True)
    return found


def attend(stack: Any, workers: int) -> None:
    """Have so many of the workers take tasks."""
    names = [f"celery@{one[:12]}" for one in sorted(stack.containers("worker"))]
    stack.python(ATTEND, *names[:workers], text=" ".join(names[workers:]))


def declare(stack: Any, until: Callable[..., Any], file: Path, shards: int) -> None:
    """Declare so many shards, and wait until Airflow has read it."""
    file.write_text(file.read_text().replace("\nscoring:", f"\nscoring:\n  shards: {shards}", 1))
    path = f"/dags/{USECASE}__nightly/tasks"

    def known() -> bool:
        return any(task["task_id"] == "score.part" for task in stack.api.call("GET", path)["tasks"])

    until(known, "the parts' tasks in Airflow", 300)


def night_of(stack: Any, tag: str, shards: int, workers: int) -> Night:
    """Run the night; return what it took and left.

    Its ingest has no connections here: each source's task fails at once and the night goes on.
    """
    from tests.stack.engine import span

    run = stack.start(LARGE, tag)
    if stack.finished(run, 1800) != "success":
        sys.exit(f"{run} failed")
    found, load = stack.api.task_instances(f"{USECASE}__nightly", run), os.getloadavg()[0]
    named = {n: [one for one in found if one["task_id"] == f"score.{n}"] for n in ("plan", "part", "predict")}
    mine = [one for many in named.values() for one in many]
    if {(one["state"], one["try_number"]) for one in mine} != {("success", 1)}:
        sys.exit(f"{run}: not each task of the score succeeded at once: {mine}")
    hosts = {one["hostname"] for one in named["part"]}
    if shards > 1 and (len(named["part"]), len(hosts)) != (shards, workers):
        sys.exit(f"{run}: {len(named['part'])} parts by {len(hosts)} of {workers} workers")
    parts = tuple(f"{span(many):.1f}" if shards > 1 else "" for many in named.values())
    return Night(parts, span(mine), load, stack.compose(*HERE, "forget").split()[-1])


def main(command: Sequence[str]) -> None:
    """Measure and print, or do the part of a container."""
    if command[:1] == ["fill"]:
        fill_stack(int(command[1]))
    elif command[:1] == ["forget"]:
        print(forget())
    else:
        stack = command[:1] == ["stack"]
        given = [int(one) for one in command[stack:]]
        rows, shards = (*given, *(ROWS, SHARDS)[len(given) :])
        (in_stack if stack else in_processes)(rows, shards)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:])
