"""The functions that compute the metrics and objectives of the registry, `include.spec.metrics`.

A metric that the rows can't give is missing. It is never reported as zero or NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from include.errors import MissingMetric
from include.extensions import CodeReference
from include.spec import UseCase
from include.spec.metrics import CLASS, Costs, Metric, Objective, find_metric, find_objective, metric_names

Array = NDArray[np.float64]
BINS = 10  # of the calibration error
EPSILON = float(np.finfo(np.float64).eps)


def metric_value(
    metric: str,
    actual: Array,
    predicted: Array,
    classes: Sequence[str] = (),
    custom: Mapping[str, CodeReference] = MappingProxyType({}),
    costs: Costs = (),
) -> float:
    """Return the value of one metric, a finite number.

    Parameters
    ----------
    metric : a name from `include.spec.metrics`, with its parameter if it takes one.
    actual, predicted : labels and predictions, as in `row_losses`.
    classes : the class names of a multiclass problem, in the order of their codes.
    custom : the functions of a use case's custom metrics, by name.
    costs : of the actions, if the metric counts them, as in `action_costs`.

    Raises
    ------
    SpecError
        for a function of the use case that raises, or returns no number.
    MissingMetric
        when the rows can't give it: there are none, they lack a class that it needs, or none is predicted
        positive.
    """
    entry, parameter = find_metric(metric, multiclass=bool(classes)), metric.partition("@")[2]
    value = math.nan
    if len(np.unique(actual)) >= (2 if entry.compares_labels else 1):
        further: list[Any] = [costs] if entry.takes_costs else []
        if entry.parameter:
            further = [classes.index(parameter) if entry.parameter == CLASS else float(parameter)]
        # the registry names functions of this module
        name = entry.row_loss or entry.function or entry.name
        function: Callable[..., Any] = _custom_metric(custom[metric]) if metric in custom else globals()[name]
        result = function(actual, predicted, *further)
        value = float(result.mean()) if entry.row_loss else result
        value = math.sqrt(value) if entry.root else value
    if not math.isfinite(value):
        raise MissingMetric(metric, required=entry.needs, found=_describe_labels(entry, actual, classes))
    return value


def metric_values(
    names: Sequence[str],
    actual: Array,
    predicted: Array,
    classes: Sequence[str] = (),
    custom: Mapping[str, CodeReference] = MappingProxyType({}),
    costs: Costs = (),
) -> dict[str, float]:
    """Return those of the named metrics that the rows can give, see `metric_value`."""
    values: dict[str, float] = {}
    for name in names:
        try:
            values[name] = metric_value(name, actual, predicted, classes, custom, costs)
        except MissingMetric:
            continue
    return values


def all_metric_values(spec: UseCase, actual: Array, predicted: Array) -> dict[str, float]:
    """Return those of the metrics of a use case that the rows can give."""
    problem = spec.problem
    return metric_values(
        metric_names(spec), actual, predicted, problem.classes, spec.custom_metrics, problem.cost_matrix
    )


def row_losses(objective: str | Objective, actual: Array, predicted: Array) -> Array:
    """Return each row's loss by one of the objectives; the best value is 0.0.

    Parameters
    ----------
    objective : one of `include.spec.metrics.OBJECTIVES`, or its name, with its parameter, unless it takes
        costs; or the use case's own.
    actual : 0 or 1, or the class's code, or the value in the target's unit, shape (n,).
    predicted : the probability of 1, or the value, shape (n,); or each class's probability, shape (n, k).

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    objective = find_objective(objective) if isinstance(objective, str) else objective
    if objective.code:
        return _custom_losses(objective.code, actual, predicted)
    parameter = objective.name.partition("@")[2]
    further: list[Any] = [float(parameter)] if parameter else []
    further += [objective.costs] if objective.takes_costs else []
    losses: Array = globals()[objective.function](actual, predicted, *further)
    return losses


def has_loss(spec: UseCase, actual: Array) -> NDArray[np.bool_]:
    """Return which labels the objective is defined for: the Poisson deviance has none for one below 0."""
    classes = len(spec.problem.classes)
    neutral = np.full((len(actual), classes), 1 / classes) if classes else np.full(len(actual), 0.5)
    return np.isfinite(row_losses(spec.objective, actual, neutral))


