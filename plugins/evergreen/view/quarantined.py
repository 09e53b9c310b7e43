"""Read the first quarantined rows of a partition for its page; a bad partition has as many as its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

MAX_ROWS = 200  # on a page
ORDER = ("source", "revision", "part", "row", "rule", "column")


def quarantined_rows(lake: Lake, spec: UseCase, partition: str) -> tuple[list[dict[str, Any]], int]:
    """Return the first quarantined rows of a partition, with their fields, and how many there are."""
    where = {"source": list(spec.sources), "partition": partition}
    rows = lake.rows("quarantine", where, order=ORDER, limit=MAX_ROWS)
    return [{**row, "record": _fields(row["record"])} for row in rows], lake.count("quarantine", where)


def _fields(record: str | None) -> dict[str, Any]:
    """Return the fields of a stored row; a row that isn't JSON is shown as it is."""
    try:
        fields = json.loads(record or "{}")
    except ValueError:
        return {"": record}
    return fields if isinstance(fields, dict) else {"": fields}
