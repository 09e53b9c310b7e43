"""Estimated performance of a partition before its labels arrive, or why it can't be estimated.

Each estimate comes with its measured error over the newest partitions with labels: first the gate's test
partitions, later the champion's own. No decision depends on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.optimize import minimize
from scipy.special import expit, logit, stdtrit

from include.judge.evidence import CHALLENGER
from include.models import outputs
from include.monitor.checks.drift import check_never_learned
from include.monitor.checks.live_performance import promotion_test_rows
from include.monitor.context import NO_PREDICTIONS, Finding, PartitionContext
from include.monitor.performance import newest_metrics
from include.monitor.state import PERFORMANCE
from include.promote.ledger import judged_attempt, was_judged
from include.references import digest_json
from include.spec import UseCase
from include.spec.metrics import find_metric, metric_names
from include.stats.formatting import figure_and_limit
from include.stats.metrics import metric_row_losses, metric_values
from include.storage import schemas
from include.storage.lake import Lake, Row

Array = NDArray[np.float64]
DRAWS = 50
MAX_ROWS = 2000  # of a partition for which labels are drawn; a metric's expected value needs no more
TENTHS = 10
MIN_PROBABILITY = 1e-6  # probabilities are clipped this far from 0 and 1
MIN_DEFINED = 0.9  # share of the draws in which a metric must be defined
PRODUCT = "estimates"
MAX_ERROR_PARTITIONS = 28  # the newest partitions with labels, on which the error is measured
MIN_ERROR_PARTITIONS = 7  # with fewer there is no error
TAIL = 0.05  # on either side of the interval
# an alarm of these checks means that the held-out rows don't represent the partition
UNFAMILIAR = ("unseen", "missing")
FOLDS = 5
MAX_PARTITIONS = 14  # the newest estimated partitions, unless a range is given


@dataclass(frozen=True)
class CalibrationMap:
    """How held-out rows relate a model's predictions to the labels, as plain numbers.

    Parameters
    ----------
    lines : for a classifier, slope and intercept on the logits, one pair for the class 1 or for each class.
    edges : for a regression, between the tenths of the predictions, ascending, shape (m - 1,).
    losses : by metric, the mean loss in each tenth, shape (m,).
    """

    lines: tuple[tuple[float, float], ...] = ()
    edges: tuple[float, ...] = ()
    losses: Mapping[str, tuple[float, ...]] | None = None


def estimated_metrics(spec: UseCase) -> tuple[str, ...]:
    """Return the metrics that are estimated: all that are measured and can be estimated without labels."""
    return tuple(name for name in metric_names(spec) if find_metric(name).can_be_estimated)


def _values(spec: UseCase, actual: Array, predicted: Array) -> dict[str, float]:
    problem, names = spec.problem, estimated_metrics(spec)
    return metric_values(names, actual, predicted, problem.classes, costs=problem.cost_matrix)


def learn_calibration(spec: UseCase, actual: Array, predicted: Array) -> CalibrationMap:
    """Fit a calibration map on held-out rows, at least one.

    Parameters
    ----------
    actual, predicted : labels and predictions, shape (n,), predictions of several classes (n, k).
    """
    if spec.problem.kind != "regression":
        columns = predicted.T if predicted.ndim == 2 else [predicted]
        codes = spec.problem.codes if predicted.ndim == 2 else (1.0,)
        return CalibrationMap(
            tuple(_fit_line(p, actual == code) for p, code in zip(columns, codes, strict=True))
        )
    edges = np.unique(np.quantile(predicted, np.arange(1, TENTHS) / TENTHS))
    tenth = np.searchsorted(edges, predicted)
    rows = np.bincount(tenth, minlength=len(edges) + 1)
    losses = {}
    for name in estimated_metrics(spec):
        loss = metric_row_losses(name, actual, predicted)
        sums = np.bincount(tenth, loss, minlength=len(rows))
        # ties may leave a tenth empty
        losses[name] = tuple(np.where(rows, sums / np.maximum(rows, 1), loss.mean()).tolist())
    return CalibrationMap(edges=tuple(edges.tolist()), losses=losses)


def expected_metrics(spec: UseCase, calibration: CalibrationMap, predicted: Array) -> dict[str, float]:
    """Return each metric's expected value on rows without labels, without those that aren't defined."""
    if not len(predicted):
        return {}
    if calibration.losses is not None:
        tenth = np.searchsorted(np.array(calibration.edges), predicted)
        means = {name: float(np.array(loss)[tenth].mean()) for name, loss in calibration.losses.items()}
        return {name: mean**0.5 if find_metric(name).root else mean for name, mean in means.items()}
    random = np.random.default_rng(spec.training.seed)
    if len(predicted) > MAX_ROWS:
        predicted = predicted[np.sort(random.choice(len(predicted), MAX_ROWS, replace=False))]
    probabilities, draws = calibrate(calibration, predicted), []
    for _ in range(DRAWS):
        labels = _draw_labels(probabilities, random.random(len(probabilities)))
        draws.append(_values(spec, labels, predicted))
    values = {name: [draw[name] for draw in draws if name in draw] for name in estimated_metrics(spec)}
    needed = MIN_DEFINED * DRAWS
    return {name: float(np.mean(drawn)) for name, drawn in values.items() if len(drawn) >= needed}


def calibrate(calibration: CalibrationMap, predicted: Array) -> Array:
    """Return calibrated probabilities, shape (n,), or (n, k) with rows that sum to 1.

    Notes
    -----
    A line through the logits (J. C. Platt, Probabilistic outputs for support vector machines, 1999), fitted
    for each class separately. `benchmarks/estimate.py` compares it with no calibration and isotonic
    regression.
    """
    columns = predicted.T if predicted.ndim == 2 else [predicted]
    lines = zip(calibration.lines, columns, strict=True)
    calibrated = [expit(slope * _logit(column) + intercept) for (slope, intercept), column in lines]
    if predicted.ndim == 1:
        return np.asarray(calibrated[0])
    stacked = np.stack(calibrated, axis=1)
    return np.asarray(stacked / stacked.sum(axis=1, keepdims=True))


def _fit_line(predicted: Array, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the best slope and intercept, with a small penalty on changing the probabilities."""
    logits, identity = _logit(predicted), np.array([1.0, 0.0])

    def cost(line: Array) -> tuple[float, Array]:
        score = line[0] * logits + line[1]
        change, residual = line - identity, expit(score) - positive
        value = np.logaddexp(0, score).sum() - score[positive].sum() + change @ change
        return float(value), np.array([residual @ logits, residual.sum()]) + 2 * change

    slope, intercept = minimize(cost, identity, jac=True, method="L-BFGS-B").x
    return float(slope), float(intercept)


