"""The trigger that waits for messages, and that alerts when none can arrive.

Airflow's own, `MessageQueueTrigger`, ends with each message. It then joins Kafka's group anew, which took 23
seconds, and misses what Redis publishes meanwhile. A message that isn't UTF-8 makes it fail again and again.
Airflow restarts a failed event trigger, and says so only in the triggerer's log; and Kafka's client doesn't
even fail when the broker is gone. So this trigger keeps its subscription, takes any bytes, and tries the
queue every minute. The connections are those of Airflow's providers. A DAG file imports this module, so it
must stay light.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

log = logging.getLogger(__name__)

PROBE_SECONDS = 60.0
POLL_SECONDS = 0.5
SQS_SECONDS = 5.0  # its requests cost
RETRY_SECONDS = 5.0  # until a failed subscription is tried again
HEARTBEAT_SECONDS = 300.0
LONGEST_SECONDS = 3600.0  # between two tries to notify a recipient that can't be reached
TIMEOUT = 10.0  # seconds for one answer


class QueueTrigger(BaseEventTrigger):
    """Fire for each message of a queue, with what it says, and alert when the queue can't be reached.

    :param usecase: the use case's name; its declaration is read when an alert is sent.
    :param kind: ``kafka``, ``redis`` or ``sqs``.
    :param connection: of Airflow.
    :param queue: the topic, the channel, or the queue's URL.
    :param alert_after: minutes.
    """

    def __init__(self, usecase: str, kind: str, connection: str, queue: str, alert_after: float) -> None:
        super().__init__()
        self.usecase, self.kind, self.connection, self.queue_name = usecase, kind, connection, queue
        self.alert_after = alert_after
        self.failure = ""  # of the subscription, since the last probe

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, for the triggerer."""
        return f"{type(self).__module__}.{type(self).__name__}", {
            "usecase": self.usecase,
            "kind": self.kind,
            "connection": self.connection,
            "queue": self.queue_name,
            "alert_after": self.alert_after,
        }

    async def run(self) -> AsyncGenerator[TriggerEvent]:
        """Yield an event for each message, for as long as the triggerer runs."""
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                try:
                    async with aclosing(self._receive()) as events:
                        async for event in events:
                            yield event
                except Exception as error:  # of any client; the watch reports it
                    self.failure = type(error).__name__
                    log.warning("%s: no messages from %s: %s", self.usecase, self.queue_name, self.failure)
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            watch.cancel()

    async def _receive(self) -> AsyncGenerator[TriggerEvent]:
        """Yield an event for each message, until the client fails."""
        from include.ops.events import read_message

        receivers = {"kafka": _receive_kafka, "redis": _receive_redis, "sqs": _receive_sqs}
        async with aclosing(receivers[self.kind](self.connection, self.queue_name)) as messages:
            async for message in messages:
                text = message if isinstance(message, str) else message.decode("utf-8", "backslashreplace")
                yield TriggerEvent(read_message(text))

    async def _watch(self) -> None:
        """Try the queue, report that this runs, and alert once if there is no answer for the declared time.

        A recipient that can't be reached is tried again at intervals that double.
        """
        since: datetime | None = None  # the beginning of the outage
        alerted, reported = False, ("", -HEARTBEAT_SECONDS)
        next_try, interval = 0.0, PROBE_SECONDS
        while True:
            problem = await self._problem() or self.failure
            self.failure = ""
            now = datetime.now(UTC)
            if problem:
                since = since or now
            else:
                since, alerted, next_try, interval = None, False, 0.0, PROBE_SECONDS
            late = since and now - since >= timedelta(minutes=self.alert_after)
            try:
                if problem != reported[0] or time.monotonic() - reported[1] >= HEARTBEAT_SECONDS:
                    await asyncio.to_thread(_report, self.usecase, now, problem)
                    reported = problem, time.monotonic()
                if since and late and not alerted and time.monotonic() >= next_try:
                    alerted = await asyncio.to_thread(notify_outage, self.usecase, problem, since)
                    next_try = time.monotonic() + interval
                    interval = min(2 * interval, LONGEST_SECONDS)
            except Exception as error:  # of the lake: it is tried again
                why = type(error).__name__
                log.warning("%s: can't write the heartbeat or alert, tries again: %s", self.usecase, why)
            await asyncio.sleep(PROBE_SECONDS)

    async def _problem(self) -> str:
        """Return what keeps the queue from answering, without its address; empty if it answers."""
        probe = {"kafka": _probe_kafka, "redis": _probe_redis, "sqs": _probe_sqs}[self.kind]
        try:
            answer = asyncio.to_thread(probe, self.connection, self.queue_name)
            return await asyncio.wait_for(answer, 3 * TIMEOUT)
        except Exception as error:  # its text may have an address or a password
            return type(error).__name__


