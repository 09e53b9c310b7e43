"""Which sources a night is without, and why: a rung that needs one of them can't serve."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from include.lake import Lake
from include.spec import UseCase


def state_of(lake: Lake, spec: UseCase, night: str) -> dict[str, dict[str, object]]:
    """Return the row of `partitions` of each source that has one."""
    rows = lake.rows("partitions", {"product": list(spec.sources), "night": night})
    return {row["product"]: row for row in rows}


def missing_of(
    spec: UseCase, night: str, seen: Mapping[str, pa.Table], state: Mapping[str, dict[str, object]]
) -> dict[str, str]:
    """Return the sources that the night is without, each with a word why."""
    found = {}
    for name in spec.sources:
        row = state.get(name)
        if row is None or row["outcome"] != "published":
            found[name] = str(row["outcome"]) if row else "not published"
        elif row["rows"] and not pc.any(pc.equal(seen[name]["night"], night)).as_py():
            # what came after the decision is absent: a backfill must not serve what that night couldn't
            found[name] = "published too late for this night"
    return found
