"""The Kafka connector: a partition is the messages whose timestamps are in its interval of a topic.

The interval goes from the previous partition's ``available_at`` up to the partition's own, so each message
belongs to exactly one partition. No offset is committed: what was read is known from the stored snapshot.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from include.environment import Endpoint
from include.errors import PYTHON, SettingError
from include.ingest.connectors.request import Fetcher, Part, Request, TransientError, with_retries
from include.spec.source import BaseSource

if TYPE_CHECKING:
    from confluent_kafka import Consumer, TopicPartition

log = logging.getLogger(__name__)

# How far messages may be out of the order of their timestamps. Kafka refuses a timestamp that is further
# ahead of the broker's clock (message.timestamp.after.max.ms).
DISORDER = timedelta(hours=1)
POLL_MESSAGES, POLL_SECONDS = 1000, 0.1  # of a poll, whichever comes first
LOGGED = 200  # characters of a malformed message
Messages = dict[int, list[tuple[int, bytes]]]  # offset and value, by the number of the topic's partition


class KafkaSource(BaseSource):
    """The messages of a topic, each a JSON object, by their timestamps."""

    kind: Literal["kafka"]
    topic: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="each message is a JSON object")

    @property
    def part_format(self) -> Literal["json"]:
        """Return the format of the messages."""
        return "json"


def open_source(source: KafkaSource, endpoint: Endpoint) -> Fetcher:
    """Return a function that reads a partition's messages: a part for each of the topic's partitions.

    A part is named by the offsets of its first and last message, as ``rides-0@120..179.json``. A tombstone
    isn't a row. A message that isn't a JSON object is logged, and is a row of nulls, which the contract
    quarantines: otherwise it would refuse its partition for good, because a topic can't be corrected.

    Raises
    ------
    SettingError
        without the package, or for a connection that isn't one of Kafka.
    """
    configuration = consumer_configuration(endpoint)

    def fetch(request: Request) -> Iterator[Part]:
        read = partial(_read_messages, request, source.topic, configuration)
        messages = with_retries(request, read, f"topic {source.topic}")
        if not any(messages.values()):
            raise request.not_available_yet(f"topic {source.topic}")
        for number in sorted(messages):
            if values := messages[number]:
                name = f"{source.topic}-{number}@{values[0][0]}..{values[-1][0]}.json"
                yield name, _to_json(request, name, values)

    return fetch


def consumer_configuration(endpoint: Endpoint) -> dict[str, Any]:
    """Return the settings of a client of librdkafka: those of the connection's extra, as in Airflow's hook.

    Raises
    ------
    SettingError
        without the package, or for a connection that a client can't be created from.
    """
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError:
        raise SettingError(
            "the package confluent-kafka",
            required="the extra `events`",
            found="none",
            remedy=f"install it: {PYTHON} -m pip install --require-hashes -r requirements-events.txt",
        ) from None
    configuration = {
        "group.id": "evergreen",
        **endpoint.extra,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "log_level": 0,  # its lines would repeat the address
    }
    try:
        if "bootstrap.servers" not in endpoint.extra:
            raise ValueError("no bootstrap.servers")
        Consumer(configuration).close()
    except (KafkaException, TypeError, ValueError):  # the text may repeat a password
        raise SettingError(
            f"connection {endpoint.name}",
            required='settings of librdkafka in its extra, such as {"bootstrap.servers": "kafka:9092"}',
            found="something else",
            remedy="correct the extra; the host and the password aren't used",
        ) from None
    return configuration


def _read_messages(request: Request, topic: str, configuration: dict[str, Any]) -> Messages:
    """Return the messages of a partition's interval in the order of their offsets."""
    since, until = map(_milliseconds, (request.since, request.known_at))
    messages: Messages = {}
    size = 0
    with _consumer(configuration) as consumer:
        unread = {position.partition: position for position in _start(consumer, request, topic, since)}
        consumer.assign(list(unread.values()))
        answered = time.monotonic()
        while unread:
            batch = consumer.consume(POLL_MESSAGES, timeout=POLL_SECONDS)
            if batch:
                answered = time.monotonic()
            elif time.monotonic() - answered > request.source.fetch.timeout:
                raise TransientError("no answer")
            for message in batch:
                number, value, at = message.partition(), message.value(), message.timestamp()[1]
                if number not in unread:
                    continue
                if _is_end(message) or at >= until + _milliseconds(DISORDER):
                    consumer.incremental_unassign([unread.pop(number)])
                elif since <= at < until and value is not None:
                    size += len(value) + len(",\n")
                    if size > request.source.fetch.max_bytes:
                        raise request.too_large(f"topic {topic}")
                    messages.setdefault(number, []).append((message.offset() or 0, value))
    return messages


def _start(consumer: Consumer, request: Request, topic: str, since: int) -> list[TopicPartition]:
    """Return where to begin in each partition of a topic that has a message since then."""
    from confluent_kafka import OFFSET_END, KafkaError, TopicPartition

    timeout = request.source.fetch.timeout
    metadata = consumer.list_topics(topic, timeout=timeout).topics[topic]
    if metadata.error is not None and metadata.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise request.unavailable("no topic of this name", f"topic {topic}")
    if metadata.error is not None:
        raise TransientError(metadata.error.name())
    times = [TopicPartition(topic, number, since) for number in metadata.partitions]
    positions = consumer.offsets_for_times(times, timeout=timeout)
    for position in positions:
        if position.error is not None:
            raise TransientError(position.error.name())
    return [position for position in positions if position.offset != OFFSET_END]


@contextmanager
def _consumer(configuration: dict[str, Any]) -> Iterator[Consumer]:
    """Yield a client; whatever fails in it is a `TransientError` without the broker's address."""
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer(configuration)
    try:
        yield consumer
    except KafkaException as error:
        raise TransientError(error.args[0].name()) from None
    finally:
        consumer.close()


def _is_end(message: Any) -> bool:
    """Return whether a message says that there are no more; raise a `TransientError` if it is an error."""
    from confluent_kafka import KafkaError

    error = message.error()
    if error is not None and error.code() != KafkaError._PARTITION_EOF:
        raise TransientError(error.name())
    return error is not None


def _milliseconds(value: datetime | timedelta) -> int:
    seconds = value.timestamp() if isinstance(value, datetime) else value.total_seconds()
    return int(seconds * 1000)


def _to_json(request: Request, name: str, messages: list[tuple[int, bytes]]) -> bytes:
    """Return a JSON list with a line for each message, as it came but for line breaks between its values."""
    columns = request.source.columns
    names = (name for own, column in columns.items() for name in column.names_in_source(own))
    nulls = json.dumps(dict.fromkeys(names)).encode()
    rows = (_row(request, name, *message) or nulls for message in messages)
    return b"[" + b",\n".join(rows) + b"]"


def _row(request: Request, name: str, offset: int, value: bytes) -> bytes:
    """Return a message on one line; log one that isn't a JSON object, and return nothing."""
    from include.ingest.parsing.parse import load_json

    try:
        if isinstance(load_json(value.decode().encode()), dict):
            return value.replace(b"\n", b" ").replace(b"\r", b" ")
    except ValueError:
        pass
    text = ascii(value[:LOGGED])
    log.warning("%s: %s: no JSON object at offset %d: %s", request.subject, name, offset, text)
    return b""
