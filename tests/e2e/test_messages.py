"""Messages through a real Airflow: a partition runs once, and a server that is killed is an alert."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis as client

from demo.airflow_api import POLL, AirflowApi
from demo.home import Home
from demo.servers import ALL
from demo.stack import Stack
from include.ops.events import HEARTBEAT
from include.storage.lake import Lake
from tests.house import PATIENCE, ROOT
from tests.monitor.hook import Hook, serving
from tests.queues.servers import free_port, needs_redis, redis
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(1800), needs_redis]
USECASE = "weekly_events"
ENDED = ("success", "skipped", "failed")
BATCH, EVENTS = f"{USECASE}__batch", f"{USECASE}__events"
DECLARED = (
    ("name: weekly_sales", f"name: {USECASE}"),
    (
        'start: "2024-01-01"',
        'start: "2024-01-01"\n  end: "2024-12-30"\n'
        "  events: {kind: redis, connection: queue, queue: ready, alert_after: 0}",
    ),
    ("\nscoring:", "\nalerts: {to: [ops]}\n\nscoring:"),
)


@dataclass
class Site:
    """A running Airflow with a use case that waits for messages on Redis."""

    folder: Path
    port: int
    api: AirflowApi
    hook: Hook
    servers: list[Any] = field(default_factory=list)

    def publish(self, *messages: bytes) -> None:
        """Publish messages, once somebody listens."""
        server = client.Redis(port=self.port)
        for message in messages:
            soon(lambda m=message: server.publish("ready", m), "subscription")

    def runs(self, dag: str) -> dict[str, str]:
        """Return the state of each run of a DAG."""
        runs = self.api.call("GET", f"/dags/{dag}/dagRuns", params={"limit": 100})["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def outages(self) -> list[str]:
        """Return the sentence of each alert that no message can arrive."""
        told = [message for *_, message in self.hook.got]
        return [m["sentence"] for m in told if m["findings"] and m["findings"][0]["check"] == "events"]

    def logs(self, task: str) -> str:
        """Return the logs of a task of all runs of the events DAG."""
        tasks = [
            one
            for run in self.runs(EVENTS)
            for one in self.api.task_instances(EVENTS, run)
            if one["state"] in ENDED
        ]
        return "\n".join(line for one in tasks if one["task_id"] == task for line in self.api.log(one))


def soon(look: Callable[[], Any], what: str) -> Any:
    """Return what a look finds, once it finds something."""
    until = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < until, f"after {PATIENCE} s: no {what}"
        time.sleep(POLL)
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Start the stack, without Redis."""
    folder = Path(tempfile.mkdtemp(prefix="evergreen-events-"))  # pytest's own is closed to PostgreSQL's user
    hook, port, before = Hook(), free_port(), dict(os.environ)
    declared = shutil.copytree(Path(world.__file__).parent, folder / "usecases" / USECASE) / "usecase.yaml"
    text = declared.read_text()
    for old, new in DECLARED:
        assert old in text
        text = text.replace(old, new, 1)
    declared.write_text(text)
    world.write(folder / "shop", 6)
    home = Home(folder / "home")
    stack = Stack(
        home,
        env={
            "PYTHONPATH": str(ROOT),
            "EVERGREEN_USECASES": str(folder / "usecases"),
            "AIRFLOW_CONN_SHOP": world.connection(folder / "shop"),
            "AIRFLOW_CONN_QUEUE": json.dumps({"conn_type": "redis", "host": "127.0.0.1", "port": port}),
            "AIRFLOW_CONN_OPS": json.dumps({"conn_type": "http", "host": hook.uri}),
        },
    )
    with ExitStack() as servers:
        servers.callback(shutil.rmtree, folder)
        servers.enter_context(contextmanager(serving)(hook))
        servers.callback(stack.down)
        stack.up(name for name in ALL if name not in ("landing", "weather"))
        servers.callback(_restore, before)
        os.environ.update(stack.environment())
        running = Site(folder, port, AirflowApi.of(home), hook)
        for dag in (BATCH, EVENTS):
            running.api.wait_dag(dag, timeout=PATIENCE)
            running.api.unpause(dag)
        yield running


def test_a_message_starts_its_partition_once(site: Site) -> None:
    """Messages of every kind, between an alert about a server that isn't there and one that is killed."""
    lake = Lake(USECASE, "s3://lake")
    soon(site.outages, "alert about a server that was never there")
    with redis(site.folder, site.port) as (process, _):
        site.publish(b"2024-01-15")
        begin = time.monotonic()
        soon(lambda: site.runs(BATCH).get("event__2024-01-15__0") == "success", "run of the partition")
        print(f"{time.monotonic() - begin:.1f} s from a message to the end of its run")
        rows = lake.rows("validated_sales")
        assert {row["partition"] for row in rows} == {"2024-01-15", *world.partitions(2)}
        site.publish(b"2024-01-15", b'{"partition": "2024-01-15"}', b"\xff\x1b", b"2034-01-02", b"2024-01-16")
        soon(lambda: "'\\\\xff\\x1b'" in site.logs("read_messages"), "log of the malformed message")
        soon(lambda: "one after schedule.end" in site.logs("read_messages"), "log of a later partition")
        soon(lambda: "a day on which it has none" in site.logs("read_messages"), "log of the wrong day")
        soon(lambda: "2024-01-15 is complete" in site.logs("start_partition"), "skipped duplicate")
        assert site.runs(BATCH) == {"event__2024-01-15__0": "success"}
        assert lake.rows("validated_sales") == rows
        site.publish(b"2024-04-01")  # its file comes later
        soon(lambda: site.runs(BATCH).get("event__2024-04-01__0") == "failed", "run without a file")
        # a server that comes and goes between two looks of the watch was never there
        soon(lambda: lake.get(HEARTBEAT), "look at the server that answers")
        alerted = len(site.outages())
        process.kill()
        soon(lambda: len(site.outages()) > alerted, "alert about the killed server")
    assert site.outages()[-1].endswith(" UTC: ConnectionError")
    with redis(site.folder, site.port):
        world.write(site.folder / "shop", 14)
        site.publish(b"2024-04-01")
        soon(lambda: site.runs(BATCH).get("event__2024-04-01__1") == "success", "second run")


def _restore(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)
