"""Take the step of a trial that its live losses ask for: one commit to the ledger, or none.

Only the newest served partition acts. An older one, run again or backfilled, sees what was known then, and
what followed from it has long been decided.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from include.errors import StaleDecision
from include.features import point_in_time
from include.features.build import labels, matured
from include.judge.evidence import CHALLENGER, CHAMPION, Evidence, Losses
from include.models import outputs
from include.monitor.checks.degradation import demotion_reason
from include.monitor.losses import loss_series
from include.promote import ledger
from include.promote.ledger import Row
from include.promote.promotion import WITHDRAWN, mirror_aliases, switch_rows
from include.promote.rollback import rollback
from include.promote.trials import CANARY_ROLE, CHALLENGER_ROLE, WATCH_ROLE, Trial, trials_on
from include.references import Ref
from include.rollout.policy import BACK, STAY, RolloutStep, next_step
from include.score import predictions
from include.score.shadow import TABLE
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.storage.lake import Lake

if TYPE_CHECKING:
    from include.models.registry import Registry  # it imports MLflow

SUFFIX = " of the incumbent"


def live_losses(lake: Lake, spec: UseCase, trial: Trial, partition: str) -> Losses:
    """Return the losses of candidate and incumbent by partition, as known on ``partition``.

    Only rows that both have scored from the same features count, and that have a label.
    """
    partitions = [key for key in matured(lake, spec, partition) if key >= trial.since]
    by, target = [*spec.key, "partition"], spec.problem.target
    sides = [_scored(lake, spec, partitions, str(row["model"])) for row in (trial.candidate, trial.incumbent)]
    came = labels(lake, spec, partitions, known=partition)
    both = sides[0].join(sides[1], [*by, "row_digest"], join_type="inner", right_suffix=SUFFIX)
    both = both.join(came.filter(came[target].is_valid()), by, join_type="inner").sort_by(
        [(name, "ascending") for name in ("partition", *spec.key)]
    )
    of, actual = np.asarray(both["partition"].to_pylist(), dtype=object), both[target].to_numpy()
    places = {key: np.flatnonzero(of == key) for key in sorted(set(of))}
    sums = {}
    for name, suffix in ((CHALLENGER, ""), (CHAMPION, SUFFIX)):
        each = row_losses(spec.gate.objective, actual, outputs.from_columns(spec, both, suffix))
        sums[name] = tuple(float(each[place].sum()) for place in places.values())
    return Losses(tuple(places), tuple(len(place) for place in places.values()), sums)


def _scored(lake: Lake, spec: UseCase, partitions: Sequence[str], model: str) -> pa.Table:
    """Return a model's prediction for each row of the partitions, whether it served or stood beside."""
    said = spec.problem.outputs
    columns = [*spec.key, "partition", "row_digest", *said]
    where = {"partition": list(partitions), "model": model}
    found = [lake.read(table, where, columns) for table in ("predictions", TABLE)] if partitions else []
    shape = pa.schema([predictions.predictions_schema(spec).field(name) for name in columns])
    rows = pa.concat_tables([point_in_time.conform(some, shape) for some in (None, *found)])
    # in a canary a model has some rows in both tables, and they are equal
    by = [name for name in columns if name not in said]
    once = rows.group_by(by).aggregate([(name, "min") for name in said])
    return once.rename_columns({f"{name}_min": name for name in said})


