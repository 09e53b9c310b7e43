"""Roll back: an earlier champion serves again, by one commit and without the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from include.errors import NotPublished, StaleDecision
from include.models import artifacts
from include.promote import ledger
from include.promote.approval import require_person_and_reason
from include.promote.ledger import ROLLED_BACK
from include.promote.promotion import mirror_aliases, switch_for_request, switch_reference
from include.references import Ref
from include.spec import UseCase
from include.storage.lake import Lake, Row

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
    """Let an earlier champion serve again, from the next partition that isn't served yet.

    Parameters
    ----------
    to : a version that was champion before, as 2 or v2; None for the one that the live champion replaced. If
        that is itself a rollback that has served nothing yet, None is refused: it may be the same one again.
    request : what asks for it, as a run's id. The same request again returns its first switch.
    instead_of : the champion's row to roll back from; no other champion is rolled back.

    Raises
    ------
    NotPublished, ModelError
        when there is no such earlier champion, or it can't be loaded from the lake.
    StaleDecision
        when another champion serves by now than the one to roll back from.
    """
    require_person_and_reason(f"{spec.name}: a rollback", by, reason)
    switches = ledger.switches(lake)
    note, switch = "already carried out: ", switch_for_request(switches, request)
    if switch is None:
        target, live = _target(lake, spec, switches, to, instead_of), ledger.champions(switches)[-1]
        why = {"kind": ROLLED_BACK, "by": by, "reason": reason, "request": request}
        note, switch = "nothing to do: ", live
        if not _serves(lake, spec, live, target):
            note, switch = "", _record_rollback(lake, spec, target, live if to is None else None, why)
    if registry is not None:
        mirror_aliases(lake, spec, registry)  # also if an earlier run was killed before it
    return switch_reference(lake, switch, note)


def _target(lake: Lake, spec: UseCase, rows: list[Row], to: str | None, instead_of: Row | None) -> Row:
    """Return the champion's row to go back to.

    Raises
    ------
    StaleDecision
        when another champion is live than ``instead_of``.
    """
    history = ledger.champion_history(rows)
    if instead_of is not None and history[-1]["switch"] != instead_of["switch"]:
        raise _concurrent_switch(spec, instead_of, history[-1])
    # a version has two models if a later fit of another recipe replaced the trained one, which is meant here
    champions = ledger.champions(rows)
    replaced = {row["model"] for row in champions if row["kind"] == ledger.REPLACED}
    trained_last = sorted(champions, key=lambda row: row["model"] not in replaced)
    by_version = {row["version"]: row for row in trained_last}
    to = to.removeprefix("v") if to else None  # messages and pages write v2
    if history and to in by_version:
        return by_version[to]
    if to is None and len(history) > 1:
        _require_served(lake, spec, history[-1])
        return history[-2]
    versions = ", ".join(f"v{version}" for version in by_version) or "no champion yet"
    remedy = "there is no earlier champion: train again, or force another attempt"
    if to and by_version:
        remedy = f"choose one of {versions} as the version"
    raise NotPublished(
        f"{spec.name}: rollback",
        required="a version that was champion" if to else "a champion before the live one",
        found=f"{f'v{to}' if to.isdigit() else repr(to)}, which was never champion" if to else versions,
        where=f"{lake.uri}/tables/switches",
        remedy=remedy,
    )


def _require_served(lake: Lake, spec: UseCase, live: Row) -> None:
    """Refuse to go back from a rollback that has served nothing: asked for twice, it would go back twice."""
    if (
        live["kind"] == ROLLED_BACK
        and max(ledger.served_partitions(lake), default="") < live["effective_from"]
    ):
        raise NotPublished(
            f"{spec.name}: rollback",
            required="the version to roll back to",
            found=f"none, and the rollback to v{live['version']} by {live['by']} serves from "
            f"{live['effective_from']} on",
            where=f"{lake.uri}/tables/switches",
            remedy=f"do nothing if v{live['version']} should serve; otherwise repeat this with the version",
        )


def _record_rollback(lake: Lake, spec: UseCase, target: Row, expected: Row | None, why: Row) -> Row:
    """Record the switch back to a champion's row, unless another champion is live than the expected one."""
    artifacts.load_model(lake, target["model"], spec)  # raises ModelError if it can't serve

    def decide_rollback(rows: list[Row]) -> list[Row] | Row:
        live = ledger.champions(rows)[-1]
        if _serves(lake, spec, live, target):
            return live
        if expected is not None and live["switch"] != expected["switch"]:
            raise _concurrent_switch(spec, expected, live)
        return restored_rows(rows, target, ledger.next_unserved(lake, spec) or live["effective_from"], why)

    return ledger.record_switch(lake, decide_rollback)


def restored_rows(rows: Sequence[Row], target: Row, effective_from: str, why: Row) -> list[Row]:
    """Return the rows of the switch back to a champion's row and its baseline.

    Parameters
    ----------
    why : ``kind``, ``by``, ``reason`` and ``request``, as `switches` has them.
    """
    roles = ("champion", "baseline")  # not a challenger that was withdrawn in the same switch
    changes = {**why, "effective_from": effective_from}
    return [{**row, **changes} for row in rows if row["switch"] == target["switch"] and row["role"] in roles]


def _serves(lake: Lake, spec: UseCase, live: Row, target: Row) -> bool:
    return live["model"] == target["model"] and not ledger.could_serve_earlier(lake, spec, live)


def _concurrent_switch(spec: UseCase, expected: Row, live: Row) -> StaleDecision:
    return StaleDecision(
        f"{spec.name}: rollback",
        required=f"champion v{expected['version']}",
        found=f"v{live['version']}",
        remedy="the champion was switched meanwhile: check the status, and name the version to roll back to",
    )
