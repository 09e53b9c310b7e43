"""What a partition's predictions were worth: beside what came true, as figures, and by what is required."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.environment import code_version
from include.errors import EvergreenError, NotPublished
from include.evaluate import measure
from include.evaluate.slices import slice_column
from include.features.build import features, labels
from include.models import outputs
from include.models.outputs import Constant
from include.monitor.findings import Finding
from include.monitor.losses import LOSSES, PRIOR, baseline_losses, losses_of_partition
from include.monitor.state import PRODUCT, REALISED, State
from include.promote import ledger
from include.spec import UseCase
from include.spec.metrics import metric_names
from include.stats import formatting, profiles
from include.stats.metrics import metric_values
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake

BASELINE = "prior:"  # before a metric's name: the same rows, predicted by the labels' mean in training


def predictions_with_labels(lake: Lake, spec: UseCase, partitions: Sequence[str], came: pa.Table) -> pa.Table:
    """Return the partitions' predictions beside what had come true, null where there is no label."""
    keys = [*spec.key, "partition"]
    columns = [*keys, *spec.problem.outputs, "served_by", "version", "model"]
    served = lake.read("predictions", {"partition": list(partitions)}, columns)
    assert served is not None
    both = served.join(came, keys, join_type="left outer")
    return both.sort_by([(name, "ascending") for name in ("partition", *spec.key)])


def performance_metrics(
    spec: UseCase, target: outputs.Array, predicted: outputs.Array
) -> dict[str, float | None]:
    """Return each metric that is measured of this use case, None where these rows can't give it."""
    metrics = metric_names(spec)
    return {**dict.fromkeys(metrics), **metric_values(metrics, target, predicted, spec.problem.classes)}


def check_recent_performance(lake: Lake, spec: UseCase, partition: str, state: State) -> list[Finding]:
    """Judge the champion's realised performance, on its last matured partitions pooled, by what is required.

    Rows that a lower rung or another model served aren't the champion's, and don't count.
    """
    rules, champion, vacancy = spec.monitoring, state.model(partition), state.vacancy(partition)
    matured = state.matured(partition) if not vacancy and rules.requirements else []
    both = (
        predictions_with_labels(lake, spec, matured, labels(lake, spec, matured, known=partition))
        if matured
        else None
    )
    if both is not None:
        both = both.filter(pc.and_(pc.equal(both["model"], champion), both[spec.problem.target].is_valid()))
    partitions = sorted(pc.unique(both["partition"]).to_pylist())[-rules.window :] if both is not None else []
    if both is None or len(partitions) < rules.window:
        note = vacancy or f"{len(partitions)} of {rules.window} partitions of this champion have matured"
        limits = {r.metric: r.at_least if r.at_most is None else r.at_most for r in rules.requirements}
        return [
            Finding("performance", name, None, limit, "not enough", note) for name, limit in limits.items()
        ]
    pool = both.filter(pc.is_in(both["partition"], pa.array(partitions)))
    found = performance_metrics(spec, pool[spec.problem.target].to_numpy(), outputs.from_columns(spec, pool))
    over = (
        f"over {len(partitions)} matured partitions, {partitions[0]} to {partitions[-1]}, "
        f"{pool.num_rows} rows"
    )
    return [_judged(r, found[r.metric], over) for r in rules.requirements]


def _judged(rule: Any, value: float | None, over: str) -> Finding:
    least = rule.at_most is None
    limit = rule.at_least if least else rule.at_most
    if value is None:
        return Finding(
            "performance", rule.metric, None, limit, "not enough", f"{rule.metric} has no value {over}"
        )
    alarm = value < limit if least else value > limit
    text, bound = formatting.figure_and_limit(value, limit, 3)
    note = f"{rule.metric} {text} {over}; required {'at least' if least else 'at most'} {bound}"
    return Finding("performance", rule.metric, value, limit, "alarm" if alarm else "ok", note)


BLOCK = 90  # partitions that are joined at once


@dataclass(frozen=True)
class LabelArrival:
    """When a scored partition's labels were known.

    Parameters
    ----------
    partitions : those on which they, or others than before, were first known, ascending; at least one.
    next : the moment of a revision that is known after the last monitored partition; empty without one.
    early : rows of labels that were known before the partition's own decision: a clock is wrong, or they
        leak.
    """

    partitions: tuple[str, ...]
    next: str
    early: int


