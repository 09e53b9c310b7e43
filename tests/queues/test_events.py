"""What messages mean, and what the tasks around them do, without a queue."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    DagRunTriggerException,
)
from hypothesis import given
from hypothesis import strategies as st

from evergreen import queue_trigger
from evergreen.operators.events import CheckWatcherOperator, ReadMessagesOperator, StartPartitionOperator
from include.errors import PartitionError
from include.ops.events import HEARTBEAT, is_complete, meant_partition, read_message
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor.hook import Hook

USECASE = "weekly_sales"
NOW = datetime(2024, 3, 6, tzinfo=UTC)  # a Wednesday
KEY = "2024-03-04"


def publish(*products: str) -> None:
    """Mark products of a partition as published."""
    for product in products:
        row = schemas.partition_row(product, KEY, 1, "d", inputs={}, spec="s", code="c", note="n")
        table = pa.Table.from_pylist([row], schema=schemas.PARTITIONS)
        Lake(USECASE).publish("partitions", table, {"product": product, "partition": KEY})


@given(st.one_of(st.text(), st.binary().map(lambda b: b.decode("utf-8", "backslashreplace"))))
def test_any_message_is_a_short_hint(text: str) -> None:
    """Whatever a message is, what goes on from it is one word of ASCII, and no control character."""
    hint = read_message(text)
    assert set(hint) <= {"partition", "malformed"}
    for value in hint.values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value) < 12 * 200


def test_nesting_that_no_parser_takes_is_malformed() -> None:
    """A message can't stop the watcher by its depth."""
    assert set(read_message("[" * 100_000)) == {"malformed"}


def test_a_message_without_a_partition_means_the_newest_that_is_due(spec: UseCase) -> None:
    """After the schedule's end it is the last one."""
    assert meant_partition(spec, {}, NOW) == KEY
    ended = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"end": "2024-02-28"})})
    assert meant_partition(ended, {}, NOW) == "2024-02-26"
    with pytest.raises(PartitionError, match="still to come"):
        meant_partition(spec, {"partition": "2024-03-11"}, NOW)


def test_a_queue_is_no_part_of_what_results_depend_on(spec: UseCase) -> None:
    """Declaring one makes no partition stale."""
    without = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"events": None})})
    assert spec.digest == without.digest


def read(*payloads: dict[str, str]) -> list[str]:
    """Return the partitions of messages that arrived together."""
    events = [SimpleNamespace(extra={"payload": payload, "from_trigger": True}) for payload in payloads]
    # Airflow gives the first to the run; the others came while it was created
    later = SimpleNamespace(after=lambda since: events if since == NOW.isoformat() else None)
    queue = Asset("queue")
    context: Any = {"triggering_asset_events": {queue: events[:1]} if events else {}}
    context |= {"inlet_events": {queue: later}, "dag_run": SimpleNamespace(run_after=NOW)}
    return ReadMessagesOperator(task_id="read", usecase=USECASE, inlets=[queue]).execute(context)


def test_messages_that_arrive_together_are_read_together(spec: UseCase) -> None:
    """Each partition once, in order; what is malformed or still to come is left out."""
    hints = [{"partition": "2024-03-11"}, {"partition": KEY}, {"malformed": "'x'"}, {"partition": KEY}]
    assert read(*hints, {"partition": "2934-01-01"}, {"partition": "2024-03-05"}) == [KEY, "2024-03-11"]
    assert read() == [spec.clock.newest(datetime.now(UTC))]  # by hand
    assert read({"malformed": "'x'"}) == []


def test_a_flood_starts_the_newest_hundred(spec: UseCase) -> None:
    """The others are left to a backfill."""
    keys = spec.clock.keys("2024-01-01", "2026-11-01")
    assert read(*[{"partition": key} for key in reversed(keys)]) == keys[-100:]


def start(runs: int = 0, active: int = 0) -> Any:
    """Let the task decide about a partition for which messages started runs; return what it raises."""
    counts = SimpleNamespace(get_dr_count=lambda states=None, **more: active if states else runs)
    with pytest.raises((DagRunTriggerException, AirflowSkipException, AirflowFailException)) as raised:
        StartPartitionOperator(task_id="start", usecase=USECASE, partition=KEY).execute({"ti": counts})  # type: ignore[typeddict-item]
    return raised.value


