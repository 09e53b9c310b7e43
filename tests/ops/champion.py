"""A champion that serves a use case's lake, without a training."""

from __future__ import annotations

from typing import Any

from include.promote import ledger
from include.storage.lake import Lake
from include.storage.schemas import SWITCHES


def record_champion(lake: Lake, model: str, effective_from: str, evidence: str, attempt: str) -> None:
    """Record the switch by which version 1, a stored model, serves from a partition on."""
    row: dict[str, Any] = dict.fromkeys(SWITCHES.names, "")
    row |= {"role": "champion", "version": "1", "model": model, "constant": 0.3}
    row |= {"effective_from": effective_from, "judged_on": evidence, "attempt": attempt}
    ledger.record_switch(lake, lambda rows: [row | {"kind": "promoted", "by": "a test"}])
