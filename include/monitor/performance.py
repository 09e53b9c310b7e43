"""Realized performance: predictions joined with their labels, as metrics and losses by partition.

Labels arrive after the predictions and may be revised. Each partition's figures are therefore published as of
every partition on which its labels changed. `performance_by` groups them for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import EvergreenError, NotPublished
from include.evaluate import measure
from include.evaluate.slices import slice_column
from include.features.build import features
from include.features.labels import LabelArrival, label_arrivals, labels
from include.models import outputs
from include.models.outputs import Constant
from include.monitor.losses import CONSTANT, LOSSES, baseline_predictions, losses_of_partition
from include.monitor.state import PERFORMANCE, PRODUCT, PublishedState
from include.promote import ledger
from include.spec import UseCase
from include.spec.metrics import metric_names
from include.stats import profiles
from include.stats.metrics import all_metric_values
from include.storage import schemas
from include.storage.lake import Lake, Row, newest_known

CONSTANT_PREFIX = "constant:"  # prefix of a metric's name: the same rows, predicted by the constant
MAX_JOINED_PARTITIONS = 90  # that are joined at once, which limits the memory
BY = ("day", "week", "version", "served_by", "slice")
MAX_PARTITIONS = 90  # the newest scored partitions, unless a range is given
Group = tuple[str, NDArray[np.intp]]


def predictions_with_labels(
    lake: Lake, spec: UseCase, partitions: Sequence[str], label_rows: pa.Table
) -> pa.Table:
    """Return the partitions' predictions beside their labels, null for rows without a label."""
    keys = [*spec.key, "partition"]
    columns = [*keys, *spec.problem.outputs, "served_by", "version", "model"]
    served = lake.read("predictions", {"partition": list(partitions)}, columns)
    assert served is not None
    joined = served.join(label_rows, keys, join_type="left outer")
    return joined.sort_by([(name, "ascending") for name in ("partition", *spec.key)])


def labeled_partitions(lake: Lake, partitions: Sequence[str], as_of: str) -> list[str]:
    """Return those of matured partitions of which a row has a label, as known by a partition, in order."""
    rows = lake.rows(PERFORMANCE, {"partition": list(partitions)}, ["partition", "as_of", "rows"])
    newest = newest_known(rows, "partition", as_of=as_of)
    return sorted(partition for partition, row in newest.items() if row["rows"])


def newest_metrics(
    lake: Lake, partitions: Sequence[str] | None = None, as_of: str | None = None
) -> dict[str, dict[str, Row]]:
    """Return the newest row of `performance` by partition and metric, as known on a partition or now."""
    rows = lake.rows(PERFORMANCE, None if partitions is None else {"partition": list(partitions)})
    metrics: dict[str, dict[str, Row]] = {}
    for (partition, metric), row in newest_known(rows, "partition", "metric", as_of=as_of).items():
        metrics.setdefault(partition, {})[metric] = row
    return metrics


def performance_metrics(
    spec: UseCase, target: outputs.Array, predicted: outputs.Array
) -> dict[str, float | None]:
    """Return each of the use case's metrics, None if it isn't defined on these rows."""
    return {**dict.fromkeys(metric_names(spec)), **all_metric_values(spec, target, predicted)}


def publish_performance(lake: Lake, spec: UseCase, state: PublishedState) -> list[Row]:
    """Publish the performance of every partition up to the monitored one whose labels arrived or changed.

    Returns
    -------
    list of dict
        The rows of `partitions` that were published.
    """
    newest_monitored = max(
        [state.partition, *(key for key in state.span if state.partition_row(PRODUCT, key) is not None)]
    )
    until, current = spec.clock.decision_time(newest_monitored), _inputs(spec, state, newest_monitored)
    due = {key: inputs for key, inputs in current.items() if _is_due(state, key, inputs, until)}
    arrivals = label_arrivals(lake, spec, list(due), newest_monitored)
    arrivals = {key: arrival for key, arrival in arrivals.items() if arrival.partitions}
    scored, published = sorted(arrivals), []
    for first in range(0, len(scored), MAX_JOINED_PARTITIONS):
        block = scored[first : first + MAX_JOINED_PARTITIONS]
        published += _publish(lake, spec, {key: arrivals[key] for key in block}, due)
    return published


