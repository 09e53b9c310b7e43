"""Drift, missing and unseen values: each column of a partition beside the champion's reference.

A column has drifted when its window is further from the reference than the reference's own windows are from
each other. Rows of one partition share their weather and their season, so a week differs from two months by
far more than sampling noise of independent rows explains: in the year of the demo's data, a week of
temperatures has a population stability index (PSI) of 1 to 6 against its own two months, where the textbook
threshold is 0.25. The threshold is therefore the highest of three figures: the declared one, the noise of
independent rows, and the furthest that the training's own windows of the same width are from the rest.

This holds for the PSI and the Jensen–Shannon distance. The Kolmogorov–Smirnov distance uses the declared
threshold and the noise, and the Wasserstein distance the declared threshold alone, because counts by bin
can't tell how far the reference's own windows are apart. `monitoring.measure` declares which one is used.

Missing and unseen values show a broken feed. They are looked for in the partition alone, unless that has been
ordinary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import stats

from include.monitor.checks.constant import is_ordinarily_constant
from include.monitor.context import NO_PREDICTIONS, Finding, PartitionContext
from include.monitor.reference import Reference, ReferenceColumn
from include.spec.stages import Monitoring
from include.stats import drift_measures
from include.stats.drift_measures import BINNED, NAMES, Counts, psi
from include.stats.formatting import figure_and_limit
from include.stats.profiles import Profile, merge_profiles
from include.storage.lake import Row
from include.storage.schemas import DRIFT

PRODUCT = "drift"
ALPHA = 0.001  # chance of an alarm by the noise of independent rows alone, for one column of one partition
# above these shares a partition is in alarm, whatever the reference had
ALWAYS_MISSING, ALWAYS_UNSEEN = 0.5, 0.95
BROKEN_SHARE = 0.5  # a partition with more unfamiliar values than this makes none of them familiar
MIN_TREND = 6  # partitions, each further than the one before, that a counter has and a season seldom
IN_A_ROW = 3  # unfamiliar partitions from which a column with one value in each is in alarm
BASE_PARTITIONS = 3  # the oldest of the familiar partitions, which have no earlier ones to be compared with
MIN_WINDOWS = 5  # of the reference, from which its own spread can be measured


def check_drift(context: PartitionContext) -> list[Finding]:
    """Compare the distribution of each column over the window with the reference."""
    if context.reference is None or context.partition not in context.window:
        note = NO_PREDICTIONS
        if context.reference is None:
            model = context.model[:12]
            note = f"model {model} left no reference" if model else "no model was promoted yet"
        return [Finding("drift", "features", None, None, "not enough", note)]
    return [
        Finding("drift", name, None, None, "not enough", of)
        if isinstance(of, str)
        else check_distribution(name, of.reference, of.window, of.width, context.spec.monitoring)
        for name, of in context.comparisons.items()
    ]


def check_missing_values(context: PartitionContext) -> list[Finding]:
    """Check each feature's share of missing values in the partition."""
    rules, sources = context.spec.monitoring, context.spec.sources.values()
    windows = context.window_profiles if any(source.sparse for source in sources) else {}
    return [
        check_missing(name, of.reference, of.newest, rules, windows.get(name, ()))
        for name, of in context.compared_features.items()
    ]


def check_unseen_values(context: PartitionContext) -> list[Finding]:
    """Check each feature's share of values that neither the reference nor the last weeks had."""
    familiar = context.state.familiar_partitions(context.partition)
    return [
        check_unseen(
            name,
            comparison.reference,
            comparison.newest,
            context.spec.monitoring,
            context.neighbors.column_profiles(name, familiar),
            context.window_profiles[name],
        )
        for name, comparison in context.compared_features.items()
    ]


def check_never_learned(context: PartitionContext) -> list[Finding]:
    """Check each feature's share of values that the champion never learned, however familiar by now."""
    findings = []
    for name in context.spec.features.columns:
        column = context.reference.columns.get(name) if context.reference else None
        rows = [row for row in context.window_profiles.get(name, ()) if row["partition"] == context.partition]
        if column is not None and rows and {row["kind"] for row in rows} == {column.profile.kind}:
            partition = merge_profiles(rows)[name]
            findings.append(check_unseen(name, column, partition, context.spec.monitoring))
    return findings