def publish_performance(lake: Lake, spec: UseCase, state: State) -> list[str]:
    """Publish the performance of every partition up to the monitored one whose labels aren't told of yet.

    Returns
    -------
    list of str
        The scored partitions that were published: only those whose labels came, or are others than before.
    """
    horizon = max(
        [state.partition, *(key for key in state.span if state.partition_row(PRODUCT, key) is not None)]
    )
    until, now = spec.clock.moment(horizon), _inputs(spec, state, horizon)
    due = {key: inputs for key, inputs in now.items() if _due(state, key, inputs, until)}
    came = {key: found for key in due if (found := _came(lake, spec, key, horizon))}
    for first in range(0, len(came), BLOCK):
        block = sorted(came)[first : first + BLOCK]
        _publish(lake, spec, {key: came[key] for key in block}, due)
    return sorted(came)


def _inputs(spec: UseCase, state: State, horizon: str) -> dict[str, dict[str, str]]:
    """Return what each partition with labels is made from, of the partitions up to the monitored one."""
    scored, source = state.ever["predictions"], spec.labels.source
    keys = spec.clock.keys(min(scored, default=horizon), horizon)
    pairs, brought = zip(keys, keys[spec.labels.delay :], strict=False), state.ever[source]
    return {
        key: {f"predictions/{key}": scored[key]["digest"], f"{source}/{label}": brought[label]["digest"]}
        for key, label in pairs
        if key <= state.partition and key in scored and label in brought
    }


def _due(state: State, scored: str, inputs: Mapping[str, str], until: datetime) -> bool:
    """Tell whether a partition has no figures yet, or others came since, or are known by now."""
    row = state.ever[REALISED].get(scored)
    if row is None or scored not in state.ever[LOSSES]:
        return True
    made = json.loads(row["inputs"])
    if "next" not in made or any(made.get(name) != digest for name, digest in inputs.items()):
        return True
    return bool(made["next"]) and datetime.fromisoformat(made["next"]) <= until


def _came(lake: Lake, spec: UseCase, scored: str, horizon: str) -> LabelArrival | None:
    """Return when a partition's labels were known, None while none are by the last monitored partition."""
    clock, delay = spec.clock, spec.labels.delay
    partitions = clock.keys(scored, horizon)[delay:]
    read = lake.read(f"validated_{spec.labels.source}", {"partition": partitions[0]}, ["known_at"])
    counts = [] if read is None else read["known_at"].value_counts().to_pylist()
    moments = {row["values"]: row["counts"] for row in counts}
    places = {at: bisect_left(partitions, at, key=clock.moment) for at in sorted(moments)}
    known = tuple(dict.fromkeys(partitions[place] for place in places.values() if place < len(partitions)))
    later = [at.isoformat() for at, place in places.items() if place == len(partitions)]
    if not known:
        return None
    decided = clock.moment(scored)
    return LabelArrival(known, later[0] if later else "", sum(n for at, n in moments.items() if at < decided))


def _publish(
    lake: Lake, spec: UseCase, came: Mapping[str, LabelArrival], due: Mapping[str, dict[str, str]]
) -> None:
    """Publish the figures of some partitions, each as of every partition on which its labels were others."""
    made: dict[str, list[pa.Table]] = {scored: [] for scored in came}
    lost: dict[str, list[pa.Table]] = {scored: [] for scored in came}
    first: dict[str, pa.Table] = {}
    said, who = baseline_losses(lake, spec, list(came))
    switches = ledger.switches(lake)
    for known, partitions in _together(came).items():
        labelled = predictions_with_labels(
            lake, spec, partitions, labels(lake, spec, partitions, known=known)
        )
        for scored in partitions:
            both = labelled.filter(pc.equal(labelled["partition"], scored))
            if known in (None, came[scored].partitions[0]):
                first[scored] = both
            as_of = [known] if known is not None else came[scored].partitions
            prior = ledger.serving_of(switches, scored).prior
            prior = spec.fallback if prior is None else prior
            made[scored] += [_figures(spec, scored, key, both, prior) for key in as_of]
            lost[scored] += [losses_of_partition(spec, both, key, prior, said, who) for key in as_of]
    came_true = [
        profiles.label_profile(scored, parts, spec.problem.target) for scored, parts in first.items()
    ]
    rows = []
    done = {key: _in_order(parts, "metric") for key, parts in made.items()}
    sums = {key: _in_order(parts, "model") for key, parts in lost.items()}
    for scored, table in done.items():
        one = came[scored]
        also = {"known": one.partitions[0], "restated": list(one.partitions[1:]), "next": one.next}
        inputs = {**due[scored], **also, "early": one.early}
        rows.append(completion_row(spec, REALISED, scored, table, inputs, _note(table, one)))
        beneath = {"against": who.get(scored, PRIOR), REALISED: rows[-1]["digest"]}
        rows.append(completion_row(spec, LOSSES, scored, sums[scored], beneath, _note(table, one)))
    # before the rows in `partitions`: a rerun of a killed one publishes all again
    lake.publish(
        "profiles", pa.concat_tables(came_true), {"product": profiles.LABELS, "partition": list(came)}
    )
    lake.publish(LOSSES, pa.concat_tables(sums.values()), {"partition": list(came)})
    lake.publish(REALISED, pa.concat_tables(done.values()), {"partition": list(came)})
    status = pa.Table.from_pylist(rows, schema=schemas.PARTITIONS)
    lake.publish("partitions", status, {"product": [LOSSES, REALISED], "partition": list(came)})