async def _receive_kafka(connection: str, topic: str) -> AsyncGenerator[bytes]:
    from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
    from confluent_kafka import KafkaException

    consumer = await asyncio.to_thread(KafkaConsumerHook([topic], connection).get_consumer)
    try:
        while True:
            message = await asyncio.to_thread(consumer.poll, 0)
            if message is None:
                await asyncio.sleep(POLL_SECONDS)
                continue
            if message.error():
                raise KafkaException(message.error())
            yield message.value() or b""
            consumer.commit(message=message, asynchronous=True)
    finally:
        await asyncio.to_thread(consumer.close)


async def _receive_redis(connection: str, channel: str) -> AsyncGenerator[bytes | str]:
    subscription = await asyncio.to_thread(_subscribe_redis, connection, channel)
    try:
        while True:
            message = await asyncio.to_thread(subscription.get_message)
            if message is None:
                await asyncio.sleep(POLL_SECONDS)
            else:
                yield message["data"]
    finally:
        await asyncio.to_thread(subscription.close)


def _subscribe_redis(connection: str, channel: str) -> Any:
    from airflow.providers.redis.hooks.redis import RedisHook

    subscription = RedisHook(redis_conn_id=connection).get_conn().pubsub(ignore_subscribe_messages=True)
    subscription.subscribe(channel)
    subscription.get_message(timeout=TIMEOUT)  # the server's answer
    return subscription


async def _receive_sqs(connection: str, url: str) -> AsyncGenerator[str]:
    from airflow.providers.amazon.aws.hooks.sqs import SqsHook

    client = await asyncio.to_thread(SqsHook(aws_conn_id=connection).get_conn)
    receive = partial(client.receive_message, QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
    while True:
        messages = (await asyncio.to_thread(receive)).get("Messages", [])
        for message in messages:
            yield message["Body"]
            handle = message["ReceiptHandle"]
            await asyncio.to_thread(client.delete_message, QueueUrl=url, ReceiptHandle=handle)
        if not messages:
            await asyncio.sleep(SQS_SECONDS)


def _probe_kafka(connection: str, topic: str) -> str:
    from airflow.providers.apache.kafka.hooks.consume import KafkaConsumerHook
    from confluent_kafka import KafkaException

    # a consumer: the request of an administrator's client would create the topic
    consumer = KafkaConsumerHook([topic], connection).get_conn
    try:
        failed = consumer.list_topics(topic, timeout=TIMEOUT).topics[topic].error
    except KafkaException as error:
        return str(error.args[0].name())
    finally:
        consumer.close()
    return str(failed.name()) if failed else ""


def _probe_redis(connection: str, channel: str) -> str:
    from airflow.providers.redis.hooks.redis import RedisHook

    RedisHook(redis_conn_id=connection).get_conn().ping()
    return ""


def _probe_sqs(connection: str, url: str) -> str:
    from airflow.providers.amazon.aws.hooks.sqs import SqsHook

    SqsHook(aws_conn_id=connection).get_conn().get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return ""


def _report(usecase: str, now: datetime, problem: str) -> None:
    from include.ops.events import HEARTBEAT
    from include.storage.lake import Lake

    heartbeat = {"at": now.isoformat(), "problem": problem}
    Lake(usecase).replace(HEARTBEAT, json.dumps(heartbeat).encode())


def notify_outage(usecase: str, problem: str, since: datetime | None) -> bool:
    """Alert each recipient that messages can't arrive, and return whether all were notified.

    An outage of which no beginning is known is alerted once in `alerts.quiet` partitions.
    """
    from evergreen import alert_channels
    from evergreen.links import usecase_address
    from include.monitor.alerts import NOTIFIED, alert_key, deliveries
    from include.ops.events import outage_message
    from include.spec import load
    from include.storage.lake import Lake

    lake, spec = Lake(usecase), load(usecase)
    partition = spec.clock.newest(since or datetime.now(UTC))  # the same until the outage ends
    message = outage_message(spec, partition, problem, since, usecase_address(usecase))
    if since is None:
        own = {alert_key(item) for item in message["findings"]}
        recent = deliveries(lake, [spec.clock.shift(partition, -n) for n in range(1, spec.alerts.quiet + 1)])
        for delivery in chain.from_iterable(recent.values()):
            if delivery.outcome == NOTIFIED and own <= delivery.alerts:
                log.warning("%s: alerted on %s already", message["sentence"], delivery.partition)
                return True
    outcome, missed = alert_channels.notify(lake, spec, message, {})
    log.warning("%s", outcome)
    return not missed
