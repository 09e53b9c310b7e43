"""A partition's alerts reach those declared, once, by real servers on loopback.

What refuses fails no other task.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socketserver
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from evergreen.deadline import PredictionsDue, notify_overdue
from evergreen.operators.monitor import AlertOperator
from include.errors import StoreUnavailable
from include.monitor import alerts
from include.monitor.context import Finding, findings_table
from include.monitor.policy import publish_decisions
from include.spec import UseCase, load
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.hook import Hook, claim, serving

PARTITION, SECRET = "2024-01-25", "T0/B0/planted-secret"
FOUND = {"check": "data", "subject": "stops", "value": 1.0, "threshold": 0.1, "note": "stops is <refused>"}
Declare = Callable[..., Lake]


class Mail(socketserver.ThreadingTCPServer):
    """As much of a mail server as one message needs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Smtp)
        self.got: list[str] = []


class _Smtp(socketserver.StreamRequestHandler):
    server: Mail

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word = line.split()[0].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.server.got.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")


@pytest.fixture
def mail() -> Iterator[Mail]:
    """Return a mail server."""
    yield from serving(Mail())


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare whom to tell, by which connections, and publish a partition that tells something."""

    def act(**connections: dict[str, Any]) -> Lake:
        machines.spec(tmp_path / "usecases", retraining=f"{{}}\nalerts: {{to: {[*connections]}}}")
        for name, connection in connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        monkeypatch.setenv("EVERGREEN_USECASES", str(tmp_path / "usecases"))
        monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path / "lake"))
        lake = Lake("machines")
        decide(lake, [FOUND])
        return lake

    (tmp_path / "usecases").mkdir()
    return act


def decide(lake: Lake, alerts: list[dict[str, Any]]) -> None:
    """Publish the partition's decision."""
    row = {"partition": PARTITION, "decision": "alert", "cause": "", "reason": "alerts data stops"}
    table = pa.Table.from_pylist([{**row, "alerts": json.dumps(alerts)}], schema=schemas.DECISIONS)
    lake.publish("decisions", table, {"partition": PARTITION})


def tell(run_type: str = "scheduled", partition: str = PARTITION) -> str:
    """Run the task; return why it was skipped, empty where it wasn't.

    What the monitor would skip without running it has nothing to send, and nothing to defer.
    """
    run = SimpleNamespace(partition_key=partition, run_type=run_type)
    operator, lake = AlertOperator(task_id="alert", usecase="machines"), Lake("machines")
    decisions = lake.rows("decisions", {"partition": partition})
    is_needed = [
        operator.acts_on(decision, lake, load("machines"), is_backfill=run_type == "backfill")
        for decision in decisions
    ]
    try:
        operator.execute({"dag_run": run, "params": {}})  # type: ignore[typeddict-item]  # all that it reads
    except AirflowSkipException as error:
        why = str(error)
    else:
        why = ""
    assert is_needed in ([True], []) or why.startswith(("nothing to alert; ", "a backfilled "))
    return why


def outcomes(lake: Lake) -> dict[str, str]:
    """Return what became of the partition's message, by recipient."""
    return {
        delivery.recipient: delivery.outcome
        for delivery in alerts.deliveries(lake, [PARTITION]).get(PARTITION, [])
    }


def missed() -> str:
    """Run the task where a recipient can't be reached; return why it failed, which a retry may mend."""
    with pytest.raises(AirflowException) as failed:
        tell()
    assert not isinstance(failed.value, AirflowFailException | AirflowSkipException)
    return str(failed.value)