def drift_table(
    partition: str, reference: Reference | None, window_profiles: Mapping[str, Sequence[Row]]
) -> pa.Table:
    """Return a partition's rows of `drift`: every measure of each column that has a reference and a window.

    Parameters
    ----------
    window_profiles : each column's rows of `profiles` over its window.
    """
    rows = []
    for name, profiles in sorted(window_profiles.items()):
        column = reference.columns.get(name) if reference else None
        if column is None or not profiles or {row["kind"] for row in profiles} != {column.profile.kind}:
            continue
        window = merge_profiles(profiles)[name]
        same = {"partition": partition, "column": name, "rows": window.count, "partitions": len(profiles)}
        measures = drift_measures.measure_drift(column.binning, column.profile, window)
        rows += [{**same, "measure": measure, "value": value} for measure, value in sorted(measures.items())]
    return pa.Table.from_pylist(rows, schema=DRIFT)


def sampling_noise(measure: str, bins: int, reference: float, current: float) -> float:
    """Return the limit that two samples of one distribution exceed with a chance of `ALPHA`; 0.0 if unknown.

    For independent rows the PSI is about (1/n + 1/m)·χ² with bins − 1 degrees of freedom, so its mean is
    (bins − 1)(1/n + 1/m): B. Yurdakul and J. Naranjo, Statistical properties of the population stability
    index, Journal of Risk Model Validation 14(4), 2020. Jensen–Shannon's divergence, the square of the
    distance, is an eighth of it where both are small.

    Parameters
    ----------
    bins : ≥ 1.
    reference, current : rows on each side, > 0.
    """
    rows = 1 / reference + 1 / current
    chi2 = float(stats.chi2.isf(ALPHA, max(bins - 1, 1))) * rows
    ks = float(stats.kstwobign.isf(ALPHA)) * rows**0.5
    noise: dict[str, float] = {"psi": chi2, "js": (chi2 / 8) ** 0.5, "ks": ks}
    return noise.get(measure, 0.0)


def own_windows(
    total: Counts,
    partitions: Counts,
    fitted: NDArray[np.bool_],
    width: int,
    measure: Callable[[Counts, Counts], NDArray[np.float64]] = psi,
) -> NDArray[np.float64]:
    """Return how far each window of the training's partitions is from the reference without that window.

    Parameters
    ----------
    total : the reference's counts, shape (bins,).
    partitions : counts by partition in their order, shape (partitions, bins).
    fitted : which of the partitions are part of the reference, shape (partitions,); the others followed it.
    width : partitions in a window.
    """
    if len(partitions) < width:
        return np.empty(0)
    current, fitted_rows = (
        sliding_window_view(counts, width, axis=0).sum(axis=-1)
        for counts in (partitions, np.where(fitted[:, np.newaxis], partitions, 0.0))
    )
    # the profile is exact only to a few rows in a thousand, so a difference may be below 0
    rest = np.maximum(total - fitted_rows, 0)
    have_values = (rest.sum(axis=-1) > 0) & (current.sum(axis=-1) > 0)
    return measure(rest[have_values], current[have_values])


class PartitionValues(NamedTuple):
    """A partition's range, NaN if it has no numbers, and its categories."""

    low: float
    high: float
    names: frozenset[str]