def _in_order(parts: list[pa.Table], last: str) -> pa.Table:
    return pa.concat_tables(parts).sort_by([("known", "ascending"), (last, "ascending")])


def _together(came: Mapping[str, LabelArrival]) -> dict[str | None, list[str]]:
    """Return the partitions to join at once: under None those whose labels were never others than now."""
    found: dict[str | None, list[str]] = {}
    for scored, one in came.items():
        for known in [None] if len(one.partitions) == 1 and not one.next else one.partitions:
            found.setdefault(known, []).append(scored)
    return found


def _note(table: pa.Table, came: LabelArrival) -> str:
    rows, without = table["rows"][-1].as_py(), table["unlabelled"][-1].as_py()
    again = f", restated on {', '.join(came.partitions[1:])}" if came.partitions[1:] else ""
    return f"{rows} of {rows + without} rows have labels, known on {came.partitions[0]}{again}"


def _figures(spec: UseCase, scored: str, known: str, both: pa.Table, prior: Constant) -> pa.Table:
    """Return a partition's rows of `performance` as known on a partition."""
    labelled = both.filter(both[spec.problem.target].is_valid())
    target = labelled[spec.problem.target].to_numpy()
    found = performance_metrics(spec, target, outputs.from_columns(spec, labelled))
    constant = outputs.repeat_constant(prior, len(target))
    found |= {BASELINE + name: value for name, value in performance_metrics(spec, target, constant).items()}
    same = {
        "partition": scored,
        "known": known,
        "rows": labelled.num_rows,
        "unlabelled": both.num_rows - labelled.num_rows,
        "served_by": _counts(both["served_by"]),
        "versions": _counts(both["version"]),
    }
    rows = [{**same, "metric": name, "value": value} for name, value in sorted(found.items())]
    return pa.Table.from_pylist(rows, schema=schemas.PERFORMANCE)


def _counts(values: pa.ChunkedArray) -> str:
    return json.dumps(
        {row["values"]: row["counts"] for row in values.value_counts().to_pylist()}, sort_keys=True
    )


def completion_row(
    spec: UseCase, product: str, partition: str, rows: pa.Table, inputs: Mapping[str, Any], note: str
) -> dict[str, Any]:
    """Return the row of `partitions` that says that a product's partition is done, and from what."""
    return schemas.partition_row(
        product,
        partition,
        rows.num_rows,
        digest_table(rows),
        inputs=inputs,
        spec=spec.digest,
        code=code_version(),
        note=note,
    )


BY = ("day", "week", "version", "served_by", "slice")
MAX_PARTITIONS = 90  # scored partitions that are looked back over, unless a range is given
ResultRow = dict[str, Any]
Group = tuple[str, NDArray[np.intp]]


