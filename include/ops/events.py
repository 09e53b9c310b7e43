"""What a message that wakes a use case means, and the alert when no message can arrive.

A message is a hint and no data: it only starts the batch run of a partition, which reads its sources as any
other run does. A duplicate, lost, reordered or malformed message therefore changes no row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from include.spec import UseCase
from include.spec.clock import MINUTE_KEY
from include.spec.partition import check_partition
from include.storage.lake import Lake

Hint = dict[str, str]
HEARTBEAT = "state/watcher.json"  # when the watcher last tried the queue, and why it got no answer
SHOWN = 200  # characters of a malformed message
KEY = re.compile(rf"\d{{4}}-\d{{2}}-\d{{2}}|{MINUTE_KEY.pattern}")


def read_message(text: str) -> Hint:
    """Return what a message says.

    Returns
    -------
    dict
        ``partition`` for a partition's key, or a JSON object with one under that name. Nothing for an empty
        message, or a JSON object without one, such as a notification of an object store. Else ``malformed``
        with the beginning of the message, escaped.
    """
    text = text.strip()
    if not text:
        return {}
    if KEY.fullmatch(text):
        return {"partition": text}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return {"malformed": ascii(text[:SHOWN])}
    key = content.get("partition")
    if key is None:
        return {}
    return (
        {"partition": key}
        if isinstance(key, str) and KEY.fullmatch(key)
        else {"malformed": ascii(text[:SHOWN])}
    )


def meant_partition(spec: UseCase, hint: Mapping[str, str], now: datetime) -> str:
    """Return the partition that a well-formed message means: the newest one that is due if it names none.

    Raises
    ------
    PartitionError
        for a partition that the schedule doesn't have, or that is still to come.
    """
    newest = spec.clock.newest(now)
    partition = hint.get("partition") or (
        min(newest, spec.clock.around(spec.schedule.end)[0]) if spec.schedule.end else newest
    )
    check_partition(spec, partition, now)
    return partition


def is_complete(lake: Lake, spec: UseCase, partition: str) -> bool:
    """Return whether a partition's sources and predictions are published: a run would change nothing."""
    sources = [name for name in spec.sources if spec.partitions(name, partition, partition)]
    rows = lake.rows("partitions", {"partition": partition, "outcome": "published"})
    return {*sources, "predictions"} <= {row["product"] for row in rows}


def outage_message(
    spec: UseCase, partition: str, problem: str, since: datetime | None, page: str
) -> dict[str, Any]:
    """Return the alert that messages can't arrive.

    Parameters
    ----------
    partition : the newest one.
    problem : what is wrong, without addresses or secrets.
    since : when the outage began (UTC), which tells it from another one; None if it isn't known.
    page : the address of the use case's page.
    """
    events = spec.schedule.events
    assert events is not None
    when = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
    note = f"no message can wake it from {events.queue} ({events.connection}){when}: {problem}"
    value = since.timestamp() if since else None
    alert = {"check": "events", "subject": events.queue, "value": value, "threshold": None, "note": note}
    return {
        "usecase": spec.name,
        "partition": partition,
        "decision": "alert",
        "sentence": f"{spec.name} {partition}: {note}",
        "findings": [alert],
        "report": page,
    }
