"""A person's yes or no to a verdict, in a ledger of its own: one row an attempt, and the first answer stays.

Silence means no. The partition's own gate has spoken before anybody is asked, so nobody can approve a
refusal.
"""

from __future__ import annotations

from datetime import datetime

from include.errors import EvergreenError, NotPublished
from include.judge.judge import BLESSED, FORCED, RUBBER_STAMPED
from include.promote import ledger
from include.promote.ledger import Row, append_compare_and_swap
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import APPROVALS


def require_person_and_reason(subject: str, by: str, reason: str) -> None:
    """Refuse what a person does without a name or a reason."""
    if not by.strip() or not reason.strip():
        found = f"by {by.strip() or 'nobody'}, reason {reason.strip() or 'none'}"
        raise EvergreenError(subject, required="by whom, and why", found=found, remedy="give both")


def find_attempt(lake: Lake, said: str) -> Row:
    """Return the attempt that a person means.

    Parameters
    ----------
    said : the beginning of its key, or a partition: then the newest attempt of that partition.

    Raises
    ------
    NotPublished
        when no attempt is meant, or several keys begin so.
    """
    rows = [row for row in ledger.attempts(lake) if row["verdict"] != FORCED]
    of_partition = [row for row in rows if row["partition"] == said]
    found = of_partition[-1:] or [row for row in rows if said and row["key"].startswith(said)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{row['key'][:8]} of {row['partition']}" for row in found or rows[-5:])
    raise NotPublished(
        f"attempt {said or 'of no partition and no key'}",
        required="a recorded verdict, by its partition or the beginning of its key",
        found=there or "none",
        where=f"{lake.uri}/tables/attempts",
        remedy="name one of those" if there else "train first",
    )


APPROVED, REJECTED, EXPIRED = "approved", "rejected", "expired"
ASKABLE = (BLESSED, RUBBER_STAMPED)
WAITS = "waits for approval"
SILENCE = "nobody answered in time"


def record_answer(
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
        require_person_and_reason(subject, by, reason)
    attempt = ledger.attempt(lake, attempt_key)
    if spec.gate.approval != "human":
        raise EvergreenError(subject, required="gate.approval: human", found=f"{spec.gate.approval}")
    if attempt["verdict"] not in ASKABLE:
        remedy = "what the gate refuses is forced, not approved"
        wanted = f"a verdict that is {' or '.join(ASKABLE)}"
        raise EvergreenError(subject, required=wanted, found=attempt["verdict"], remedy=remedy)

    def decide(rows: list[Row]) -> list[Row] | Row:
        if known := answer_to(rows, attempt_key):
            return known
        row = {"attempt": attempt_key, "answer": answer, "by": by, "at": at, "reason": reason}
        return [{**row, "recorded": len(rows) + 1}]

    row = append_compare_and_swap(lake, "approvals", APPROVALS, decide)
    assert row is not None
    return row


def answer_to(approvals: list[Row], attempt_key: str) -> Row | None:
    """Return the answer to an attempt, None while there is none."""
    return next((row for row in approvals if row["attempt"] == attempt_key), None)


def answer_text(row: Row) -> str:
    """Return an answer as a sentence."""
    if row["answer"] == EXPIRED:
        return SILENCE
    return f"{row['answer']} by {row['by']}: {row['reason']}"


def missing_consent(attempts: list[Row], approvals: list[Row], attempt: Row) -> str:
    """Return why an attempt lacks a person's consent, empty where it has it.

    A verdict that was recorded later, promotes too and isn't of an older partition supersedes one that waits
    or was approved: what may serve is the newest that earned it.
    """
    row = answer_to(approvals, attempt["key"])
    if row and row["answer"] != APPROVED:
        return answer_text(row)
    newer = [
        other["partition"]
        for other in sorted(attempts, key=lambda other: int(other["recorded"]))
        if other["recorded"] > attempt["recorded"]
        and other["verdict"] in ASKABLE
        and other["partition"] >= attempt["partition"]
    ]
    if newer:
        return f"superseded by the verdict of {newer[-1]}"
    return "" if row else WAITS
