"""The stack for real: the flights on two Celery workers, S3 and PostgreSQL, while servers are killed.

It needs a Docker engine. Where there is none it is skipped and says so; with EVERGREEN_FULL=1 it fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from demo.__main__ import Story
from tests.stack.engine import BATCH, FOUND, LOG, NEEDS_ENGINE, USECASE, WHY_NOT, Composed, docker

pytestmark = NEEDS_ENGINE
LAST = "2013-02-28"
INGESTS = tuple(f"ingest.{name}" for name in ("schedule", "outcomes", "weather", "planes"))
PRODUCTS = ["monitor", "outcomes", "planes", "predictions", "schedule", "weather"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """The stack with two workers and two schedulers, and a champion from January and February."""
    assert not WHY_NOT, f"EVERGREEN_FULL is set, and there is no engine: {WHY_NOT}"
    made = Composed(tmp_path_factory.mktemp("stack"))
    try:
        made.compose("build", "s3", "setup", "world")
        print(f"healthy after {made.up(worker=2, scheduler=2):.0f} s")
        story = Story(made.api, lambda: None)
        for clock in ("history", "training", "batch"):
            made.api.wait_dag(f"{USECASE}__{clock}", timeout=120)
            made.api.unpause(f"{USECASE}__{clock}")
        story.run("history", "history", "first", {"first": "2012-12-31", "last": LAST})
        story.run("the first champion", "training", "first", partition=LAST)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


def whole(stack: Composed, day: str) -> None:
    """Check that a partition is whole: each scheduled flight has one prediction, by the champion."""
    found = stack.partition(day)
    assert found["rows"] == found["distinct"] == found["scheduled"] > 0
    assert found["served_by"] == ["champion"]
    assert set(PRODUCTS) <= set(found["products"])


def test_a_partition_goes_through_both_workers(stack: Composed) -> None:
    """The flights run on Celery, S3 and PostgreSQL; both workers have had a part in it."""
    begin = time.monotonic()
    run_id = stack.start("2013-03-01", "plain")
    assert stack.finished(run_id) == "success"
    print(f"a partition took {time.monotonic() - begin:.1f} s")
    whole(stack, "2013-03-01")
    tasks = stack.api.task_instances(f"{USECASE}__history", "first") + stack.api.task_instances(BATCH, run_id)
    assert {task["hostname"] for task in tasks if task["hostname"]} == {
        one[:12] for one in stack.containers("worker")
    }


def test_a_log_is_json_in_s3_and_says_whose_it_is(stack: Composed) -> None:
    """Each line of a task's log is JSON; those of the scoring carry use case, partition and model version."""
    text = stack.python(LOG, f"dag_id={BATCH}/run_id=plain__2013-03-01/task_id=score.predict")
    lines = [json.loads(line) for line in text.splitlines()]
    wanted = {"usecase": USECASE, "partition": "2013-03-01", "model_version": "1"}
    assert [line for line in lines if wanted.items() <= line.items()]


def kill_a_worker(stack: Composed, run_id: str) -> list[str]:
    """Kill the worker that has a task of the ingest."""
    victim = stack.running(run_id, *INGESTS)["hostname"]
    docker("kill", victim)
    return [victim]


def kill_a_scheduler(stack: Composed, run_id: str) -> list[str]:
    """Kill one of the two schedulers while the ingest runs."""
    stack.running(run_id, *INGESTS)
    victim = stack.containers("scheduler")[0]
    docker("kill", victim)
    return [victim]


def crash(service: str, *during: str) -> Callable[[Composed, str], list[str]]:
    """Return a fault: the server is killed while one of these tasks runs, and started again at once."""

    def fault(stack: Composed, run_id: str) -> list[str]:
        stack.running(run_id, *during)
        (victim,) = stack.containers(service)
        docker("kill", victim)
        docker("start", victim)
        return []

    return fault


def stop_mlflow(stack: Composed, run_id: str) -> list[str]:
    """Stop MLflow before anything is scored, and leave it so."""
    (victim,) = stack.containers("mlflow")
    docker("stop", "--time", "2", victim)
    return [victim]


FAULTS: dict[str, tuple[str, Callable[[Composed, str], list[str]]]] = {
    "mlflow is down during scoring": ("2013-03-02", stop_mlflow),
    "one of two schedulers is killed": ("2013-03-03", kill_a_scheduler),
    "redis is killed and starts again": ("2013-03-04", crash("redis", *INGESTS)),
    "the database is killed and starts again": ("2013-03-05", crash("postgres", *INGESTS)),
    "the s3 server is killed and starts again": ("2013-03-06", crash("s3", *INGESTS)),
    "a worker is killed": ("2013-03-07", kill_a_worker),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_partition_finishes_whatever_is_taken_away(stack: Composed, fault: str) -> None:
    """With a server gone in the middle, the partition ends green, whole.

    And with each flight predicted once.
    """
    day, inflict = FAULTS[fault]
    begin = time.monotonic()
    run_id = stack.start(day, "fault")
    down = inflict(stack, run_id)
    try:
        assert stack.finished(run_id) == "success"
    finally:
        for victim in down:
            docker("start", victim)
    print(f"{fault}: the partition took {time.monotonic() - begin:.0f} s")
    whole(stack, day)


def test_nothing_was_lost(stack: Composed) -> None:
    """After all of it the lake verifies: what was published is what its inputs give."""
    stack.compose("exec", "-T", "worker", "python", "-m", "include", "verify", USECASE)


def test_strangers_are_refused(stack: Composed) -> None:
    """MLflow and Airflow answer nobody without a password."""
    experiments = f"{stack.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    with requests.Session() as session:
        session.trust_env = False
        for url in (experiments, f"{stack.api.url}/api/v2/dags", f"{stack.api.url}/evergreen/"):
            assert session.get(url, timeout=30, allow_redirects=False).status_code in (401, 403), url
        known = session.get(experiments, auth=("admin", stack.secrets["MLFLOW_PASSWORD"]), timeout=30)
    assert known.status_code == 200


def test_no_secret_is_written_anywhere(stack: Composed) -> None:
    """No secret is in the lake, a task's log, a container's output or Airflow's database."""
    # who signs a request names his key, which isn't a secret by itself
    secrets = [
        value for name, value in stack.secrets.items() if not name.endswith("_KEY") or "FERNET" in name
    ]
    assert stack.python(FOUND, text="\n".join(secrets)) == ""
    dumping = "PGPASSWORD=$POSTGRES_PASSWORD pg_dump -h 127.0.0.1 -U postgres airflow"
    dump = stack.compose("exec", "-T", "postgres", "sh", "-c", dumping)
    logs = stack.compose("logs", "--no-color")
    assert len(dump) > 100_000
    assert len(logs) > 10_000
    assert [number for number, secret in enumerate(secrets) if secret in dump or secret in logs] == []
