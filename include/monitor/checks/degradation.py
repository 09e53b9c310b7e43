"""Degradation: the champion's realized performance against requirements, the gate's estimate and a baseline.

The requirements are judged on the last matured partitions pooled. The losses are looked at once every
``gate.rollout.look_every`` matured partitions, over the last ``monitoring.patience`` of them. The chance of a
false alarm per look follows from ``monitoring.false_alarms_per_year``. The result of a look stands until the
next one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import stdtrit

from include.errors import EvergreenError
from include.features.build import labels
from include.judge.evidence import CHALLENGER, Evidence, Losses, evidence_rows_key
from include.models import outputs
from include.monitor.context import PartitionContext
from include.monitor.findings import Finding, Outcome
from include.monitor.losses import LossSeries
from include.monitor.performance import performance_metrics, predictions_with_labels
from include.promote.ledger import REPLACED
from include.spec import UseCase
from include.spec.gate import MetricBound
from include.stats.formatting import figure_and_limit
from include.stats.intervals import MeanEstimate, mean_and_variance, partitions_needed
from include.storage.lake import Lake

UNPAIRED_FACTOR = 2  # see `look_window`


def check_performance(context: PartitionContext) -> list[Finding]:
    """Check the declared requirements, and the champion's losses, as known on the partition."""
    findings = check_requirements(context)
    champion, live = context.champion, context.losses
    if champion is None or live is None:
        return findings
    promised = promised_losses(context.lake, champion)
    return [*findings, above_gate(context.spec, live, promised), below_baseline(context.spec, live)]


def check_requirements(context: PartitionContext) -> list[Finding]:
    """Judge the champion's realized metrics on its last matured partitions, pooled.

    Rows that a fallback or another model served don't count.
    """
    spec, partition, target = context.spec, context.partition, context.spec.problem.target
    window, requirements = spec.monitoring.window, spec.monitoring.requirements
    matured = context.state.matured(partition) if requirements and not context.vacancy else []
    partitions: list[str] = []
    if matured:
        known = labels(context.lake, spec, matured, known=partition)
        rows = predictions_with_labels(context.lake, spec, matured, known)
        rows = rows.filter(pc.and_(pc.equal(rows["model"], context.model), rows[target].is_valid()))
        partitions = sorted(pc.unique(rows["partition"]).to_pylist())[-window:]
    if len(partitions) < window:
        note = context.vacancy or f"{len(partitions)} of {window} partitions of this champion have matured"
        limits = {rule.metric: _limit(rule) for rule in requirements}
        return [
            Finding("performance", name, None, limit, "not enough", note) for name, limit in limits.items()
        ]
    pool = rows.filter(pc.is_in(rows["partition"], pa.array(partitions)))
    metrics = performance_metrics(spec, pool[target].to_numpy(), outputs.from_columns(spec, pool))
    size = f"over {len(partitions)} matured partitions, {partitions[0]} to {partitions[-1]}, "
    size += f"{pool.num_rows} rows"
    return [judge_requirement(rule, metrics[rule.metric], size) for rule in requirements]


def _limit(rule: MetricBound) -> float:
    limit = rule.at_least if rule.at_most is None else rule.at_most
    assert limit is not None  # the declaration requires one of the two
    return limit


def judge_requirement(rule: MetricBound, value: float | None, size: str) -> Finding:
    """Judge a metric by its requirement; ``size`` describes the rows for the note."""
    limit = _limit(rule)
    if value is None:
        note = f"{rule.metric} has no value {size}"
        return Finding("performance", rule.metric, None, limit, "not enough", note)
    is_minimum = rule.at_most is None
    alarm = value < limit if is_minimum else value > limit
    text, bound = figure_and_limit(value, limit, 3)
    note = f"{rule.metric} {text} {size}; required {'at least' if is_minimum else 'at most'} {bound}"
    return Finding("performance", rule.metric, value, limit, "alarm" if alarm else "ok", note)


def promised_losses(lake: Lake, champion: Mapping[str, Any]) -> Losses | str:
    """Return the losses of the evidence that promoted a champion, or why there are none."""
    if champion["kind"] == REPLACED:
        return "it replaced a worse model between two trainings"
    rows = lake.rows("attempts", {"key": champion["attempt"]})
    try:
        return Evidence.from_json(rows[0]["evidence"]).losses if rows else "it was promoted without a gate"
    except EvergreenError as error:
        return str(error)


def promotion_test_rows(lake: Lake, champion: Mapping[str, Any]) -> pa.Table | None:
    """Return partition, label and prediction of the test rows that promoted a champion, None if gone."""
    key = str(champion["attempt"]).removesuffix("+forced")
    data = lake.get(evidence_rows_key(key)) if key and champion["kind"] != REPLACED else None
    return (
        None if data is None else pq.read_table(io.BytesIO(data), columns=["partition", "actual", CHALLENGER])
    )


