"""Whether the champion does what it was promoted for: against the gate's estimate, and against its baseline.

Both are looked at every so many matured partitions, over the last ``monitoring.patience`` of them, and a look
may be wrong as rarely as ``monitoring.false_alarms_per_year`` in 365 partitions allows. A look's answer
stands until the next.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import stdtrit

from include.errors import EvergreenError
from include.judge.evidence import CHALLENGER, Evidence, Losses, evidence_rows_key
from include.monitor.findings import Finding, Outcome
from include.monitor.losses import LossSeries, loss_series
from include.monitor.state import State
from include.spec import UseCase
from include.stats.intervals import MeanEstimate, mean_and_variance, partitions_needed
from include.storage.lake import Lake

WIDE = 2  # see `looked_at`


def check_performance(lake: Lake, spec: UseCase, partition: str, state: State) -> list[Finding]:
    """Return what the champion's losses say of it, as known on a partition."""
    champion = state.champion(partition)
    if champion is None or state.vacancy(partition):
        return []
    live = loss_series(lake, champion, partition)
    return [above_gate(spec, live, promised_losses(lake, champion)), below_baseline(spec, live)]


def promised_losses(lake: Lake, champion: Mapping[str, Any]) -> Losses | str:
    """Return the losses on which a champion was promoted, or why there are none."""
    rows = lake.rows("attempts", {"key": champion["attempt"]})
    try:
        return Evidence.from_json(rows[0]["evidence"]).losses if rows else "it was promoted without a gate"
    except EvergreenError as error:
        return str(error)


def promotion_test_rows(lake: Lake, champion: Mapping[str, Any]) -> pa.Table | None:
    """Return partition, label and prediction of the rows on which a champion was promoted, None if gone."""
    key = str(champion["attempt"]).removesuffix("+forced")
    data = lake.get(evidence_rows_key(key)) if key else None
    return (
        None if data is None else pq.read_table(io.BytesIO(data), columns=["partition", "actual", CHALLENGER])
    )


def look_window(spec: UseCase, live: LossSeries, wide: int = 1) -> slice:
    """Return the partitions of the last look, none before two blocks.

    Parameters
    ----------
    wide : times ``monitoring.patience`` and ``gate.block_partitions``: `WIDE` where no pairing takes away
        what partitions have in common, so that it lasts from one block to the next.
    """
    look = spec.gate.rollout.look_every
    last = len(live.partitions) // look * look
    last = last if last >= partitions_needed(wide * spec.gate.block_partitions) else 0
    return slice(max(last - wide * spec.monitoring.patience, 0), last)


def look_alpha(spec: UseCase) -> float:
    """Return the chance with which a single look may raise a false alarm."""
    return min(spec.monitoring.false_alarms_per_year * spec.gate.rollout.look_every / 365, 0.25)


def below_baseline(spec: UseCase, live: LossSeries) -> Finding:
    """Judge the champion's loss against the baseline's on the same rows, paired by partition.

    The figure is how much more the champion loses a row than the baseline, at least.
    """
    subject, seen = f"{spec.gate.objective} against the baseline", look_window(spec, live)
    if not live.partitions[seen]:
        return _thin(subject, spec, live)
    worse = mean_and_variance(
        live.loss[seen] - live.baseline[seen], live.rows[seen], spec.gate.block_partitions
    )
    low = worse.mean - stdtrit(worse.blocks - 1, 1 - look_alpha(spec)) * math.sqrt(worse.variance)
    who = " and ".join(sorted(set(live.against[seen])))
    alarm = bool(low > 0)
    note = f"loses {worse.mean:+.4g} {spec.gate.objective} a row against {who}, at least {low:+.4g}, "
    note += _over(live, seen)
    return Finding("performance", subject, float(low), 0.0, "alarm" if alarm else "ok", note)


def demotion_reason(spec: UseCase, live: LossSeries) -> str:
    """Return why the champion has to go: it was below its baseline for the declared time; else nothing."""
    found, seen = below_baseline(spec, live), look_window(spec, live)
    return (
        found.note
        if found.outcome == "alarm" and len(live.partitions[seen]) >= spec.monitoring.patience
        else ""
    )


def above_gate(spec: UseCase, live: LossSeries, gate: Losses | str) -> Finding:
    """Judge the champion's loss against that on the gate's test partitions: other partitions, so not paired.

    Notes
    -----
    The difference of two means of partitions, each with its own spread: B. L. Welch, The generalization of
    `Student's' problem when several different population variances are involved, Biometrika 34, 1947.
    """
    subject, seen = f"{spec.gate.objective} against the gate", look_window(spec, live, WIDE)
    block = WIDE * spec.gate.block_partitions
    if isinstance(gate, str):
        return Finding("performance", subject, None, 0.0, "not enough", f"no gate's estimate: {gate}")
    if len(gate.partitions) < partitions_needed(block):
        return _thin(subject, spec, live, f"the gate's {len(gate.partitions)} partitions are too few; ")
    if not live.partitions[seen]:
        return _thin(subject, spec, live, wide=WIDE)
    now = mean_and_variance(live.loss[seen], live.rows[seen], block)
    then = mean_and_variance(np.array(gate.sums[CHALLENGER]), np.array(gate.rows, float), block)
    low = now.mean - then.mean - _reach(now, then, look_alpha(spec))
    outcome: Outcome = "alarm" if low > 0 else "ok"
    note = f"{spec.gate.objective} {now.mean:.4g} a row, on the gate's partitions {then.mean:.4g}: "
    note += f"{now.mean - then.mean:+.4g}, at least {low:+.4g}, {_over(live, seen)}"
    return Finding("performance", subject, float(low), 0.0, outcome, note)


def _reach(one: MeanEstimate, other: MeanEstimate, chance: float) -> float:
    """Return how far two means may be apart by chance, one-sided."""
    total = one.variance + other.variance
    if not total:
        return 0.0
    parts = (each.variance**2 / (each.blocks - 1) for each in (one, other))
    return float(stdtrit(total**2 / sum(parts), 1 - chance) * math.sqrt(total))


def _over(live: LossSeries, seen: slice) -> str:
    partitions = live.partitions[seen]
    return (
        f"over {len(partitions)} matured partitions, {partitions[0]} to {partitions[-1]}, "
        f"{int(live.rows[seen].sum())} rows"
    )


def _thin(subject: str, spec: UseCase, live: LossSeries, why: str = "", wide: int = 1) -> Finding:
    look = spec.gate.rollout.look_every
    least = -(-partitions_needed(wide * spec.gate.block_partitions) // look) * look
    note = why + f"{len(live.partitions)} of {least} partitions of this champion have matured"
    return Finding("performance", subject, None, 0.0, "not enough", note)
