"""A topic as a source, on a real broker: each message is in the tables once, in the partition of its time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from random import Random
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, Consumer

from include.environment import Connect, Endpoint
from include.errors import SettingError, SourceUnavailable
from include.ingest.connectors import open_source
from include.ingest.connectors.request import request
from include.ingest.pipeline import Outcome, ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.snapshots import snapshots
from tests.queues.conftest import endpoint, rides
from tests.queues.servers import Kafka, Message
from tests.usecases.hourly_rides import world

HOURS = 4
KEYS = world.partitions(HOURS, first=1)
SECRET = "s3cr3t-passw0rd"
Declare = Callable[..., UseCase]


def second(spec: UseCase, key: str, at: float = -60) -> float:
    """Return a time in seconds since 1970, counted from a partition's `available_at`."""
    return request(spec, "counts", key).known_at.timestamp() + at


def hour(spec: UseCase, number: int) -> list[Message]:
    """Return an hour's messages, in three partitions, at times all over the hour and in no order."""
    random, key = Random(number), KEYS[number - 1]
    return [
        (second(spec, key, -random.uniform(1, 3599)), place % 3, value)
        for place, value in enumerate(rides(number))
    ]


def rows(lake: Lake) -> list[tuple[str, str, int]]:
    """Return the partition, zone and rides of every row in the table, sorted."""
    return sorted((row["partition"], row["zone"], row["rides"]) for row in lake.rows("validated_counts"))


def expected(numbers: Sequence[int]) -> list[tuple[str, str, int]]:
    """Return what that must be after some hours."""
    messages = [(KEYS[number - 1], json.loads(value)) for number in numbers for value in rides(number)]
    return sorted((key, row["zone"], int(row["rides"])) for key, row in messages)


def results(outcomes: Sequence[Outcome]) -> list[tuple[str, int, int]]:
    """Return the outcome, rows and quarantined rows of each partition."""
    return [(outcome.outcome, outcome.rows, outcome.quarantined) for outcome in outcomes]


@pytest.mark.full
def test_each_message_is_in_the_tables_once(
    broker: Kafka, topic: str, declare: Declare, lake: Lake, connect: Connect
) -> None:
    """However often partitions run and in whatever order, a row is in the partition of its message's time."""
    spec, numbers = declare(), range(1, HOURS + 1)
    broker.send(topic, list(chain.from_iterable(hour(spec, number) for number in numbers)))
    now = datetime.now(UTC)
    for order in (KEYS[::-1], KEYS, KEYS[1:]):
        for key in order:
            (outcome,) = ingest(lake, spec, "counts", [key], connect, refetch=order == KEYS, now=now)
            assert results([outcome]) == [("published", len(world.ZONES), 0)], outcome.note
    assert rows(lake) == expected(numbers)
    stored = snapshots(lake, "counts", KEYS)
    assert [len(revisions) for revisions in stored.values()] == [1] * HOURS
    first = f"{topic}-0@0..1.json"  # of six messages an hour, two are in each partition of the topic
    assert stored[KEYS[0]][0].parts[0].name == first


def test_a_boundary_belongs_to_the_later_partition(
    broker: Kafka, topic: str, declare: Declare, lake: Lake, connect: Connect
) -> None:
    """A partition has the messages from the last one's `available_at` on, and before its own."""
    spec = declare()
    values = rides(2)
    times = [second(spec, KEYS[0], 0), second(spec, KEYS[1], -0.001), second(spec, KEYS[1], 0)]
    broker.send(topic, [(at, 0, value) for at, value in zip(times, values, strict=False)])
    fetch = open_source(spec.sources["counts"], connect("taxis"))
    ((name, data),) = fetch(request(spec, "counts", KEYS[1]))
    assert name == f"{topic}-0@0..1.json"
    assert json.loads(data) == [json.loads(value) for value in values[:2]]


