"""A person's answer to a verdict, in a ledger of its own: one row an attempt, and the first answer stays.

No answer by the deadline means no. A person is only asked about verdicts that the gate lets pass, so nobody
can approve a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from include.errors import EvergreenError, NotPublished
from include.judge.judge import FORCED, PROMOTES
from include.promote import verdicts
from include.spec import UseCase
from include.storage.lake import Lake, Row
from include.storage.schemas import APPROVALS

APPROVED, REJECTED, EXPIRED = "approved", "rejected", "expired"
SILENCE = "nobody answered in time"


@dataclass(frozen=True)
class Blocker:
    """What blocks the switch to a challenger.

    Parameters
    ----------
    sentence : for people.
    waits : whether only a person's answer is missing.
    """

    sentence: str
    waits: bool = False


WAITS = Blocker("waits for approval", waits=True)


def require_person_and_reason(subject: str, by: str, reason: str) -> None:
    """Refuse a person's action without a name or a reason."""
    if not by.strip() or not reason.strip():
        raise EvergreenError(
            subject,
            required="a name and a reason",
            found=f"name {by.strip() or 'none'}, reason {reason.strip() or 'none'}",
            remedy="give both, in a shell by --by and --reason",
        )


def find_attempt(lake: Lake, partition_or_key: str) -> Row:
    """Return the attempt that a person names.

    Parameters
    ----------
    partition_or_key : a partition, for its newest attempt, or the beginning of an attempt's key.

    Raises
    ------
    NotPublished
        when no attempt matches, or several keys begin so.
    """
    rows = [row for row in verdicts.attempts(lake) if row["verdict"] != FORCED]
    matches = [row for row in rows if row["partition"] == partition_or_key][-1:]
    if not matches:
        matches = [row for row in rows if partition_or_key and row["key"].startswith(partition_or_key)]
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(f"{row['key'][:8]} of {row['partition']}" for row in matches or rows[-5:])
    raise NotPublished(
        f"attempt {partition_or_key or 'without a partition or key'}",
        required="a recorded verdict, named by its partition or the beginning of its key",
        found=listed or "none",
        where=f"{lake.uri}/tables/attempts",
        remedy="name one of those" if listed else "train first",
    )


def record_answer(
    lake: Lake, spec: UseCase, attempt_key: str, answer: str, by: str, reason: str, at: datetime
) -> Row:
    """Record the answer to a verdict once; a later call returns the first answer.

    Parameters
    ----------
    answer : `APPROVED` or `REJECTED` by a person with a reason, or `EXPIRED` at the deadline.
    at : when it was given, UTC.

    Raises
    ------
    NotPublished
        when that attempt was never judged.
    EvergreenError
        when the gate has no approval, when it refused the attempt, or when the person or the reason is
        missing.
    """
    subject = f"{spec.name}: {answer}"
    if answer != EXPIRED:
        require_person_and_reason(subject, by, reason)
    attempt = verdicts.attempt(lake, attempt_key)
    if spec.gate.approval == "none":
        raise EvergreenError(
            subject,
            required="gate.approval: changes or all",
            found=spec.gate.approval,
            remedy="this use case asks nobody; to let the model serve anyway, force it",
        )
    if attempt["verdict"] not in PROMOTES:
        raise EvergreenError(
            subject,
            required=f"a verdict that is {' or '.join(PROMOTES)}",
            found=attempt["verdict"],
            remedy="a verdict that the gate refuses can be forced, not approved",
        )

    def decide_answer(rows: list[Row]) -> list[Row] | Row:
        if earlier := answer_to(rows, attempt_key):
            return earlier
        row = {"attempt": attempt_key, "answer": answer, "by": by, "at": at, "reason": reason}
        return [{**row, "recorded": len(rows) + 1}]

    return lake.append_compare_and_swap("approvals", APPROVALS, decide_answer)


def answer_to(approvals: list[Row], attempt_key: str) -> Row | None:
    """Return the answer to an attempt, None while there is none."""
    return next((row for row in approvals if row["attempt"] == attempt_key), None)


def answer_text(row: Row) -> str:
    """Return an answer as a sentence."""
    if row["answer"] == EXPIRED:
        return SILENCE
    return f"{row['answer']} by {row['by']}: {row['reason']}"


def missing_consent(attempts: list[Row], approvals: list[Row], attempt: Row) -> Blocker | None:
    """Return why an attempt lacks a person's consent, None if it has it.

    A newer verdict supersedes an attempt that waits or was approved, if the gate lets it pass and its
    partition isn't older: only the newest attempt that passed may serve.
    """
    answer = answer_to(approvals, attempt["key"])
    if answer and answer["answer"] != APPROVED:
        return Blocker(answer_text(answer))
    superseding = [
        other["partition"]
        for other in sorted(attempts, key=lambda other: int(other["recorded"]))
        if other["recorded"] > attempt["recorded"]
        and other["verdict"] in PROMOTES
        and other["partition"] >= attempt["partition"]
    ]
    if superseding:
        return Blocker(f"superseded by the verdict of {superseding[-1]}")
    return None if answer else WAITS