def performance_by(
    lake: Lake, spec: UseCase, by: str, *, known: str | None = None, first: str = "", last: str = ""
) -> list[ResultRow]:
    """Return the realised figures of scored partitions, a row a group.

    Parameters
    ----------
    by : one of `BY`. A week is ISO 8601's; the slices are the gate's declared columns'.
    known : the partition as of which labels count; None for what is known now.
    first, last : the range of scored partitions; without ``first`` the `MAX_PARTITIONS` up to the last.

    Returns
    -------
    list of dict
        ``by``'s name -> group, ``partitions``, ``rows`` with a label, ``unlabelled`` (rows of the same
        partitions without one), and each metric, None where the rows can't give it; of a day also ``known``:
        the partition as of which the figures are. A partition whose labels weren't known isn't there.

    Raises
    ------
    EvergreenError
        when ``by`` is something else, no slice is declared, or the range ends before it begins.
    NotPublished
        when nothing was predicted in the range.
    """
    if by not in BY or (by == "slice" and not spec.gate.slices.columns):
        wanted = f"one of {', '.join(BY)}" if by not in BY else "columns under gate.slices.columns"
        raise EvergreenError(f"{spec.name}: performance by {by}", required=wanted, found="none such")
    if first and last and first > last:
        wanted = "a first partition before the last"
        raise EvergreenError(f"{spec.name}: performance", required=wanted, found=f"{first} to {last}")
    partitions = _scored(lake, spec, first, last)
    if by == "day":
        return _reported(lake, partitions, known)
    came = labels(lake, spec, partitions, known=known)
    if not came.num_rows:
        return []
    rows = predictions_with_labels(lake, spec, came["partition"].unique().to_pylist(), came)
    return [_group(spec, by, name, rows.take(places)) for name, places in _groups(lake, spec, by, rows)]


def _scored(lake: Lake, spec: UseCase, first: str, last: str) -> list[str]:
    """Return the scored partitions of a range, of one without a beginning the last ones."""
    where = {"product": "predictions", "outcome": "published"}
    read = lake.read("partitions", where, ["partition", "rows"])
    there = sorted({row["partition"] for row in read.to_pylist() if row["rows"]}) if read is not None else []
    partitions = [key for key in there if key >= first and (not last or key <= last)]
    if not partitions:
        raise NotPublished(
            f"{spec.name}: performance",
            required=f"scored partitions from {first or 'the first'} to {last or 'the last'}",
            found=f"those of {there[0]} to {there[-1]}" if there else "none yet",
            where=f"{lake.uri}/tables/predictions",
        )
    return partitions if first else partitions[-MAX_PARTITIONS:]


def _reported(lake: Lake, partitions: Sequence[str], known: str | None) -> list[ResultRow]:
    """Return what was reported of each partition last, by a partition or until now."""
    newest: dict[str, dict[str, ResultRow]] = {}
    for row in sorted(
        lake.rows(REALISED, {"partition": list(partitions)}), key=lambda row: str(row["known"])
    ):
        if known is None or row["known"] <= known:
            newest.setdefault(row["partition"], {})[row["metric"]] = row
    found = []
    for partition, metrics in sorted(newest.items()):
        any_of = next(iter(metrics.values()))
        said = {name: any_of[name] for name in ("known", "rows", "unlabelled")}
        values = {name: row["value"] for name, row in sorted(metrics.items()) if ":" not in name}
        found.append({"day": partition, "partitions": 1, **said, **values})
    return found


def _groups(lake: Lake, spec: UseCase, by: str, rows: pa.Table) -> Iterator[Group]:
    """Yield each group's name and the places of its rows."""
    if by == "slice":
        for name, column in _declared(lake, spec, rows).items():
            parts = slice_column(column)
            for place, part in enumerate(parts.names):
                yield f"{name} {part}", np.flatnonzero(parts.codes == place)
        return
    of = rows["partition" if by == "week" else by].to_pylist()
    if by == "week":
        weeks = {
            partition: "{}-W{:02}".format(*date.fromisoformat(partition).isocalendar())
            for partition in set(of)
        }
        of = [weeks[partition] for partition in of]
    groups = np.asarray(of, dtype=object)
    for name in sorted(set(of)):
        yield (name or "none (a constant)", np.flatnonzero(groups == name))


def _declared(lake: Lake, spec: UseCase, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the declared slices' columns; the features are only made where one of them is no source's."""
    names, keys = spec.gate.slices.columns, [*spec.key, "partition"]
    made = [name for name in names if name in spec.features.columns and name not in spec.key]
    if made:
        seen = features(lake, spec, rows["partition"].unique().to_pylist()).select([*keys, *made])
        rows = rows.join(seen, keys, join_type="left outer")
        rows = rows.sort_by([(name, "ascending") for name in ("partition", *spec.key)])
    found = measure.columns_of_rows(lake, spec, rows, names)
    return {name: found[name] for name in names}


def _group(spec: UseCase, by: str, name: str, rows: pa.Table) -> ResultRow:
    target = spec.problem.target
    labelled = rows.filter(rows[target].is_valid())
    values = performance_metrics(spec, labelled[target].to_numpy(), outputs.from_columns(spec, labelled))
    size = {"partitions": len(rows["partition"].unique()), "rows": labelled.num_rows}
    return {by: name, **size, "unlabelled": rows.num_rows - labelled.num_rows, **values}
