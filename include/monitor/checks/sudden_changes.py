"""Sudden changes: whether a column jumped away from the weeks before, by the limits of the last training."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from include.monitor.context import Finding, PartitionContext
from include.spec.stages import SuddenChanges
from include.stats import alarms
from include.stats.drift_measures import Binning, Counts
from include.stats.formatting import figure_and_limit
from include.stats.profiles import merge_profiles
from include.storage.lake import Lake, Row

NO_LIMITS = "no training has set limits yet"


def check_sudden_changes(context: PartitionContext) -> list[Finding]:
    """Judge each feature by the limits of the last training, and predictions by the champion's limits."""
    spec, state, partition = context.spec, context.state, context.partition
    training, partitions = state.sudden_change_limits(partition), state.sudden_change_partitions(partition)
    if training is None or not partitions:
        note = "too few partitions before this one were scored" if training else NO_LIMITS
        return [Finding("sudden_change", "features", None, None, "not enough", note)]
    lake, champion = context.lake, context.champion
    by_champion = context.neighbors.served_by(context.model, partitions)
    # of the model that the training fitted last, if its row records it
    feature_limits = _limits(lake, training["partition"], json.loads(training["inputs"]).get("model", ""))
    prediction_limits = _limits(lake, champion["judged_on"], champion["model"]) if champion else {}
    rules, findings = spec.monitoring.sudden_changes, []
    for name in (*spec.features.columns, *spec.problem.outputs):
        is_prediction = name in spec.problem.outputs
        limit = (prediction_limits if is_prediction else feature_limits).get(name)
        if limit is None or (is_prediction and partition not in by_champion):
            other = f"{name} isn't compared: the champion didn't serve this partition"
            note = other if limit else f"{name}: {NO_LIMITS}"
            findings.append(Finding("sudden_change", name, None, None, "not enough", note))
            continue
        compared = by_champion if is_prediction else partitions
        profiles = {row["partition"]: row for row in context.neighbors.column_profiles(name, compared)}
        findings.append(judge_sudden_change(name, *past_counts(limit, profiles, partition, rules), rules))
    return findings


def _limits(lake: Lake, partition: str, model: str) -> dict[str, Row]:
    """Return the limits that the training of a partition published with a model, by column."""
    where = {"partition": partition, "model": model} if model else {"partition": partition}
    return {row["column"]: row for row in lake.rows("limits", where)} if partition else {}


def past_counts(
    limits: Row, profiles: Mapping[str, Row], partition: str, rules: SuddenChanges
) -> tuple[Counts | None, float | None]:
    """Return a column's counts by partition, as published or as the training counted them, and its threshold.

    Parameters
    ----------
    limits : the column's row of `limits`.
    profiles : the column's rows of `profiles` by partition.

    Returns
    -------
    tuple
        The counts, the partition itself last, shape (partitions, bins); None if the partition has no such
        column, or one of another kind than the training had. Then the threshold of an alarm; None if the
        training had too few partitions to set one.
    """
    stored = json.loads(limits["binning"])
    kind = "numeric" if stored["names"] is None else "categorical"
    profiles = {key: row for key, row in profiles.items() if row["kind"] == kind}
    if partition not in profiles:
        return None, None
    binning = Binning(tuple(stored["edges"]), None if stored["names"] is None else tuple(stored["names"]))
    counts = dict(zip(json.loads(limits["partitions"]), json.loads(limits["counts"]), strict=True))
    counts |= {
        key: binning.profile_counts(merge_profiles([row])[row["column"]]) for key, row in profiles.items()
    }
    keys = sorted(key for key in counts if key <= partition)[-rules.past - rules.of :]
    threshold = None
    if limits["median_log_score"] is not None:
        parts = (limits[name] for name in ("median_log_score", "log_score_spread", "spreads"))
        threshold = alarms.threshold(*parts)
    return np.array([counts[key] for key in keys], dtype=np.float64), threshold


def judge_sudden_change(
    name: str, counts: Counts | None, threshold: float | None, rules: SuddenChanges
) -> Finding:
    """Judge a column's partition against its past."""
    note = ""
    if counts is None:
        note = f"{name} is missing, or of another kind than in the last training"
    elif threshold is None:
        note = f"{name}: the last training had too few partitions to set a limit"
    elif len(counts) < rules.enough:
        note = f"{name}: {len(counts)} of the {rules.enough} partitions that a comparison needs"
    if note or counts is None or threshold is None:
        return Finding("sudden_change", name, None, threshold, "not enough", note)
    value, alarm = alarms.judge_newest(counts, threshold, rules)
    if not np.isfinite(value):
        note = f"{name} has no rows in this partition or before it"
        return Finding("sudden_change", name, None, threshold, "not enough", note)
    text, bound = figure_and_limit(value, threshold, 3)
    before = f"the {len(counts) - rules.of} partitions before"
    enough = f"on at least {rules.partitions} of the last {rules.of} partitions"
    if alarm:
        note = f"{name} changed suddenly against {before}: score {text}, limit {bound}, exceeded {enough}"
    elif value > threshold:
        note = f"{name} exceeds its limit against {before}: score {text}, limit {bound}; "
        note += f"an alarm requires {rules.partitions} of the last {rules.of} partitions"
    else:
        note = f"{name} is like {before}: score {text}, limit {bound}"
    return Finding("sudden_change", name, value, threshold, "alarm" if alarm else "ok", note)
