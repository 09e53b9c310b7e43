"""A person's yes or no to a verdict, in a ledger of its own: one row an attempt, and the first answer stays.

Silence means no. The night's own gate has spoken before anybody is asked, so nobody can approve a refusal.
"""

from __future__ import annotations

from datetime import datetime

from include.errors import EvergreenError
from include.lake import Lake
from include.promote import ledger
from include.promote.grow import Row, grow
from include.promote.judge import BLESSED, RUBBER_STAMPED
from include.promote.person import named
from include.spec import UseCase
from include.tables import APPROVALS

APPROVED, REJECTED, EXPIRED = "approved", "rejected", "expired"
ASKABLE = (BLESSED, RUBBER_STAMPED)
WAITS = "waits for approval"
SILENCE = "nobody answered in time"


def answer(
    lake: Lake, spec: UseCase, attempt_key: str, answer: str, by: str, reason: str, at: datetime
) -> Row:
    """Record the answer to a verdict, once: later ones find the first, which is returned.

    Parameters
    ----------
    answer : `APPROVED` or `REJECTED` by a person with a reason, or `EXPIRED` by the deadline.
    at : when it was given, UTC.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    EvergreenError
        when nobody is asked: the gate has no approval, or refused; or when no person or reason is named.
    """
    subject = f"{spec.name}: {answer}"
    if answer != EXPIRED:
        named(subject, by, reason)
    attempt = ledger.attempt(lake, attempt_key)
    if spec.gate.approval != "human":
        raise EvergreenError(subject, required="gate.approval: human", found=f"{spec.gate.approval}")
    if attempt["verdict"] not in ASKABLE:
        remedy = "what the gate refuses is forced, not approved"
        wanted = f"a verdict that is {' or '.join(ASKABLE)}"
        raise EvergreenError(subject, required=wanted, found=attempt["verdict"], remedy=remedy)

    def decide(rows: list[Row]) -> list[Row] | Row:
        if known := of(rows, attempt_key):
            return known
        row = {"attempt": attempt_key, "answer": answer, "by": by, "at": at, "reason": reason}
        return [{**row, "recorded": len(rows) + 1}]

    row = grow(lake, "approvals", APPROVALS, decide)
    assert row is not None
    return row


def of(approvals: list[Row], attempt_key: str) -> Row | None:
    """Return the answer to an attempt, None while there is none."""
    return next((row for row in approvals if row["attempt"] == attempt_key), None)


def told(row: Row) -> str:
    """Return an answer as a sentence."""
    if row["answer"] == EXPIRED:
        return SILENCE
    return f"{row['answer']} by {row['by']}: {row['reason']}"


def wanting(attempts: list[Row], approvals: list[Row], attempt: Row) -> str:
    """Return why an attempt lacks a person's consent, empty where it has it.

    A verdict that was recorded later, promotes too and isn't of an older night supersedes one that waits or
    was approved: what may serve is the newest that earned it.
    """
    row = of(approvals, attempt["key"])
    if row and row["answer"] != APPROVED:
        return told(row)
    newer = [
        other["night"]
        for other in sorted(attempts, key=lambda other: int(other["recorded"]))
        if other["recorded"] > attempt["recorded"]
        and other["verdict"] in ASKABLE
        and other["night"] >= attempt["night"]
    ]
    if newer:
        return f"superseded by the verdict of {newer[-1]}"
    return "" if row else WAITS