def _logit(probability: Array) -> Array:
    return np.asarray(logit(np.clip(probability, MIN_PROBABILITY, 1 - MIN_PROBABILITY)))


def _draw_labels(probabilities: Array, random: Array) -> Array:
    """Return a label for each row: 1 or 0, or the position of the class."""
    if probabilities.ndim == 1:
        return np.asarray(random < probabilities, dtype=np.float64)
    positions = (random[:, None] > probabilities.cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(positions, probabilities.shape[1] - 1), dtype=np.float64)


@dataclass(frozen=True)
class EstimatePair:
    """A metric of a partition with labels: the estimate, the realized value and a naive estimate.

    Parameters
    ----------
    naive : the metric's mean over the gate's test partitions, without the partition's own fold.
    """

    estimate: float
    realized: float
    naive: float


@dataclass(frozen=True)
class LabeledPartition:
    """A partition with labels.

    Parameters
    ----------
    rows : with a label.
    pairs : by metric, for those that are defined on the rows.
    """

    partition: str
    rows: int
    pairs: Mapping[str, EstimatePair]


@dataclass(frozen=True)
class HeldOutEstimates:
    """The estimator that was learned on the gate's test partitions, and its estimates for them.

    Parameters
    ----------
    map : learned on all of them.
    means : each metric's mean over them, which is the naive estimate for every later partition.
    partitions : each estimated by the other folds.
    """

    map: CalibrationMap
    means: Mapping[str, float]
    partitions: tuple[LabeledPartition, ...]