def _inputs(spec: UseCase, state: PublishedState, newest_monitored: str) -> dict[str, dict[str, str]]:
    """Return the input digests of each partition with labels, up to the monitored one."""
    scored, source = state.published_digests["predictions"], spec.labels.source
    keys = spec.clock.keys(min(scored, default=newest_monitored), newest_monitored)
    pairs, sources = zip(keys, keys[spec.labels.delay :], strict=False), state.published_digests[source]
    return {
        key: {f"predictions/{key}": scored[key], f"{source}/{label}": sources[label]}
        for key, label in pairs
        if key <= state.partition and key in scored and label in sources
    }


def _is_due(state: PublishedState, scored: str, inputs: Mapping[str, str], until: datetime) -> bool:
    """Return whether a partition has no figures yet, or its inputs changed, or a revision is known by now."""
    stored = state.realized_inputs.get(scored)
    if stored is None or scored not in state.published_digests[LOSSES]:
        return True
    if "next" not in stored or any(stored.get(name) != digest for name, digest in inputs.items()):
        return True
    return bool(stored["next"]) and datetime.fromisoformat(stored["next"]) <= until


def _publish(
    lake: Lake, spec: UseCase, arrivals: Mapping[str, LabelArrival], due: Mapping[str, dict[str, str]]
) -> list[Row]:
    """Publish the figures of some partitions, each as of every partition on which its labels changed.

    Returns
    -------
    list of dict
        Their rows of `partitions`, which are published in one commit.
    """
    scored, figures = list(arrivals), _figures(lake, spec, arrivals)
    status = [row for key in scored for row in _completion_rows(spec, key, figures, arrivals[key], due[key])]
    # the rows of `partitions` come last, so that a rerun after a kill publishes everything again
    where = {"product": profiles.LABELS, "partition": scored}
    lake.publish("profiles", pa.concat_tables(figures.labels.values()), where)
    lake.publish(LOSSES, pa.concat_tables(figures.losses.values()), {"partition": scored})
    lake.publish(PERFORMANCE, pa.concat_tables(figures.metrics.values()), {"partition": scored})
    where = {"product": [LOSSES, PERFORMANCE], "partition": scored}
    lake.publish("partitions", pa.Table.from_pylist(status, schema=schemas.PARTITIONS), where)
    return status


@dataclass(frozen=True)
class _Figures:
    """The figures of some partitions, by partition.

    Parameters
    ----------
    metrics, losses : rows of `performance` and `losses`.
    labels : the profile of the labels as they first became known.
    baselines : the name of the baseline that the losses are compared with; none for the constant.
    """

    metrics: dict[str, pa.Table]
    losses: dict[str, pa.Table]
    labels: dict[str, pa.Table]
    baselines: Mapping[str, str]


def _figures(lake: Lake, spec: UseCase, arrivals: Mapping[str, LabelArrival]) -> _Figures:
    metrics: dict[str, list[pa.Table]] = {scored: [] for scored in arrivals}
    losses: dict[str, list[pa.Table]] = {scored: [] for scored in arrivals}
    first_known: dict[str, pa.Table] = {}
    baseline, names = baseline_predictions(lake, spec, list(arrivals))
    switches = ledger.switches(lake)
    for as_of, partitions in _joined_together(arrivals).items():
        joined = predictions_with_labels(lake, spec, partitions, labels(lake, spec, partitions, as_of=as_of))
        for scored in partitions:
            rows = joined.filter(pc.equal(joined["partition"], scored))
            if as_of in (None, arrivals[scored].partitions[0]):
                first_known[scored] = rows
            constant = ledger.serving_of(switches, scored).constant
            constant = spec.constant if constant is None else constant
            for key in [as_of] if as_of is not None else arrivals[scored].partitions:
                metrics[scored].append(_metric_rows(spec, scored, key, rows, constant))
                losses[scored].append(losses_of_partition(spec, rows, key, constant, baseline, names))
    return _Figures(
        metrics={key: _sorted_by_known(tables, "metric") for key, tables in metrics.items()},
        losses={key: _sorted_by_known(tables, "model") for key, tables in losses.items()},
        labels={
            key: profiles.label_profile(key, rows, spec.problem.target) for key, rows in first_known.items()
        },
        baselines=names,
    )


