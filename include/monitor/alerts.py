"""Alerts: the message of a partition, sending it once to each recipient, and the webhook channels.

A recipient is an Airflow connection, and `CHANNELS` maps each type to the function that sends. A connection's
address and a server's answer may hold a secret, so no error message here repeats them.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import requests

from include.environment import Endpoint
from include.errors import EvergreenError, SettingError, SourceUnavailable
from include.extensions import CodeReference
from include.references import digest_json
from include.spec import UseCase
from include.storage.lake import Lake

Message = dict[str, Any]
Key = tuple[str, str]  # an alert's check and subject
TIMEOUT = (5, 15)  # seconds to connect, and between two bytes of the response
# by the type of a recipient's connection, the function that sends a message to its endpoint
CHANNELS = {
    "http": "include.monitor.alerts:post_json",
    "slackwebhook": "include.monitor.alerts:post_slack",
    "smtp": "evergreen.alert_channels:send_mail",
}
MAIL_EXTRA = ("to", "from_email")  # what the extra of a connection of type smtp must have
CLAIMS, TAKEN = "state/alerts", "state/taken_alerts"
UNCONFIRMED, FAILED, NOTIFIED = "not confirmed", "failed", "notified"  # a killed sender leaves the first
PATIENCE, POLL = 60.0, 1.0  # seconds that another delivery is waited for, and between two looks


@dataclass(frozen=True)
class Delivery:
    """The newest try to deliver a message to a recipient.

    Parameters
    ----------
    partition : whose message it is.
    recipient : the name of the connection.
    outcome : ``notified``, ``failed``, or ``not confirmed`` while it is sent or if the sender was killed.
    alerts : check and subject of what the message was about.
    """

    partition: str
    recipient: str
    outcome: str
    alerts: frozenset[Key]

    @property
    def names(self) -> str:
        """What the message was about, as a person reads it."""
        return ", ".join(sorted(alert_name(*alert) for alert in self.alerts))


@dataclass(frozen=True)
class SendResult:
    """What came of sending a message to a recipient.

    Parameters
    ----------
    reason : of a failure.
    """

    status: Literal["sent", "already sent", "failed"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


def message(usecase: str, decision: dict[str, Any], report: str) -> Message:
    """Return the message of a partition's alerts, empty if its decision has none.

    Parameters
    ----------
    decision : the partition's row of `decisions`.
    report : the address of the partition's report.
    """
    alerts = json.loads(decision.get("alerts") or "[]")
    if not alerts:
        return {}
    return {
        "usecase": usecase,
        "partition": decision["partition"],
        "decision": decision["decision"],
        "sentence": f"{usecase} {decision['partition']}: {decision['reason']}",
        "findings": alerts,
        "report": report,
    }


def deadline_message(usecase: str, partition: str, page: str, deadline: str, reason: str = "") -> Message:
    """Return the message that a partition has no predictions at its deadline, with the reason if known."""
    note = f"no predictions by {deadline}, when they were due" + (f": {reason}" if reason else "")
    overdue = {"check": "deadline", "subject": "predictions", "value": None, "threshold": None, "note": note}
    return {
        "usecase": usecase,
        "partition": partition,
        "decision": "alert",
        "sentence": f"{usecase} {partition}: {note}",
        "findings": [overdue],
        "report": page,
    }


def deadline_text(spec: UseCase, partition: str) -> str:
    """Return when a partition's predictions are due, as a person reads it."""
    deadline = spec.scoring.deadline
    if ":" in deadline:
        return f"{deadline} {spec.schedule.timezone}"
    return f"{spec.clock.local(partition, deadline):%Y-%m-%d %H:%M} UTC"


def alert_name(check: str, subject: str) -> str:
    """Return the name of an alert, by which a person acknowledges or mutes it."""
    return f"{check}: {subject}"


def alert_key(item: Mapping[str, Any]) -> Key:
    """Return the check and the subject of a finding, an alert's item or a silence."""
    return str(item["check"]), str(item["subject"])


