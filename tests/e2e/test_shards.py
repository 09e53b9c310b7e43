"""A partition in three shards through a real scheduler and its LocalExecutor, with tasks that are killed."""

from __future__ import annotations

import pytest

from include.score.shards import PARTS
from tests.faults import clocks
from tests.house import SHARDED, WEEKS, House
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(1800)]
PARTITIONS = world.partitions(WEEKS)
BATCH = f"{SHARDED}__batch"


def test_a_partition_is_scored_in_shards_and_again_by_one_task(house: House) -> None:
    """A shard and the commit are killed and retried; a rerun by one task predicts the same."""
    loaded = house.run(f"{SHARDED}__history", "first_load", first=PARTITIONS[0], last=PARTITIONS[-5])
    assert loaded["state"] == "success"
    assert house.run(f"{SHARDED}__training", "first", partition=PARTITIONS[-5])["state"] == "success"
    lake, partition, run = house.lake(SHARDED), PARTITIONS[-4], "killed"
    killed = ("score.shard", "score.predict")
    for task in killed:
        house.fault(run, task).write_text("2")
    assert house.run(BATCH, run, partition=partition)["state"] == "success"
    tasks = house.api.task_instances(BATCH, run)
    states = sorted((one["task_id"], one["state"]) for one in tasks if one["task_id"][:6] == "score.")
    shards = [("score.shard", "success")] * 3
    assert states == [("score.plan", "success"), ("score.predict", "success"), *shards]
    for task in killed:
        assert not house.fault(run, task).exists()
        assert max(one["try_number"] for one in tasks if one["task_id"] == task) == 2
    rows = lake.rows("predictions", {"partition": partition})
    assert len(rows) == 40
    assert {row["served_by"] for row in rows} == {"champion"}
    before = clocks.state(lake)
    assert house.run(BATCH, "again", partition=partition)["state"] == "success"
    assert house.states(BATCH, "again")["score.shard"] == "skipped"
    assert clocks.state(lake) == before
    assert lake.keys(PARTS) == []