def _custom_losses(code: CodeReference, actual: Array, predicted: Array) -> Array:
    """Return what a use case's own objective loses on each row."""
    function, required = code.load(), "a function that returns each row's loss, finite and from 0 on"
    losses = code.call(required, lambda: np.asarray(function(actual, predicted), dtype=np.float64))
    if losses.shape != actual.shape:
        code.fail(required, f"shape {losses.shape} for {len(actual)} rows", function)
    if bad := int(np.count_nonzero(~(np.isfinite(losses) & (losses >= 0)))):
        code.fail(required, f"{bad} of {len(losses)} losses that are negative or not finite", function)
    return cast("Array", losses)


def _custom_metric(code: CodeReference) -> Callable[[Array, Array], float]:
    """Return a use case's own metric as a function whose errors name the code."""
    function, required = code.load(), "a function that returns a number"
    return lambda actual, predicted: code.call(required, lambda: float(function(actual, predicted)))


def metric_row_losses(metric: str, actual: Array, predicted: Array) -> Array:
    """Return each row's loss for a regression metric that is the mean of such losses, shape (n,)."""
    entry, parameter = find_metric(metric), metric.partition("@")[2]
    further = [float(parameter)] if parameter else []
    losses: Array = globals()[entry.row_loss](actual, predicted, *further)
    return losses


def _describe_labels(entry: Metric, actual: Array, classes: Sequence[str]) -> str:
    if classes:
        counts = [f"{int((actual == code).sum())} {name}" for code, name in enumerate(classes)]
        return f"{', '.join(counts)} in {len(actual)} rows"
    return f"{len(np.unique(actual)) if entry.compares_labels else 'none'} in {len(actual)} rows"


# Losses of each row


def log_losses(actual: Array, predicted: Array) -> Array:
    """Return each row's logarithmic loss, with predictions clipped to [eps, 1 - eps] as in scikit-learn."""
    clipped = np.clip(predicted, EPSILON, 1 - EPSILON)
    if predicted.ndim == 2:
        return np.asarray(-np.log(clipped[np.arange(len(actual)), actual.astype(np.intp)]), dtype=np.float64)
    return np.asarray(-(actual * np.log(clipped) + (1 - actual) * np.log1p(-clipped)), dtype=np.float64)


def brier_scores(actual: Array, predicted: Array) -> Array:
    """Return each row's Brier score.

    For several classes it is the sum over the classes, within [0, 2] (Brier 1950), as in scikit-learn.
    """
    if predicted.ndim == 2:
        one_hot = np.eye(predicted.shape[1])[actual.astype(np.intp)]
        return np.asarray(np.square(predicted - one_hot).sum(axis=1))
    return np.square(predicted - actual)


def best_actions(predicted: Array, costs: Costs) -> NDArray[np.intp]:
    """Return the place of each row's action with the lowest expected cost, of a tie the first, shape (n,).

    Parameters
    ----------
    predicted : the probability of 1, shape (n,), or of each class, (n, k).
    costs : of each action by the actual label's code, shape (k, d).
    """
    shares = predicted.T if predicted.ndim == 2 else (1 - predicted, predicted)
    # class by class: the last bit of a matrix product depends on how many rows there are
    expected = sum(np.multiply.outer(share, row) for share, row in zip(shares, costs, strict=True))
    return np.asarray(np.argmin(expected, axis=1))


def action_costs(actual: Array, predicted: Array, costs: Costs) -> Array:
    """Return what each row's best action by its prediction costs, see `best_actions`."""
    positions = actual.astype(np.intp), best_actions(predicted, costs)
    return np.asarray(np.asarray(costs, dtype=np.float64)[positions])


def squared_errors(actual: Array, predicted: Array) -> Array:
    """Return each row's squared error."""
    return np.square(predicted - actual)


def absolute_errors(actual: Array, predicted: Array) -> Array:
    """Return each row's absolute error."""
    return np.abs(predicted - actual)


def pinball_losses(actual: Array, predicted: Array, quantile: float) -> Array:
    """Return each row's pinball loss at a quantile."""
    return np.asarray(np.maximum(quantile * (actual - predicted), (quantile - 1) * (actual - predicted)))


def covered_rows(actual: Array, predicted: Array) -> Array:
    """Return 1 for each row whose label is at or below the prediction, else 0."""
    return np.asarray(actual <= predicted, dtype=np.float64)


