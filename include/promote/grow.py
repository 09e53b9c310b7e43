"""A ledger grows by an append at the version that was read: of two writers the slower one decides again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from include.errors import StaleDecision
from include.lake import Lake

Row = dict[str, Any]
Decide = Callable[[list[Row]], list[Row] | Row | None]
ROUNDS = 100  # each lost round means that somebody else's decision was written


def grow(lake: Lake, table: str, schema: pa.Schema, decide: Decide) -> Row | None:
    """Append what ``decide`` makes of the ledger, in one commit.

    Parameters
    ----------
    decide : sees the ledger's rows, in no order, and gives the rows to append, or else a row that already
        says so, or None. It is asked again whenever somebody else was faster, so it does nothing but decide.

    Returns
    -------
    dict or None
        The first row that was appended, or what ``decide`` gave instead.

    Raises
    ------
    StaleDecision
        when others were faster a hundred times.
    """
    for _ in range(ROUNDS):
        version = lake.version(table)
        found = lake.read(table, version=version) if version >= 0 else None
        wanted = decide([] if found is None else found.to_pylist())
        if not isinstance(wanted, list):
            return wanted
        try:
            lake.append_at(table, pa.Table.from_pylist(wanted, schema), version)
        except StaleDecision:
            continue
        return wanted[0]
    raise StaleDecision(
        f"{lake.uri}/tables/{table}", required="a commit", found=f"{ROUNDS} faster ones", remedy="try again"
    )