def without_silenced(message: Message, silenced: Collection[Key]) -> Message:
    """Return a message without the findings that a person acknowledged or muted; its sentence names them."""
    findings = [item for item in message["findings"] if alert_key(item) not in silenced]
    names = [alert_name(*alert_key(item)) for item in message["findings"] if alert_key(item) in silenced]
    note = f" (acknowledged or muted: {', '.join(names)})" if names else ""
    return {**message, "sentence": message["sentence"] + note, "findings": findings}


def message_lines(message: Message) -> list[str]:
    """Return a message as lines of text: the sentence, each finding, the report's address."""
    findings = [f"{item['check']} {item['subject']}: {item['note']}" for item in message["findings"]]
    return [message["sentence"], *findings, message["report"]]


def send_alerts(
    lake: Lake,
    message: Message,
    recipients: Sequence[str],
    send: Callable[[str, Message], None],
    silenced: Collection[Key] = (),
) -> dict[str, SendResult]:
    """Send a message to each recipient that hasn't received it, and return the result by recipient.

    Nothing is raised: a recipient that can't be reached is a result too.

    Parameters
    ----------
    recipients : names of connections.
    send : sends to one of them, or raises.
    silenced : check and subject of the findings to leave out. The claim is of the message with them, so
        silencing an alert that was sent doesn't send the rest of its message again.
    """
    prefix = f"{CLAIMS}/{message['partition']}-{digest_json(_content(message['findings']))[:12]}"
    message = without_silenced(message, silenced)
    results = {}
    for name in recipients:
        claim = _claim(lake, f"{prefix}/{name}", message)
        if not claim:
            results[name] = SendResult("already sent")
            continue
        results[name] = try_to_send(send, name, message)
        lake.replace(claim, _claim_content(message, NOTIFIED if results[name].status == "sent" else FAILED))
    return results


def take_over(lake: Lake, alert: Key, partition: str, *, by: str) -> bool:
    """Return whether a partition is the one that sends an alert in place of an earlier one.

    Parameters
    ----------
    partition : the earlier one, whose alert nobody was notified of.
    by : the partition that asks.
    """
    key = f"{TAKEN}/{digest_json(list(alert))[:12]}/{partition}"
    return lake.create(key, by.encode()) or lake.get(key) == by.encode()


def try_to_send(send: Callable[[str, Message], None], recipient: str, message: Message) -> SendResult:
    """Send a message to one recipient, whether it was sent before or not."""
    try:
        send(recipient, message)
    except EvergreenError as error:
        return SendResult("failed", str(error))
    except Exception as error:  # a failed alert must not fail the partition
        return SendResult("failed", type(error).__name__)
    return SendResult("sent")


def deliveries(lake: Lake, partitions: Collection[str]) -> dict[str, list[Delivery]]:
    """Return the newest delivery for each message and recipient, by partition, for those that sent one."""
    if not partitions:
        return {}
    newest: dict[tuple[str, str], int] = {}
    for key in lake.keys(CLAIMS, after=f"{CLAIMS}/{min(partitions)}"):
        message_id, _, claim = key.removeprefix(f"{CLAIMS}/").partition("/")
        recipient, _, number = claim.rpartition("-")
        if message_id.rpartition("-")[0] in partitions:
            newest[message_id, recipient] = max(int(number), newest.get((message_id, recipient), 0))
    by_partition: dict[str, list[Delivery]] = {}
    for (message_id, recipient), newest_number in sorted(newest.items()):
        outcome, alerts = _read_claim(lake, f"{CLAIMS}/{message_id}/{recipient}-{newest_number}")
        partition = message_id.rpartition("-")[0]
        delivery = Delivery(partition, recipient, outcome, alerts)
        by_partition.setdefault(partition, []).append(delivery)
    return by_partition


