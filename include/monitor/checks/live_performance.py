"""Live performance: the champion's metrics and losses against requirements, other predictions, its own past.

Both count from the partition on which the champion's recipe came into service, across its refits. The
requirements are judged on the last matured partitions pooled. The losses are judged by a sequential test that
may raise an alarm on each matured partition (`include.stats.cusum`). Each test raises at most
``monitoring.false_alarms_per_year`` false alarms in a year, or 365 partitions if a year has fewer.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.features.labels import labels
from include.judge.evidence import CHALLENGER, evidence_rows_key
from include.models import outputs
from include.monitor.context import Finding, Outcome, PartitionContext
from include.monitor.losses import CONSTANT, LossSeries, serving_model
from include.monitor.performance import performance_metrics, predictions_with_labels
from include.promote.ledger import judged_attempt, was_judged
from include.spec import UseCase
from include.spec.gate import MetricBound
from include.stats.cusum import PairedSums, loss_limits
from include.stats.formatting import figure_and_limit
from include.storage.lake import Lake
from include.train.walks import Walks

YEAR = 365  # days of the declared rate of false alarms


def check_performance(context: PartitionContext) -> list[Finding]:
    """Check the declared requirements, and the champion's losses, as known on the partition."""
    return [*check_requirements(context), *check_losses(context)]


def check_requirements(context: PartitionContext) -> list[Finding]:
    """Judge the realized metrics of the champion's recipe on its last matured partitions, pooled.

    Rows count that the champion of their partition served, and no fallback or canary.
    """
    spec, partition, target = context.spec, context.partition, context.spec.problem.target
    window, requirements = spec.monitoring.window, spec.monitoring.requirements
    matured = context.state.matured(partition) if requirements and context.champion else []
    partitions: list[str] = []
    if matured:
        known_labels = labels(context.lake, spec, matured, as_of=partition)
        rows = predictions_with_labels(context.lake, spec, matured, known_labels)
        model_on = serving_model(context.state.recipe_switches(partition))
        champions = pa.array([model_on(key) for key in matured], pa.string())
        champions = champions.take(pc.index_in(rows["partition"], value_set=pa.array(matured)))
        rows = rows.filter(pc.and_(pc.equal(rows["model"], champions), rows[target].is_valid()))
        partitions = sorted(pc.unique(rows["partition"]).to_pylist())[-window:]
    if len(partitions) < window:
        note = context.state.why_no_champion(partition)
        note = note or f"{len(partitions)} of {window} partitions of the champion's recipe have matured"
        limits = {rule.metric: rule.limit for rule in requirements}
        return [
            Finding("performance", name, None, limit, "not enough", note) for name, limit in limits.items()
        ]
    pool = rows.filter(pc.is_in(rows["partition"], pa.array(partitions)))
    metrics = performance_metrics(spec, pool[target].to_numpy(), outputs.from_columns(spec, pool))
    size = f"over {len(partitions)} matured partitions, {partitions[0]} to {partitions[-1]}, "
    size += f"{pool.num_rows:,} rows"
    return [judge_requirement(rule, metrics[rule.metric], size) for rule in requirements]


def judge_requirement(rule: MetricBound, value: float | None, size: str) -> Finding:
    """Judge a metric by its requirement; ``size`` describes the rows for the note."""
    limit = rule.limit
    if value is None:
        note = f"{rule.metric} has no value {size}"
        return Finding("performance", rule.metric, None, limit, "not enough", note)
    text, bound = figure_and_limit(value, limit, 3)
    note = f"{rule.metric} {text} {size}; required {rule.side} {bound}"
    return Finding("performance", rule.metric, value, limit, "ok" if rule.is_met(value) else "alarm", note)


def promotion_test_rows(lake: Lake, champion: Mapping[str, Any]) -> pa.Table | None:
    """Return partition, label and prediction of the test rows that promoted a champion, None if gone."""
    key = judged_attempt(champion)
    data = lake.get(evidence_rows_key(key)) if key and was_judged(lake, champion) else None
    return (
        None if data is None else pq.read_table(io.BytesIO(data), columns=["partition", "actual", CHALLENGER])
    )


