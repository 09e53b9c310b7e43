"""The watched trigger, on real brokers: each message is a hint, and a queue that is gone is an alert."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis as client

from evergreen import queue_trigger
from evergreen.queue_trigger import QueueTrigger
from include.ops.events import HEARTBEAT
from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor.hook import Hook, serving
from tests.queues.servers import WAIT, Kafka, needs_redis, redis
from tests.stores import free_port

USECASE, SECRET = "weekly_sales", "s3cr3t-passw0rd"
# what is sent, and what it means
MESSAGES: Sequence[tuple[bytes, dict[str, str]]] = (
    (b"2024-03-04", {"partition": "2024-03-04"}),
    (b' {"partition": "2024-03-11", "by": "shop"} ', {"partition": "2024-03-11"}),
    (b'{"Records": [{"s3": {"object": {"key": "sales/2024-03-11.csv"}}}]}', {}),
    (b"\xff\xfe\x1b[31m" + b"x" * 300, {"malformed": "'\\\\xff\\\\xfe\\x1b[31m" + "x" * 187 + "'"}),
    (b'{"partition": ["2024-03-04"]}', {"malformed": """'{"partition": ["2024-03-04"]}'"""}),
    (b"next", {"malformed": "'next'"}),
    (b"", {}),
)


@pytest.fixture(autouse=True)
def _impatient(spec: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A declared queue, and a trigger that doesn't take minutes."""
    monkeypatch.setattr(queue_trigger, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(queue_trigger, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(queue_trigger, "TIMEOUT", 2.0)


def trigger(kind: str, queue: str = "ready", alert_after: float = 0) -> QueueTrigger:
    """Return the trigger as the triggerer makes it."""
    path, arguments = QueueTrigger(USECASE, kind, "queue", queue, alert_after).serialize()
    assert path == "evergreen.queue_trigger.QueueTrigger"
    return QueueTrigger(**arguments)


async def received(events: AsyncGenerator[Any], send: Callable[[], None]) -> Any:
    """Send something, and return what the next event says."""
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.to_thread(send)
    return (await asyncio.wait_for(waiting, WAIT)).payload


async def soon(look: Callable[[], Any]) -> Any:
    """Return what a look finds, once it finds something."""
    async with asyncio.timeout(WAIT):
        while not (found := await asyncio.to_thread(look)):
            await asyncio.sleep(0.02)
    return found


async def watching(trigger: QueueTrigger, look: Callable[[], Any]) -> None:
    """Let a trigger run until something was looked for."""
    events = trigger.run()
    waiting = asyncio.ensure_future(anext(events))
    try:
        await look()
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])
        await events.aclose()


def alerts(hook: Hook) -> list[str]:
    """Return the sentence of each alert."""
    return [body["sentence"] for _, _, body in hook.got]


@pytest.mark.full
@pytest.mark.timeout(600)
def test_messages_of_kafka_are_hints(broker: Kafka, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says which partition it means or none, whatever its bytes are, and none is met twice."""
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", broker.connection)
    broker.create("hints")

    async def run() -> list[dict[str, str]]:
        broker.send("hints", [(1, 0, value) for value, _ in MESSAGES[:-1]])
        broker.send("hints", [(1, 0, None)])
        async with aclosing(trigger("kafka", "hints").run()) as events:
            payloads = [(await asyncio.wait_for(anext(events), WAIT)).payload for _ in MESSAGES]
            await soon(lambda: Lake(USECASE).get(HEARTBEAT))
            return payloads

    assert asyncio.run(run()) == [hint for _, hint in MESSAGES]
    assert alerts(hook) == []


@needs_redis
def test_messages_of_redis_are_hints(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on a channel, where a message that isn't text would end Airflow's own trigger."""
    with redis(tmp_path) as (_, port):
        server = client.Redis(port=port)
        value = {"conn_type": "redis", "host": "127.0.0.1", "port": port}
        monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(value))

        def publish(message: bytes) -> None:
            while not server.publish("ready", message):  # nobody listens yet
                pass

        async def run() -> list[dict[str, str]]:
            async with aclosing(trigger("redis").run()) as events:
                return [await received(events, lambda m=message: publish(m)) for message, _ in MESSAGES]

        assert asyncio.run(run()) == [hint for _, hint in MESSAGES]
    assert alerts(hook) == []


