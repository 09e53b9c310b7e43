"""Take the step of a trial that its live losses ask for: one commit to the ledger, or none.

Only the newest served night acts. An older one, run again or backfilled, sees what was known then, and what
followed from it has long been decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from include.errors import StaleDecision
from include.lake import Lake
from include.promote import ledger
from include.promote.back import rollback
from include.promote.evidence import CHALLENGER, Evidence
from include.promote.grow import Row
from include.promote.mirror import mirror
from include.promote.switch import WITHDRAWN, steps
from include.refs import Ref
from include.rollout.down import step_down
from include.rollout.live import losses
from include.rollout.policy import BACK, STAY, Move, move
from include.rollout.trial import CANARY, WATCH, Trial, trials
from include.spec import UseCase

if TYPE_CHECKING:
    from include.registry import Registry  # it imports MLflow

log = logging.getLogger(__name__)
ITSELF = "evergreen"  # who switches when nobody asked


def advance(lake: Lake, spec: UseCase, night: str, *, registry: Callable[[], Registry] | None = None) -> Ref:
    """Look at every trial of a night, and at the champion beside its baseline, and take the steps.

    Parameters
    ----------
    registry : makes the registry whose aliases follow a switch; it is only made for one.

    Returns
    -------
    Ref
        ``rows`` is the number of steps that were taken; the note says of each trial how it stands.

    Raises
    ------
    ModelError
        when the champion is worse than the one before it, which can't be loaded.
    """
    scored = lake.rows("partitions", {"product": "predictions"})
    served = sorted(row["night"] for row in scored if row["outcome"] == "published")
    where = f"{lake.uri}/tables/deployments"
    if served and night < served[-1]:
        return Ref(where, night, note=f"only the newest served night takes steps, and that is {served[-1]}")
    notes, taken = [], 0
    for trial in trials(ledger.switches(lake), spec, night):
        nights = sum(row["night"] >= trial.since and row["rows"] > 0 for row in scored)
        found = move(trial.kind, losses(lake, spec, trial, night), nights, spec.gate)
        taken += found.step != STAY and _act(lake, spec, trial, found)
        notes.append(f"{trial}: {found.step}, {found.reason}")
    if down := step_down(lake, spec, night, ITSELF):
        log.warning("%s: %s", spec.name, down)
        notes, taken = [*notes, down], taken + 1
    champions = ledger.champions(ledger.switches(lake))
    if registry is not None and any(row["effective"] >= night for row in champions):
        mirror(lake, spec, registry())  # also for who switched and was killed before it, tonight or the last
    return Ref(where, night, rows=taken, note="; ".join(notes)[:500] or "nothing is on trial")


def _act(lake: Lake, spec: UseCase, trial: Trial, found: Move) -> bool:
    """Take a step; False where somebody else switched meanwhile, and the next night looks again."""
    log.warning("%s: %s: %s, %s", spec.name, trial, found.step, found.reason)
    if trial.kind == WATCH:
        request = f"watch of switch {trial.candidate['switch']}"
        try:
            rollback(lake, spec, None, ITSELF, found.reason, request=request, instead_of=trial.candidate)
        except StaleDecision as error:
            log.warning("%s: %s", spec.name, error)
            return False
        return True
    return ledger.switch(lake, lambda rows: _step(lake, spec, trial, found, rows)) is not None


def _step(lake: Lake, spec: UseCase, trial: Trial, found: Move, rows: list[Row]) -> list[Row] | Row | None:
    """Return the rows of a challenger's step, or the row of who took it before it was killed.

    None says that it isn't on trial any more.
    """
    now, reason = [row for row in rows if row["role"] != "baseline"][-1], f"{trial}: {found.reason}"
    if now["switch"] != trial.candidate["switch"]:
        return now if now["reason"].endswith(reason) else None
    effective = ledger.next_unserved(lake, spec, str(trial.candidate["evidence"]))
    if found.step == BACK:
        ended = {"kind": WITHDRAWN, "by": ITSELF, "reason": reason, "effective": effective}
        return [{**trial.candidate, **ended, "request": ""}]
    attempt = ledger.attempt(lake, str(trial.candidate["attempt"]))
    last = trial.kind == CANARY or spec.gate.rollout.kind != CANARY
    return steps(
        Evidence.from_json(attempt["evidence"]),
        ["champion", "baseline"] if last else [CHALLENGER],
        kind=ledger.PROMOTED if last else CANARY,
        by=str(trial.candidate["by"]),
        reason=f"{trial.candidate['reason']}; {reason}",
        attempt=attempt["key"],
        request=attempt["key"],
        effective=effective,
    )
