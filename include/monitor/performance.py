"""What a night's predictions were worth: beside what came true, as figures, and by what is required."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import digits, outputs
from include.evaluate.metrics import measured
from include.features.build import labels
from include.lake import Lake
from include.monitor.findings import Finding
from include.monitor.state import State
from include.spec import UseCase
from include.spec.metrics import names

BASELINE = "prior:"  # before a metric's name: the same rows, predicted by the labels' mean in training


def beside(lake: Lake, spec: UseCase, nights: Sequence[str], came: pa.Table) -> pa.Table:
    """Return the nights' predictions beside what had come true, null where there is no label."""
    keys = [*spec.key, "night"]
    columns = [*keys, *spec.problem.outputs, "rung", "version", "model"]
    served = lake.read("predictions", {"night": list(nights)}, columns)
    assert served is not None
    both = served.join(came, keys, join_type="left outer")
    return both.sort_by([(name, "ascending") for name in ("night", *spec.key)])


def figures(spec: UseCase, target: outputs.Array, predicted: outputs.Array) -> dict[str, float | None]:
    """Return each metric that is measured of this use case, None where these rows can't give it."""
    wanted = names(spec)
    return {**dict.fromkeys(wanted), **measured(wanted, target, predicted, spec.problem.classes)}


def lately(lake: Lake, spec: UseCase, night: str, state: State) -> list[Finding]:
    """Judge the champion's realised performance, on its last matured nights pooled, by what is required.

    Rows that a lower rung or another model served aren't the champion's, and don't count.
    """
    rules, champion, vacancy = spec.monitoring, state.model(night), state.vacancy(night)
    matured = state.matured(night) if not vacancy and rules.requirements else []
    both = beside(lake, spec, matured, labels(lake, spec, matured, known=night)) if matured else None
    if both is not None:
        both = both.filter(pc.and_(pc.equal(both["model"], champion), both[spec.problem.target].is_valid()))
    nights = sorted(pc.unique(both["night"]).to_pylist())[-rules.window :] if both is not None else []
    if both is None or len(nights) < rules.window:
        note = vacancy or f"{len(nights)} of {rules.window} nights of this champion have matured"
        limits = {r.metric: r.at_least if r.at_most is None else r.at_most for r in rules.requirements}
        return [
            Finding("performance", name, None, limit, "not enough", note) for name, limit in limits.items()
        ]
    pool = both.filter(pc.is_in(both["night"], pa.array(nights)))
    found = figures(spec, pool[spec.problem.target].to_numpy(), outputs.array(spec, pool))
    over = f"over {len(nights)} matured nights, {nights[0]} to {nights[-1]}, {pool.num_rows} rows"
    return [_judged(r, found[r.metric], over) for r in rules.requirements]


def _judged(rule: Any, value: float | None, over: str) -> Finding:
    least = rule.at_most is None
    limit = rule.at_least if least else rule.at_most
    if value is None:
        return Finding(
            "performance", rule.metric, None, limit, "not enough", f"{rule.metric} has no value {over}"
        )
    alarm = value < limit if least else value > limit
    text, bound = digits.beside(value, limit, 3)
    note = f"{rule.metric} {text} {over}; required {'at least' if least else 'at most'} {bound}"
    return Finding("performance", rule.metric, value, limit, "alarm" if alarm else "ok", note)
