"""The first of the rows that a partition set aside: a bad partition has as many as its file.

A page shows a few.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

SHOWN = 200  # rows on a page
ORDER = ("source", "revision", "part", "row", "rule", "column")


def kept(lake: Lake, spec: UseCase, partition: str) -> tuple[list[dict[str, Any]], int]:
    """Return the first rows that a partition set aside, with their fields, and how many there are."""
    where = {"source": list(spec.sources), "partition": partition}
    found = lake.read("quarantine", where, order=ORDER, limit=SHOWN)
    rows = [] if found is None else found.to_pylist()
    return [{**row, "record": _fields(row["record"])} for row in rows], lake.count("quarantine", where)


def _fields(record: str | None) -> dict[str, Any]:
    """Return a kept row's fields; one that isn't JSON is shown as it is."""
    try:
        fields = json.loads(record or "{}")
    except ValueError:
        return {"": record}
    return fields if isinstance(fields, dict) else {"": fields}
