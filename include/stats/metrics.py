"""What a model is worth, in numbers; a number that the rows can't give is missing, and never zero or NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from include.errors import MissingMetric
from include.spec.metrics import parse

Array = NDArray[np.float64]


def confusion(actual: Array, predicted: Array) -> NDArray[np.int64]:
    """Return how many rows of each actual class were taken for each class, shape (k, k).

    Parameters
    ----------
    actual : each row's class by its place, 0 to k - 1, shape (n,).
    predicted : probabilities, shape (n, k).
    """
    classes = predicted.shape[1]
    pairs = actual.astype(np.int64) * classes + predicted.argmax(axis=1)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def by_class(counts: NDArray[np.int64]) -> dict[str, Array]:
    """Return precision, recall and F1 of each class, shape (k,) each.

    NaN where no row was taken for the class (precision), where it has no row (recall), or neither (F1).
    """
    hits, came, taken = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"precision": hits / taken, "recall": hits / came, "f1": 2 * hits / (came + taken)}


def accuracy(actual: Array, predicted: Array) -> float:
    """Return the share of rows whose likeliest class is theirs."""
    return float((predicted.argmax(axis=1) == actual).mean())


def balanced_accuracy(actual: Array, predicted: Array) -> float:
    """Return the mean recall of the classes that have rows, as scikit-learn does."""
    return float(np.nanmean(by_class(confusion(actual, predicted))["recall"]))


def macro_average(family: str, actual: Array, predicted: Array) -> float:
    """Return the plain mean over all classes, NaN when one of them has no such figure."""
    return float(by_class(confusion(actual, predicted))[family].mean())


def macro_roc_auc(actual: Array, predicted: Array) -> float:
    """Return the mean over the classes of each one's ROC-AUC against all others; NaN: one has no row."""
    if len(np.unique(actual)) < predicted.shape[1]:
        return math.nan
    return float(np.mean([sk.roc_auc_score(actual == code, of) for code, of in enumerate(predicted.T)]))


def top_class(actual: Array, predicted: Array) -> tuple[Array, Array]:
    """Return whether each row's likeliest class is its own, 1 or 0, and that class's probability."""
    return (predicted.argmax(axis=1) == actual).astype(np.float64), predicted.max(axis=1)


EPSILON = float(np.finfo(np.float64).eps)


