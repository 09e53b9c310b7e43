"""What came true: each night's realised performance once its labels have matured, and again when they change.

A scored night's figures are those of the night on which its labels were first known, and stay. Labels that
come later or are revised add figures beside them, under the night on which they became known. None of them
depends on when somebody computed it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include import outputs, profile, tables
from include.environment import code_version
from include.features.build import labels
from include.lake import Lake
from include.monitor.performance import BASELINE, beside, figures
from include.monitor.state import PRODUCT, REALISED, State
from include.monitor.sums import LOSSES, PRIOR, night_of, rivals
from include.outputs import Constant
from include.promote import ledger
from include.refs import digest_table
from include.spec import UseCase

BLOCK = 90  # nights that are joined at once


@dataclass(frozen=True)
class Came:
    """When a scored night's labels were known.

    Parameters
    ----------
    nights : those on which they, or others than before, were first known, ascending; at least one.
    next : the moment of a revision that is known after the last monitored night; empty without one.
    early : rows of labels that were known before the night's own decision: a clock is wrong, or they leak.
    """

    nights: tuple[str, ...]
    next: str
    early: int


def realise(lake: Lake, spec: UseCase, state: State) -> list[str]:
    """Publish the performance of every night up to the monitored one whose labels aren't told of yet.

    Returns
    -------
    list of str
        The scored nights that were published: only those whose labels came, or are others than before.
    """
    horizon = max([state.night, *(key for key in state.span if state.partition(PRODUCT, key) is not None)])
    until, now = spec.clock.moment(horizon), _inputs(spec, state, horizon)
    due = {key: inputs for key, inputs in now.items() if _due(state, key, inputs, until)}
    came = {key: found for key in due if (found := _came(lake, spec, key, horizon))}
    for first in range(0, len(came), BLOCK):
        block = sorted(came)[first : first + BLOCK]
        _publish(lake, spec, {key: came[key] for key in block}, due)
    return sorted(came)


def _inputs(spec: UseCase, state: State, horizon: str) -> dict[str, dict[str, str]]:
    """Return what each night with labels is made from, of the nights up to the monitored one."""
    scored, source = state.ever["predictions"], spec.labels.source
    keys = spec.clock.keys(min(scored, default=horizon), horizon)
    pairs, brought = zip(keys, keys[spec.labels.delay :], strict=False), state.ever[source]
    return {
        key: {f"predictions/{key}": scored[key]["digest"], f"{source}/{label}": brought[label]["digest"]}
        for key, label in pairs
        if key <= state.night and key in scored and label in brought
    }


def _due(state: State, scored: str, inputs: Mapping[str, str], until: datetime) -> bool:
    """Tell whether a night has no figures yet, or others came since, or are known by now."""
    row = state.ever[REALISED].get(scored)
    if row is None or scored not in state.ever[LOSSES]:
        return True
    made = json.loads(row["inputs"])
    if "next" not in made or any(made.get(name) != digest for name, digest in inputs.items()):
        return True
    return bool(made["next"]) and datetime.fromisoformat(made["next"]) <= until


def _came(lake: Lake, spec: UseCase, scored: str, horizon: str) -> Came | None:
    """Return when a night's labels were known, None while none are by the last monitored night."""
    clock, delay = spec.clock, spec.labels.delay
    nights = clock.keys(scored, horizon)[delay:]
    read = lake.read(f"validated_{spec.labels.source}", {"night": nights[0]}, ["known_at"])
    counts = [] if read is None else read["known_at"].value_counts().to_pylist()
    moments = {row["values"]: row["counts"] for row in counts}
    places = {at: bisect_left(nights, at, key=clock.moment) for at in sorted(moments)}
    known = tuple(dict.fromkeys(nights[place] for place in places.values() if place < len(nights)))
    later = [at.isoformat() for at, place in places.items() if place == len(nights)]
    if not known:
        return None
    decided = clock.moment(scored)
    return Came(known, later[0] if later else "", sum(n for at, n in moments.items() if at < decided))


