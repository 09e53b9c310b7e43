"""Tell of each column whether the partition breaks with the weeks before.

By the limits of the last training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from include.monitor.findings import Finding
from include.monitor.reference import Reference
from include.monitor.state import State
from include.spec import UseCase
from include.spec.stages import SuddenChanges
from include.stats import alarms
from include.stats import profiles as profile
from include.stats.drift_measures import Binning, Counts, measure_drift
from include.stats.formatting import figure_and_limit
from include.storage.lake import Lake
from include.storage.schemas import DRIFT

PRODUCT = "drift"


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Neighbors:
    """What a partition looks at of the partitions around it, read once.

    Parameters
    ----------
    served : how many ``rows`` of a partition each rung, model and reason served.
    profiles : rows of `profiles` by column and partition, of features, predictions and labels.
    """

    served: Sequence[Row]
    profiles: Mapping[str, Mapping[str, Row]]

    def of(self, name: str, partitions: Sequence[str]) -> list[Row]:
        """Return a column's profiles of those of the partitions that have one, in the partitions' order."""
        rows = self.profiles.get(name, {})
        return [rows[partition] for partition in partitions if partition in rows]

    def own(self, partitions: Sequence[str], champion: str) -> list[str]:
        """Return those partitions on which a champion served every row, a canary's share aside."""
        by: dict[str, set[str]] = {key: set() for key in partitions}
        for row in self.served:
            # a canary's share of a partition changes little of how the champion's predictions lie
            if row["served_by"] != "canary" and row["partition"] in by:
                by[row["partition"]].add(row["model"])
        return [key for key, models in by.items() if models == {champion}]


def read_neighbors(lake: Lake, spec: UseCase, state: State, partition: str) -> Neighbors:
    """Read who served the partitions that a partition is compared with, and their profiles."""
    scored = sorted({*state.window(partition), *state.past(partition), *state.lately(partition)})
    who = ["partition", "served_by", "reason", "model"]
    read = lake.read("predictions", {"partition": scored}, who) if scored else None
    served = [] if read is None else read.group_by(who).aggregate([([], "count_all")]).to_pylist()
    wanted = sorted({partition, *scored, *state.matured(partition)[-spec.monitoring.window :]})
    profiles: dict[str, dict[str, Row]] = {}
    for row in lake.rows(
        "profiles", {"product": ["features", "predictions", profile.LABELS], "partition": wanted}
    ):
        profiles.setdefault(row["column"], {})[row["partition"]] = row
    return Neighbors([{**row, "rows": row["count_all"]} for row in served], profiles)


def comparison_windows(spec: UseCase, state: State, partition: str, seen: Neighbors) -> dict[str, list[Row]]:
    """Return each column's profiles over its window: features, predictions and, as they mature, labels.

    Of predictions only the champion's own partitions count.
    """
    window, came = state.window(partition), state.matured(partition)[-spec.monitoring.window :]
    if partition not in window:
        return {}
    partitions = {
        **dict.fromkeys(spec.features.columns, window),
        **dict.fromkeys(spec.problem.outputs, seen.own(window, state.model(partition))),
        spec.problem.target: came,
    }
    return {name: seen.of(name, keys) for name, keys in partitions.items()}


def drift_table(partition: str, learnt: Reference | None, window: Mapping[str, Sequence[Row]]) -> pa.Table:
    """Return a partition's rows of `drift`, in one order; none for what has no reference or no window.

    Parameters
    ----------
    window : of `sides`.
    """
    made = []
    for name, of in sorted(window.items()):
        column = learnt.columns.get(name) if learnt else None
        if column is None or not of or {row["kind"] for row in of} != {column.profile.kind}:
            continue
        current = profile.merge_profiles(of)[name]
        same = {"partition": partition, "column": name, "rows": current.count, "partitions": len(of)}
        found = measure_drift(column.cut, column.profile, current)
        made += [{**same, "measure": measure, "value": value} for measure, value in sorted(found.items())]
    return pa.Table.from_pylist(made, schema=DRIFT)


UNTOLD = "no training has told how far it jumps without a fault"


@dataclass(frozen=True)
class PastCounts:
    """A column's counts on the partitions up to the one that is judged, and from where on it alarms.

    Parameters
    ----------
    counts : the partition itself last, shape (partitions, bins); None where the partition has no such column,
        or one of another kind than the training saw.
    limit : None where the training had too few partitions to tell.
    """

    counts: Counts | None
    limit: float | None