def poisson_deviances(actual: Array, predicted: Array) -> Array:
    """Return each row's Poisson deviance, NaN for a label below 0; predictions are at least eps.

    2 (y log(y / p) - y + p), as in scikit-learn (McCullagh and Nelder 1989, Generalized linear models).
    """
    positive = np.maximum(predicted, EPSILON)
    logarithms = np.log(np.where(actual > 0, actual, 1.0)) - np.log(positive)
    deviances = 2 * (actual * logarithms - actual + positive)
    # rounding may take a perfect prediction's below 0
    return np.where(actual >= 0, np.maximum(deviances, 0.0), np.nan)


# Metrics of a binary problem


def roc_auc(actual: Array, predicted: Array) -> float:
    """Return the area under the ROC curve."""
    false, true = _positives(actual, predicted)
    if len(false) > 2:  # the points of a straight part add only rounding
        corner = (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0)
        corners = np.flatnonzero(np.concatenate([[True], corner, [True]]))
        false, true = false[corners], true[corners]
    false_rate, true_rate = (np.concatenate([[0.0], counts]) / counts[-1] for counts in (false, true))
    return float(np.trapezoid(true_rate, false_rate))


def average_precision(actual: Array, predicted: Array) -> float:
    """Return the average precision over all thresholds."""
    precisions, recalls = _precision_recall(actual, predicted)
    return float(max(0.0, -np.sum(np.diff(recalls) * precisions[:-1])))


def _positives(actual: Array, predicted: Array) -> tuple[Array, Array]:
    """Return the false and the true positives at each distinct prediction, in descending order.

    This and what follows from it are scikit-learn's curves to the last bit, without its checks of arguments,
    which take several times as long for a thousand rows.
    """
    order = np.argsort(predicted)[::-1]
    last = np.append(np.flatnonzero(np.diff(predicted[order])), len(order) - 1)  # of each tie
    true = np.cumsum(actual[order], dtype=np.float64)[last]
    return 1 + last - true, true


def _precision_recall(actual: Array, predicted: Array) -> tuple[Array, Array]:
    """Return precision and recall at each distinct prediction in ascending order, and 1 and 0 at last."""
    false, true = _positives(actual, predicted)
    precision, recall = true / (true + false), true / true[-1]
    return np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0)


def calibration_gap(actual: Array, predicted: Array) -> float:
    """Return how far the mean prediction is from the observed rate, in [0, 1]; the best value is 0.0."""
    return float(abs(predicted.mean() - actual.mean()))


def calibration_error(actual: Array, predicted: Array) -> float:
    """Return the expected calibration error, in [0, 1]; the best value is 0.0.

    It is the mean over all rows of the distance, within the row's bin, between the mean prediction and the
    observed rate (Naeini, Cooper and Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian
    binning). Each bin holds a tenth of the rows, as in Nguyen and O'Connor 2015, Posterior calibration and
    exploratory analysis. Tied predictions share a bin, so their order doesn't matter.
    """
    edges = np.quantile(predicted, np.arange(1, BINS) / BINS)
    bins = np.searchsorted(edges, predicted)
    return float(np.abs(np.bincount(bins, predicted - actual)).sum() / len(actual))


def precision(actual: Array, predicted: Array, threshold: float) -> float:
    """Return the share of ones among the rows predicted at ``threshold`` or above; NaN if there are none."""
    positive = predicted >= threshold
    return _ratio(actual[positive].sum(), positive.sum())


def recall(actual: Array, predicted: Array, threshold: float) -> float:
    """Return the share of the ones that is predicted at ``threshold`` or above; NaN if there are none."""
    return _ratio(actual[predicted >= threshold].sum(), actual.sum())


def f1(actual: Array, predicted: Array, threshold: float) -> float:
    """Return the harmonic mean of precision and recall.

    It is 0.0 where rows are ones or predicted positive but never both, and NaN where no row is either.
    """
    positive = predicted >= threshold
    return _ratio(2 * actual[positive].sum(), actual.sum() + positive.sum())


def recall_at_precision(actual: Array, predicted: Array, least: float) -> float:
    """Return the highest recall of any threshold whose precision is at least ``least``.

    It is 0.0 where no threshold reaches that precision, and NaN where no row is 1.
    """
    if not actual.any():
        return math.nan
    precisions, recalls = _precision_recall(actual, predicted)
    return float(recalls[precisions >= least].max())  # the curve ends with precision 1 and recall 0