def test_a_webhook_is_told_once(declare: Declare, hook: Hook) -> None:
    """It gets use case, partition, sentence, findings and the report's address; a rerun says no more."""
    lake = declare(ops={"conn_type": "http", "host": hook.uri + "/in", "password": SECRET})
    assert [tell(), tell()] == ["", ""]
    [(path, authorization, body)] = hook.got
    assert (path, authorization) == ("/in", f"Bearer {SECRET}")
    assert body["report"].endswith(f"/report/machines/monitor/{PARTITION}.html")
    assert {**body, "report": ""} == {
        "usecase": "machines",
        "partition": PARTITION,
        "decision": "alert",
        "sentence": f"machines {PARTITION}: alerts data stops",
        "findings": [FOUND],
        "report": "",
    }
    decide(lake, [{**FOUND, "note": "stops isn't asked before 09:31:07", "value": 2.0}])
    assert tell() == ""
    assert len(hook.got) == 1  # a rerun that describes the same alert otherwise
    decide(lake, [FOUND, {**FOUND, "subject": "readings"}])
    assert tell() == ""
    assert [len(said["findings"]) for *_, said in hook.got] == [1, 2]  # another thing to tell is told


@pytest.mark.parametrize("status", [500, 403, 302])
def test_one_that_refuses_fails_the_task_and_is_told_by_a_retry(
    declare: Declare, hook: Hook, status: int
) -> None:
    """The task fails and may be retried, the others are told, and the retry tells the one that wasn't."""
    hook.statuses = [status, 200]
    lake = declare(
        bad={"conn_type": "http", "host": hook.uri + "/bad"},
        ok={"conn_type": "http", "host": hook.uri + "/ok"},
    )
    sentence = missed()
    assert sentence.startswith("could not notify bad: ")
    assert [path for path, *_ in hook.got] == ["/bad", "/ok"]
    assert outcomes(lake) == {"bad": "failed", "ok": "notified"}
    why = (
        f"bad: failed: connection bad: expected a webhook that accepts the message, but found status {status}"
    )
    assert why in sentence
    assert tell() == ""
    assert [path for path, *_ in hook.got] == ["/bad", "/ok", "/bad"]
    assert outcomes(lake) == {"bad": "notified", "ok": "notified"}