def _publish(lake: Lake, spec: UseCase, came: Mapping[str, Came], due: Mapping[str, dict[str, str]]) -> None:
    """Publish the figures of some nights, each as of every night on which its labels were others."""
    made: dict[str, list[pa.Table]] = {scored: [] for scored in came}
    lost: dict[str, list[pa.Table]] = {scored: [] for scored in came}
    first: dict[str, pa.Table] = {}
    said, who = rivals(lake, spec, list(came))
    switches = ledger.switches(lake)
    for known, nights in _together(came).items():
        labelled = beside(lake, spec, nights, labels(lake, spec, nights, known=known))
        for scored in nights:
            both = labelled.filter(pc.equal(labelled["night"], scored))
            if known in (None, came[scored].nights[0]):
                first[scored] = both
            as_of = [known] if known is not None else came[scored].nights
            prior = ledger.serving_of(switches, scored).prior
            prior = spec.fallback if prior is None else prior
            made[scored] += [_figures(spec, scored, key, both, prior) for key in as_of]
            lost[scored] += [night_of(spec, both, key, prior, said, who) for key in as_of]
    came_true = [profile.of_labels(scored, parts, spec.problem.target) for scored, parts in first.items()]
    rows = []
    done = {key: _in_order(parts, "metric") for key, parts in made.items()}
    sums = {key: _in_order(parts, "model") for key, parts in lost.items()}
    for scored, table in done.items():
        one = came[scored]
        also = {"known": one.nights[0], "restated": list(one.nights[1:]), "next": one.next}
        inputs = {**due[scored], **also, "early": one.early}
        rows.append(marked(spec, REALISED, scored, table, inputs, _note(table, one)))
        beneath = {"against": who.get(scored, PRIOR), REALISED: rows[-1]["digest"]}
        rows.append(marked(spec, LOSSES, scored, sums[scored], beneath, _note(table, one)))
    # before the rows in `partitions`: a rerun of a killed one publishes all again
    lake.publish("profiles", pa.concat_tables(came_true), {"product": profile.LABELS, "night": list(came)})
    lake.publish(LOSSES, pa.concat_tables(sums.values()), {"night": list(came)})
    lake.publish(REALISED, pa.concat_tables(done.values()), {"night": list(came)})
    status = pa.Table.from_pylist(rows, schema=tables.PARTITIONS)
    lake.publish("partitions", status, {"product": [LOSSES, REALISED], "night": list(came)})


def _in_order(parts: list[pa.Table], last: str) -> pa.Table:
    return pa.concat_tables(parts).sort_by([("known", "ascending"), (last, "ascending")])


def _together(came: Mapping[str, Came]) -> dict[str | None, list[str]]:
    """Return the nights to join at once: under None those whose labels were never others than now."""
    found: dict[str | None, list[str]] = {}
    for scored, one in came.items():
        for known in [None] if len(one.nights) == 1 and not one.next else one.nights:
            found.setdefault(known, []).append(scored)
    return found


def _note(table: pa.Table, came: Came) -> str:
    rows, without = table["rows"][-1].as_py(), table["unlabelled"][-1].as_py()
    again = f", restated on {', '.join(came.nights[1:])}" if came.nights[1:] else ""
    return f"{rows} of {rows + without} rows have labels, known on {came.nights[0]}{again}"


def _figures(spec: UseCase, scored: str, known: str, both: pa.Table, prior: Constant) -> pa.Table:
    """Return a night's rows of `performance` as known on a night."""
    labelled = both.filter(both[spec.problem.target].is_valid())
    target = labelled[spec.problem.target].to_numpy()
    found = figures(spec, target, outputs.array(spec, labelled))
    constant = outputs.repeated(prior, len(target))
    found |= {BASELINE + name: value for name, value in figures(spec, target, constant).items()}
    same = {
        "night": scored,
        "known": known,
        "rows": labelled.num_rows,
        "unlabelled": both.num_rows - labelled.num_rows,
        "rungs": _counts(both["rung"]),
        "versions": _counts(both["version"]),
    }
    rows = [{**same, "metric": name, "value": value} for name, value in sorted(found.items())]
    return pa.Table.from_pylist(rows, schema=tables.PERFORMANCE)


def _counts(values: pa.ChunkedArray) -> str:
    return json.dumps(
        {row["values"]: row["counts"] for row in values.value_counts().to_pylist()}, sort_keys=True
    )


def marked(
    spec: UseCase, product: str, night: str, rows: pa.Table, inputs: Mapping[str, Any], note: str
) -> dict[str, Any]:
    """Return the row of `partitions` that says that a product's night is done, and from what."""
    return tables.published(
        product,
        night,
        rows.num_rows,
        digest_table(rows),
        inputs=inputs,
        spec=spec.digest,
        code=code_version(),
        note=note,
    )
