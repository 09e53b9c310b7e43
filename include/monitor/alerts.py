"""Tell a partition's alerts, once to each of those declared: what is said, who was told, and the webhook.

What a connection answers, and its address, may hold a secret: no message here repeats them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import requests

from include.environment import Endpoint
from include.errors import EvergreenError, SettingError, SourceUnavailable
from include.references import digest_json
from include.spec import UseCase
from include.storage.lake import Lake

Message = dict[str, Any]
TIMEOUT = (5, 15)  # seconds to connect, and between two bytes of the answer
PLACE = "state/alerts"
# what a claim to send a message holds; a process that was killed while it sent leaves an empty one
FAILED, NOTIFIED = b"failed", b"notified"


def message(usecase: str, decided: dict[str, Any], report: str) -> Message:
    """Return what a partition tells, empty where its decision tells nothing.

    Parameters
    ----------
    decided : the partition's row of `decisions`.
    report : the address of the partition's report.
    """
    findings = json.loads(decided.get("alerts") or "[]")
    if not findings:
        return {}
    return {
        "usecase": usecase,
        "partition": decided["partition"],
        "decision": decided["decision"],
        "sentence": f"{usecase} {decided['partition']}: {decided['reason']}",
        "findings": findings,
        "report": report,
    }


def overdue_message(lake: Lake, spec: UseCase, partition: str, page: str) -> Message:
    """Return what is told when a partition's predictions were due, empty where they are published.

    Parameters
    ----------
    page : the address of the use case's page.
    """
    if lake.rows("partitions", {"product": "predictions", "partition": partition, "outcome": "published"}):
        return {}
    note = f"no predictions by {spec.scoring.deadline} {spec.schedule.timezone}, when they were due"
    late = {"check": "deadline", "subject": "predictions", "value": None, "threshold": None, "note": note}
    return {
        "usecase": spec.name,
        "partition": partition,
        "decision": "alert",
        "sentence": f"{spec.name} {partition}: {note}",
        "findings": [late],
        "report": page,
    }


def message_lines(said: Message) -> list[str]:
    """Return a message as lines of text: the sentence, each finding, the report's address."""
    found = [f"{one['check']} {one['subject']}: {one['note']}" for one in said["findings"]]
    return [said["sentence"], *found, said["report"]]


def send_alerts(
    lake: Lake, said: Message, to: Sequence[str], send: Callable[[str, Message], None]
) -> dict[str, str]:
    """Send a message to each that hasn't had it, and return what became of it; nothing is raised.

    Parameters
    ----------
    to : names of connections.
    send : sends to one of them, or raises.
    """
    what = f"{PLACE}/{said['partition']}-{digest_json(said['findings'])[:12]}"
    became = {}
    for name in to:
        claim = _claim(lake, f"{what}/{name}")
        if not claim:
            became[name] = "told before"
            continue
        try:
            send(name, said)
            became[name] = "told"
        except EvergreenError as error:
            became[name] = f"failed: {error}"
        except Exception as error:  # an alert that can't be sent is no reason to fail a partition
            became[name] = f"failed: {type(error).__name__}"
        lake.replace(claim, NOTIFIED if became[name] == "told" else FAILED)
    return became


def notified(lake: Lake, partitions: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return for each partition that sent something the recipients, by the newest try of each message.

    Each comes with ``notified``, ``failed``, or ``not confirmed`` where the sender was killed.
    """
    newest: dict[tuple[str, str], int] = {}
    for key in lake.keys(PLACE):
        message, _, claim = key.removeprefix(f"{PLACE}/").partition("/")
        recipient, _, number = claim.rpartition("-")
        if message.rpartition("-")[0] in partitions:
            newest[message, recipient] = max(int(number), newest.get((message, recipient), 0))
    recipients: dict[str, set[tuple[str, str]]] = {}
    for (message, recipient), latest in newest.items():
        content = lake.get(f"{PLACE}/{message}/{recipient}-{latest}")
        outcome = content.decode() if content else "not confirmed"
        recipients.setdefault(message.rpartition("-")[0], set()).add((recipient, outcome))
    return {partition: sorted(pairs) for partition, pairs in recipients.items()}


def _claim(lake: Lake, place: str) -> str:
    """Return the key of this caller's try, empty where one before it told, or is telling."""
    for number in count():
        key = f"{place}-{number}"
        if lake.create(key, b""):
            return key
        if lake.get(key) != FAILED:
            break
    return ""


def post_webhook(endpoint: Endpoint, said: Message, slack: bool = False) -> None:
    """Post a message to a webhook as JSON, or in Slack's form.

    Parameters
    ----------
    endpoint : its ``uri`` is the whole address. The password is sent as a bearer token, or with the login as
        basic authentication; for Slack it is the rest of the address.
    """
    if not endpoint.uri.startswith(("http://", "https://")):
        raise SettingError(
            f"connection {endpoint.name}",
            required="a host with the whole address, from http:// or https:// on",
            found="none",
            remedy="put the webhook's address into the connection's host",
        )
    address, body, headers = endpoint.uri, said, {}
    if slack:
        address += f"/{endpoint.password}" if endpoint.password else ""
        body = {"text": _plain("\n".join(message_lines(said)))}
    elif endpoint.password and not endpoint.login:
        headers = {"Authorization": f"Bearer {endpoint.password}"}
    basic = (endpoint.login, endpoint.password) if endpoint.login and not slack else None
    try:
        answer = requests.post(
            address, json=body, headers=headers, auth=basic, timeout=TIMEOUT, allow_redirects=False
        )
        found = f"status {answer.status_code}"
    except requests.RequestException as error:  # its text has the address, which for Slack is the secret
        answer, found = None, type(error).__name__
    if answer is None or not answer.ok or answer.is_redirect:
        raise SourceUnavailable(
            f"connection {endpoint.name}", required="a webhook that takes it", found=found
        ) from None


def _plain(text: str) -> str:
    """Return a text that Slack shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