def check_losses(context: PartitionContext) -> list[Finding]:
    """Judge what the champion's recipe has lost since it serves, as known on the partition.

    The losses are compared with the constant's and the deployed baseline's on the same rows, and with what
    the recipe's walk lost in relation to the recipe ``prior``, which predicts the constant. The walks until
    the champion was trained show what is ordinary.
    """
    live, spec, champion = context.losses, context.spec, context.champion
    if live is None or champion is None:
        return []
    recipe = str(champion.get("recipe") or "")
    past = past_losses(context.walk, recipe, "prior")
    findings = [above_reference(spec, live, "constant", past), above_walk(spec, live, past)]
    if set(live.against) <= {CONSTANT}:
        return findings
    deployed = context.state.baseline(context.partition) or {}
    past = past_losses(context.walk, recipe, str(deployed.get("recipe") or ""))
    return [*findings, above_reference(spec, live, "baseline", past)]


def past_losses(walk: Walks, recipe: str, reference: str) -> PairedSums | None:
    """Return what a recipe's walk and another's lost on the same partitions, None without two of them."""
    if not {recipe, reference} <= set(walk.recipes):
        return None
    own, other = walk.of(recipe), walk.of(reference)
    both = np.isfinite(own) & np.isfinite(other)
    rows = walk.rows[both]
    return PairedSums(own[both] * rows, other[both] * rows, rows) if both.sum() > 1 else None


def above_reference(
    spec: UseCase, live: LossSeries, reference: Literal["constant", "baseline"], past: PairedSums | None
) -> Finding:
    """Judge whether the champion loses more than the constant or the deployed baseline on the same rows."""
    other = live.constant if reference == CONSTANT else live.baseline
    subject = f"{spec.gate.objective} against the {reference}"
    sums = PairedSums(live.loss, other, live.rows)
    return judge_excess(spec, ("performance", subject), live.partitions, sums, past)


def above_walk(spec: UseCase, live: LossSeries, past: PairedSums | None) -> Finding:
    """Judge whether the champion loses more, in relation to the constant, than its recipe's walk did."""
    subject = f"{spec.gate.objective} against its walk"
    if past is None:
        note = "no walk of its recipe was stored when it was trained"
        return Finding("performance", subject, None, None, "not enough", note)
    sums = PairedSums(live.loss, live.constant, live.rows)
    return judge_excess(spec, ("performance", subject), live.partitions, sums, past, past_ratio=True)


def judge_excess(
    spec: UseCase,
    finding: tuple[str, str],
    partitions: Sequence[str],
    live: PairedSums,
    past: PairedSums | None,
    *,
    past_ratio: bool = False,
    sides: int = 1,
) -> Finding:
    """Judge whether live sums exceed their reference, by the sequential test of `include.stats.cusum`.

    Parameters
    ----------
    finding : its check and its subject.
    partitions : those of ``live``. One without a reference, which is NaN, doesn't count.
    past : shows what is ordinary.
    past_ratio : whether the past's ratio to the reference counts as no change; otherwise only the reference.
    sides : how many tests share the declared rate of false alarms.

    Returns
    -------
    Finding
        Its value is the statistic after the newest partition, its threshold that of an alarm.
    """
    judged = np.flatnonzero(np.isfinite(live.reference))
    if not len(judged):
        return Finding(*finding, None, None, "not enough", "no partition of its recipe has matured")
    live = PairedSums(live.sums[judged], live.reference[judged], live.rows[judged])
    rate = spec.monitoring.false_alarms_per_year / spec.clock.partitions_in(YEAR) / sides
    limits = loss_limits(past, live, rate, past_ratio=past_ratio)
    statistic = limits.statistic(live)
    value = float(statistic[-1])
    # what came before the statistic was last zero doesn't count
    zeros = np.flatnonzero(statistic == 0)
    rise = slice(int(zeros[-1]) + 1 if value and len(zeros) else 0, None)
    rows, keys = live.rows[rise].sum(), [partitions[index] for index in judged[rise]]
    # a test of whether a rate is lower has both with the other sign
    mean, reference = (abs(float(sums[rise].sum())) / rows for sums in (live.sums, live.reference))
    ordinary = limits.ratio * reference
    outcome: Outcome = "alarm" if value >= limits.threshold else "ok"
    text, threshold = figure_and_limit(value, limits.threshold, 3)
    side = "above" if mean >= ordinary else "below"
    expected = f"the reference's {ordinary:.3g}"
    if past_ratio:
        expected = f"the expected {ordinary:.3g} ({limits.ratio:.3g} × the reference)"
    note = f"mean {mean:.3g} per row, {abs(mean - ordinary):.3g} {side} {expected} "
    note += f"over {len(keys)} matured partitions, {keys[0]} to {keys[-1]}, {int(rows):,} rows; "
    note += f"statistic {text}, alarm at {threshold}"
    return Finding(*finding, value, limits.threshold, outcome, note)
