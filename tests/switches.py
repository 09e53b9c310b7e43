"""The table `switches` as tests ask about it."""

from __future__ import annotations

from include.promote.ledger import switches
from include.storage.lake import Lake, Row


def newest_by_role(lake: Lake) -> dict[str, Row]:
    """Return the newest switch of each role."""
    return {row["role"]: row for row in switches(lake)}