def check_distribution(
    name: str, column: ReferenceColumn, window: Profile, width: int, rules: Monitoring
) -> Finding:
    """Judge a column's distribution over a window of ``width`` partitions."""
    reference, current = column.binning.profile_counts(column.profile), column.binning.profile_counts(window)
    if not reference.sum() or not current.sum():
        side = "window" if reference.sum() else "reference"
        return Finding("drift", name, None, None, "not enough", f"{name} has no value in the {side}")
    measure = getattr(rules.measure, column.profile.kind)
    value = drift_measures.measure_drift(column.binning, column.profile, window)[measure]
    assert value is not None  # both sides have values, so each of these measures has one
    floors = {
        "the declared threshold": getattr(rules, measure),
        "the noise of so few rows": sampling_noise(measure, len(reference), reference.sum(), current.sum()),
    }
    if measure in BINNED and column.partitions is not None and column.fitted is not None:
        own = own_windows(reference, column.partitions, column.fitted, width, BINNED[measure])
        if len(own) >= MIN_WINDOWS:
            floors[f"the furthest of the reference's own {width}-partition windows"] = float(own.max())
    which, threshold = max(floors.items(), key=lambda floor: floor[1])
    alarm = value > threshold
    side = "beyond" if alarm else "within"
    text, bound = figure_and_limit(value, threshold, 3)
    over = f"{width} partition{'s' * (width != 1)}"
    note = f"{name}: {NAMES[measure]} {text} over {over} is {side} {which}, {bound}"
    return Finding("drift", name, value, threshold, "alarm" if alarm else "ok", note)


def check_missing(
    name: str, column: ReferenceColumn, partition: Profile, rules: Monitoring, window: Sequence[Row] = ()
) -> Finding:
    """Judge the rise of the missing share in one partition, by the threshold and by binomial noise.

    If a source is sparse, the partition that a feature looks back to may have no rows, and then all of its
    values are missing. A column that was so in some of the reference's partitions alarms only after as many
    such in a row as chance makes once in 1 / `ALPHA` times.

    Parameters
    ----------
    window : of a use case with a sparse source, the column's rows of `profiles` up to the partition itself.
    """
    reference = column.profile
    rise = partition.missing_share - reference.missing_share
    own = None if column.missing is None else column.missing - reference.missing_share
    threshold = _partition_threshold(rules.missing, own, ALWAYS_MISSING)
    chance = float(
        stats.binom.sf(
            partition.missing - 1, partition.count, (reference.missing + 0.5) / (reference.count + 1)
        )
    )
    alarm = rise > threshold and chance < ALPHA
    note = f"{name}: {partition.missing_share:.1%} missing, {reference.missing_share:.1%} in the reference"
    risen, bound = figure_and_limit(rise, threshold, 1, "{:.#%}")
    note += f"; a rise of {risen[:-1]} percentage points, expected at most {bound[:-1]}"
    ordinary = 0.0 if own is None or len(own) < MIN_WINDOWS else float((own > threshold).mean())
    if alarm and window and ordinary:
        required = next(n for n in range(1, rules.window + 1) if ordinary**n < ALPHA or n == rules.window)
        last = [merge_profiles([row])[reference.column] for row in window[-required:]]
        beyond = [profile.missing_share - reference.missing_share > threshold for profile in last]
        alarm = len(beyond) == required and all(beyond)
        note += f"; {ordinary:.1%} of the reference's partitions had it, so {required} in a row are an alarm"
    return Finding("missing", name, rise, threshold, "alarm" if alarm else "ok", note)


