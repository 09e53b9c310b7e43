"""What stands in the way of a verdict, told from the three ledgers and from nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass

from include.lake import Lake
from include.promote import approval, ledger
from include.promote.grow import Row
from include.promote.switch import WITHDRAWN, asked
from include.spec import UseCase


@dataclass(frozen=True)
class Books:
    """The ledgers as they stand.

    Parameters
    ----------
    switches : rows of `deployments`, oldest first.
    human : whether a person is asked; the verdicts aren't read where nobody is.
    verdicts : key, night, verdict and number of each row of `attempts`.
    approvals : rows of `approvals`.
    """

    switches: list[Row]
    human: bool
    verdicts: list[Row]
    approvals: list[Row]


def books(lake: Lake, spec: UseCase, switches: list[Row] | None = None) -> Books:
    """Read the ledgers, but for the switches where they were read."""
    switches = ledger.switches(lake) if switches is None else switches
    approvals = lake.rows("approvals")
    if spec.gate.approval != "human":
        return Books(switches, False, [], approvals)
    found = lake.read("attempts", columns=["key", "night", "verdict", "recorded"])
    return Books(switches, True, [] if found is None else found.to_pylist(), approvals)


def obstacle(books: Books, attempt: Row) -> str:
    """Return why an attempt may not be switched to as the ledgers stand, empty when it may.

    Parameters
    ----------
    attempt : a row of `attempts`; a forced one is switched to by `include.promote.run.force` alone.
    """
    if attempt["verdict"] not in approval.ASKABLE:
        return str(attempt["sentence"])
    newest, night = ledger.newest_evidence(books.switches), attempt["night"]
    if night < newest:
        return f"recorded, not deployed: its evidence is of {night}, a champion's is of {newest}"
    line = ledger.succession(books.switches)
    now, then = line[-1]["model"] if line else "", json.loads(attempt["evidence"])["champion"]
    if now != then:
        return f"superseded: judged against {then[:8] or 'no champion'}, now {now[:8]} serves"
    tried = [row for row in books.switches if row["role"] == "challenger"][-1:]
    if line and tried and tried[0]["kind"] != WITHDRAWN and tried[0]["switch"] > line[-1]["switch"]:
        since = tried[0]["effective"]
        return f"v{tried[0]['version']} is on trial since {since}: train again when that has ended"
    said = approval.of(books.approvals, attempt["key"])
    if said and said["answer"] != approval.APPROVED:
        return approval.told(said)  # a no stays one when the declaration asks nobody any more
    return approval.wanting(books.verdicts, books.approvals, attempt) if books.human else ""


def waiting(lake: Lake, spec: UseCase) -> Row | None:
    """Return the attempt that waits for approval: at most one, since a newer one supersedes it."""
    now = books(lake, spec)
    rows = reversed(ledger.attempts(lake)) if now.human else ()
    return next((row for row in rows if obstacle(now, row) == approval.WAITS), None)


def consent(books: Books, attempt: Row) -> str:
    """Return what is to be told of an attempt's approval, empty where nobody is asked.

    An approval that came to nothing says why, unless the attempt has served since.
    """
    if not books.human or attempt["verdict"] not in approval.ASKABLE:
        return ""
    row = approval.of(books.approvals, attempt["key"])
    why = "" if asked(books.switches, attempt["key"]) else obstacle(books, attempt)
    said = approval.told(row) if row else ""
    return "; ".join(part for part in dict.fromkeys((said, why)) if part)
