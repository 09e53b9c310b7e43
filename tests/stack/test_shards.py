"""A large partition in shards on Celery: one worker with a core, and two with a core each.

It needs a Docker engine, as `test_stack.py` does. `-s` prints the seconds of both.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copies import copy
from tests.stack.engine import FILES, NEEDS_ENGINE, WHY_NOT, Composed, docker, span
from tests.usecases.weekly_sales import world

pytestmark = NEEDS_ENGINE
USECASE, SHARDS = "weekly_sharded", 4
WEEKS, TRAINED, LOOKBACK = 18, 11, 4
LARGE = (TRAINED + 1, TRAINED + 2 + LOOKBACK)  # weeks whose features look at no other large one
STORES = 10_000  # of a large week, each with 40 items
DECLARED = (
    ('start: "2024-01-01"', 'start: "2024-01-01"\n  end: "2024-12-30"'),
    ("max_rows: 1000", "max_rows: 1000000"),
    (r'regex: "^s\\d{2}$"', 'regex: "^s"'),
    ("  lookback: 4", "  lookback: 4\n  entity: [store]"),
    ("scoring:\n", f"scoring:\n  shards: {SHARDS}\n"),
)
SCORED = """
import json, sys
from include.storage.lake import Lake
rows = Lake(sys.argv[1]).read("predictions", {"partition": sys.argv[2]}, ["store", "item", "served_by"])
print(json.dumps([rows.num_rows, rows.group_by(["store", "item"]).aggregate([]).num_rows,
    rows["served_by"].unique().to_pylist()]))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Composed]:
    """The stack with one worker and a champion; two weeks have 400,000 rows each."""
    assert not WHY_NOT, f"EVERGREEN_FULL is set, and there is no engine: {WHY_NOT}"
    with tempfile.TemporaryDirectory(prefix="evergreen-shards-") as name:
        shop = Path(name)
        copy(shop / "usecases", USECASE, *DECLARED)
        keys = world.write(shop / "files", WEEKS)
        for number in LARGE:
            lines = [
                line.replace(",s", f",s{store}x", 1).replace(f",{item},", f",{item}{copied},", 1)
                for store in range(STORES // len(world.STORES))
                for copied in range(8)
                for line in world.week(number)
                for item in [line.split(",")[2]]
            ]
            (shop / "files" / "sales" / f"{keys[number]}.csv").write_text(
                "\n".join([world.HEADER, *lines]) + "\n"
            )
        for path in (shop, *shop.rglob("*")):
            path.chmod(0o755)
        made = Composed(shop, (*FILES, "tests/stack/shards.yaml"), SHOP_FOLDER=name)
        made.env_file.chmod(0o600)
        try:
            made.compose("build", "s3", "setup", "world")
            made.up(worker=1)
            for clock in ("history", "training", "batch"):
                made.api.wait_dag(f"{USECASE}__{clock}", timeout=120)
                made.api.unpause(f"{USECASE}__{clock}")
            loads = {"first": keys[0], "last": keys[-1]}
            for clock, conf in (("history", loads), ("training", {"partition": keys[TRAINED]})):
                made.api.trigger_run(f"{USECASE}__{clock}", conf, run_id="first")
                run = made.api.wait_run(f"{USECASE}__{clock}", "first", timeout=600)
                assert run["state"] == "success"
            yield made
        finally:
            made.compose("down", "--volumes", "--timeout", "5")


def test_shards_run_on_all_workers_and_each_row_is_predicted_once(stack: Composed) -> None:
    """One worker has a core, two have one each; the second worker takes some of the shards."""
    seconds = {}
    for workers, week in enumerate(LARGE, 1):
        partition = world.partitions(WEEKS)[week]
        stack.up(worker=workers)
        for core, worker in enumerate(stack.containers("worker")):
            docker("update", "--cpuset-cpus", str(core), worker)
        stack.api.trigger_run(f"{USECASE}__batch", {"partition": partition}, run_id=partition)
        assert stack.api.wait_run(f"{USECASE}__batch", partition, timeout=600)["state"] == "success"
        tasks = stack.api.task_instances(f"{USECASE}__batch", partition)
        shards = [task for task in tasks if task["task_id"] == "score.shard"]
        assert len(shards) == SHARDS
        hosts = Counter(task["hostname"] for task in shards)
        assert len(hosts) == workers, hosts
        seconds[workers] = span(shards), span([t for t in tasks if t["task_id"].startswith("score.")])
        rows, distinct, served_by = json.loads(stack.python(SCORED, USECASE, partition))
        assert rows == distinct == STORES * 40
        assert served_by == ["champion"]
    for workers, (shards, scoring) in seconds.items():
        print(f"{workers} workers: {SHARDS} shards in {shards:.1f} s, the whole scoring in {scoring:.1f} s")
