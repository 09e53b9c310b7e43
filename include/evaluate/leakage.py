"""A challenger may be too good to be true: the figures that say so, which `include.judge.checks` judges.

They are what one feature decides alone, what is learned from noise, and what earlier attempts saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeRegressor

from include.errors import EvergreenError
from include.judge.checks import LEAKS, LEAST_ROWS
from include.judge.evidence import Evidence
from include.judge.judge import FORCED, checks_of
from include.models import artifacts, outputs
from include.promote import ledger
from include.promote.ledger import Row
from include.spec import UseCase
from include.spec.stages import Candidate
from include.stats.metrics import metric_values, row_losses
from include.storage.lake import Lake
from include.train.fit import fit_recipe, target

Array = NDArray[np.float64]
ROWS = 20_000  # that a feature's tree is fitted on: enough for sixteen leaves
SHUFFLES, SHUFFLED = 5, 10_000  # how often labels are shuffled, and rows that are fitted on each time
DEPTH = 4
TURNS = 50  # in which the levels of several classes are put right
LEAF = 0.002  # least share of the rows in a leaf


def single_feature_scores(spec: UseCase, fitted: pa.Table, test: pa.Table) -> dict[str, float]:
    """Return how well a small tree that sees one feature only predicts the test rows, feature by feature.

    A category stands for the label's mean where it was fitted on, which is the best order a tree can have.

    Parameters
    ----------
    fitted : features and target of the rows to fit on, of which a seeded sample is taken, shape (n, any).
    test : features and target of later rows, shape (m, any).

    Returns
    -------
    dict
        Feature -> ROC-AUC, at least 0.5, of a binary problem, or R² of a regression; of a multiclass problem
        the ROC-AUC of the class that it tells best from all others, for a feature that gives one class away
        is a leak whatever the others do. Nothing is said of what has `too_few` test rows; empty where the
        test rows can't give it.
    """
    fitted = _sample(fitted, ROWS, np.random.default_rng(spec.training.seed))
    known, later = artifacts.model_input(fitted, spec), artifacts.model_input(test, spec)
    labels, actual, few = _labels(spec, fitted), _labels(spec, test), too_few(spec, test)
    told = [(labels[name], actual[name]) for name in actual if name not in few]
    metric, least = ("roc_auc", 0.5) if spec.problem.codes else ("r2", -math.inf)
    found: dict[str, float] = {}
    for feature in spec.features.columns:
        for then, now in told:
            said = _alone(pd.Series(then), known[feature], later[feature])
            for value in metric_values([metric], now, said).values():
                found[feature] = max(found.get(feature, least), value)
    return found


def too_few(spec: UseCase, test: pa.Table) -> dict[str, int]:
    """Return what has too few test rows for `alone`: class, or else the target, -> its rows.

    Of a class and all others the fewer count; what has no row at all isn't among them.
    """
    rows = {name: len(labels) for name, labels in _labels(spec, test).items()}
    if spec.problem.codes:
        ones = {name: int(labels.sum()) for name, labels in _labels(spec, test).items()}
        rows = {name: min(ones[name], rows[name] - ones[name]) for name in rows}
    return {name: count for name, count in rows.items() if 0 < count < LEAST_ROWS}


def _labels(spec: UseCase, rows: pa.Table) -> dict[str, Array]:
    """Return what one feature is to tell: of several classes each apart, 1 where a row is of it."""
    labels = target(spec, rows)
    if not spec.problem.classes:
        return {spec.problem.target: labels}
    classes = zip(spec.problem.classes, spec.problem.codes, strict=True)
    return {name: (labels == code).astype(float) for name, code in classes}


def _alone(labels: pd.Series, then: pd.Series, now: pd.Series) -> Array:
    """Return what a small tree that was fitted on one feature says of later rows."""
    if then.dtype == object:
        means = labels.groupby(then).mean()
        then, now = then.map(means), now.map(means)
    # of labels that are 0 or 1 it gives the probability, and splits as a classifier would
    tree = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=LEAF, random_state=0)
    return np.asarray(tree.fit(_column(then), labels).predict(_column(now)))


def shuffled_label_losses(
    spec: UseCase, candidate: Candidate, fitted: pa.Table, test: pa.Table, partitions: Sequence[str]
) -> tuple[float, ...]:
    """Return the losses of the challenger's recipe when the labels that it is fitted on are shuffled.

    There is nothing left to learn, so what it then saves of the prior's loss it has from somewhere else.

    Parameters
    ----------
    fitted, test : features and target of the rows that the challenger was fitted and is judged on.
    partitions : of the evidence, shape (n,).

    Returns
    -------
    tuple of float
        Sums of the objective's loss on the test rows with their true labels, by partition, shape (n,); of
        several shuffles the one that loses most.

    Notes
    -----
    What is fitted on noise is another function of the features each time, and one of two has a little of the
    truth by chance, on every partition alike, which no interval over partitions sees. That each of five has
    is a chance of 1 in 32 at most: by convexity of the loss noise costs more than it gains. The level is the
    prior's, for the same reason: where the rate has moved since, a level that is off by chance would gain.
    """
    if not partitions:
        return ()
    test = test.filter(pc.is_in(test["partition"], pa.array(partitions)))
    of = np.asarray(test["partition"].to_pylist(), dtype=object)
    prior, actual = outputs.label_prior(spec, target(spec, fitted)), target(spec, test)
    random, found = np.random.default_rng(spec.training.seed), []
    for _ in range(SHUFFLES):
        noise = fit_recipe(spec, candidate, _noise(spec, fitted, random))
        predictions = _levelled(artifacts.predict(noise, test, spec), prior, spec)
        losses = row_losses(spec.gate.objective, actual, predictions)
        found.append(tuple(float(losses[of == partition].sum()) for partition in partitions))
    return max(found, key=sum)


def loss_reduction(challenger: Sequence[float], prior: Sequence[float]) -> float | None:
    """Return the share of the prior's loss that the challenger saves, at most 1; None where there is none.

    Parameters
    ----------
    challenger, prior : sums of the per-row losses by partition, shape (n,).
    """
    lost = sum(prior)
    return 1 - sum(challenger) / lost if lost else None


def past_loss_reductions(lake: Lake, partition: str) -> tuple[float, ...]:
    """Return what earlier attempts saved of the prior's loss, oldest first, one a partition.

    The newest recorded.

    An attempt that was itself too good, or too thin to tell, sets no bar for the next, unless a person forced
    it: else a leak would be refused once and pass a week later.
    """
    found: dict[str, float] = {}
    for row in ledger.attempts(lake):
        if row["partition"] < partition and _ordinary(row):
            share = _share(row)
            if share is not None:
                found[row["partition"]] = share
    return tuple(found[earlier] for earlier in sorted(found))


def _sample(rows: pa.Table, most: int, random: np.random.Generator) -> pa.Table:
    if rows.num_rows <= most:
        return rows
    return rows.take(np.sort(random.choice(rows.num_rows, most, replace=False)))


def _noise(spec: UseCase, fitted: pa.Table, random: np.random.Generator) -> pa.Table:
    """Return a sample of the rows whose labels are shuffled."""
    rows, name = _sample(fitted, SHUFFLED, random), spec.problem.target
    if spec.problem.codes:  # a rare class is in every sample; the level is put right afterwards
        each = np.unique(target(spec, fitted), return_index=True)[1]
        rows = pa.concat_tables([rows, fitted.take(pa.array(each))])
    labels = rows[name].take(random.permutation(rows.num_rows))
    return rows.set_column(rows.column_names.index(name), name, labels)


def _levelled(predictions: Array, prior: outputs.Constant, spec: UseCase) -> Array:
    """Return predictions whose mean is the prior; probabilities are scaled, so that they stay in [0, 1]."""
    if isinstance(prior, tuple):
        return _fitted(predictions, np.array(prior))
    mean = float(predictions.mean())
    if not spec.problem.codes:
        return predictions + (prior - mean)
    if mean > prior:
        return predictions * (prior / mean)
    return 1 - (1 - predictions) * ((1 - prior) / (1 - mean))


def _fitted(predictions: Array, prior: Array) -> Array:
    """Return probabilities whose rows sum to 1 and whose columns have the prior's mean, but for rounding.

    By turns each is scaled (iterative proportional fitting, Deming and Stephan 1940); a class that no row is
    given a chance of stays without one.
    """
    for _ in range(TURNS):
        means = predictions.mean(axis=0)
        predictions = predictions * np.divide(prior, means, out=np.zeros_like(means), where=means > 0)
        predictions = predictions / predictions.sum(axis=1, keepdims=True)
    return predictions


def _column(values: pd.Series) -> Array:
    return values.to_numpy(np.float64).reshape(-1, 1)


def _ordinary(row: Row) -> bool:
    passed = {check.name: check.passed for check in checks_of(row["checks"])}
    return row["verdict"] == FORCED or all(passed.get(name) for name in LEAKS)


def _share(row: Row) -> float | None:
    try:
        return Evidence.from_json(row["evidence"]).facts.leak.saved
    except EvergreenError:
        return None  # of another schema