def check_unseen(
    name: str,
    column: ReferenceColumn,
    partition: Profile,
    rules: Monitoring,
    familiar: Sequence[Row] = (),
    window: Sequence[Row] = (),
) -> Finding:
    """Judge the share of a partition's values in unfamiliar categories, or beyond the familiar range.

    A value is familiar if the reference has it, or at least two of the last weeks' partitions: so a season
    isn't an alarm for as long as it lasts. Stray values don't count. Nor does a partition most of whose
    values were unfamiliar in their time: a feed that breaks between two partitions stays an alarm for as long
    as the familiar partitions reach back before the break.

    A column that ordinarily has one value per partition alarms only from the third unfamiliar one in a row
    on: one value is beyond the range of the others with none or all of its rows, and every record is.

    Parameters
    ----------
    familiar : the column's rows of `profiles` in the last weeks' partitions, oldest first.
    window : those of the window up to the partition itself; none to judge the partition alone.
    """
    reference, present = column.profile, partition.count - partition.missing
    threshold = _partition_threshold(rules.unseen, column.unseen, ALWAYS_UNSEEN)
    if not present or reference.count == reference.missing:
        why = f"{name} has no value in the {'reference' if present else 'partition'}"
        return Finding("unseen", name, None, threshold, "not enough", why)
    values: list[PartitionValues] = []
    for index, row in enumerate(row for row in familiar if row["kind"] == reference.kind):
        profile = merge_profiles([row])[reference.column]
        if index < BASE_PARTITIONS or (_unfamiliar_share(reference, profile, values) or 0.0) <= BROKEN_SHARE:
            values.append(_common_values(profile, rules.unseen / 2))
    share = _unfamiliar_share(reference, partition, values)
    if share is None:
        why = f"{name} has too many categories to tell which are new"
        return Finding("unseen", name, None, threshold, "not enough", why)
    chance = float(stats.binom.sf(round(share * present) - 1, present, 0.5 / (reference.count + 1)))
    alarm = share > threshold and chance < ALPHA
    region = "beyond the range" if partition.kind == "numeric" else "in categories that are new to those"
    text, bound = figure_and_limit(share, threshold, 1, "{:.#%}")
    note = f"{name}: {text} of the partition's values are {region} of the reference"
    note += f" and the last weeks, expected at most {bound}"
    if alarm and window and partition.is_constant and is_ordinarily_constant(column, familiar):
        required = min(IN_A_ROW, rules.window)
        last = [merge_profiles([row])[reference.column] for row in window[-required:]]
        beyond = [(_unfamiliar_share(reference, profile, values) or 0.0) > threshold for profile in last]
        alarm = len(beyond) == required and all(beyond)
        note += f"; it ordinarily has one value per partition, so {required} such in a row are an alarm"
    if alarm and (trend := _trend(name, (*familiar, *window))):
        note += f"; it has {trend} on each of the last {MIN_TREND} partitions, as a counter does, so this "
        note += "will last: make the feature a difference or a ratio, or acknowledge the alert"
    return Finding("unseen", name, share, threshold, "alarm" if alarm else "ok", note)


def _partition_threshold(declared: float, own: NDArray[np.float64] | None, always: float) -> float:
    """Return one partition's threshold: the declared one, or what the training's own partitions reached.

    Their highest share wasn't a fault, so it is tolerated up to ``always``.
    """
    reached = float(own.max()) if own is not None and len(own) >= MIN_WINDOWS else 0.0
    return max(declared, min(reached, always))


def _trend(name: str, rows: Sequence[Row]) -> str:
    """Return in which direction a column's median has moved on each of the last partitions; empty if not."""
    last = list({row["partition"]: row for row in rows if row["kind"] == "numeric"}.values())[-MIN_TREND:]
    steps = np.diff([merge_profiles([row])[name].quantiles([0.5])[0] for row in last])
    if len(last) < MIN_TREND or not ((steps > 0).all() or (steps < 0).all()):
        return ""
    return "risen" if steps[0] > 0 else "fallen"


def _common_values(partition: Profile, stray: float) -> PartitionValues:
    """Return a partition's range and categories without its outermost and its rarest values."""
    low, high = partition.quantiles((stray, 1 - stray))
    least = stray * (partition.count - partition.missing)
    return PartitionValues(
        low, high, frozenset(name for name, count in partition.items().items() if count >= least)
    )


def _unfamiliar_share(
    reference: Profile, partition: Profile, familiar: Sequence[PartitionValues]
) -> float | None:
    """Return the share of values that neither the reference nor two familiar partitions have.

    None if there are too many categories to tell.
    """
    if partition.count == partition.missing:
        return 0.0
    if partition.kind == "categorical":
        partitions = Counter(name for values in familiar for name in values.names)
        return drift_measures.new_category_share(
            reference, partition, [name for name, count in partitions.items() if count > 1]
        )
    lows = sorted(values.low for values in familiar if not np.isnan(values.low))
    highs = sorted(values.high for values in familiar if not np.isnan(values.high))
    low, high = min([reference.low, *lows[1:2]]), max([reference.high, *highs[-2:-1]])
    below, up_to = partition.cdf((np.nextafter(low, -np.inf), high))
    return float(below + 1 - up_to)
