"""The way back: an earlier champion serves again, by one commit and without the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.errors import NotPublished, StaleDecision
from include.models import artifacts
from include.promote import ledger
from include.promote.approval import require_person_and_reason
from include.promote.ledger import ROLLED_BACK, Row
from include.promote.promotion import mirror_aliases, switch_for_request, switch_reference
from include.references import Ref
from include.spec import UseCase
from include.storage.lake import Lake

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow


def rollback(
    lake: Lake,
    spec: UseCase,
    to: str | None,
    by: str,
    reason: str,
    *,
    registry: Registry | None = None,
    request: str = "",
    instead_of: Row | None = None,
) -> Ref:
    """Let an earlier champion serve again, from the next unserved partition on.

    Parameters
    ----------
    to : a version that was champion before; None for the one that the live champion replaced.
    request : what asks, as a run's id; the same request again finds what it did and does nothing.
    instead_of : the champion's row that is meant to go; any other one stays.

    Raises
    ------
    NotPublished, ModelError
        when there is no such earlier champion, or it can't be loaded from the lake.
    StaleDecision
        when another champion than the one that is meant serves by now.
    """
    require_person_and_reason(f"{spec.name}: a rollback", by, reason)
    seen = ledger.switches(lake)
    note, row = "already carried out: ", switch_for_request(seen, request)
    if row is None:
        target, live = _target(lake, spec, seen, to, instead_of), ledger.champions(seen)[-1]
        why = {"kind": ROLLED_BACK, "by": by, "reason": reason, "request": request}
        note, row = "nothing to do: ", live
        if not _serves(live, target):
            note, row = "", _go_back(lake, spec, target, live if to is None else None, why)
    if registry is not None:
        mirror_aliases(lake, spec, registry)  # also for who was killed before it
    return switch_reference(lake, row, note)


def _go_back(lake: Lake, spec: UseCase, target: Row, expected: Row | None, why: Row) -> Row:
    """Write the switch back to a champion's row, unless the live one isn't the one expected any more."""
    artifacts.load_model(lake, target["model"])  # or say that it can't serve

    def decide(rows: list[Row]) -> list[Row] | Row:
        now = ledger.champions(rows)[-1]
        if _serves(now, target):
            return now
        if expected is not None and now["switch"] != expected["switch"]:
            raise _overtaken(spec, expected, now)
        effective = ledger.next_unserved(lake, spec) or now["effective"]
        new = {**why, "effective": effective}
        beside = ("champion", "baseline")  # not a challenger that was withdrawn with it
        return [{**r, **new} for r in rows if r["switch"] == target["switch"] and r["role"] in beside]

    back = ledger.record_switch(lake, decide)
    assert back is not None
    return back


def _serves(live: Row, target: Row) -> bool:
    return bool(live["model"] == target["model"] and live["kind"] != ledger.STEPPED_DOWN)


def _overtaken(spec: UseCase, seen: Row, now: Row) -> StaleDecision:
    return StaleDecision(
        f"{spec.name}: rollback",
        required=f"champion v{seen['version']}",
        found=f"v{now['version']}",
        remedy="somebody else switched meanwhile: look again, and name the version to go back to",
    )


def _target(lake: Lake, spec: UseCase, rows: list[Row], to: str | None, instead_of: Row | None) -> Row:
    """Return the champion to go back to, unless another one serves than is meant to go."""
    line = ledger.succession(rows)
    if instead_of is not None and line[-1]["switch"] != instead_of["switch"]:
        raise _overtaken(spec, instead_of, line[-1])
    earlier = {row["version"]: row for row in ledger.champions(rows)}
    if line and to in earlier:
        return earlier[to]
    if to is None and len(line) > 1:
        return line[-2]
    raise NotPublished(
        f"{spec.name}: rollback",
        required=f"version {to}, once champion" if to else "a champion before the live one",
        found=", ".join(f"v{version}" for version in earlier) or "no champion yet",
        where=f"{lake.uri}/tables/deployments",
        remedy="name one of those; until then the ladder's next rung serves what the champion can't",
    )
