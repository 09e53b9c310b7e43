"""Alerts: the message of a partition, sending it once to each recipient, and the webhook channels.

A recipient is an Airflow connection. `plugins/evergreen/alert_channels.py` maps each type of connection to
the function that sends. A connection's address and a server's answer may hold a secret, so no error message
here repeats them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import requests

from include.environment import Endpoint
from include.errors import EvergreenError, SettingError, SourceUnavailable
from include.features.windows import partition_before
from include.references import digest_json
from include.spec import UseCase
from include.storage.lake import Lake

Message = dict[str, Any]
Key = tuple[str, str]  # an alert's check and subject
TIMEOUT = (5, 15)  # seconds to connect, and between two bytes of the response
CLAIMS, DEFERRALS = "state/alerts", "state/deferred_alerts"
# the content of a claim to send a message; a process that was killed while sending leaves it empty
FAILED, NOTIFIED = b"failed", b"notified"
SENDING, POLL = 60.0, 1.0  # seconds that another attempt's sending is waited for, and between two looks


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


def overdue_message(lake: Lake, spec: UseCase, partition: str, page: str) -> Message:
    """Return the message for overdue predictions, empty if they are published.

    Parameters
    ----------
    page : the address of the use case's page.
    """
    if lake.rows("partitions", {"product": "predictions", "partition": partition, "outcome": "published"}):
        return {}
    return deadline_message(spec, partition, page)


def deadline_message(spec: UseCase, partition: str, page: str, reason: str = "") -> Message:
    """Return the message that a partition has no predictions at its deadline, with the reason if known."""
    deadline = spec.scoring.deadline
    when = f"{deadline} {spec.schedule.timezone}" if ":" in deadline else _utc(spec, partition)
    note = f"no predictions by {when}, when they were due" + (f": {reason}" if reason else "")
    overdue = {"check": "deadline", "subject": "predictions", "value": None, "threshold": None, "note": note}
    return {
        "usecase": spec.name,
        "partition": partition,
        "decision": "alert",
        "sentence": f"{spec.name} {partition}: {note}",
        "findings": [overdue],
        "report": page,
    }


def _utc(spec: UseCase, partition: str) -> str:
    return f"{spec.clock.local(partition, spec.scoring.deadline):%Y-%m-%d %H:%M} UTC"


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
) -> dict[str, str]:
    """Send a message to each recipient that hasn't received it, and return the outcome by recipient.

    Nothing is raised: an outcome is ``sent``, ``already sent``, or ``failed: `` with the reason.

    Parameters
    ----------
    recipients : names of connections.
    send : sends to one of them, or raises.
    silenced : check and subject of the findings to leave out. The claim is of the message with them, so
        silencing an alert that was sent doesn't send the rest of its message again.
    """
    prefix = _claims_folder(message["partition"], message["findings"])
    message = without_silenced(message, silenced)
    outcomes = {}
    for name in recipients:
        claim = _claim(lake, f"{prefix}/{name}")
        if not claim:
            outcomes[name] = "already sent"
            continue
        outcomes[name] = try_to_send(send, name, message)
        lake.replace(claim, NOTIFIED if outcomes[name] == "sent" else FAILED)
    return outcomes


def was_sent(lake: Lake, partition: str, findings: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a partition's message with these findings was sent to anyone, or tried."""
    return bool(lake.keys(_claims_folder(partition, findings)))


def defer(lake: Lake, message: Message) -> None:
    """Record that a message isn't sent, since its partition was backfilled; see `policy.with_deferred`."""
    for item in message["findings"]:
        lake.create(deferral_key(item["check"], item["subject"], message["partition"]), b"")


def deferred(lake: Lake, spec: UseCase, partition: str) -> list[str]:
    """Return the keys of the alerts that were deferred within the longest quiet period before a partition.

    Those of ten such periods ago are removed.
    """
    if not (keys := lake.keys(DEFERRALS)):
        return []
    quiet = max(spec.alerts.quiet, spec.monitoring.sudden_changes.quiet)
    old = spec.clock.shift(partition, -10 * quiet)
    lake.remove([key for key in keys if key.rpartition("/")[2] < old])
    first = partition_before(lake, spec, partition, quiet)
    return [key for key in keys if first <= key.rpartition("/")[2] < partition]


def deferral_key(check: str, subject: str, partition: str) -> str:
    """Return the key of a deferred alert of a partition."""
    return f"{DEFERRALS}/{digest_json([check, subject])[:12]}/{partition}"


def try_to_send(send: Callable[[str, Message], None], recipient: str, message: Message) -> str:
    """Send a message to one recipient, whether it was sent before or not, and return the outcome."""
    try:
        send(recipient, message)
    except EvergreenError as error:
        return f"failed: {error}"
    except Exception as error:  # a failed alert must not fail the partition
        return f"failed: {type(error).__name__}"
    return "sent"


def notified(lake: Lake, partitions: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return the recipients of each partition that sent something, by the newest attempt of each message.

    Each comes with ``notified``, ``failed``, or ``not confirmed`` if the sender was killed.
    """
    newest: dict[tuple[str, str], int] = {}
    for key in lake.keys(CLAIMS):
        message_id, _, claim = key.removeprefix(f"{CLAIMS}/").partition("/")
        recipient, _, number = claim.rpartition("-")
        if message_id.rpartition("-")[0] in partitions:
            newest[message_id, recipient] = max(int(number), newest.get((message_id, recipient), 0))
    recipients: dict[str, set[tuple[str, str]]] = {}
    for (message_id, recipient), attempt in newest.items():
        content = lake.get(f"{CLAIMS}/{message_id}/{recipient}-{attempt}")
        outcome = content.decode() if content else "not confirmed"
        recipients.setdefault(message_id.rpartition("-")[0], set()).add((recipient, outcome))
    return {partition: sorted(pairs) for partition, pairs in recipients.items()}


def _claims_folder(partition: str, findings: Sequence[Mapping[str, Any]]) -> str:
    return f"{CLAIMS}/{partition}-{digest_json(_content(findings))[:12]}"


def _content(findings: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return what tells a message from another one of its partition; a note may have the time of day."""
    # two outages of a queue may begin on one partition: their value is the time at which they began
    return sorted(
        [*alert_key(item), item["value"] if item["check"] == "events" else None] for item in findings
    )


def _claim(lake: Lake, prefix: str) -> str:
    """Return the key of this caller's attempt, empty if an earlier one succeeded.

    An attempt that is still sending is waited for. After `SENDING` seconds it counts as killed, and the
    message is sent again, since one that arrives twice is better than one that never does.
    """
    earlier = [key for key in lake.keys(prefix.rpartition("/")[0]) if key.rpartition("-")[0] == prefix]
    number = max(len(earlier) - 1, 0)
    while not lake.create(key := f"{prefix}-{number}", b""):
        end = time.monotonic() + SENDING
        while not (outcome := lake.get(key)) and time.monotonic() < end:
            time.sleep(POLL)
        if outcome == NOTIFIED:
            return ""
        lake.replace(key, FAILED)
        number += 1
    return key


def post_json(endpoint: Endpoint, message: Message) -> None:
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


def post_slack(endpoint: Endpoint, message: Message) -> None:
    """Post a message to a Slack webhook as text.

    Parameters
    ----------
    endpoint : its ``uri`` is the address, which the password completes.
    """
    address = endpoint.uri + (f"/{endpoint.password}" if endpoint.password else "")
    _post(endpoint, address, {"text": _escape_slack("\n".join(message_lines(message)))})


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


def _escape_slack(text: str) -> str:
    """Return a text that Slack shows literally."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