def check_sudden_changes(
    lake: Lake, spec: UseCase, partition: str, state: State, seen: Neighbors
) -> list[Finding]:
    """Judge each feature by the limits of the last training, and predictions by those of the champion's."""
    trained, champion, partitions = state.limits(partition), state.champion(partition), state.past(partition)
    if trained is None or not partitions:
        why = "no training has told yet how far a column jumps without a fault"
        why = why if trained is None else "too few partitions before it were scored to compare it with"
        return [Finding("jump", "features", None, None, "not enough", why)]
    own, newest = (
        seen.own(partitions, state.model(partition)),
        _limits(lake, trained["partition"], _model(trained)),
    )
    champions = _limits(lake, champion["evidence"], champion["model"]) if champion else {}
    found = []
    for name in (*spec.features.columns, *spec.problem.outputs):
        mine = name in spec.problem.outputs
        limit = (champions if mine else newest).get(name)
        if limit is None or (mine and partition not in own):
            why = f"{name} isn't this champion's in this partition" if limit else f"{name}: {UNTOLD}"
            found.append(Finding("jump", name, None, None, "not enough", why))
            continue
        profiles = {row["partition"]: row for row in seen.of(name, own if mine else partitions)}
        found.append(
            judge_sudden_change(
                name,
                past_counts(limit, profiles, partition, spec.monitoring.sudden_changes),
                spec.monitoring.sudden_changes,
            )
        )
    return found


def _model(trained: Row) -> str:
    """Return the digest of the model that a training fitted last; empty of one before it was written."""
    return str(json.loads(trained["inputs"]).get("model", ""))


def _limits(lake: Lake, partition: str, model: str) -> dict[str, Row]:
    """Return the limits that the training of a partition published with a model, by column."""
    where = {"partition": partition, "model": model} if model else {"partition": partition}
    return {row["column"]: row for row in lake.rows("limits", where)} if partition else {}


def past_counts(limit: Row, profiles: Mapping[str, Row], partition: str, rules: SuddenChanges) -> PastCounts:
    """Return a column's partitions: as they were published, or else as the training saw them.

    Parameters
    ----------
    profiles : the column's rows of `profiles` by partition.
    """
    how = json.loads(limit["cut"])
    kind = "numeric" if how["names"] is None else "categorical"
    profiles = {key: row for key, row in profiles.items() if row["kind"] == kind}
    if partition not in profiles:
        return PastCounts(None, None)
    cut = Binning(tuple(how["edges"]), None if how["names"] is None else tuple(how["names"]))
    seen = dict(zip(json.loads(limit["partitions"]), json.loads(limit["counts"]), strict=True))
    seen |= {
        key: cut.profile_counts(profile.merge_profiles([row])[row["column"]]) for key, row in profiles.items()
    }
    keys = sorted(key for key in seen if key <= partition)[-rules.past - rules.of :]
    known = limit["middle"] is not None
    height = float(np.exp(limit["middle"] + limit["height"] * limit["spread"])) if known else None
    return PastCounts(np.array([seen[key] for key in keys], dtype=np.float64), height)


def judge_sudden_change(name: str, given: PastCounts, rules: SuddenChanges) -> Finding:
    """Judge a column's partition against its past."""
    why = ""
    if given.counts is None:
        why = f"{name} isn't there, or is of another kind than the last training saw"
    elif given.limit is None:
        why = f"{name}: the last training had too few partitions to tell how far it jumps without a fault"
    elif len(given.counts) < rules.enough:
        why = (
            f"{name}: {len(given.counts)} partitions are there, a comparison with the past needs "
            f"{rules.enough}"
        )
    if why or given.counts is None or given.limit is None:
        return Finding("jump", name, None, given.limit, "not enough", why)
    value, alarm = alarms.judge_newest(given.counts, given.limit, rules)
    if not np.isfinite(value):
        why = f"{name} has no row on this partition or before it"
        return Finding("jump", name, None, given.limit, "not enough", why)
    side = "breaks with" if alarm else "is further than its limit from" if value > given.limit else "is like"
    text, bound = figure_and_limit(value, given.limit, 3)
    note = f"{name} {side} the {len(given.counts) - rules.of} partitions before: {text}, limit "
    note += f"{bound} on {rules.partitions} of {rules.of} partitions"
    return Finding("jump", name, value, given.limit, "alarm" if alarm else "ok", note)
