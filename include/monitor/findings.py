"""Findings: what a check observed about one subject, with a figure, a threshold, an outcome and a sentence.

People read a finding, and the policy acts on it. *Not enough* is an outcome of its own: there was too little
to judge, which is neither ok nor an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa

from include.storage.schemas import FINDINGS

Outcome = Literal["ok", "alarm", "not enough"]


@dataclass(frozen=True)
class Finding:
    """What one check observed about one subject.

    Parameters
    ----------
    check : the name of the check in `include.monitor.registry`.
    subject : the column, metric, source or product that was checked.
    value, threshold : the figure, and the limit beyond which it is an alarm; None if there is none.
    note : the finding as a sentence.
    """

    check: str
    subject: str
    value: float | None
    threshold: float | None
    outcome: Outcome
    note: str


def findings_table(partition: str, findings: Iterable[Finding]) -> pa.Table:
    """Return a partition's findings as rows of `findings`, sorted by check and subject."""
    ordered = sorted(findings, key=lambda finding: (finding.check, finding.subject))
    rows = [{"partition": partition, **asdict(finding)} for finding in ordered]
    return pa.Table.from_pylist(rows, schema=FINDINGS)


def from_rows(rows: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the findings that rows of `findings` hold."""
    return [Finding(**{k: v for k, v in row.items() if k != "partition"}) for row in rows]
