"""Messages through a real Airflow: a partition runs once, and a server that is killed is an alert."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis as client

from demo.airflow_api import POLL
from include.ops.events import HEARTBEAT
from tests.house import EVENTS, PATIENCE, House
from tests.monitor.hook import Hook, serving
from tests.queues.servers import needs_redis, redis
from tests.usecases.weekly_sales import world

pytestmark = [pytest.mark.airflow, pytest.mark.full, pytest.mark.timeout(1800), needs_redis]
ENDED = ("success", "skipped", "failed")
BATCH, READING = f"{EVENTS}__batch", f"{EVENTS}__events"


@dataclass
class Site:
    """A use case of the stack that waits for messages on Redis, and who is alerted."""

    house: House
    hook: Hook

    def publish(self, *messages: bytes) -> None:
        """Publish messages, once somebody listens."""
        server = client.Redis(port=self.house.queue)
        for message in messages:
            self.soon(lambda m=message: server.publish("ready", m), "subscription")

    def publish_until_read(self, message: bytes) -> None:
        """Publish a message, again each half minute: Redis keeps none for one who subscribes later."""
        before, published = len(self.runs(READING)), 0.0

        def read() -> bool:
            nonlocal published
            if time.monotonic() - published > 30:
                self.publish(message)
                published = time.monotonic()
            return len(self.runs(READING)) > before

        self.soon(read, "run that reads the message")

    def runs(self, dag: str) -> dict[str, str]:
        """Return the state of each run of a DAG."""
        runs = self.house.api.call("GET", f"/dags/{dag}/dagRuns", params={"limit": 100})["dag_runs"]
        return {run["dag_run_id"]: run["state"] for run in runs}

    def describe(self) -> str:
        """Return what a failure needs: who listens, and the runs with their tasks."""
        try:
            listening = client.Redis(port=self.house.queue).pubsub_numsub("ready")
        except client.ConnectionError as error:
            listening = [(str(error), 0)]
        tasks = {
            run: self.house.states(dag, run) | {"": state}
            for dag in (READING, BATCH)
            for run, state in self.runs(dag).items()
        }
        return f"listening: {listening}; runs: {tasks}"

    def soon(self, look: Callable[[], Any], what: str) -> Any:
        """Return what a look finds, once it finds something."""
        until = time.monotonic() + PATIENCE
        while not (found := look()):
            assert time.monotonic() < until, f"after {PATIENCE} s: no {what}; {self.describe()}"
            time.sleep(POLL)
        return found

    def outages(self) -> list[str]:
        """Return the sentence of each alert that no message can arrive."""
        told = [message for *_, message in self.hook.got]
        return [m["sentence"] for m in told if m["findings"] and m["findings"][0]["check"] == "events"]

    def logs(self, task: str) -> str:
        """Return the logs of a task of all runs of the events DAG."""
        tasks = [
            one
            for run in self.runs(READING)
            for one in self.house.api.task_instances(READING, run)
            if one["state"] in ENDED
        ]
        return "\n".join(line for one in tasks if one["task_id"] == task for line in self.house.api.log(one))


@pytest.fixture(scope="module")
def site(house: House) -> Iterator[Site]:
    """The use case, its DAGs and its alerts, without Redis."""
    for hook in serving(Hook()):
        desk = {"connection_id": "desk", "conn_type": "http", "host": hook.uri}
        house.api.call("POST", "/connections", json=desk)
        for dag in (BATCH, READING):
            house.api.wait_dag(dag, timeout=PATIENCE)
            house.api.unpause(dag)
        # Airflow starts the watchers of what isn't paused where it reads the file, here every five minutes
        token = house.api.call("GET", f"/dags/{READING}")["file_token"]
        house.api.call("PUT", f"/parseDagFile/{token}")
        yield Site(house, hook)
        house.api.call("PATCH", f"/dags/{READING}", json={"is_paused": True})


def test_a_message_starts_its_partition_once(site: Site) -> None:
    """Messages of every kind, between an alert about a server that isn't there and one that is killed."""
    lake, shop = site.house.lake(EVENTS), site.house.shop / "events"
    world.write(shop, 6)
    site.soon(site.outages, "alert about a server that was never there")
    with redis(site.house.folder, site.house.queue) as (process, _):
        site.publish(b"2024-01-15")
        begin = time.monotonic()
        site.soon(lambda: site.runs(BATCH).get("event__2024-01-15__0") == "success", "run of the partition")
        print(f"{time.monotonic() - begin:.1f} s from a message to the end of its run")
        rows = lake.rows("validated_sales")
        assert {row["partition"] for row in rows} == {"2024-01-15", *world.partitions(2)}
        site.publish(b"2024-01-15", b'{"partition": "2024-01-15"}', b"\xff\x1b", b"2034-01-02", b"2024-01-16")
        site.soon(lambda: "'\\\\xff\\x1b'" in site.logs("read_messages"), "log of the malformed message")
        site.soon(lambda: "one after schedule.end" in site.logs("read_messages"), "log of a later partition")
        site.soon(lambda: "a day on which it has none" in site.logs("read_messages"), "log of the wrong day")
        site.soon(lambda: "2024-01-15 is complete" in site.logs("start_partition"), "skipped duplicate")
        assert site.runs(BATCH) == {"event__2024-01-15__0": "success"}
        assert lake.rows("validated_sales") == rows
        site.publish(b"2024-04-01")  # its file comes later
        site.soon(lambda: site.runs(BATCH).get("event__2024-04-01__0") == "failed", "run without a file")
        # a server that comes and goes between two looks of the watch was never there
        site.soon(
            lambda: json.loads(lake.get(HEARTBEAT) or "{}").get("problem") == "",
            "look at the server that answers",
        )
        alerted = len(site.outages())
        process.kill()
        site.soon(lambda: len(site.outages()) > alerted, "alert about the killed server")
    assert site.outages()[-1].endswith(" UTC: ConnectionError")
    with redis(site.house.folder, site.house.queue):
        world.write(shop, 14)
        site.publish_until_read(b"2024-04-01")
        site.soon(lambda: site.runs(BATCH).get("event__2024-04-01__1") == "success", "second run")
