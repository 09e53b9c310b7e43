"""A recipe of Dask's workers through a real scheduler and its LocalExecutor, with a task that is killed."""

from __future__ import annotations

import pytest

from include.train.fits import read_fits
from tests.house import WEEKS, WORKERS, House
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(1800)]
PARTITIONS = world.partitions(WEEKS)
TRAINING = f"{WORKERS}__training"


def test_a_task_trains_on_two_worker_processes_and_is_retried_after_it_was_killed(house: House) -> None:
    """The task's own cluster fits the recipe and its walk; a killed attempt does no harm to its retry."""
    loaded = house.run(f"{WORKERS}__history", "first_load", first=PARTITIONS[0], last=PARTITIONS[-5])
    assert loaded["state"] == "success"
    fault = house.fault("killed", "train.fit")
    fault.write_text("3")
    run = house.run(TRAINING, "killed", timeout=900, partition=PARTITIONS[-5])
    assert run["state"] == "success"
    assert not fault.exists()
    (task,) = [one for one in house.api.task_instances(TRAINING, "killed") if one["task_id"] == "train.fit"]
    assert task["try_number"] == 2
    fits = [fit for fit in read_fits(house.lake(WORKERS)) if fit.recipe == "boosting"]
    assert max(fit.partition for fit in fits) == PARTITIONS[-5]
    assert len(fits) > 1  # those of the walk too
    assert "got rank 1" in house.log(TRAINING, "killed", "train.fit")