def demote(lake: Lake, spec: UseCase, partition: str, by: str) -> str:
    """Let the ladder serve without its champion from the next unserved partition, and return why.

    Else nothing.

    Parameters
    ----------
    partition : the newest served partition; labels count as far as they are realised and known by then.
    by : who switches.
    """
    line = ledger.champions(ledger.switches(lake))
    if not line:
        return ""
    champion = line[-1]
    # of one that has stepped down no partition is looked at: it serves none from its switch on
    why = demotion_reason(spec, loss_series(lake, champion, partition))

    def decide(rows: list[Row]) -> list[Row] | None:
        if ledger.champions(rows)[-1]["switch"] != champion["switch"]:
            return None  # somebody switched meanwhile, and meant it
        effective = ledger.next_unserved(lake, spec, partition)
        said = {"kind": ledger.STEPPED_DOWN, "by": by, "reason": why, "effective": effective, "request": ""}
        # with its baseline, which comes back with it; who was to replace it is tried against nobody any more
        tried = [
            row for row in rows if row["role"] == CHALLENGER_ROLE and row["switch"] > champion["switch"]
        ][-1:]
        ended = [{**row, **said, "kind": WITHDRAWN} for row in tried if row["kind"] != WITHDRAWN]
        own = [row for row in rows if row["switch"] == champion["switch"] and row["role"] != CHALLENGER_ROLE]
        return [*({**row, **said} for row in own), *ended]

    done = ledger.record_switch(lake, decide) if why else None
    return f"v{champion['version']} steps down from {done['effective']} on: {why}" if done else ""


log = logging.getLogger(__name__)
ITSELF = "evergreen"  # who switches when nobody asked


def advance(
    lake: Lake, spec: UseCase, partition: str, *, registry: Callable[[], Registry] | None = None
) -> Ref:
    """Look at every trial of a partition, and at the champion beside its baseline, and take the steps.

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
    served = sorted(row["partition"] for row in scored if row["outcome"] == "published")
    where = f"{lake.uri}/tables/deployments"
    if served and partition < served[-1]:
        return Ref(
            where, partition, note=f"only the newest served partition takes steps, and that is {served[-1]}"
        )
    notes, taken = [], 0
    for trial in trials_on(ledger.switches(lake), spec, partition):
        partitions = sum(row["partition"] >= trial.since and row["rows"] > 0 for row in scored)
        found = next_step(trial.kind, live_losses(lake, spec, trial, partition), partitions, spec.gate)
        taken += found.step != STAY and _act(lake, spec, trial, found)
        notes.append(f"{trial}: {found.step}, {found.reason}")
    if down := demote(lake, spec, partition, ITSELF):
        log.warning("%s: %s", spec.name, down)
        notes, taken = [*notes, down], taken + 1
    champions = ledger.champions(ledger.switches(lake))
    if registry is not None and any(row["effective"] >= partition for row in champions):
        mirror_aliases(
            lake, spec, registry()
        )  # also for who switched and was killed before it, in this partition or the last
    return Ref(where, partition, rows=taken, note="; ".join(notes)[:500] or "nothing is on trial")


def _act(lake: Lake, spec: UseCase, trial: Trial, found: RolloutStep) -> bool:
    """Take a step; False where somebody else switched meanwhile, and the next partition looks again."""
    log.warning("%s: %s: %s, %s", spec.name, trial, found.step, found.reason)
    if trial.kind == WATCH_ROLE:
        request = f"watch of switch {trial.candidate['switch']}"
        try:
            rollback(lake, spec, None, ITSELF, found.reason, request=request, instead_of=trial.candidate)
        except StaleDecision as error:
            log.warning("%s: %s", spec.name, error)
            return False
        return True
    return ledger.record_switch(lake, lambda rows: _step(lake, spec, trial, found, rows)) is not None


def _step(
    lake: Lake, spec: UseCase, trial: Trial, found: RolloutStep, rows: list[Row]
) -> list[Row] | Row | None:
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
    last = trial.kind == CANARY_ROLE or spec.gate.rollout.kind != CANARY_ROLE
    return switch_rows(
        Evidence.from_json(attempt["evidence"]),
        ["champion", "baseline"] if last else [CHALLENGER],
        kind=ledger.PROMOTED if last else CANARY_ROLE,
        by=str(trial.candidate["by"]),
        reason=f"{trial.candidate['reason']}; {reason}",
        attempt=attempt["key"],
        request=attempt["key"],
        effective=effective,
    )