def held_out_estimates(lake: Lake, spec: UseCase, champion: Row) -> HeldOutEstimates | None:
    """Return the estimates for the test partitions that promoted a champion, None if their rows are gone.

    They are computed once per attempt and stored.

    Parameters
    ----------
    champion : its row of `switches`.
    """
    if not was_judged(lake, champion):
        return None
    attempt = judged_attempt(champion)
    key = f"references/{digest_json([attempt, estimated_metrics(spec)])}.estimate.json"
    stored = lake.get(key)
    if stored is None:
        rows = promotion_test_rows(lake, champion)
        if rows is None or not rows.num_rows:
            return None
        keys = np.asarray(rows["partition"].to_pylist(), dtype=object)
        predicted = outputs.from_single_column(rows[CHALLENGER])
        if predicted.shape != outputs.predictions_shape(spec, rows.num_rows):
            return None  # the problem's classes have changed since
        estimates = learn_held_out(spec, keys, rows["actual"].to_numpy(), predicted)
        lake.create(key, json.dumps(asdict(estimates), sort_keys=True).encode())
        stored = lake.get(key)
        assert stored is not None
    return TypeAdapter(HeldOutEstimates).validate_json(stored)


def learn_held_out(
    spec: UseCase, partitions: NDArray[np.object_], actual: Array, predicted: Array
) -> HeldOutEstimates:
    """Learn to estimate from rows with labels, at least one, and estimate each partition by the other folds.

    Parameters
    ----------
    partitions, actual, predicted : each row's partition, label and prediction, of n rows each.
    """
    keys = sorted(set(partitions.tolist()))
    realized = {}
    for key in keys:
        rows = partitions == key
        realized[key] = _values(spec, actual[rows], predicted[rows])
    labeled = []
    for fold in np.array_split(np.array(keys, dtype=object), min(FOLDS, len(keys))):
        others = np.isin(partitions, fold, invert=True)
        if not others.any():
            continue  # a single partition leaves nothing to learn from
        calibration = learn_calibration(spec, actual[others], predicted[others])
        means = _means([metrics for key, metrics in realized.items() if key not in fold])
        for key in fold.tolist():
            rows = partitions == key
            expected = expected_metrics(spec, calibration, predicted[rows])
            pairs = {
                name: EstimatePair(expected[name], realized[key][name], means[name])
                for name in estimated_metrics(spec)
                if name in expected and name in realized[key] and name in means
            }
            labeled.append(LabeledPartition(key, int(rows.sum()), pairs))
    calibration = learn_calibration(spec, actual, predicted)
    return HeldOutEstimates(calibration, _means(list(realized.values())), tuple(labeled))


def _means(partitions: list[dict[str, float]]) -> dict[str, float]:
    """Return each metric's mean over the partitions on which it is defined."""
    values: dict[str, list[float]] = {}
    for metrics in partitions:
        for name, value in metrics.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(of_metric)) for name, of_metric in values.items()}


def publish_estimates(context: PartitionContext, findings: Sequence[Finding]) -> dict[str, Any]:
    """Publish the partition's rows of `estimates`, one per metric, and return its row of `partitions`."""
    lake, spec, partition = context.lake, context.spec, context.partition
    rows: list[dict[str, Any]] = []
    if context.champion is not None:
        rows = _estimate_rows(context, context.champion, [*findings, *check_never_learned(context)])
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["metric"])), schema=schemas.ESTIMATES)
    lake.publish(PRODUCT, table, {"partition": partition})
    estimated = sum("value" in row for row in rows)
    note = f"{estimated} of {len(rows)} metrics estimated" if rows else "no model was promoted yet"
    inputs, digest = context.inputs, spec.digest
    return schemas.completion_row(PRODUCT, partition, table, inputs=inputs, spec=digest, note=note)


def _estimate_rows(
    context: PartitionContext, champion: Row, findings: Sequence[Finding]
) -> list[dict[str, Any]]:
    lake, spec, partition = context.lake, context.spec, context.partition
    held_out = held_out_estimates(lake, spec, champion)
    served = _served_predictions(lake, spec, [partition]).get(partition)
    blocker = _partition_blocker(held_out, served, str(champion["model"]), findings)
    expected = _expected(spec, held_out, served, str(champion["model"]))
    same = {"partition": partition, "model": champion["model"], "version": champion["version"]}
    size, metrics = 0 if served is None else served.num_rows, estimated_metrics(spec)
    if held_out is None:
        return [{**same, "metric": name, "rows": size, "reason": blocker} for name in metrics]
    labeled = [*held_out.partitions, *_champion_partitions(context, champion, held_out)]
    return [{**same, **estimate_row(name, size, expected.get(name), labeled, blocker)} for name in metrics]