def test_a_late_message_is_a_new_revision(
    broker: Kafka, topic: str, declare: Declare, lake: Lake, connect: Connect
) -> None:
    """What was read first stays, until a person refetches it; it is known from then on."""
    spec, key, now = declare(), KEYS[0], datetime.now(UTC)
    messages = hour(spec, 1)
    broker.send(topic, messages[1:])
    assert results(ingest(lake, spec, "counts", [key], connect, now=now)) == [("published", 5, 0)]
    broker.send(topic, messages[:1])
    assert results(ingest(lake, spec, "counts", [key], connect, now=now)) == [("published", 5, 0)]
    (refetched,) = ingest(lake, spec, "counts", [key], connect, refetch=True, now=now)
    assert results([refetched]) == [("published", 6, 0)]
    both = lake.rows("validated_counts")
    assert {(row["revision"], row["known_at"] == now) for row in both} == {(0, False), (1, True)}
    newest = [(key, row["zone"], row["rides"]) for row in both if row["revision"] == 1]
    assert sorted(newest) == expected([1])


def test_no_messages_are_no_data_yet(
    broker: Kafka, topic: str, declare: Declare, lake: Lake, connect: Connect
) -> None:
    """An interval without a message is as a file that isn't delivered yet; for a sparse source, 0 rows."""
    spec = declare()
    broker.send(topic, hour(spec, 2))
    (outcome,) = ingest(lake, spec, "counts", [KEYS[0]], connect)
    assert outcome.outcome == "unavailable"
    assert "nothing yet" in outcome.note
    sparse = declare(lambda counts: counts.update(sparse=True))
    assert results(ingest(lake, sparse, "counts", [KEYS[0]], connect)) == [("published", 0, 0)]


