"""A person acknowledges or mutes an alert by the form; nobody is notified of it, and the ledger has why."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from evergreen.operators.monitor import AlertOperator
from evergreen.operators.operate import OperateOperator
from include.errors import EvergreenError
from include.monitor.silences import AlertLog, alert_name
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.hook import Hook

DAYS = [f"2024-01-{day:02}" for day in range(25, 32)]
STOPS, TEMP = ("data", "stops"), ("missing", "temp")


@pytest.fixture
def lake(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Return an empty lake of a use case that notifies the webhook."""
    (tmp_path / "usecases").mkdir()
    machines.spec(tmp_path / "usecases", retraining="{}\nalerts: {to: [ops]}")
    monkeypatch.setenv("AIRFLOW_CONN_OPS", json.dumps({"conn_type": "http", "host": hook.uri}))
    monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
    return Lake("machines")


def monitored(lake: Lake, partition: str, *alarms: tuple[str, str]) -> None:
    """Publish a monitored partition with these alarms, all of which its decision alerts."""
    items = [
        {
            "check": check,
            "subject": subject,
            "value": 1.0,
            "threshold": 0.1,
            "note": partition,
        }
        for check, subject in alarms
    ]
    rows = [{"partition": partition, "outcome": "alarm", **item} for item in items]
    lake.publish("findings", pa.Table.from_pylist(rows, schemas.FINDINGS), {"partition": partition})
    row = {"product": "monitor", "partition": partition, "outcome": "published"}
    lake.publish("partitions", pa.Table.from_pylist([row], schemas.PARTITIONS), row)
    row = {"partition": partition, "decision": "alert", "reason": "alerts", "alerts": json.dumps(items)}
    table = pa.Table.from_pylist([row], schemas.DECISIONS)
    lake.publish("decisions", table, {"partition": partition})


def notify(partition: str) -> str:
    """Run the alert task; return why it was skipped, empty where it wasn't."""
    run = SimpleNamespace(partition_key=partition, run_type="scheduled")
    try:
        AlertOperator(task_id="alert", usecase="machines").execute({"dag_run": run, "params": {}})  # type: ignore[typeddict-item]  # all that it reads
    except AirflowSkipException as skipped:
        return str(skipped)
    return ""


def act(action: str, alert: tuple[str, str], until: str = "", by: str = "ada", run: str = "") -> str:
    """Run the form's action; return the note of its result."""
    form = {"action": action, "reason": "planned work", "alert": alert_name(*alert), "partition": until}
    context: Any = {
        "params": form,
        "dag_run": SimpleNamespace(triggering_user_name=by),
        "run_id": run or f"{action} {alert} {until}",
        "ti": SimpleNamespace(xcom_push=lambda *_: None),
    }
    return str(OperateOperator(task_id="operate", usecase="machines").execute(context)["note"])


def sent(hook: Hook) -> list[tuple[str, list[str]]]:
    """Return the partition and the subjects of each message that arrived."""
    return [(body["partition"], [item["subject"] for item in body["findings"]]) for *_, body in hook.got]


def test_an_acknowledged_alert_is_not_sent_again_while_it_persists(lake: Lake, hook: Hook) -> None:
    """It is sent again once the alarm has been gone for a partition; another alert of the check is sent."""
    monitored(lake, DAYS[0], STOPS)
    assert notify(DAYS[0]) == ""
    assert act("acknowledge", STOPS) == "data: stops acknowledged by ada: planned work"
    monitored(lake, DAYS[1], STOPS)
    why = "nobody is notified: data: stops acknowledged by ada: planned work"
    assert notify(DAYS[1]) == why
    monitored(lake, DAYS[2], STOPS, ("data", "readings"))
    assert notify(DAYS[2]) == ""
    monitored(lake, DAYS[3])
    monitored(lake, DAYS[4], STOPS)
    assert notify(DAYS[4]) == ""
    assert sent(hook) == [(DAYS[0], ["stops"]), (DAYS[2], ["readings"]), (DAYS[4], ["stops"])]
    assert hook.got[1][2]["sentence"].endswith("(acknowledged or muted: data: stops)")