def _completion_rows(
    spec: UseCase, scored: str, figures: _Figures, arrival: LabelArrival, due: Mapping[str, str]
) -> list[Row]:
    """Return a partition's rows of `partitions`: for its metrics, and for its losses."""
    table, losses = figures.metrics[scored], figures.losses[scored]
    note, arrived_on = _note(table, arrival), arrival.partitions
    inputs = {
        **due,
        "known": arrived_on[0],
        "revised_on": list(arrived_on[1:]),
        "next": arrival.next,
        "early": arrival.early,
    }
    row = schemas.completion_row(PERFORMANCE, scored, table, inputs=inputs, spec=spec.digest, note=note)
    inputs = {"against": figures.baselines.get(scored, CONSTANT), PERFORMANCE: row["digest"]}
    return [row, schemas.completion_row(LOSSES, scored, losses, inputs=inputs, spec=spec.digest, note=note)]


def _sorted_by_known(tables: list[pa.Table], last: str) -> pa.Table:
    return pa.concat_tables(tables).sort_by([("as_of", "ascending"), (last, "ascending")])


def _joined_together(arrivals: Mapping[str, LabelArrival]) -> dict[str | None, list[str]]:
    """Return the partitions to join at once, by knowledge time; under None those never revised."""
    groups: dict[str | None, list[str]] = {}
    for scored, arrival in arrivals.items():
        never_revised = len(arrival.partitions) == 1 and not arrival.next
        for as_of in [None] if never_revised else arrival.partitions:
            groups.setdefault(as_of, []).append(scored)
    return groups


def _note(table: pa.Table, arrival: LabelArrival) -> str:
    rows, without = table["rows"][-1].as_py(), table["unlabeled"][-1].as_py()
    revised = f", revised on {', '.join(arrival.partitions[1:])}" if arrival.partitions[1:] else ""
    return f"{rows} of {rows + without} rows have labels, known on {arrival.partitions[0]}{revised}"


def _metric_rows(spec: UseCase, scored: str, as_of: str, rows: pa.Table, constant: Constant) -> pa.Table:
    """Return a partition's rows of `performance` as known on a partition."""
    labeled = rows.filter(rows[spec.problem.target].is_valid())
    target = labeled[spec.problem.target].to_numpy()
    metrics = performance_metrics(spec, target, outputs.from_columns(spec, labeled))
    of_constant = performance_metrics(spec, target, outputs.repeat_constant(constant, len(target)))
    metrics |= {CONSTANT_PREFIX + name: value for name, value in of_constant.items()}
    same = {
        "partition": scored,
        "as_of": as_of,
        "rows": labeled.num_rows,
        "unlabeled": rows.num_rows - labeled.num_rows,
        "served_by": _counts(rows["served_by"]),
        "versions": _counts(rows["version"]),
    }
    figures = [{**same, "metric": name, "value": value} for name, value in sorted(metrics.items())]
    return pa.Table.from_pylist(figures, schema=schemas.PERFORMANCE)


def _counts(values: pa.ChunkedArray) -> str:
    return json.dumps(
        {row["values"]: row["counts"] for row in values.value_counts().to_pylist()}, sort_keys=True
    )


def performance_by(
    lake: Lake, spec: UseCase, by: str, *, as_of: str | None = None, first: str = "", last: str = ""
) -> list[Row]:
    """Return the realized performance of scored partitions, one row per group.

    Parameters
    ----------
    by : one of `BY`. Weeks are those of ISO 8601; slices are of the columns under ``gate.slices.columns``.
    as_of : the partition as of which labels count; None for all that are known now.
    first, last : the range of scored partitions; without ``first``, the newest `MAX_PARTITIONS` of it.

    Returns
    -------
    list of dict
        The group under the name ``by``, ``partitions``, ``rows`` with a label, ``unlabeled`` (rows of the
        same partitions without one), and each metric, None if it isn't defined on the rows. By day there is
        also ``known``, the partition as of which the figures are, unless a day has several partitions.
        Partitions without known labels are left
        out.

    Raises
    ------
    EvergreenError
        when ``by`` isn't one of `BY`, no slices are declared, or the range ends before it begins.
    NotPublished
        when nothing was predicted in the range.
    """
    subject = f"{spec.name}: performance by {by}"
    if by not in BY:
        required = f"one of {', '.join(BY)}"
        raise EvergreenError(subject, required=required, found=by, remedy="choose one of these")
    if by == "slice" and not spec.gate.slices.columns:
        remedy = "declare them in usecase.yaml, or choose another grouping"
        raise EvergreenError(
            subject, required="columns under gate.slices.columns", found="none", remedy=remedy
        )
    if first and last and first > last:
        raise EvergreenError(
            f"{spec.name}: performance",
            required="a first partition that isn't after the last",
            found=f"{first} to {last}",
            remedy="swap the two",
        )
    partitions = _scored(lake, spec, first, last)
    if by == "day" and not spec.clock.sub_daily:
        return _by_day(lake, partitions, as_of)
    known_labels = labels(lake, spec, partitions, as_of=as_of)
    if not known_labels.num_rows:
        return []
    partitions = known_labels["partition"].unique().to_pylist()
    rows = predictions_with_labels(lake, spec, partitions, known_labels)
    return [
        _group_row(spec, by, name, rows.take(positions)) for name, positions in _groups(lake, spec, by, rows)
    ]


