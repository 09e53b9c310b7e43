"""What a person says to the ledgers: who wants it, why, and which attempt is meant."""

from __future__ import annotations

from include.errors import EvergreenError, NotPublished
from include.lake import Lake
from include.promote import ledger
from include.promote.grow import Row
from include.promote.judge import FORCED


def named(subject: str, by: str, reason: str) -> None:
    """Refuse what a person does without a name or a reason."""
    if not by.strip() or not reason.strip():
        found = f"by {by.strip() or 'nobody'}, reason {reason.strip() or 'none'}"
        raise EvergreenError(subject, required="by whom, and why", found=found, remedy="give both")


def which(lake: Lake, said: str) -> Row:
    """Return the attempt that a person means.

    Parameters
    ----------
    said : the beginning of its key, or a night: then the newest attempt of that night.

    Raises
    ------
    NotPublished
        when no attempt is meant, or several keys begin so.
    """
    rows = [row for row in ledger.attempts(lake) if row["verdict"] != FORCED]
    of_night = [row for row in rows if row["night"] == said]
    found = of_night[-1:] or [row for row in rows if said and row["key"].startswith(said)]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{row['key'][:8]} of {row['night']}" for row in found or rows[-5:])
    raise NotPublished(
        f"attempt {said or 'of no night and no key'}",
        required="a recorded verdict, by its night or the beginning of its key",
        found=there or "none",
        where=f"{lake.uri}/tables/attempts",
        remedy="name one of those" if there else "train first",
    )