def test_no_log_has_the_secret(
    declare: Declare, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Slack's address is a secret, and so is a token: neither is in a log where nobody answers."""
    down = "http://127.0.0.1:1"
    declare(
        slack={"conn_type": "slackwebhook", "host": down, "password": SECRET},
        hook={"conn_type": "http", "host": down, "login": "me", "password": SECRET},
        typo={"conn_type": "http", "host": f"127.0.0.1/{SECRET}"},
    )
    with caplog.at_level(logging.DEBUG):
        sentence = missed()
    log = capsys.readouterr().out + caplog.text
    assert sentence.startswith("could not notify slack, hook, typo:")
    assert "found ConnectionError" in sentence
    assert "put the webhook's whole URL into the connection's host" in sentence
    assert "planted-secret" not in log + sentence


def test_slack_gets_its_own_form(declare: Declare, hook: Hook) -> None:
    """A line a finding, under the address that the password completes, with nothing taken for markup."""
    declare(slack={"conn_type": "slackwebhook", "host": hook.uri, "password": SECRET})
    assert tell() == ""
    [(path, authorization, body)] = hook.got
    assert (path, authorization) == (f"/{SECRET}", "")
    sentence, finding, _ = body["text"].split("\n")
    assert sentence == f"machines {PARTITION}: alerts data stops"
    assert finding == "data stops: stops is &lt;refused&gt;"


def test_a_mail_is_sent_by_airflows_notifier(declare: Declare, mail: Mail) -> None:
    """The connection says from whom and to whom."""
    host, port = mail.server_address[:2]
    extra = {"from_email": "a@example.org", "to": "b@example.org", "disable_ssl": True, "disable_tls": True}
    declare(mail={"conn_type": "smtp", "host": host, "port": port, "extra": extra})
    assert [tell(), tell()] == ["", ""]
    [said] = mail.got
    assert f"Subject: machines {PARTITION}: alerts data stops" in said
    assert "To: b@example.org" in said


@pytest.mark.parametrize("missing", ["from_email", "to"])
def test_a_mail_connection_without_an_address_is_told_with_the_remedy(declare: Declare, missing: str) -> None:
    """Airflow's notifier would fail by a ValueError that names neither."""
    extra = {"from_email": "a@example.org", "to": "b@example.org"}
    del extra[missing]
    declare(mail={"conn_type": "smtp", "host": "127.0.0.1", "port": 1, "extra": extra})
    with pytest.raises(AirflowException, match=f'found no "{missing}"; set the extra to'):
        tell()


def test_a_backfilled_partition_tells_nobody(declare: Declare, hook: Hook) -> None:
    """What is long past is in the tables, and wakes nobody."""
    lake = declare(ops={"conn_type": "http", "host": hook.uri})
    assert tell("backfill") == "a backfilled partition sends no alerts; alerts data stops"
    assert hook.got == []
    assert outcomes(lake) == {}


@pytest.fixture
def watch(declare: Declare, hook: Hook) -> Callable[..., UseCase]:
    """Publish partitions with the alarms that the monitor found in them, and decide them."""
    lake = declare(ops={"conn_type": "http", "host": hook.uri})
    lake.publish("decisions", schemas.DECISIONS.empty_table(), {"partition": PARTITION})
    spec = load("machines")

    def act(*partitions: str, alarms: Sequence[tuple[str, str]] = (("data", "stops"),)) -> UseCase:
        for partition in partitions:
            found = [Finding(check, subject, 1.0, 0.1, "alarm", "stops") for check, subject in alarms]
            lake.publish("findings", findings_table(partition, found), {"partition": partition})
            row = {"product": "monitor", "partition": partition, "outcome": "published"}
            lake.publish("partitions", pa.Table.from_pylist([row], schemas.PARTITIONS), row)
            publish_decisions(lake, spec, partition)
        return spec

    return act


def days(first: int, last: int) -> list[str]:
    """Return days of January."""
    return [f"2024-01-{day}" for day in range(first, last + 1)]


def test_an_alarm_that_began_in_a_backfill_is_sent_once_by_the_next_partition(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """Neither the one before, without the alarm, nor a rerun or the partition after it sends it."""
    watch(PARTITION)
    assert "sends no alerts" in tell("backfill")
    watch("2024-01-26", alarms=())
    assert "nothing to alert" in tell(partition="2024-01-26")
    watch("2024-01-27", "2024-01-28", alarms=[("data", "stops"), ("unseen", "kind")])
    assert "sends no alerts" in tell("backfill")  # again
    assert [tell(partition="2024-01-27"), tell(partition="2024-01-27")] == ["", ""]
    assert "already alerted: data stops" in tell(partition="2024-01-28")
    ((_, _, body),) = hook.got
    assert body["sentence"].endswith(
        "alerts unseen kind; alerts data stops, of which nobody was notified before"
    )
    assert "already alerted" not in body["sentence"]
    assert [item["subject"] for item in body["findings"]] == ["kind", "stops"]


def test_partitions_that_are_backfilled_in_any_order_are_one_alarm(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """Each was the first that had it when it was decided, and one of those after them sends it."""
    for partition in reversed(days(23, 25)):
        watch(partition)
        assert "sends no alerts" in tell("backfill", partition)
    watch(*days(26, 30))
    sent = [tell(partition=partition) for partition in days(26, 30)]
    assert [one == "" for one in sent] == [True, False, False, False, False]
    assert len(hook.got) == 1


def test_an_alarm_that_an_earlier_partition_takes_over_later_is_sent_by_the_next_one(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """A partition had no alarm when its task ran, and got one when the partition before it was repaired."""
    watch("2024-01-26", alarms=())
    assert "nothing to alert" in tell(partition="2024-01-26")
    watch("2024-01-26", "2024-01-27", "2024-01-28")
    assert [tell(partition="2024-01-27"), tell(partition="2024-01-27")] == ["", ""]
    assert "already alerted: data stops" in tell(partition="2024-01-28")
    ((_, _, body),) = hook.got
    assert body["sentence"].endswith("alerts data stops, of which nobody was notified before")


def test_without_recipients_a_lasting_alarm_starts_the_task_once(watch: Callable[..., UseCase]) -> None:
    """On the partition that alerts it; with recipients on each one until somebody was notified."""
    spec, lake = watch(*days(25, 28)), Lake("machines")
    nobody = spec.model_copy(update={"alerts": spec.alerts.model_copy(update={"to": ()})})
    operator = AlertOperator(task_id="alert", usecase="machines")
    acts = {
        one.alerts.to: [
            operator.acts_on(decision, lake, one, is_backfill=False)
            for decision in lake.rows("decisions", {"partition": days(25, 28)}, order=["partition"])
        ]
        for one in (spec, nobody)
    }
    assert acts == {("ops",): [True, True, True, True], (): [True, False, False, False]}


def test_an_alert_that_was_sent_is_not_sent_again_after_an_earlier_partition_is_backfilled(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """That one has the alarm too, so the alert is its now, and was the other one's when it was sent."""
    watch("2024-01-26")
    assert tell(partition="2024-01-26") == ""
    watch(PARTITION)
    assert "sends no alerts" in tell("backfill")
    watch("2024-01-27")
    assert "already alerted: data stops" in tell(partition="2024-01-27")
    assert len(hook.got) == 1


def test_an_alert_that_reached_nobody_is_sent_by_the_next_partition(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """A recipient that refused is tried again, by one partition."""
    hook.statuses = [500, 200]
    watch(PARTITION, "2024-01-26", "2024-01-27")
    assert missed().startswith("could not notify ops: ")
    assert tell(partition="2024-01-26") == ""
    assert "already alerted" in tell(partition="2024-01-27")
    assert len(hook.got) == 2


def test_of_two_partitions_at_once_one_sends_what_nobody_was_notified_of(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """The other one sees that it was taken, also before the first has sent it."""
    watch(PARTITION)
    tell("backfill")
    watch("2024-01-26", "2024-01-27")
    hook.answer.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(tell, partition="2024-01-26")
        assert hook.asked.wait(30)
        assert "already alerted: data stops" in tell(partition="2024-01-27")
        hook.answer.set()
        assert first.result() == ""
    assert len(hook.got) == 1


def test_another_alert_of_a_backfilled_partition_keeps_back_nothing(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """A partition that was missed at its deadline, which was told, is backfilled and has an alarm."""
    overdue()
    watch(PARTITION)
    tell("backfill")
    watch("2024-01-26")
    assert tell(partition="2024-01-26") == ""
    assert [body["findings"][0]["check"] for *_, body in hook.got] == ["deadline", "data"]


def test_an_alert_that_was_sent_is_not_sent_again_after_its_partition_is_backfilled(
    watch: Callable[..., UseCase], hook: Hook
) -> None:
    """Its claim says so."""
    watch(PARTITION)
    assert tell() == ""
    assert "sends no alerts" in tell("backfill")
    watch("2024-01-26")
    assert "already alerted" in tell(partition="2024-01-26")
    assert len(hook.got) == 1


def test_a_change_that_a_backfilled_one_quiets_is_sent(watch: Callable[..., UseCase], hook: Hook) -> None:
    """One sudden change quiets those of all columns, so each of them has to be told."""
    watch(PARTITION, alarms=[("sudden_change", "heat")])
    tell("backfill")
    watch("2024-01-26", alarms=[("sudden_change", "speed"), ("sudden_change", "wear")])
    assert tell(partition="2024-01-26") == ""
    ((_, _, body),) = hook.got
    assert [item["subject"] for item in body["findings"]] == ["speed", "wear"]


def test_a_try_that_was_killed_while_it_sent_is_no_notification(declare: Declare) -> None:
    """Nobody knows whether that message arrived, and the page says so.

    Another partition's tries aren't its.
    """
    lake = declare()
    lake.create(f"state/alerts/{PARTITION}-0123456789ab/team-mail-0", claim("failed"))
    lake.create(f"state/alerts/{PARTITION}-0123456789ab/team-mail-1", claim("not confirmed"))
    lake.create("state/alerts/2024-01-24-0123456789ab/ops-0", claim("notified"))
    assert outcomes(lake) == {"team-mail": "not confirmed"}


@pytest.mark.parametrize(
    ("written", "outcome"), [(b"notified", "notified"), (b"failed", "failed"), (b"", "not confirmed")]
)
def test_a_delivery_of_earlier_code_is_read(declare: Declare, written: bytes, outcome: str) -> None:
    """It recorded the outcome alone."""
    lake = declare()
    lake.create(f"state/alerts/{PARTITION}-0123456789ab/ops-0", written)
    assert outcomes(lake) == {"ops": outcome}


def test_a_message_whose_sender_was_killed_is_sent_by_the_next_try(
    declare: Declare, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may arrive twice, which is better than never; a try after that sends no more."""
    lake = declare(ops={"conn_type": "http", "host": hook.uri})

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(alerts, "_post", kill)
        with pytest.raises(KeyboardInterrupt):
            tell()
    assert outcomes(lake) == {"ops": "not confirmed"}
    monkeypatch.setattr(alerts, "PATIENCE", 0.1)
    assert [tell(), tell()] == ["", ""]
    assert len(hook.got) == 1
    assert outcomes(lake) == {"ops": "notified"}


def test_two_runs_at_once_send_a_message_once(declare: Declare, hook: Hook) -> None:
    """The second waits until the first one's outcome is known."""
    declare(ops={"conn_type": "http", "host": hook.uri})
    hook.answer.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(tell)
        assert hook.asked.wait(30)
        second = pool.submit(tell)
        assert not wait([second], 1.5).done
        hook.answer.set()
        assert [first.result(), second.result()] == ["", ""]
    assert len(hook.got) == 1


def test_where_there_is_nobody_or_nothing_to_tell_it_says_so(declare: Declare) -> None:
    """The task is skipped, and its sentence is the decision's; an unknown connection is named."""
    lake = declare()
    assert tell() == "no recipients are declared under alerts.to; alerts data stops"
    decide(lake, [])
    assert tell() == "nothing to alert; alerts data stops"
    lake = declare(nobody={})
    assert missed().startswith("could not notify nobody:")
    lake.publish("decisions", schemas.DECISIONS.empty_table(), {"partition": PARTITION})
    assert tell() == "no decision was published"


def overdue(partition: str = PARTITION) -> str:
    """Call what Airflow calls when a partition's deadline is over; return what it says."""
    context = {"dag_run": {"partition_key": partition}, "deadline": {"id": "0", "deadline_time": "now"}}
    return asyncio.run(notify_overdue("machines", ["ops"], context))


def test_a_declaration_that_is_broken_at_the_deadline_is_an_alert(
    declare: Declare, hook: Hook, tmp_path: Path
) -> None:
    """It is sent, once, to the recipients of the run's beginning, and names what is wrong."""
    declare(ops={"conn_type": "http", "host": hook.uri})
    declaration = next((tmp_path / "usecases").rglob("usecase.yaml"))
    declaration.write_text(declaration.read_text().replace("alerts:", "alarts:"))
    assert overdue().endswith("; ops: sent")
    assert overdue().endswith("; ops: already sent")
    ((_, _, body),) = hook.got
    assert body["sentence"].startswith(
        f"machines {PARTITION}: no predictions by their deadline, when they were due: "
    )
    assert "alarts" in body["sentence"]


def predicted(lake: Lake, outcome: str) -> None:
    """Publish what became of the partition's predictions."""
    row = {
        "product": "predictions",
        "partition": PARTITION,
        "outcome": outcome,
        "note": "",
        "rows": 1,
        "revision": 0,
    }
    row |= {"quarantined": 0, "duplicates": 0, "code": "", "digest": "", "inputs": "{}", "spec": ""}
    table = pa.Table.from_pylist([row], schema=schemas.PARTITIONS)
    lake.publish("partitions", table, {"product": "predictions", "partition": PARTITION})


@pytest.mark.parametrize("outcome", ["", "refused"])
def test_predictions_that_are_overdue_are_told_once(declare: Declare, hook: Hook, outcome: str) -> None:
    """Where none are published at the declared hour it says so, with the hour; asked again, no more."""
    lake = declare(ops={"conn_type": "http", "host": hook.uri})
    if outcome:
        predicted(lake, outcome)
    why = f"machines {PARTITION}: no predictions by 23:59 UTC, when they were due"
    assert [overdue(), overdue()] == [f"{why}; ops: sent", f"{why}; ops: already sent"]
    [(*_, said)] = hook.got
    assert (said["sentence"], said["findings"][0]["check"]) == (why, "deadline")
    assert said["report"].endswith("/usecase/machines")


def test_predictions_that_are_there_are_not_overdue(declare: Declare, hook: Hook) -> None:
    """A run that goes on after its predictions are published tells nobody."""
    predicted(declare(ops={"conn_type": "http", "host": hook.uri}), "published")
    assert overdue() == f"machines {PARTITION}: the predictions are published; no alert is sent"
    assert hook.got == []


def test_what_is_overdue_is_mailed_too_and_one_that_refuses_fails_nothing(
    declare: Declare, hook: Hook, mail: Mail
) -> None:
    """Airflow's notifier needs no task; a webhook that refuses is said, and not raised."""
    hook.statuses = [500]
    host, port = mail.server_address[:2]
    extra = {"from_email": "a@example.org", "to": "b@example.org", "disable_ssl": True, "disable_tls": True}
    declare(
        bad={"conn_type": "http", "host": hook.uri, "password": SECRET},
        mail={"conn_type": "smtp", "host": host, "port": port, "extra": extra},
    )
    said = overdue()
    why = "connection bad: expected a webhook that accepts the message, but found status 500"
    assert f"; bad: failed: {why}; " in said
    assert said.endswith("; mail: sent")
    assert "no predictions by 23:59 UTC" in mail.got[0].replace("=\n", "")
    assert SECRET not in said


def test_a_lake_that_cannot_be_read_at_the_deadline_is_an_alert(
    declare: Declare, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a likely reason for missing predictions, and nobody waits for it to be notified."""
    declare(ops={"conn_type": "http", "host": hook.uri})

    def unreachable(*_: object, **__: object) -> None:
        raise StoreUnavailable("the lake", required="a store that answers", remedy="start it")

    monkeypatch.setattr(Lake, "read", unreachable)
    why = f"machines {PARTITION}: no predictions by 23:59 UTC, when they were due: the lake can't be read"
    assert overdue() == f"{why}; ops: sent"
    assert [said["sentence"] for *_, said in hook.got] == [why]


def test_with_nobody_to_tell_it_says_so(declare: Declare) -> None:
    """The deadline is in Airflow all the same."""
    declare()
    assert overdue().endswith("when they were due; no recipients are declared under alerts.to")


@pytest.mark.parametrize(
    ("kind", "partition", "moment"),
    [
        ("scheduled", "2013-03-10", datetime(2013, 3, 11, 0, tzinfo=UTC)),  # summer time began that partition
        ("scheduled", "2013-03-09", datetime(2013, 3, 10, 1, tzinfo=UTC)),
        ("backfill", "2013-03-09", None),
        ("manual", "2013-03-09", None),
        ("scheduled", None, None),
        ("scheduled", "no date", None),
    ],
)
def test_only_a_scheduled_partition_has_a_deadline(
    kind: str, partition: str | None, moment: datetime | None
) -> None:
    """It is the declared local hour, and whatever has none gets its run without."""
    read = PredictionsDue("0 18 * * *", "America/New_York", "20:00").serialize_reference()
    due = PredictionsDue.deserialize_reference(read)
    session = SimpleNamespace(execute=lambda query: SimpleNamespace(one=lambda: (kind, partition)))
    assert due._evaluate_with(session=session, dag_id="d", run_id="r") == moment
