"""What a model may be expected to be worth on rows without labels, by its predictions on rows with them.

A classifier's probabilities say how often each class will come, once they are calibrated: labels are drawn by
them many times, and each metric's mean over the draws is its expected value, whatever its formula (confidence
based performance estimation). Of a regression each tenth of the predictions has the mean loss that it had on
held-out rows. Neither sees that the rows follow another rule by now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from include.evaluate.metrics import loss, measured
from include.spec import UseCase
from include.spec.metrics import names, parse

Array = NDArray[np.float64]
# what can't be told: whether calibrated probabilities are, and of a regression how the target will be spread
UNTOLD = ("calibration_error", "calibration_gap", "r2")
DRAWS = 50
MOST = 2000  # rows of a night that labels are drawn for; a metric's expected value needs no more
TENTHS = 10
SURE = 1e-6  # a probability isn't taken for nearer to 0 or 1
DEFINED = 0.9  # of the draws must give a metric


@dataclass(frozen=True)
class Map:
    """What held-out rows say of a model's predictions, as plain numbers.

    Parameters
    ----------
    lines : of a classifier slope and height of the logit, one pair for 1 or for each class.
    edges : of a regression between the tenths of the predictions, ascending, shape (m - 1,).
    losses : by metric the mean loss in each tenth, shape (m,).
    """

    lines: tuple[tuple[float, float], ...] = ()
    edges: tuple[float, ...] = ()
    losses: Mapping[str, tuple[float, ...]] | None = None


def told(spec: UseCase) -> tuple[str, ...]:
    """Return the metrics that are estimated: all that are measured, but for those that can't be told."""
    return tuple(name for name in names(spec) if name.partition("@")[0] not in UNTOLD)


def learn(spec: UseCase, actual: Array, predicted: Array) -> Map:
    """Return what held-out rows say, at least one of them.

    Parameters
    ----------
    actual, predicted : labels and predictions, shape (n,), predictions of several classes (n, k).
    """
    if spec.problem.kind != "regression":
        columns = predicted.T if predicted.ndim == 2 else [predicted]
        codes = spec.problem.codes if predicted.ndim == 2 else (1.0,)
        return Map(tuple(_line(p, actual == code) for p, code in zip(columns, codes, strict=True)))
    edges = np.unique(np.quantile(predicted, np.arange(1, TENTHS) / TENTHS))
    tenth = np.searchsorted(edges, predicted)
    rows = np.bincount(tenth, minlength=len(edges) + 1)
    found = {}
    for name in told(spec):
        lost = _loss(name, actual, predicted)
        sums = np.bincount(tenth, lost, minlength=len(rows))
        # ties may leave a tenth empty
        found[name] = tuple(np.where(rows, sums / np.maximum(rows, 1), lost.mean()).tolist())
    return Map(edges=tuple(edges.tolist()), losses=found)


def expected(spec: UseCase, learnt: Map, predicted: Array) -> dict[str, float]:
    """Return each metric's expected value on rows without labels; one that they can't give isn't there."""
    if not len(predicted):
        return {}
    if learnt.losses is not None:
        tenth = np.searchsorted(np.array(learnt.edges), predicted)
        means = {name: float(np.array(of)[tenth].mean()) for name, of in learnt.losses.items()}
        return {name: mean**0.5 if name == "rmse" else mean for name, mean in means.items()}
    random = np.random.default_rng(spec.training.seed)
    if len(predicted) > MOST:
        predicted = predicted[np.sort(random.choice(len(predicted), MOST, replace=False))]
    chances, found = calibrated(learnt, predicted), []
    for _ in range(DRAWS):
        labels = _drawn(chances, random.random(len(chances)))
        found.append(measured(told(spec), labels, predicted, spec.problem.classes))
    return _means(told(spec), found)


def _means(metrics: Sequence[str], found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values = {name: [one[name] for one in found if name in one] for name in metrics}
    return {name: float(np.mean(of)) for name, of in values.items() if len(of) >= DEFINED * len(found)}


def calibrated(learnt: Map, predicted: Array) -> Array:
    """Return what probabilities were worth on the held-out rows, shape (n,), or (n, k) that adds up to 1.

    Notes
    -----
    A line through the logits (J. C. Platt, Probabilistic outputs for support vector machines, 1999), for each
    class on its own; `benchmarks/estimate.py` holds it to no line and to isotonic regression.
    """
    columns = predicted.T if predicted.ndim == 2 else [predicted]
    lines = zip(learnt.lines, columns, strict=True)
    found = [expit(slope * _logit(of) + height) for (slope, height), of in lines]
    if predicted.ndim == 1:
        return np.asarray(found[0])
    stacked = np.stack(found, axis=1)
    return np.asarray(stacked / stacked.sum(axis=1, keepdims=True))


def _line(predicted: Array, came: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and height that fit best, with a little weight on leaving probabilities as they are."""
    at, same = _logit(predicted), np.array([1.0, 0.0])

    def cost(line: Array) -> tuple[float, Array]:
        score = line[0] * at + line[1]
        apart, miss = line - same, expit(score) - came
        value = np.logaddexp(0, score).sum() - score[came].sum() + apart @ apart
        return float(value), np.array([miss @ at, miss.sum()]) + 2 * apart

    slope, height = minimize(cost, same, jac=True, method="L-BFGS-B").x
    return float(slope), float(height)


def _logit(chance: Array) -> Array:
    return np.asarray(logit(np.clip(chance, SURE, 1 - SURE)))


def _drawn(chances: Array, random: Array) -> Array:
    """Return a label for each row: 1 or 0, or the class's place."""
    if chances.ndim == 1:
        return np.asarray(random < chances, dtype=np.float64)
    places = (random[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    return np.asarray(np.minimum(places, chances.shape[1] - 1), dtype=np.float64)


def _loss(metric: str, actual: Array, predicted: Array) -> Array:
    """Return each row's part of a regression's metric; of the root mean square its square."""
    family, of = parse(metric)
    if family == "quantile_loss":
        assert of is not None
        return np.asarray(np.maximum(of * (actual - predicted), (of - 1) * (actual - predicted)))
    return loss("squared_error" if family == "rmse" else "absolute_error", actual, predicted)