def _scored(lake: Lake, spec: UseCase, first: str, last: str) -> list[str]:
    """Return the scored partitions of a range; without a first one, the newest."""
    scored = lake.published("predictions", with_rows=True)
    partitions = [key for key in scored if key >= first and (not last or key <= last)]
    if not partitions:
        raise NotPublished(
            f"{spec.name}: performance",
            required=f"scored partitions from {first or 'the first'} to {last or 'the last'}",
            found=f"those from {scored[0]} to {scored[-1]}" if scored else "none yet",
            where=f"{lake.uri}/tables/predictions",
            remedy="choose a range within these" if scored else "score a partition first",
        )
    return partitions if first else partitions[-MAX_PARTITIONS:]


def _by_day(lake: Lake, partitions: Sequence[str], as_of: str | None) -> list[Row]:
    """Return the newest published figures of each partition, as known on a partition or now."""
    result = []
    for partition, metrics in sorted(newest_metrics(lake, partitions, as_of).items()):
        first = next(iter(metrics.values()))  # these columns are the same for every metric
        size = {name: first[name] for name in ("as_of", "rows", "unlabeled")}
        values = {
            name: row["value"]
            for name, row in sorted(metrics.items())
            if not name.startswith(CONSTANT_PREFIX)
        }
        result.append({"day": partition, "partitions": 1, **size, **values})
    return result


def _groups(lake: Lake, spec: UseCase, by: str, rows: pa.Table) -> Iterator[Group]:
    """Yield each group's name and the positions of its rows."""
    if by == "slice":
        for name, column in _slice_columns(lake, spec, rows).items():
            parts = slice_column(column)
            for index, part in enumerate(parts.names):
                yield f"{name} {part}", np.flatnonzero(parts.codes == index)
        return
    keys = rows["partition" if by in ("day", "week") else by].to_pylist()
    if by in ("day", "week"):
        days = {partition: spec.clock.date_of(partition) for partition in set(keys)}
        names = {key: f"{day}" if by == "day" else f"{day:%G-W%V}" for key, day in days.items()}
        keys = [names[partition] for partition in keys]
    groups = np.asarray(keys, dtype=object)
    for name in sorted(set(keys)):
        yield (name or "none (a constant)", np.flatnonzero(groups == name))


def _slice_columns(lake: Lake, spec: UseCase, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the declared slice columns; features are built only if one of the columns is a feature."""
    names, keys = spec.gate.slices.columns, [*spec.key, "partition"]
    feature_names = [name for name in names if name in spec.features.columns and name not in spec.key]
    if feature_names:
        built = features(lake, spec, rows["partition"].unique().to_pylist()).select([*keys, *feature_names])
        rows = rows.join(built, keys, join_type="left outer")
        rows = rows.sort_by([(name, "ascending") for name in ("partition", *spec.key)])
    columns = measure.columns_of_rows(lake, spec, rows, names)
    return {name: columns[name] for name in names}


def _group_row(spec: UseCase, by: str, name: str, rows: pa.Table) -> Row:
    target = spec.problem.target
    labeled = rows.filter(rows[target].is_valid())
    values = performance_metrics(spec, labeled[target].to_numpy(), outputs.from_columns(spec, labeled))
    size = {"partitions": len(rows["partition"].unique()), "rows": labeled.num_rows}
    return {by: name, **size, "unlabeled": rows.num_rows - labeled.num_rows, **values}