def estimate_row(
    metric: str,
    rows: int,
    expected: float | None,
    partitions: Sequence[LabeledPartition],
    blocker: str = "",
) -> dict[str, Any]:
    """Return an estimate with its error, as columns of `estimates`; or no value, and the reason.

    Parameters
    ----------
    rows : of the partition that is estimated.
    expected : the metric's expected value, None if it isn't defined on the rows.
    partitions : those with labels, oldest first.
    blocker : why nothing in the partition can be estimated, if so.
    """
    measured = [one for one in partitions if metric in one.pairs][-MAX_ERROR_PARTITIONS:]
    row = {"metric": metric, "rows": rows, "unchecked": expected, **_error(measured, metric)}
    blocker = blocker or _metric_blocker(row, measured)
    if blocker or expected is None:
        return {**row, "reason": blocker}
    reach = float(stdtrit(len(measured) - 1, 1 - TAIL)) * row["error"]
    low, high = max(expected - reach, 0.0), min(expected + reach, find_metric(metric).highest)
    return {**row, "value": expected, "low": low, "high": high, "reason": ""}


def _partition_blocker(
    held_out: HeldOutEstimates | None, served: pa.Table | None, champion: str, findings: Sequence[Finding]
) -> str:
    """Return why no metric of the partition can be estimated; empty if they can."""
    if served is None:
        return NO_PREDICTIONS
    if other := served.num_rows - pc.sum(pc.equal(served["model"], champion)).as_py():
        return f"{other:,} of {served.num_rows:,} rows weren't served by the champion"
    if held_out is None:
        return "the rows of the gate's test partitions are gone, or the champion was promoted without a gate"
    alarms = [finding for finding in findings if finding.outcome == "alarm"]
    if columns := sorted({alarm.subject for alarm in alarms if alarm.check in UNFAMILIAR}):
        return f"missing values, or values that the champion never learned: {', '.join(columns)}"
    if concept := sorted({alarm.subject for alarm in alarms if alarm.check == "concept"}):
        return f"the relation between features and labels has changed: {', '.join(concept)}"
    return ""


def _metric_blocker(row: Mapping[str, Any], measured: Sequence[LabeledPartition]) -> str:
    """Return why one metric can't be estimated; empty if it can."""
    if row["unchecked"] is None:
        return f"not defined on these {row['rows']:,} rows"
    if len(measured) < MIN_ERROR_PARTITIONS:
        return f"its error is measured on {len(measured)} of the {MIN_ERROR_PARTITIONS} partitions required"
    usual = float(np.median([partition.rows for partition in measured]))
    if 2 * row["rows"] < usual:
        return f"{row['rows']:,} rows, but its error was measured on partitions of {usual:,.0f}"
    if row["error"] >= row["naive"]:
        error, naive = figure_and_limit(row["error"], row["naive"], 3)
        return f"its error, {error}, is no better than {naive}, that of always estimating the gate's mean"
    return ""


def _error(measured: Sequence[LabeledPartition], metric: str) -> dict[str, Any]:
    """Return the root mean square errors of the estimates and of the naive estimates."""
    pairs = [partition.pairs[metric] for partition in measured]
    if len(pairs) < MIN_ERROR_PARTITIONS:
        return {"partitions": len(pairs)}
    errors = {
        "error": [pair.estimate - pair.realized for pair in pairs],
        "naive": [pair.naive - pair.realized for pair in pairs],
    }
    root_mean_squares = {name: math.sqrt(np.mean(np.square(values))) for name, values in errors.items()}
    return {"partitions": len(pairs), **root_mean_squares}