DOWN = {
    "kafka": {"conn_type": "kafka", "extra": {"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}},
    "redis": {"conn_type": "redis", "host": "127.0.0.1", "port": 1, "password": SECRET},
    "sqs": {
        "conn_type": "aws",
        "login": "key",
        "password": SECRET,
        "extra": {"region_name": "us-east-1", "endpoint_url": "http://127.0.0.1:1"},
    },
}
QUEUES = {"sqs": "http://127.0.0.1:1/1/ready"}
PROBLEMS = {"kafka": "_TRANSPORT", "redis": "ConnectionError", "sqs": "EndpointConnectionError"}


@pytest.mark.full
@pytest.mark.parametrize("kind", DOWN)
def test_a_wrong_address_is_an_alert(
    kind: str, hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One alert, however long it lasts, names the connection and the kind of failure, and no secret."""
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(DOWN[kind]))
    probes = list[str]()
    watched = trigger(kind, QUEUES.get(kind, "ready"))
    problem = QueueTrigger._problem

    async def counted(self: QueueTrigger) -> str:
        probes.append(await problem(self))
        return probes[-1]

    monkeypatch.setattr(QueueTrigger, "_problem", counted)

    async def look() -> None:
        await soon(lambda: hook.got)
        seen = len(probes)
        await soon(lambda: len(probes) > seen + 2)

    asyncio.run(watching(watched, look))
    ((_, _, body),) = hook.got
    assert "no message can wake it from ready (queue) since " in body["sentence"]
    assert body["sentence"].endswith(f" UTC: {PROBLEMS[kind]}")
    assert set(probes) == {PROBLEMS[kind]}
    assert SECRET not in json.dumps(body) + caplog.text
    assert json.loads(Lake(USECASE).get(HEARTBEAT) or "")["problem"] == PROBLEMS[kind]


def test_a_topic_that_does_not_exist_is_an_alert(
    broker: Kafka, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that answers has to have the topic."""
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", broker.connection)

    asyncio.run(watching(trigger("kafka", "nowhere"), lambda: soon(lambda: hook.got)))
    assert alerts(hook)[0].endswith(" UTC: UNKNOWN_TOPIC_OR_PART")


@pytest.mark.full
def test_an_outage_shorter_than_declared_is_no_alert(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is notified within `alert_after`."""
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(DOWN["redis"]))
    seen = list[str]()
    problem = QueueTrigger._problem

    async def counted(self: QueueTrigger) -> str:
        seen.append(await problem(self))
        return seen[-1]

    monkeypatch.setattr(QueueTrigger, "_problem", counted)

    asyncio.run(watching(trigger("redis", alert_after=5), lambda: soon(lambda: len(seen) > 2)))
    assert alerts(hook) == []


@pytest.mark.full
def test_a_recipient_that_refuses_is_tried_less_and_less_often(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intervals double, so an outage that lasts for days leaves dozens of tries and not thousands."""
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(DOWN["redis"]))
    hook.statuses = [500]
    tries = list[float]()
    notify = queue_trigger.notify_outage

    def timed(*arguments: Any) -> bool:
        tries.append(time.monotonic())
        return notify(*arguments)

    async def problem(self: QueueTrigger) -> str:
        return "ConnectionError"  # at once: Redis' client itself takes seconds to give up

    monkeypatch.setattr(QueueTrigger, "_problem", problem)
    monkeypatch.setattr(queue_trigger, "notify_outage", timed)
    asyncio.run(watching(trigger("redis"), lambda: soon(lambda: len(tries) > 4)))
    for number, (earlier, later) in enumerate(pairwise(tries[:5])):
        assert later - earlier >= 0.1 * 2**number


@needs_redis
@pytest.mark.full
def test_a_killed_server_is_an_alert_and_wakes_again_when_it_is_back(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is killed again and again: each outage is an alert, and messages arrive after it."""
    port = free_port()
    value = {"conn_type": "redis", "host": "127.0.0.1", "port": port}
    monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(value))
    server = client.Redis(port=port)

    def publish(message: bytes) -> None:
        while not server.publish("ready", message):
            pass

    async def run() -> None:
        async with aclosing(trigger("redis").run()) as events:
            for _ in range(2):
                with redis(tmp_path, port) as (process, _):
                    assert await received(events, lambda: publish(b"2024-03-04")) == {
                        "partition": "2024-03-04"
                    }
                    alerted = len(hook.got)
                    process.kill()
                    waiting = asyncio.ensure_future(anext(events))
                    await soon(lambda n=alerted: len(hook.got) > n)
                    with redis(tmp_path, port):
                        await asyncio.to_thread(publish, b"2024-03-11")
                        assert (await asyncio.wait_for(waiting, WAIT)).payload == {"partition": "2024-03-11"}

    asyncio.run(run())
    begun = [body["findings"][0]["value"] for _, _, body in hook.got]
    assert len(set(begun)) == len(begun) >= 2


class Sqs(ThreadingHTTPServer):
    """As much of the API of SQS as the watcher calls."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _SqsHandler)
        self.waiting: list[str] = []
        self.uri = f"http://127.0.0.1:{self.server_port}"


class _SqsHandler(BaseHTTPRequestHandler):
    server: Sqs

    def do_POST(self) -> None:
        action = self.headers["X-Amz-Target"].removeprefix("AmazonSQS.")
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {}
        if action == "GetQueueAttributes":
            answer = {"Attributes": {"QueueArn": "arn:aws:sqs:us-east-1:1:ready"}}
        elif action == "ReceiveMessage":
            # one that isn't deleted is received again
            answer = {"Messages": [{"Body": body, "ReceiptHandle": body} for body in self.server.waiting[:2]]}
        else:
            assert action == "DeleteMessage"
            self.server.waiting.remove(request["ReceiptHandle"])
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.full
def test_messages_of_sqs_are_hints(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is deleted once its event is out, so it comes once."""
    for server in serving(Sqs()):
        extra = {"region_name": "us-east-1", "endpoint_url": server.uri}
        value = {"conn_type": "aws", "login": "key", "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_QUEUE", json.dumps(value))
        monkeypatch.setattr(queue_trigger, "SQS_SECONDS", 0.1)
        server.waiting = [message.decode() for message, _ in MESSAGES if message.isascii() and message]

        async def run(url: str, count: int) -> list[dict[str, str]]:
            async with aclosing(trigger("sqs", url).run()) as events:
                return [(await asyncio.wait_for(anext(events), WAIT)).payload for _ in range(count)]

        payloads = asyncio.run(run(f"{server.uri}/1/ready", len(server.waiting)))
        assert payloads == [hint for message, hint in MESSAGES if message.isascii() and message]
        assert len(server.waiting) == 1  # the last one's event wasn't taken up before the watcher ended
    assert alerts(hook) == []
