"""A broker for a file's tests, and the hourly rides as messages of its topics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.home import Home
from include.environment import Endpoint
from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor.hook import Hook, serving
from tests.queues.servers import Kafka, kafka
from tests.usecases.edited import read_edited
from tests.usecases.hourly_rides import world
from tests.usecases.weekly_sales import world as weekly

DECLARED = Path(world.__file__).parent


@pytest.fixture(scope="module")
def broker(s3: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A running broker."""
    with kafka(tmp_path_factory.mktemp("kafka"), s3) as running:
        yield running


@pytest.fixture
def topic(request: pytest.FixtureRequest, broker: Kafka) -> str:
    """A topic of the test's own, with three partitions."""
    name = f"rides.{request.node.name[:80]}".translate({ord(one): "-" for one in "[]"})
    broker.create(name, partitions=3)
    return name


@pytest.fixture
def declare(tmp_path: Path, topic: str) -> Callable[..., UseCase]:
    """Return hourly_rides with the topic as its source, as a test edits it."""

    def declared(edit: Callable[[dict[str, Any]], None] = lambda counts: None) -> UseCase:
        def from_topic(raw: dict[str, Any]) -> None:
            counts = raw["sources"]["counts"]
            del counts["path"]
            counts |= {"kind": "kafka", "topic": topic}
            edit(counts)

        return read_edited(DECLARED, tmp_path / "usecases", from_topic)

    return declared


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return an empty lake."""
    return Lake("hourly_rides", str(tmp_path / "lake"))


@pytest.fixture
def connect(broker: Kafka) -> Callable[[str], Endpoint]:
    """Return the way to the broker."""
    return lambda name: endpoint(broker.connection)


def endpoint(connection: str) -> Endpoint:
    """Return what a connection's JSON says."""
    return Endpoint("taxis", "", extra=json.loads(connection)["extra"])


def rides(hour: int) -> list[bytes]:
    """Return an hour's rows as messages, one a zone."""
    names = world.HEADER.split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in world.hour(hour)]
    return [json.dumps(row).encode() for row in rows]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """The recipient of alerts."""
    yield from serving(Hook())


@pytest.fixture
def spec(hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """weekly_sales with a queue and a recipient of alerts; what it has is found by its name too."""
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("AIRFLOW_CONN_OPS", json.dumps({"conn_type": "http", "host": hook.uri}))

    def with_queue(raw: dict[str, Any]) -> None:
        raw["schedule"]["events"] = {"kind": "kafka", "connection": "queue", "queue": "ready"}
        raw["alerts"] = {"to": ["ops"]}

    return read_edited(Path(weekly.__file__).parent, tmp_path / "usecases", with_queue)