def _served_predictions(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> dict[str, pa.Table]:
    """Return the predictions of each partition that has any, sorted by key."""
    columns = ["partition", *spec.key, *spec.problem.outputs, "model"]
    rows = lake.read("predictions", {"partition": list(partitions)}, columns) if partitions else None
    if rows is None:
        return {}
    rows = rows.sort_by([(name, "ascending") for name in spec.key])
    parts = {key: rows.filter(pc.equal(rows["partition"], key)) for key in partitions}
    return {key: part for key, part in parts.items() if part.num_rows}


def _expected(
    spec: UseCase, held_out: HeldOutEstimates | None, served: pa.Table | None, champion: str
) -> dict[str, float]:
    """Return a partition's expected metrics, none unless the champion served all of it."""
    if held_out is None or served is None or served["model"].unique().to_pylist() != [champion]:
        return {}
    return expected_metrics(spec, held_out.map, outputs.from_columns(spec, served))


def _champion_partitions(
    context: PartitionContext, champion: Row, held_out: HeldOutEstimates
) -> list[LabeledPartition]:
    """Return the champion's newest partitions whose labels were known by the partition, with their estimates.

    A partition that was never monitored is estimated now, with the same result as then.
    """
    lake, spec, state, partition = context.lake, context.spec, context.state, context.partition
    realized = sorted(state.published_digests[PERFORMANCE])
    since = [key for key in realized if champion["effective_from"] <= key < partition]
    keys = [key for key in since if state.labels_known_on(key)[0] <= partition][-MAX_ERROR_PARTITIONS:]
    if not keys:
        return []
    estimates: dict[str, dict[str, float | None]] = {}
    for row in lake.rows(PRODUCT, {"partition": keys, "model": str(champion["model"])}):
        estimates.setdefault(row["partition"], {})[row["metric"]] = row["unchecked"]
    missing = [key for key in keys if key not in estimates]
    for key, served in _served_predictions(lake, spec, missing).items():
        estimates[key] = {**_expected(spec, held_out, served, str(champion["model"]))}
    newest = newest_metrics(lake, keys, partition)
    return [
        _labeled_partition(key, estimates.get(key, {}), newest[key], held_out.means)
        for key in keys
        if key in newest
    ]


def _labeled_partition(
    partition: str,
    estimates: Mapping[str, float | None],
    realized_rows: Mapping[str, Row],
    means: Mapping[str, float],
) -> LabeledPartition:
    pairs = {}
    for name, estimate in estimates.items():
        realized = realized_rows[name]["value"] if name in realized_rows else None
        if estimate is not None and realized is not None and name in means:
            pairs[name] = EstimatePair(estimate, float(realized), means[name])
    return LabeledPartition(partition, int(next(iter(realized_rows.values()))["rows"]), pairs)


def pending_estimates(
    lake: Lake, *, as_of: str | None = None, first: str = "", last: str = ""
) -> list[dict[str, Any]]:
    """Return the estimates of partitions that have no labels yet, one row per metric, oldest first.

    Parameters
    ----------
    as_of : the partition as of which labels count; None for all that are known now.
    first, last : the range of partitions; without ``first`` the newest `MAX_PARTITIONS`.

    Returns
    -------
    list of dict
        ``partition``, ``version``, ``metric``, ``estimate`` (None if there is none), its ``error``, the 90 %
        interval from ``low`` to ``high``, the number of ``partitions`` on which the error was measured, and
        the ``reason`` why there is no estimate.
    """
    until = min(as_of or "~", last or "~")
    in_range = [key for key in lake.published(PRODUCT) if first <= key <= until]
    partitions = in_range if first else in_range[-MAX_PARTITIONS:]
    columns = ["partition", "as_of"]
    realized = lake.rows(PERFORMANCE, {"partition": partitions}, columns) if partitions else []
    labeled = {row["partition"] for row in realized if as_of is None or row["as_of"] <= as_of}
    pending = [key for key in partitions if key not in labeled]
    rows = lake.rows(PRODUCT, {"partition": pending}) if pending else []
    names = ("partition", "version", "metric", "value", "error", "low", "high", "partitions", "reason")
    estimates = [{("estimate" if name == "value" else name): row[name] for name in names} for row in rows]
    return sorted(estimates, key=lambda row: (row["partition"], row["metric"]))