def test_a_partition_is_started_until_it_is_complete(spec: UseCase) -> None:
    """It is once its source and its predictions are published, and not before."""
    for products in ((), ("sales",)):
        publish(*products)
        run = start(runs=2, active=2)
        assert (run.trigger_dag_id, run.dag_run_id) == ("weekly_sales__batch", f"event__{KEY}__2")
        assert run.conf == {"partition": KEY}
        assert not is_complete(Lake(USECASE), spec, KEY)
    publish("predictions")
    assert "is complete" in str(start())


def test_a_partition_that_never_gets_complete_is_started_a_limited_number_of_times(spec: UseCase) -> None:
    """Three at a time, a hundred in all; then the task is red."""
    assert "3 runs of 2024-03-04 that messages started haven't ended" in str(start(runs=5, active=3))
    failed = start(runs=100)
    assert isinstance(failed, AirflowFailException)
    assert "after 100 runs" in str(failed)


def check(attempt: int = 3, run_type: str = "scheduled") -> None:
    """Let the task check the watcher."""
    ti, run = SimpleNamespace(try_number=attempt, max_tries=2), SimpleNamespace(run_type=run_type)
    CheckWatcherOperator(task_id="check", usecase=USECASE).execute({"ti": ti, "dag_run": run})  # type: ignore[typeddict-item]


def test_a_watcher_that_is_missing_is_an_alert(spec: UseCase, hook: Hook) -> None:
    """After the last retry, once, whether it never reported or stopped to; not while it reports a problem."""
    with pytest.raises(AirflowException, match="nothing watches it"):
        check(attempt=2)
    assert hook.got == []
    check()
    check()
    ((_, _, body),) = hook.got
    assert "(queue): nothing watches it; unpause weekly_sales__events and check" in body["sentence"]
    lake, now = Lake(USECASE), datetime.now(UTC)
    heartbeat = {"at": (now - timedelta(minutes=20)).isoformat(), "problem": ""}
    lake.replace(HEARTBEAT, json.dumps(heartbeat).encode())
    check()
    assert f"since {now - timedelta(minutes=20):%Y-%m-%d %H:%M} UTC: nothing" in hook.got[-1][2]["sentence"]
    # the watcher alerts of the queue that it can't reach
    heartbeat = {"at": (now - timedelta(minutes=10)).isoformat(), "problem": "ConnectionError"}
    lake.replace(HEARTBEAT, json.dumps(heartbeat).encode())
    check()
    assert len(hook.got) == 2


def test_an_outage_is_one_alert_however_long_it_lasts(spec: UseCase, hook: Hook) -> None:
    """The partitions that come meanwhile, and another problem of the same outage, notify nobody again."""
    hook.statuses, since = [200, 500, 200], NOW - timedelta(days=20)
    assert queue_trigger.notify_outage(USECASE, "TimeoutError", since)
    assert queue_trigger.notify_outage(USECASE, "ConnectionError", since)
    ((_, _, body),) = hook.got
    assert body["partition"] == spec.clock.newest(since)  # and not the newest one of each try
    # another outage, and the webhook refuses
    assert not queue_trigger.notify_outage(USECASE, "ConnectionError", NOW)
    assert queue_trigger.notify_outage(USECASE, "ConnectionError", NOW)
    assert len(hook.got) == 3


def test_a_watcher_that_never_ran_is_alerted_once_in_the_quiet_period(
    spec: UseCase, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each partition checks it, under a name of its own."""

    class Clock(datetime):
        moment = NOW

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return cls.moment

    monkeypatch.setattr(queue_trigger, "datetime", Clock)
    for partitions in range(spec.alerts.quiet + 2):
        Clock.moment = NOW + partitions * timedelta(days=7)
        assert queue_trigger.notify_outage(USECASE, "nothing watches it", None)
    assert len(hook.got) == 2


def test_only_a_scheduled_run_checks_the_watcher(spec: UseCase, hook: Hook) -> None:
    """A backfill notifies nobody."""
    with pytest.raises(AirflowSkipException):
        check(run_type="backfill")
    assert hook.got == []