def test_a_malformed_message_is_quarantined(
    broker: Kafka,
    topic: str,
    declare: Declare,
    lake: Lake,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever isn't a JSON object costs its own row; the log has its offset and beginning, escaped."""
    spec = declare(lambda counts: counts.update(contract={"tolerance": 0.5, "min_rows": 1}))
    at = second(spec, KEYS[0])
    pretty = json.dumps(json.loads(rides(1)[0]), indent=1).encode()
    bad = [b"\xff\x1b[31m" + b"x" * 300, b"[1]", b"7 8", b"", b"[" * 100_000]
    values = [pretty, None, *rides(1)[1:], *bad]
    with caplog.at_level(logging.WARNING):
        broker.send(topic, [(at, 0, value) for value in values])
        (outcome,) = ingest(lake, spec, "counts", [KEYS[0]], connect)
    assert results([outcome]) == [("published", 6, 5)], outcome.note
    assert rows(lake) == expected([1])
    logged = [record.getMessage() for record in caplog.records if "no JSON object" in record.getMessage()]
    assert len(logged) == 5
    assert "offset 7: b'\\xff\\x1b[31mxxx" in logged[0]
    assert len(logged[0]) < 500


def test_a_topic_that_does_not_exist_is_an_outage(declare: Declare, lake: Lake, connect: Connect) -> None:
    """A wrong name isn't taken for a partition without data."""
    spec = declare(lambda counts: counts.update(topic="nowhere", sparse=True))
    (outcome,) = ingest(lake, spec, "counts", [KEYS[0]], connect)
    assert outcome.outcome == "unavailable"
    assert "found no topic of this name" in outcome.note


def test_a_broker_that_is_down_is_an_outage_without_its_address(
    broker: Kafka,
    declare: Declare,
    lake: Lake,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The error has the number of attempts and librdkafka's name of the error, and no address or password."""
    down = {"bootstrap.servers": "127.0.0.1:1", "sasl.password": SECRET}
    spec = declare(lambda counts: counts["fetch"].update(timeout=0.5))
    (outcome,) = ingest(lake, spec, "counts", [KEYS[0]], lambda name: Endpoint(name, "", extra=down))
    assert isinstance(outcome.error, SourceUnavailable)
    assert "_TRANSPORT, 2 times" in outcome.note
    printed = capfd.readouterr()
    assert not [t for t in (outcome.note, caplog.text, *printed) if SECRET in t or "127.0.0.1" in t]


@pytest.mark.parametrize(
    "extra",
    [{}, {"bootstrap.servers": "b:1", "no.such": SECRET}, {"bootstrap.servers": "b:1", "error_cb": SECRET}],
)
def test_a_connection_of_another_kind_is_named(extra: dict[str, Any], declare: Declare) -> None:
    """A setting that librdkafka refuses is an error of the connection, which doesn't repeat its value."""
    with pytest.raises(SettingError, match=r"connection taxis.*settings of librdkafka") as caught:
        open_source(declare().sources["counts"], Endpoint("taxis", "", extra=extra))
    assert SECRET not in str(caught.value)


def test_too_many_bytes_are_refused(
    broker: Kafka, topic: str, declare: Declare, lake: Lake, connect: Connect
) -> None:
    """`fetch.max_bytes` limits what all partitions of a topic have together."""
    spec = declare(lambda counts: counts["fetch"].update(max_bytes=300))
    broker.send(topic, hour(spec, 1))
    (outcome,) = ingest(lake, spec, "counts", [KEYS[0]], connect)
    assert outcome.outcome == "refused"
    assert "at most 300 bytes" in outcome.note


@pytest.mark.full
def test_a_partition_is_read_from_its_first_offset_to_an_hour_after_its_last(
    broker: Kafka,
    topic: str,
    declare: Declare,
    lake: Lake,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is before and behind isn't read, where a broker answers with exact offsets, as Kafka does.

    Tansu answers with the first offset of all.
    """
    spec = declare()
    messages = sorted((at, 0, value) for number in (1, 2, 3, 4) for at, _, value in hour(spec, number))
    broker.send(topic, messages)
    read = list[int]()

    class Exact(Consumer):  # type: ignore[misc]
        def offsets_for_times(self, places: Any, **more: Any) -> Any:
            since, answered = places[0].offset, super().offsets_for_times(places, **more)
            later = [n for n, (at, _, _) in enumerate(messages) if round(at * 1000) >= since]
            for place in answered:
                place.offset = later[0] if later and place.partition == 0 else OFFSET_END
            return answered

        def consume(self, *arguments: Any, **more: Any) -> Any:
            batch = super().consume(1, **more)
            read.extend(message.offset() for message in batch)
            return batch

    monkeypatch.setattr("confluent_kafka.Consumer", Exact)
    outcome = ingest(lake, spec, "counts", [KEYS[1]], connect)
    assert results(outcome) == [("published", 6, 0)]
    assert rows(lake) == expected([2])
    assert (read[0], read[-1]) == (6, 18)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_broker_that_is_killed_while_a_partition_is_read(
    broker: Kafka,
    topic: str,
    declare: Declare,
    lake: Lake,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed after the first messages, and is back for the next: the rows are there once."""
    spec = declare(lambda counts: counts["contract"].update(max_rows=10**6) or counts.update(key=["zone"]))
    key, count = KEYS[0], 20_000
    row = json.loads(rides(1)[0])
    messages = [
        (second(spec, key), place % 3, json.dumps({**row, "zone": f"z{place}"}).encode())
        for place in range(count)
    ]
    broker.send(topic, messages)
    deaths = list[int]()

    class Watched(Consumer):  # type: ignore[misc]
        def consume(self, number: int, **more: Any) -> Any:
            batch = super().consume(number, **more)
            if batch and not deaths:
                deaths.append(len(batch))
                broker.kill()
                broker.start()
            return batch

    monkeypatch.setattr("confluent_kafka.Consumer", Watched)
    (outcome,) = ingest(lake, spec, "counts", [key], connect)
    assert 0 < deaths[0] < count
    assert results([outcome]) == [("published", count, 0)], outcome.note
    assert {row["zone"] for row in lake.rows("validated_counts")} == {f"z{place}" for place in range(count)}
    later = datetime.now(UTC) + timedelta(minutes=1)
    ingest(lake, spec, "counts", [key], lambda name: endpoint(broker.connection), refetch=True, now=later)
    assert len(lake.rows("validated_counts")) == count
    assert len(snapshots(lake, "counts", [key])[key]) == 1