def _content(findings: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return what tells a message from another one of its partition; a note may have the time of day."""
    # two outages of a queue may begin on one partition: their value is the time at which they began
    return sorted(
        [*alert_key(item), item["value"] if item["check"] == "events" else None] for item in findings
    )


def _claim(lake: Lake, prefix: str, message: Message) -> str:
    """Return the key of this caller's delivery, empty if an earlier one succeeded.

    A delivery that is still being sent is waited for. After `PATIENCE` seconds it counts as killed, and the
    message is sent again, since one that arrives twice is better than one that never does.
    """
    earlier = [key for key in lake.keys(prefix.rpartition("/")[0]) if key.rpartition("-")[0] == prefix]
    number = max(len(earlier) - 1, 0)
    while not lake.create(key := f"{prefix}-{number}", _claim_content(message, UNCONFIRMED)):
        end = time.monotonic() + PATIENCE
        while (outcome := _read_claim(lake, key)[0]) == UNCONFIRMED and time.monotonic() < end:
            time.sleep(POLL)
        if outcome == NOTIFIED:
            return ""
        lake.replace(key, _claim_content(message, FAILED))
        number += 1
    return key


def _claim_content(message: Message, outcome: str) -> bytes:
    alerts = [{"check": check, "subject": subject} for check, subject in map(alert_key, message["findings"])]
    return json.dumps({"outcome": outcome, "alerts": alerts}).encode()


def _read_claim(lake: Lake, key: str) -> tuple[str, frozenset[Key]]:
    """Return the outcome of a delivery, and what its message was about, which earlier code didn't record."""
    data = lake.get(key) or b""
    if not data.startswith(b"{"):
        return data.decode() or UNCONFIRMED, frozenset()
    claim = json.loads(data)
    return claim["outcome"], frozenset(map(alert_key, claim["alerts"]))


def own_channel(spec: UseCase | None, endpoint: Endpoint) -> CodeReference | None:
    """Return a use case's or a package's Python that sends to a connection; None if one of `CHANNELS` does.

    Raises
    ------
    SettingError
        for a type that no channel sends to.
    """
    kind = endpoint.kind if endpoint.kind not in CHANNELS else ""  # what is built in stays so
    code = spec.channel(endpoint.name, kind) if spec else None
    if code is None and endpoint.kind not in CHANNELS:
        raise SettingError(
            f"connection {endpoint.name}",
            required=f"a connection of type {', '.join(CHANNELS)}",
            found=f"type {endpoint.kind or 'none'}",
            remedy="change the connection's type, or remove it from alerts.to",
        )
    return code


def post_json(endpoint: Endpoint, message: Message, context: object = None) -> None:
    """Post a message to a webhook as JSON.

    Parameters
    ----------
    endpoint : its ``uri`` is the whole address. The password is sent as a bearer token, or with the login as
        basic authentication.
    """
    if endpoint.login:
        _post(endpoint, endpoint.uri, message, auth=(endpoint.login, endpoint.password))
    elif endpoint.password:
        _post(endpoint, endpoint.uri, message, headers={"Authorization": f"Bearer {endpoint.password}"})
    else:
        _post(endpoint, endpoint.uri, message)


def post_slack(endpoint: Endpoint, message: Message, context: object = None) -> None:
    """Post a message to a Slack webhook as text.

    Parameters
    ----------
    endpoint : its ``uri`` is the address, which the password completes.
    """
    address = endpoint.uri + (f"/{endpoint.password}" if endpoint.password else "")
    _post(endpoint, address, {"text": html.escape("\n".join(message_lines(message)), quote=False)})


def _post(endpoint: Endpoint, address: str, body: dict[str, Any], **arguments: Any) -> None:
    if not endpoint.uri.startswith(("http://", "https://")):
        raise SettingError(
            f"connection {endpoint.name}",
            required="a full URL as the host, starting with http:// or https://",
            found="another host" if endpoint.uri else "no host",
            remedy="put the webhook's whole URL into the connection's host",
        )
    try:
        response = requests.post(address, json=body, timeout=TIMEOUT, allow_redirects=False, **arguments)
        found = f"status {response.status_code}"
    except requests.RequestException as error:  # its text has the address, which for Slack is the secret
        response, found = None, type(error).__name__
    if response is None or not response.ok or response.is_redirect:
        raise SourceUnavailable(
            f"connection {endpoint.name}",
            required="a webhook that accepts the message",
            found=found,
            remedy="check the connection's host and password, and that the webhook is up",
        ) from None
