"""What came true: each night's realised performance, once its labels have matured, and the champion's lately.

A scored night's figures are those of the night on which its labels were first known. They don't depend on
when somebody computed them, and a label that is revised later doesn't change what was reported then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import outputs, profile, tables
from include.environment import code_version
from include.evaluate.metrics import measured
from include.features.build import labels
from include.lake import Lake
from include.monitor.findings import Finding
from include.monitor.state import PRODUCT, REALISED, State
from include.promote import ledger
from include.refs import digest_table
from include.spec import UseCase
from include.spec.metrics import names

BASELINE = "prior:"  # before a metric's name: the same rows, predicted by the labels' mean in training


def realise(lake: Lake, spec: UseCase, state: State) -> list[str]:
    """Publish the performance of every night up to the monitored one that has matured and isn't there yet.

    Returns
    -------
    list of str
        The scored nights that were published.
    """
    monitored = [key for key in state.span if state.partition(PRODUCT, key) is not None]
    horizon = max([state.night, *monitored])
    done = []
    for scored in state.published("predictions", [key for key in state.span if key <= state.night]):
        inputs = _inputs(spec, scored, state)
        if inputs is None:
            continue
        row = state.partition(REALISED, scored)
        if row is not None and {**json.loads(row["inputs"]), "known": ""} == {**inputs, "known": ""}:
            continue
        known, came = _known(lake, spec, scored, [key for key in state.span if key <= horizon])
        if known:
            both = _beside(lake, spec, [scored], came)
            _publish(lake, spec, scored, both, {**inputs, "known": known})
            done.append(scored)
    return done


def _inputs(spec: UseCase, scored: str, state: State) -> dict[str, str] | None:
    """Return the digests that a night's performance is made from, None while it has no labels."""
    brought = state.brings(scored)
    label, predictions = state.partition(spec.labels.source, brought), state.partition("predictions", scored)
    if label is None or label["outcome"] != "published" or predictions is None:
        return None
    return {
        f"predictions/{scored}": predictions["digest"],
        f"{spec.labels.source}/{brought}": label["digest"],
    }


def _known(lake: Lake, spec: UseCase, scored: str, nights: Sequence[str]) -> tuple[str, pa.Table]:
    """Return the first of the nights by which any of a scored night's labels were known, and those labels."""
    nobody = "", pa.table({})
    for known in nights[nights.index(scored) + spec.labels.delay :]:
        came = labels(lake, spec, [scored], known=known)
        if came.num_rows:
            return known, came
    return nobody


def _beside(lake: Lake, spec: UseCase, nights: Sequence[str], came: pa.Table) -> pa.Table:
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


def _publish(lake: Lake, spec: UseCase, scored: str, both: pa.Table, inputs: Mapping[str, str]) -> None:
    labelled = both.filter(both[spec.problem.target].is_valid())
    target = labelled[spec.problem.target].to_numpy()
    found = figures(spec, target, outputs.array(spec, labelled))
    prior = ledger.serving(lake, scored).prior
    constant = outputs.repeated(spec.fallback if prior is None else prior, len(target))
    found |= {BASELINE + name: value for name, value in figures(spec, target, constant).items()}
    same = {
        "night": scored,
        "known": inputs["known"],
        "rows": labelled.num_rows,
        "unlabelled": both.num_rows - labelled.num_rows,
        "rungs": _counts(both["rung"]),
        "versions": _counts(both["version"]),
    }
    rows = [{**same, "metric": name, "value": value} for name, value in sorted(found.items())]
    table = pa.Table.from_pylist(rows, schema=tables.PERFORMANCE)
    lake.publish(REALISED, table, {"night": scored})
    # before the row in `partitions`: a rerun of a killed one publishes both again
    came = profile.of_labels(scored, both, spec.problem.target)
    lake.publish("profiles", came, {"product": profile.LABELS, "night": scored})
    note = f"{labelled.num_rows} of {both.num_rows} rows have labels, known on {inputs['known']}"
    mark(lake, spec, REALISED, scored, table, inputs, note)


def _counts(values: pa.ChunkedArray) -> str:
    return json.dumps(
        {row["values"]: row["counts"] for row in values.value_counts().to_pylist()}, sort_keys=True
    )


def mark(
    lake: Lake, spec: UseCase, product: str, night: str, rows: pa.Table, inputs: Mapping[str, str], note: str
) -> None:
    """Say in `partitions` that a product's night is done, and from what: the last write."""
    row: dict[str, Any] = {
        "product": product,
        "night": night,
        "outcome": "published",
        "revision": 0,
        "rows": rows.num_rows,
        "quarantined": 0,
        "duplicates": 0,
        "digest": digest_table(rows),
        "inputs": json.dumps(inputs, sort_keys=True),
        "spec": spec.digest,
        "code": code_version(),
        "note": note,
    }
    table = pa.Table.from_pylist([row], schema=tables.PARTITIONS)
    lake.publish("partitions", table, {"product": product, "night": night})


def lately(lake: Lake, spec: UseCase, night: str, state: State) -> list[Finding]:
    """Judge the champion's realised performance, on its last matured nights pooled, by what is required.

    Rows that a lower rung or another model served aren't the champion's, and don't count.
    """
    rules, champion = spec.monitoring, state.model(night)
    matured = state.matured(night) if champion and rules.requirements else []
    both = _beside(lake, spec, matured, labels(lake, spec, matured, known=night)) if matured else None
    if both is not None:
        both = both.filter(pc.and_(pc.equal(both["model"], champion), both[spec.problem.target].is_valid()))
    nights = sorted(pc.unique(both["night"]).to_pylist())[-rules.window :] if both is not None else []
    if both is None or len(nights) < rules.window:
        note = f"{len(nights)} of {rules.window} nights of this champion have matured"
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
    note = f"{rule.metric} {value:.3g} {over}; required {'at least' if least else 'at most'} {limit:g}"
    return Finding("performance", rule.metric, value, limit, "alarm" if alarm else "ok", note)
