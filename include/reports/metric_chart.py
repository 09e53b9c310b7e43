"""The small chart of a use case on its pages: a metric by partition, beside its requirement and baseline."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from include.monitor.losses import mean_losses
from include.monitor.performance import CONSTANT_PREFIX
from include.spec import UseCase
from include.spec.metrics import greater_is_better
from include.storage.lake import Lake, Row, newest_known

WIDTH, HEIGHT = 220, 44  # pixels
Values = Mapping[str, float]


@dataclass(frozen=True)
class MetricChart:
    """A metric over partitions as the points of an SVG of `WIDTH` by `HEIGHT`.

    Parameters
    ----------
    metric : its name.
    newest, partition : its value on the last partition that has one.
    versions : those that served that partition's labeled rows, such as ``version 3``; empty if unknown.
    required : such as ``at least 0.65``, or both bounds; empty without a requirement.
    tone : ``bad`` if the newest value misses the requirement, else ``warn`` if the baseline is better, or
        ``good``.
    why : the same as a sentence; empty without a requirement and a baseline.
    baseline : the baseline's value on the same partition; None if it isn't known.
    baseline_name : its recipe, or "constant".
    points, baseline_points : "x,y x,y …".
    limit : the height of the line of the first requirement; None without one.
    """

    metric: str
    newest: float
    partition: str
    versions: str
    required: str
    tone: str
    why: str
    baseline: float | None
    baseline_name: str
    points: str
    baseline_points: str
    limit: float | None


def metric_chart(
    lake: Lake, spec: UseCase, partitions: Sequence[str], switches: Sequence[Row]
) -> MetricChart | None:
    """Return the first required metric, or the gate's objective, over partitions; None without labels.

    The baseline is the recipe of the deployed one, by its walk, or else the constant.
    """
    if not partitions:
        return None
    required = spec.monitoring.requirements
    metric = required[0].metric if required else str(spec.gate.objective)
    rules = [rule for rule in required if rule.metric == metric]
    served_values, baseline_name, values_of_baseline = _compared(lake, spec, partitions, switches, metric)
    values, baseline_values = _finite(served_values), _finite(values_of_baseline)
    if not values:
        return None
    newest = max(values)
    served = {row["version"] for row in lake.rows("losses", {"partition": newest}) if row["rows"]} - {
        "",
        None,
    }
    every = [*values.values(), *baseline_values.values(), *(rule.limit for rule in rules)]
    low, high = min(every), max(every)
    positions = {partition: index for index, partition in enumerate(partitions)}

    def height(value: float) -> float:
        return round(2 + (HEIGHT - 4) * (high - value) / ((high - low) or 1), 1)

    def points(series: Values) -> str:
        step = WIDTH / max(len(partitions) - 1, 1)
        return " ".join(f"{positions[key] * step:.1f},{height(series[key])}" for key in sorted(series))

    is_met = all(rule.is_met(values[newest]) for rule in rules)
    baseline, sign = baseline_values.get(newest), 1 if greater_is_better(metric, spec) else -1
    loses = baseline is not None and sign * baseline > sign * values[newest]
    parts = [("meets" if is_met else "misses") + " the requirement"] if rules else []
    if baseline is not None:
        parts.append(f"is {'worse' if loses else 'no worse'} than {baseline_name}")
    return MetricChart(
        metric=metric,
        newest=values[newest],
        partition=newest,
        versions=f"version{'s' if len(served) > 1 else ''} {', '.join(sorted(served))}" if served else "",
        required=", ".join(f"{rule.side} {rule.limit:g}" for rule in rules),
        tone="bad" if not is_met else "warn" if loses else "good",
        why=f"It {' and '.join(parts)}." if parts else "",
        baseline=baseline,
        baseline_name=baseline_name,
        points=points(values),
        baseline_points=points(baseline_values),
        limit=height(rules[0].limit) if rules else None,
    )


def _finite(values: Values) -> Values:
    """Return the values that a chart can show; what was recorded before may be NaN."""
    return {partition: value for partition, value in values.items() if isfinite(value)}


def _compared(
    lake: Lake, spec: UseCase, partitions: Sequence[str], switches: Sequence[Row], metric: str
) -> tuple[Values, str, Values]:
    """Return a metric of the served predictions, the baseline's name, and the metric of its predictions."""
    values = _realized(lake, partitions, metric)
    if not values and metric == spec.gate.objective:  # one of the use case's own isn't a metric as well
        losses = mean_losses(lake, partitions)
        served = {partition: loss for partition, (loss, _) in losses.items()}
        return served, "baseline", {partition: loss for partition, (_, loss) in losses.items()}
    name = next((row["recipe"] for row in reversed(switches) if row["role"] == "baseline"), "")
    if name and (of_baseline := _walk(lake, partitions, name, metric)):
        return values, name, of_baseline
    return values, "constant", _realized(lake, partitions, f"{CONSTANT_PREFIX}{metric}")


def _realized(lake: Lake, partitions: Sequence[str], metric: str) -> dict[str, float]:
    """Return a metric of the served predictions by partition, as last measured."""
    return _newest(lake.rows("performance", {"partition": list(partitions), "metric": metric}))


def _walk(lake: Lake, partitions: Sequence[str], recipe: str, metric: str) -> dict[str, float]:
    """Return a metric of a recipe's walk by partition, as last measured."""
    rows = lake.rows("walks", {"partition": list(partitions), "recipe": recipe})
    return _newest([{**row, "value": json.loads(row["metrics"]).get(metric)} for row in rows])


def _newest(rows: Iterable[Row]) -> dict[str, float]:
    """Return each partition's value as last measured, without those that have none."""
    newest = newest_known(rows, "partition")
    return {partition: row["value"] for partition, row in newest.items() if row["value"] is not None}