def test_an_acknowledgement_outlasts_a_partition_without_rows(lake: Lake, hook: Hook) -> None:
    """A partition that was scored without rows neither ends an alarm nor closes its alert."""
    monitored(lake, DAYS[0], STOPS)
    assert notify(DAYS[0]) == ""
    act("acknowledge", STOPS)
    monitored(lake, DAYS[1])
    row = {"product": "predictions", "partition": DAYS[1], "outcome": "published", "rows": 0}
    lake.publish("partitions", pa.Table.from_pylist([row], schemas.PARTITIONS), {"product": "predictions"})
    assert [alert.partitions for alert in AlertLog(lake).open_alerts()] == [(DAYS[0],)]
    monitored(lake, DAYS[2], STOPS)
    assert notify(DAYS[2]).startswith("nobody is notified: data: stops acknowledged by ada")
    assert [alert.partitions for alert in AlertLog(lake).open_alerts()] == [(DAYS[0], DAYS[2])]
    assert sent(hook) == [(DAYS[0], ["stops"])]


def test_a_muted_alert_is_not_sent_until_its_last_partition(lake: Lake, hook: Hook) -> None:
    """The mute outlasts a partition without the alarm; an earlier date ends it."""
    monitored(lake, DAYS[0], STOPS)
    assert act("mute", STOPS, until=DAYS[3]).startswith(f"data: stops muted until {DAYS[3]} by ada")
    monitored(lake, DAYS[1])
    for partition in DAYS[2:5]:
        monitored(lake, partition, STOPS)
        notify(partition)
    assert sent(hook) == [(DAYS[4], ["stops"])]
    act("mute", STOPS, until=DAYS[6])
    monitored(lake, DAYS[5], STOPS)
    assert act("mute", STOPS, until=DAYS[0]).startswith("data: stops no longer muted, by ada")
    assert notify(DAYS[5]) == ""


def test_to_acknowledge_after_sending_sends_nothing_again(lake: Lake, hook: Hook) -> None:
    """The task that runs again for the same partition doesn't take the rest of its message for a new one."""
    monitored(lake, DAYS[0], STOPS, TEMP)
    notify(DAYS[0])
    act("acknowledge", STOPS)
    assert notify(DAYS[0]) == ""
    assert sent(hook) == [(DAYS[0], ["stops", "temp"])]


def test_partitions_may_be_sent_in_any_order(lake: Lake, hook: Hook) -> None:
    """Whether a partition's alert is silenced depends on the partitions, not on when its task runs."""
    monitored(lake, DAYS[0], STOPS)
    act("acknowledge", STOPS)
    for partition in DAYS[1:4]:
        monitored(lake, partition, *([] if partition == DAYS[2] else [STOPS]))
    assert [bool(notify(DAYS[3])), bool(notify(DAYS[1]))] == [False, True]
    assert sent(hook) == [(DAYS[3], ["stops"])]


def test_open_alerts_have_the_partitions_without_a_break(lake: Lake) -> None:
    """Neither an alarm that is over nor one that notifies nobody, such as drift, is an open alert."""
    monitored(lake, DAYS[0], TEMP)
    monitored(lake, DAYS[1], STOPS)
    monitored(lake, DAYS[3], TEMP, ("drift", "temp"))
    monitored(lake, DAYS[2], TEMP)  # out of order
    (alert,) = AlertLog(lake).open_alerts()
    assert (alert.key, alert.partitions, alert.note) == (TEMP, (DAYS[2], DAYS[3]), DAYS[3])


def test_the_ledger_has_one_row_per_request(lake: Lake) -> None:
    """A run that is cleared records nothing twice."""
    monitored(lake, DAYS[0], STOPS)
    assert act("acknowledge", STOPS, run="r") == act("acknowledge", STOPS, run="r")
    (row,) = lake.rows("silences")
    assert (row["by"], row["reason"], row["partition"]) == ("ada", "planned work", DAYS[0])


def test_only_a_named_person_silences_an_open_alert(lake: Lake) -> None:
    """A refusal names what is open, the field that is missing or the schedule, and records nothing."""
    with pytest.raises(EvergreenError, match=r"found no open alert .*; there is nothing to do until"):
        act("acknowledge", STOPS)
    monitored(lake, DAYS[0], STOPS)
    with pytest.raises(
        EvergreenError, match="expected an open alert, but found open or silenced ones: data: stops"
    ):
        act("acknowledge", TEMP)
    with pytest.raises(
        EvergreenError, match="found an alarm of drift, which raises no alert and notifies nobody"
    ):
        act("acknowledge", ("drift", "temp"))
    with pytest.raises(AirflowFailException, match="mute: expected Partition, but found an empty field"):
        act("mute", STOPS)
    with pytest.raises(AirflowFailException, match="expected a date such as"):
        act("mute", STOPS, until="tomorrow")
    with pytest.raises(AirflowFailException, match="acknowledge: expected a person"):
        act("acknowledge", STOPS, by="")
    assert lake.rows("silences") == []