def row_losses(objective: str, actual: Array, predicted: Array) -> Array:
    """Return each row's loss; the best value is 0.0.

    Parameters
    ----------
    objective : ``log_loss`` (predictions are clipped to [eps, 1 - eps], as scikit-learn does), ``brier``,
        ``squared_error`` or ``absolute_error``.
    actual : 0 or 1, or the class's place, or the value in the target's unit, shape (n,).
    predicted : the probability of 1, or the value, shape (n,); or the probability of each class, shape
        (n, k), whose Brier score is summed over the classes, within [0, 2] (Brier 1950), as scikit-learn's.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    if predicted.ndim == 2:
        return _loss_of_classes(objective, actual.astype(np.intp), predicted)
    if objective == "log_loss":
        sure = np.clip(predicted, EPSILON, 1 - EPSILON)
        return np.asarray(-(actual * np.log(sure) + (1 - actual) * np.log1p(-sure)), dtype=np.float64)
    if objective in ("brier", "squared_error"):
        return np.square(predicted - actual)
    return np.abs(predicted - actual)


def _loss_of_classes(objective: str, actual: NDArray[np.intp], predicted: Array) -> Array:
    if objective == "log_loss":
        mine = predicted[np.arange(len(actual)), actual]
        return np.asarray(-np.log(np.clip(mine, EPSILON, 1 - EPSILON)), dtype=np.float64)
    return np.asarray(np.square(predicted - np.eye(predicted.shape[1])[actual]).sum(axis=1))


def calibration_gap(actual: Array, predicted: Array) -> float:
    """Return how far the mean prediction is from the observed rate, in [0, 1]; the best value is 0.0."""
    return float(abs(predicted.mean() - actual.mean()))


def calibration_error(actual: Array, predicted: Array) -> float:
    """Return the expected calibration error, in [0, 1]; the best value is 0.0.

    The mean over all rows of how far, in its bin, the mean prediction is from the observed rate (Naeini,
    Cooper and Hauskrecht 2015, Obtaining well calibrated probabilities using Bayesian binning). The bins hold
    a tenth of the rows each, as in Nguyen and O'Connor 2015, Posterior calibration and exploratory analysis;
    predictions that tie share one, so that their order doesn't matter.
    """
    edges = np.quantile(predicted, np.arange(1, BINS) / BINS)
    bins = np.searchsorted(edges, predicted)
    return float(np.abs(np.bincount(bins, predicted - actual)).sum() / len(actual))


def precision(actual: Array, predicted: Array, threshold: float) -> float:
    """Return the share of ones among the rows predicted at ``threshold`` or above; NaN: there are none."""
    chosen = predicted >= threshold
    return _ratio(actual[chosen].sum(), chosen.sum())


def recall(actual: Array, predicted: Array, threshold: float) -> float:
    """Return the share of the ones that is predicted at ``threshold`` or above; NaN: there are none."""
    return _ratio(actual[predicted >= threshold].sum(), actual.sum())


def f1(actual: Array, predicted: Array, threshold: float) -> float:
    """Return twice the hits over ones and chosen rows together: the harmonic mean of precision and recall.

    It is 0.0 where rows are ones or chosen but never both, and NaN where no row is either.
    """
    chosen = predicted >= threshold
    return _ratio(2 * actual[chosen].sum(), actual.sum() + chosen.sum())


def recall_at_precision(actual: Array, predicted: Array, least: float) -> float:
    """Return the highest recall of any threshold whose precision is at least ``least``.

    It is 0.0 where no threshold reaches the precision: all that is left is to choose nothing, which finds
    nothing. It is NaN where no row is 1.
    """
    if not actual.any():
        return math.nan
    reached, found, _ = sk.precision_recall_curve(actual, predicted)
    return float(found[reached >= least].max())  # the curve ends with precision 1 and recall 0


def precision_top(actual: Array, predicted: Array, share: float) -> float:
    """Return the share of ones in the ``share`` of the rows with the highest predictions, in [0, 1].

    Of the row or the tie at the edge as much counts as fits in, so the order of ties doesn't matter.
    """
    size = share * len(actual)
    edge = np.sort(predicted)[-math.ceil(size)]
    above, at = predicted > edge, predicted == edge
    part = (size - int(above.sum())) / int(at.sum())
    return float((actual[above].sum() + part * actual[at].sum()) / size)


def r2(actual: Array, predicted: Array) -> float:
    """Return one less the squared error over that of the mean; the best value is 1.0, NaN of constants."""
    spread = row_losses("squared_error", actual, np.full_like(actual, actual.mean())).sum()
    return 1 - _ratio(row_losses("squared_error", actual, predicted).sum(), spread)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


BINS = 10  # of the calibration error
_MEASURES: dict[str, Callable[[Array, Array], float]] = {
    "roc_auc": lambda actual, predicted: float(sk.roc_auc_score(actual, predicted)),
    "average_precision": lambda actual, predicted: float(sk.average_precision_score(actual, predicted)),
    "log_loss": lambda actual, predicted: float(row_losses("log_loss", actual, predicted).mean()),
    "brier": lambda actual, predicted: float(row_losses("brier", actual, predicted).mean()),
    "calibration_error": calibration_error,
    "calibration_gap": calibration_gap,
    "rmse": lambda actual, predicted: float(np.sqrt(row_losses("squared_error", actual, predicted).mean())),
    "mae": lambda actual, predicted: float(row_losses("absolute_error", actual, predicted).mean()),
    "r2": r2,
}
_WITH_PARAMETER: dict[str, Callable[[Array, Array, float], float]] = {
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "recall_at_precision": recall_at_precision,
    "precision_top": precision_top,
    "quantile_loss": lambda actual, predicted, of: float(sk.mean_pinball_loss(actual, predicted, alpha=of)),
}
_NEED_TWO = ("roc_auc", "average_precision", "r2")
_NEEDED = {
    **dict.fromkeys(_NEED_TWO, "two different actual values"),
    "precision": "a row that is predicted at the threshold or above",
    "recall": "a row that is 1",
    "recall_at_precision": "a row that is 1",
    "f1": "a row that is 1 or is predicted at the threshold or above",
}


_OF_CLASSES: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    **{f"macro_{name}": partial(macro_average, name) for name in ("precision", "recall", "f1")},
    "macro_roc_auc": macro_roc_auc,
    "log_loss": _MEASURES["log_loss"],
    "brier": _MEASURES["brier"],
    "calibration_error": lambda actual, predicted: calibration_error(*top_class(actual, predicted)),
}
_NEEDED_OF_CLASSES = {
    "macro_precision": "rows that are predicted as each class",
    "macro_recall": "rows of each class",
    "macro_f1": "of each class rows that are it or are predicted as it",
    "macro_roc_auc": "rows of each class",
    "precision": "a row that is predicted as the class",
    "recall": "a row of the class",
    "f1": "a row that is of the class or is predicted as it",
}


def metric_value(metric: str, actual: Array, predicted: Array, classes: Sequence[str] = ()) -> float:
    """Return one metric of `include.spec.metrics`, a finite number.

    Parameters
    ----------
    classes : of a multiclass problem, by their places.

    Raises
    ------
    MissingMetric
        when the rows can't give it: there are none, or only one class where it takes two, or none is chosen.
    """
    if classes:
        return _measure_of_classes(metric, actual, predicted, classes)
    family, parameter = parse(metric)
    different, value = len(np.unique(actual)), math.nan
    if different >= (2 if family in _NEED_TWO else 1):
        if parameter is None:
            value = _MEASURES[family](actual, predicted)
        else:
            value = _WITH_PARAMETER[family](actual, predicted, parameter)
    if math.isfinite(value):
        return value
    found = f"{different} in {len(actual)} rows" if family in _NEED_TWO else f"none in {len(actual)} rows"
    raise MissingMetric(metric, required=_NEEDED.get(family, "rows and a finite value"), found=found)


def _measure_of_classes(metric: str, actual: Array, predicted: Array, classes: Sequence[str]) -> float:
    family, of, name = metric.partition("@")
    value = math.nan
    if len(actual):
        if of:
            value = float(by_class(confusion(actual, predicted))[family][classes.index(name)])
        else:
            value = _OF_CLASSES[family](actual, predicted)
    if math.isfinite(value):
        return value
    came = [f"{int((actual == code).sum())} {name}" for code, name in enumerate(classes)]
    found = f"{', '.join(came)} in {len(actual)} rows"
    raise MissingMetric(metric, required=_NEEDED_OF_CLASSES.get(family, "rows"), found=found)


def metric_values(
    names: Sequence[str], actual: Array, predicted: Array, classes: Sequence[str] = ()
) -> dict[str, float]:
    """Return those of the named metrics that the rows can give."""
    found: dict[str, float] = {}
    for name in names:
        try:
            found[name] = metric_value(name, actual, predicted, classes)
        except MissingMetric:
            continue
    return found
