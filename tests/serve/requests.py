"""Predicts in this process, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from include.serve.service import Service
from include.spec import UseCase
from include.storage.lake import Lake

NOW = datetime(2024, 3, 10, 20, tzinfo=UTC)


def service(lake: Lake, spec: UseCase, now: datetime = NOW) -> Service:
    """Return a service that has read the ledger once."""
    made = Service(lake, spec, lambda: now)
    made.follower.refresh()
    return made


def predictions(of: Service, *rows: Any) -> list[dict[str, Any]]:
    """Return the predictions of rows."""
    answer = of.answer(json.dumps({"rows": rows}).encode())
    predicted: list[dict[str, Any]] = json.loads(answer.content)["predictions"]
    return predicted
