"""Middleware that gives a manually triggered run its partition key from the form's fields.

Airflow's own field for the partition key is hidden under *Advanced Options*. The key of a run can't be
changed later, and a backfill uses it to determine missing runs. So *Partition* is copied into the key when
the request arrives. *Partition* can't be a required field, because the form of a backfill has the same fields
and it must stay empty there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from evergreen.timetable import NO_PARTITION, RANGE
from include.spec import names

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PARTITIONED, RANGED = ("batch", "training"), ("history",)
FIELDS = ("partition", "first", "last")
# the form and other clients; the same form opened from an asset; a task that triggers a DAG
ROUTES = re.compile(
    r"/api/v2/dags/(?P<form>[^/]+)/dagRuns$|/api/v2/assets/\d+/materialize$|/execution/dag-runs/(?P<task>[^/]+)/[^/]+$"
)


class PartitionFromForm:
    """API server middleware that copies a new run's *Partition*, or its range, into its key and its note."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass every request on; one that starts a run of a partition with its key filled in."""
        route = ROUTES.search(scope["path"]) if scope.get("method") == "POST" else None
        if route is None:
            return await self.app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        body = with_partition(body, **route.groupdict())
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return await self.app({**scope, "headers": headers}, replay, send)


def with_partition(body: bytes, form: str | None, task: str | None) -> bytes:
    """Return a request's body with the partition key and note of the run that it starts.

    :param form: the DAG in the URL of a client's request.
    :param task: the DAG that a task triggers; if the partition is missing, the run fails with that error.
    """
    try:
        request = json.loads(body or b"{}")
        fields = request.get("conf") or {}
        for name in FIELDS:
            if isinstance(fields.get(name), str):
                fields[name] = fields[name].strip()  # a pasted key may have a space
        partition, key = fields.get("partition"), request.get("partition_key")
        # what isn't a text becomes one, which isn't a partition: the timetable refuses it
        bounds = [str(fields.get(name) or "") for name in ("first", "last")]
    except (ValueError, AttributeError, RecursionError):
        return body  # Airflow reports the error
    dag = form or task
    if dag and _is_one_of(dag, RANGED):
        note, partition = "Partitions {} to {}".format(*bounds), RANGE.join(bounds) if all(bounds) else None
    elif _is_one_of(dag, PARTITIONED) if dag else "partition" in fields:
        partition = partition or (None if task else NO_PARTITION)
        note = f"Partition {key or partition}"
    else:
        return body
    key = key or partition
    if key is None:
        return body
    request |= {"partition_key": key, "note": request.get("note") or note}
    if form and not request.get("dag_run_id"):  # lists of runs show the run id, not the partition key
        request["dag_run_id"] = f"manual__{key}__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    # with a logical date after the DAG's end, the run would succeed without any task instances
    request["logical_date"] = None
    return json.dumps(request).encode()


def _is_one_of(dag: str, kinds: tuple[str, ...]) -> bool:
    usecase, _, kind = dag.rpartition("__")
    return kind in kinds and usecase in names()