def precision_top(actual: Array, predicted: Array, share: float) -> float:
    """Return the share of ones in the ``share`` of the rows with the highest predictions, in [0, 1].

    A row or tie at the boundary counts by the part of it that fits in, so the order of ties doesn't matter.
    """
    size = share * len(actual)
    boundary = np.sort(predicted)[-math.ceil(size)]
    above, tied = predicted > boundary, predicted == boundary
    part = (size - int(above.sum())) / int(tied.sum())
    return float((actual[above].sum() + part * actual[tied].sum()) / size)


# Metrics of a regression


def r2(actual: Array, predicted: Array) -> float:
    """Return the coefficient of determination; the best value is 1.0, and constant labels give NaN."""
    variation = squared_errors(actual, np.full_like(actual, actual.mean())).sum()
    return 1 - _ratio(squared_errors(actual, predicted).sum(), variation)


# Metrics of several classes


def confusion(actual: Array, predicted: Array) -> NDArray[np.int64]:
    """Return the number of rows of each actual class that were predicted as each class, shape (k, k).

    Parameters
    ----------
    actual : each row's class code, 0 to k - 1, shape (n,).
    predicted : probabilities, shape (n, k).
    """
    classes = predicted.shape[1]
    pairs = actual.astype(np.int64) * classes + predicted.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def by_class(counts: NDArray[np.int64]) -> dict[str, Array]:
    """Return precision, recall and F1 of each class, shape (k,) each.

    A class's precision is NaN where no row was predicted as it, its recall where it has no row, and its F1
    where neither has.
    """
    hits, actual, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"precision": hits / predicted, "recall": hits / actual, "f1": 2 * hits / (actual + predicted)}


def class_precision(actual: Array, predicted: Array, code: int) -> float:
    """Return the precision of one class; NaN if no row is predicted as it."""
    return float(by_class(confusion(actual, predicted))["precision"][code])


def class_recall(actual: Array, predicted: Array, code: int) -> float:
    """Return the recall of one class; NaN if it has no row."""
    return float(by_class(confusion(actual, predicted))["recall"][code])


def class_f1(actual: Array, predicted: Array, code: int) -> float:
    """Return the F1 of one class; NaN if no row is of the class or predicted as it."""
    return float(by_class(confusion(actual, predicted))["f1"][code])


def accuracy(actual: Array, predicted: Array) -> float:
    """Return the share of rows whose most probable class is their own."""
    return float((predicted.argmax(axis=1) == actual).mean())


def balanced_accuracy(actual: Array, predicted: Array) -> float:
    """Return the mean recall of the classes that have rows, as in scikit-learn."""
    return float(np.nanmean(by_class(confusion(actual, predicted))["recall"]))


def macro_precision(actual: Array, predicted: Array) -> float:
    """Return the unweighted mean precision of all classes; NaN if one of them has none."""
    return float(by_class(confusion(actual, predicted))["precision"].mean())


def macro_recall(actual: Array, predicted: Array) -> float:
    """Return the unweighted mean recall of all classes; NaN if one of them has none."""
    return float(by_class(confusion(actual, predicted))["recall"].mean())


def macro_f1(actual: Array, predicted: Array) -> float:
    """Return the unweighted mean F1 of all classes; NaN if one of them has none."""
    return float(by_class(confusion(actual, predicted))["f1"].mean())


def macro_roc_auc(actual: Array, predicted: Array) -> float:
    """Return the mean over the classes of each one's ROC-AUC against all others; NaN if one has no row."""
    if len(np.unique(actual)) < predicted.shape[1]:
        return math.nan
    scores = [roc_auc(actual == code, probability) for code, probability in enumerate(predicted.T)]
    return float(np.mean(scores))


def top_class(actual: Array, predicted: Array) -> tuple[Array, Array]:
    """Return whether each row's most probable class is its own, as 1 or 0, and that class's probability."""
    return (predicted.argmax(axis=1) == actual).astype(np.float64), predicted.max(axis=1)


def top_class_calibration_error(actual: Array, predicted: Array) -> float:
    """Return the calibration error of the most probable class."""
    return calibration_error(*top_class(actual, predicted))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