def look_window(spec: UseCase, live: LossSeries, factor: int = 1) -> slice:
    """Return the partitions of the last look; none until there are two blocks.

    Parameters
    ----------
    factor : multiplies ``monitoring.patience`` and ``gate.block_partitions``. It is `UNPAIRED_FACTOR` for a
        test without pairs: pairing removes what neighboring partitions have in common, and without it
        their correlation reaches from one block to the next.
    """
    look = spec.gate.rollout.look_every
    last = len(live.partitions) // look * look
    last = last if last >= partitions_needed(factor * spec.gate.block_partitions) else 0
    return slice(max(last - factor * spec.monitoring.patience, 0), last)


def look_alpha(spec: UseCase) -> float:
    """Return the chance with which a single look may raise a false alarm."""
    return min(spec.monitoring.false_alarms_per_year * spec.gate.rollout.look_every / 365, 0.25)


def below_baseline(spec: UseCase, live: LossSeries) -> Finding:
    """Judge the champion's loss against the baseline's on the same rows, paired by partition.

    The figure is the lower bound of the champion's extra loss per row.
    """
    subject, look = f"{spec.gate.objective} against the baseline", look_window(spec, live)
    if not live.partitions[look]:
        return _too_few(subject, spec, live)
    block = spec.gate.block_partitions
    extra = mean_and_variance(live.loss[look] - live.baseline[look], live.rows[look], block)
    low = extra.mean - stdtrit(extra.blocks - 1, 1 - look_alpha(spec)) * math.sqrt(extra.variance)
    baselines = " and ".join(sorted(set(live.against[look])))
    alarm = bool(low > 0)
    note = f"{extra.mean:+.4g} {spec.gate.objective} a row against {baselines}, at least {low:+.4g}, "
    note += _size(live, look)
    return Finding("performance", subject, float(low), 0.0, "alarm" if alarm else "ok", note)


def above_gate(spec: UseCase, live: LossSeries, gate: Losses | str) -> Finding:
    """Judge the champion's loss against its loss on the gate's test partitions, which can't be paired.

    Notes
    -----
    The difference of two means of partitions, each with its own variance: B. L. Welch, The generalization of
    `Student's' problem when several different population variances are involved, Biometrika 34, 1947.
    """
    subject, look = f"{spec.gate.objective} against the gate", look_window(spec, live, UNPAIRED_FACTOR)
    block = UNPAIRED_FACTOR * spec.gate.block_partitions
    if isinstance(gate, str):
        return Finding("performance", subject, None, 0.0, "not enough", f"no estimate by the gate: {gate}")
    if len(gate.partitions) < partitions_needed(block):
        note = f"the gate's {len(gate.partitions)} partitions are too few; "
        return _too_few(subject, spec, live, note)
    if not live.partitions[look]:
        return _too_few(subject, spec, live, factor=UNPAIRED_FACTOR)
    current = mean_and_variance(live.loss[look], live.rows[look], block)
    promised = mean_and_variance(np.array(gate.sums[CHALLENGER]), np.array(gate.rows, float), block)
    extra = current.mean - promised.mean
    low = extra - _welch_reach(current, promised, look_alpha(spec))
    outcome: Outcome = "alarm" if low > 0 else "ok"
    note = f"{spec.gate.objective} {current.mean:.4g} a row, on the gate's partitions {promised.mean:.4g}: "
    note += f"{extra:+.4g}, at least {low:+.4g}, {_size(live, look)}"
    return Finding("performance", subject, float(low), 0.0, outcome, note)


def _welch_reach(first: MeanEstimate, second: MeanEstimate, alpha: float) -> float:
    """Return how far two means may be apart by chance, one-sided."""
    total = first.variance + second.variance
    if not total:
        return 0.0
    parts = (mean.variance**2 / (mean.blocks - 1) for mean in (first, second))
    return float(stdtrit(total**2 / sum(parts), 1 - alpha) * math.sqrt(total))


def _size(live: LossSeries, look: slice) -> str:
    partitions = live.partitions[look]
    return (
        f"over {len(partitions)} matured partitions, {partitions[0]} to {partitions[-1]}, "
        f"{int(live.rows[look].sum())} rows"
    )


def _too_few(subject: str, spec: UseCase, live: LossSeries, prefix: str = "", factor: int = 1) -> Finding:
    look = spec.gate.rollout.look_every
    needed = -(-partitions_needed(factor * spec.gate.block_partitions) // look) * look
    note = prefix + f"{len(live.partitions)} of {needed} partitions of this champion have matured"
    return Finding("performance", subject, None, 0.0, "not enough", note)
