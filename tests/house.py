"""One real Airflow for the tests' use cases and their copies: scheduler, API server, PostgreSQL, S3.

The tests of `e2e/` drive it through the REST API, and those of `browser/` as a person does. Both folders run
in one worker, one after the other, so the servers start once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.airflow_api import AirflowApi
from demo.home import Home
from demo.servers import ALL
from demo.stack import Stack
from include.storage.lake import Lake
from tests.copies import LIGHT, copy
from tests.stores import free_port
from tests.usecases.hourly_rides import world as rides
from tests.usecases.weekly_sales import world
from tests.warm import stand_in

ROOT = Path(__file__).parents[1]
WEEKS = 24
HOURS = 24 * 42  # of the taxis
PATIENCE = 240  # seconds: other tests run beside these, and a busy machine isn't a failure
SPARSE = "sparse_rides"
STORY, LATE, FORMS, BUTTONS = "weekly_story", "weekly_late", "weekly_forms", "weekly_buttons"
SHARDED, WORKERS, EVENTS = "weekly_sharded", "weekly_workers", "weekly_events"
# what the story's use case declares otherwise: files of its own, a recipe that learns little, and each step
PLOT = (
    ("sales/{day}.csv", "story/{day}.csv"),
    ("    - {name: ridge, estimator: ridge, params: {alpha: 1.0}}\n", ""),
    ("    - {name: forest, estimator: random_forest, params: {n_estimators: 30, min_samples_leaf: 3}}\n", ""),
    ("max_iter: 60", "max_iter: 4"),
    (
        "  block_partitions: 1",
        "  block_partitions: 1\n  alpha: 0.2\n  min_gain: 0.05\n  approval: changes\n"
        "  rollout: {kind: canary, partitions: 2, look_every: 1, patience: 10, alpha: 0.4, margin: 3, "
        "share: 0.4}",
    ),
)
WOKEN = (
    ("sales/{day}.csv", "events/sales/{day}.csv"),
    (
        "\n\nsources:",
        "\n  events: {kind: redis, connection: queue, queue: ready, alert_after: 0}\n\nsources:",
    ),
    ("\nscoring:", "\nalerts: {to: [desk]}\n\nscoring:"),
)
OVERDUE = (
    ('batch: "0 6 * * 1"', 'batch: "0 6 * * *"'),
    ('deadline: "09:00"', 'deadline: "06:00"'),
    ("\nscoring:", "\nalerts: {to: [ops]}\n\nscoring:"),
)


class House:
    """The running stack, its API, and the folders that tests plant faults in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shop, self.usecases, self.kill = folder / "shop", folder / "usecases", folder / "kill"
        self.taxis, self.columbia = folder / "taxis", folder / "columbia"
        self.queue = free_port()  # of a Redis that a test starts
        self.home = Home(folder / "home")
        path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "e2e" / "site")))
        self.stack = Stack(
            self.home,
            env={
                "PYTHONPATH": path,
                "EVERGREEN_USECASES": os.pathsep.join(map(str, (ROOT / "tests" / "usecases", self.usecases))),
                "EVERGREEN_KILL": str(self.kill),
                "AIRFLOW_CONN_SHOP": world.connection(self.shop),
                "AIRFLOW_CONN_TAXIS": rides.connection(self.taxis),
                "AIRFLOW_CONN_COLUMBIA": rides.connection(self.columbia),
                "AIRFLOW_CONN_QUEUE": json.dumps(
                    {"conn_type": "redis", "host": "127.0.0.1", "port": self.queue}
                ),
                # no test adds a DAG, and other tests want the cores as well
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
                "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            },
        )
        self.api = AirflowApi.of(self.home)

    def lake(self, usecase: str) -> Lake:
        """Return a use case's part of the stack's lake, as this process sees it."""
        return Lake(usecase, "s3://lake")

    def run(self, dag: str, run_id: str, timeout: float = PATIENCE, **conf: object) -> dict[str, object]:
        """Trigger a DAG by hand and wait for its end."""
        self.start(dag, run_id, **conf)
        return self.end(dag, run_id, timeout)

    def start(self, dag: str, run_id: str, **conf: object) -> None:
        """Trigger a DAG by hand."""
        self.api.trigger_run(dag, conf, run_id=run_id)

    def end(self, dag: str, run_id: str, timeout: float = PATIENCE) -> dict[str, object]:
        """Wait for the end of a run."""
        return self.api.wait_run(dag, run_id, timeout=timeout)

    def fault(self, run_id: str, task_id: str) -> Path:
        """Return the file that orders a task's death in a run: it holds the write's number."""
        return self.kill / f"{run_id} {task_id}"

    def states(self, dag: str, run_id: str) -> dict[str, str]:
        """Return each task's state."""
        return {task["task_id"]: task["state"] for task in self.api.task_instances(dag, run_id)}

    def log(self, dag: str, run_id: str, task_id: str) -> str:
        """Return a task's log as one text."""
        (task,) = [t for t in self.api.task_instances(dag, run_id) if t["task_id"] == task_id]
        return "\n".join(self.api.log(task))

    def redeclare(self, usecase: str, old: str, new: str) -> None:
        """Change a use case's file, as a person would with an editor."""
        file = self.usecases / usecase / "usecase.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def command(self) -> list[str]:
        """Return the start of a command line of include/."""
        return [str(stand_in()), "-m", "include"]


@contextmanager
def running() -> Iterator[House]:
    """Start the stack with the use cases' files and copies of them, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="evergreen-e2e-"))  # pytest's own is closed to PostgreSQL's user
    made = House(folder)
    made.usecases.mkdir()
    made.kill.mkdir()
    world.write(made.shop, WEEKS)
    rides.write_sparse(made.taxis, HOURS)
    start = 'start: "2024-01-01"'  # and an end, or this week's run of the unpaused DAG joins in
    ended = (start, f'{start}\n  end: "2024-12-30"')
    copy(made.usecases, "weekly_killed", ended)
    approved = ("  block_partitions: 1", "  block_partitions: 1\n  approval: all")
    copy(made.usecases, "weekly_asking", ended, approved, *LIGHT)
    copy(made.usecases, BUTTONS, ended, approved, *LIGHT)
    copy(made.usecases, STORY, ended, *PLOT)
    # batch, without an end and without a file: its newest partition is overdue as soon as it is scheduled
    copy(made.usecases, LATE, *OVERDUE)
    copy(made.usecases, FORMS, ended, *LIGHT)
    copy(made.usecases, EVENTS, ended, *WOKEN)
    shards = ("scoring:\n", "scoring:\n  shards: 3\n")
    copy(made.usecases, SHARDED, ended, ("  lookback: 4", "  lookback: 4\n  entity: [store]"), shards, *LIGHT)
    workers = (
        "estimator: hist_gradient_boosting, params: {max_iter: 60, min_samples_leaf: 10}",
        "estimator: xgboost, params: {n_estimators: 30}, engine: dask",
    )
    copy(made.usecases, WORKERS, ended, workers)
    sparse = ('available_at: "-3m"', 'available_at: "-3m"\n    sparse: true')
    copy(made.usecases, SPARSE, ("counts/{", "sparse/{"), sparse, of="hourly_rides")
    copy(made.usecases, "weekly_mistyped", ("objective: squared_error", "objectiv: squared_error"))
    before = dict(os.environ)
    try:
        made.stack.up(name for name in ALL if name not in ("landing", "weather"))  # nobody asks for flights
        os.environ.update(made.stack.environment())
        weekly = ("weekly_sales", "weekly_killed", "weekly_asking", STORY, FORMS, BUTTONS, SHARDED, WORKERS)
        for usecase in (*weekly, SPARSE, "columbia_minutes"):
            for clock in ("batch", "training", "history", "operate"):
                made.api.wait_dag(f"{usecase}__{clock}", timeout=PATIENCE)
                made.api.unpause(f"{usecase}__{clock}")
        yield made
    finally:
        os.environ.clear()
        os.environ.update(before)
        made.stack.down()
        shutil.rmtree(folder)
