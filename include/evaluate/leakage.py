"""Leakage: measure whether a challenger is too good to be true. `include.judge.checks` judges these figures.

There are four signs of leakage: a single feature predicts the label almost perfectly, all features together
do, a model learns from shuffled labels, or a challenger is far better than every attempt before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeRegressor

from include.errors import EvergreenError
from include.judge.checks import (
    LEAKAGE_CHECKS,
    MIN_CLASS_ROWS,
)
from include.judge.evidence import CHALLENGER, Evidence, Leakage, NewestScores
from include.judge.judge import FORCED, checks_of
from include.models import artifacts, outputs
from include.promote import verdicts
from include.spec import UseCase
from include.spec.metrics import Objective, find_objective
from include.spec.stages import Recipe
from include.stats.metrics import metric_values, row_losses
from include.storage.digests import digest_rows
from include.storage.lake import Lake, Row
from include.train.fitting import fit_recipe, is_learnable, target
from include.train.split import partitions_of

Array = NDArray[np.float64]
# Rows of a class from which the newest partitions are scored alone. They are fewer than all test rows, so a
# strong honest feature is more often beyond the limit by luck.
MIN_NEWEST_ROWS = 100
# for a single feature's tree, enough for sixteen leaves, and for the models of all features
MAX_FITTED_ROWS = 20_000
MAX_DEPTH = 4
# few rounds of fast learning: a leak is learned at once, and every training pays for it
TREES = ("hist_gradient_boosting", {"max_iter": 20, "learning_rate": 0.5})
MIN_LEAF_SHARE = 0.002  # of the rows
SHUFFLES, SHUFFLED_ROWS = 5, 10_000  # number of fits on shuffled labels, and the rows of each
MAX_SCALING_ROUNDS = 50
DIGESTED_ROWS = 200_000  # at once, to find copies in bounded memory


def single_feature_scores(spec: UseCase, fitted: pa.Table, test: pa.Table) -> dict[str, float]:
    """Return for each feature how well a small tree that uses only this feature predicts the test rows.

    A category is encoded by its mean label in the fitted rows, which is the best order that a tree can get.

    Parameters
    ----------
    fitted : features and target of the rows to fit on, shape (n, any); of many rows, a seeded sample is used.
    test : features and target of later rows, shape (m, any).

    Returns
    -------
    dict
        Feature -> ROC-AUC (at least 0.5) for a binary problem, R² for a regression. For a multiclass problem
        it is the highest one-vs-rest ROC-AUC, because a feature that gives one class away is a leak whatever
        the other classes do. Classes in `too_few_rows` are left out. Empty if the test rows define no score.
    """
    fitted = _sample(fitted, MAX_FITTED_ROWS, np.random.default_rng(spec.training.seed))
    fitted_features, test_features = artifacts.model_input(fitted, spec), artifacts.model_input(test, spec)
    labels = {name: pd.Series(values) for name, values in _binary_labels(spec, fitted).items()}
    scores: dict[str, float] = {}
    for feature in spec.features.columns:
        columns = fitted_features[feature], test_features[feature]
        predictions = {name: _fit_and_predict(values, *columns) for name, values in labels.items()}
        scores |= _best_score(spec, feature, test, predictions)
    return scores


def all_feature_scores(
    spec: UseCase, fitted: pa.Table, test: pa.Table, walk_predictions: Array
) -> tuple[dict[str, float], dict[str, float]]:
    """Return how well three models of all features predict the test rows: the challenger, and two of ours.

    Features that reveal the label only together have low scores on their own. A linear model finds the parts
    of a sum, one of trees finds a code that is read with another one, however the recipe is declared.

    Parameters
    ----------
    fitted, test : as in `single_feature_scores`.
    walk_predictions : of the test rows by the walk of the challenger's recipe, shape (m,) or (m, k).

    Returns
    -------
    dict
        Model -> score, as in `single_feature_scores`. Only the challenger's if no model can be fitted on the
        rows, since they are of one class.
    dict
        Feature -> how much lower the score of the better one of ours is if the feature's values are permuted.
        Empty if that score is below ``gate.leak.max_score``.
    """
    models, ours = {CHALLENGER: walk_predictions}, {}
    if is_learnable(spec, fitted):
        random = np.random.default_rng(spec.training.seed)
        sample = _sample_of_each_class(spec, fitted, MAX_FITTED_ROWS, random)
        linear = "logistic_regression" if spec.problem.codes else "ridge"
        for name, estimator, params in (("a linear model", linear, {}), ("a model of trees", *TREES)):
            ours[name] = fit_recipe(spec, Recipe(name=estimator, estimator=estimator, params=params), sample)
            models[name] = artifacts.predict(ours[name], test, spec)
    scores: dict[str, float] = {}
    for name, values in models.items():
        scores |= _score_of_all(spec, name, test, values)
    best = max(ours.keys() & scores.keys(), key=lambda name: scores[name], default="")
    if scores.get(best, -math.inf) < spec.gate.leak.max_score:
        return scores, {}
    return scores, _score_drops(spec, ours[best], test, scores[best])


def _score_of_all(spec: UseCase, name: str, test: pa.Table, values: Array) -> dict[str, float]:
    by_class = values.T if values.ndim > 1 else [values]
    return _best_score(spec, name, test, dict(zip(_binary_labels(spec, test), by_class, strict=True)))


def _score_drops(spec: UseCase, model: Pipeline, test: pa.Table, score: float) -> dict[str, float]:
    """Return for each feature how much lower the score is if its values are permuted."""
    random, drops = np.random.default_rng(spec.training.seed), {}
    for place, feature in enumerate(test.column_names):
        if feature in spec.features.columns:
            permuted = test[feature].take(random.permutation(test.num_rows))
            values = artifacts.predict(model, test.set_column(place, feature, permuted), spec)
            drops[feature] = score - _score_of_all(spec, feature, test, values)[feature]
    return drops


def newest_scores(spec: UseCase, test: pa.Table, walk_predictions: Array) -> NewestScores:
    """Return the scores on the newest test partitions alone: the fewest in which a class has enough rows.

    A feature that reveals the label only since some partition has a low score over all test partitions, and
    the rows before them don't show it. So what is scored is fitted on as many test partitions before these.

    Parameters
    ----------
    test, walk_predictions : as in `all_feature_scores`, with the column ``partition``.
    """
    partitions = partitions_of(test)
    for count in range(1, len(partitions) // 2 + 1):
        first, is_newest = partitions[-count], pc.greater_equal(test["partition"], partitions[-count])
        newest = test.filter(is_newest)
        if len(too_few_rows(spec, newest, MIN_NEWEST_ROWS)) < len(_binary_labels(spec, newest)):
            fitted = test.filter(pc.is_in(test["partition"], pa.array(partitions[-2 * count : -count])))
            walk = walk_predictions[is_newest.to_numpy()]
            singles = single_feature_scores(spec, fitted, newest)
            return NewestScores(first, singles, *all_feature_scores(spec, fitted, newest, walk))
    return NewestScores()


def _best_score(
    spec: UseCase, subject: str, test: pa.Table, predictions: Mapping[str, Array]
) -> dict[str, float]:
    """Return a subject's highest score over the classes with enough test rows, nothing if there is none."""
    too_few = too_few_rows(spec, test)
    metric, lowest = ("roc_auc", 0.5) if spec.problem.codes else ("r2", -math.inf)
    values = [
        max(value, lowest)
        for name, labels in _binary_labels(spec, test).items()
        if name not in too_few
        for value in metric_values([metric], labels, predictions[name]).values()
    ]
    return {subject: max(values)} if values else {}


def too_few_rows(spec: UseCase, test: pa.Table, needed: int = MIN_CLASS_ROWS) -> dict[str, int]:
    """Return classes (or else the target) with fewer test rows than a feature's score needs, and how many.

    For a class, the smaller of its own rows and all others counts. A class without any row isn't returned,
    unless all rows are of one class.
    """
    labels_by_name = _binary_labels(spec, test)
    rows = {name: len(labels) for name, labels in labels_by_name.items()}
    if spec.problem.codes:
        positives = {name: int(labels.sum()) for name, labels in labels_by_name.items()}
        rows = {name: min(positives[name], rows[name] - positives[name]) for name in rows}
    few = {name: count for name, count in rows.items() if count < needed}
    return few if len(few) == len(rows) else {name: count for name, count in few.items() if count}


def copied_rows(spec: UseCase, fitted: pa.Table, test: pa.Table) -> int:
    """Return how many test rows have the features and the label of a fitted row.

    Parameters
    ----------
    fitted, test : as in `single_feature_scores`.
    """
    numeric, categorical = [*spec.features.numeric, spec.problem.target], spec.features.categorical
    digests = digest_rows(test, numeric, categorical)
    copied = pa.repeat(False, test.num_rows)
    for start in range(0, fitted.num_rows, DIGESTED_ROWS):
        earlier = digest_rows(fitted.slice(start, DIGESTED_ROWS), numeric, categorical)
        copied = pc.or_(copied, pc.is_in(digests, earlier))
    return int(copied.true_count)


def _binary_labels(spec: UseCase, rows: pa.Table) -> dict[str, Array]:
    """Return the labels to predict: one-vs-rest labels for each of several classes, or else the target."""
    labels = target(spec, rows)
    if not spec.problem.classes:
        return {spec.problem.target: labels}
    classes = zip(spec.problem.classes, spec.problem.codes, strict=True)
    return {name: (labels == code).astype(float) for name, code in classes}


def _fit_and_predict(labels: pd.Series, fitted: pd.Series, test: pd.Series) -> Array:
    """Return the predictions of a small tree that was fitted on a single feature."""
    if fitted.dtype == object:
        means = labels.groupby(fitted).mean()
        fitted, test = fitted.map(means), test.map(means)
    # for labels of 0 and 1 it predicts the probability, and splits as a classifier would
    tree = DecisionTreeRegressor(max_depth=MAX_DEPTH, min_samples_leaf=MIN_LEAF_SHARE, random_state=0)
    return np.asarray(tree.fit(_as_column(fitted), labels).predict(_as_column(test)))


def _as_column(values: pd.Series) -> Array:
    """Return values as a tree takes them, which refuses those beyond single precision."""
    largest = float(np.finfo(np.float32).max)
    return np.asarray(np.clip(values.to_numpy(np.float64), -largest, largest).reshape(-1, 1))


def shuffled_label_losses(
    spec: UseCase, recipe: Recipe, fitted: pa.Table, test: pa.Table, partitions: Sequence[str]
) -> tuple[float, ...]:
    """Return the losses of the challenger's recipe when it is fitted on shuffled labels.

    Shuffled labels contain nothing to learn, so a gain over a constant beyond luck comes from leakage.

    Parameters
    ----------
    fitted, test : features and target of the rows on which the challenger was fitted and is judged.
    partitions : of the evidence, shape (n,).

    Returns
    -------
    tuple of float
        Sums of the loss on the test rows with their true labels, by partition, shape (n,); of
        several shuffles, the one with the highest loss.

    Notes
    -----
    A model that was fitted on noise gains a little by luck in up to half of all cases, and on every partition
    at once, so an interval over partitions doesn't allow for it. All five gain by luck with a probability of
    at most 1 in 32: since the loss is convex, noise costs more than it gains. Predictions are
    rescaled to the labels' constant for the same reason: if the label rate changed since, predictions at a
    wrong level could gain by chance.
    """
    if not partitions:
        return ()
    if not is_learnable(spec, fitted):  # labels of one class are the same in any order
        return constant_losses(spec, fitted, test, partitions)
    test = test.filter(pc.is_in(test["partition"], pa.array(partitions)))
    partition_of_row = np.asarray(test["partition"].to_pylist(), dtype=object)
    constant, actual = outputs.label_constant(spec, target(spec, fitted)), target(spec, test)
    random, sums = np.random.default_rng(spec.training.seed), []
    for _ in range(SHUFFLES):
        estimator = fit_recipe(spec, recipe, _shuffle_labels(spec, fitted, random))
        predictions = _rescale_to_constant(artifacts.predict(estimator, test, spec), constant, spec)
        losses = row_losses(_convex_objective(spec), actual, predictions)
        sums.append(tuple(float(losses[partition_of_row == partition].sum()) for partition in partitions))
    return max(sums, key=sum)


def constant_losses(
    spec: UseCase, fitted: pa.Table, test: pa.Table, partitions: Sequence[str]
) -> tuple[float, ...]:
    """Return the loss of the fitted rows' constant on the test rows by partition, shape (n,).

    Parameters
    ----------
    fitted, test, partitions : as in `shuffled_label_losses`.
    """
    actual, constant = target(spec, test), outputs.label_constant(spec, target(spec, fitted))
    losses = row_losses(_convex_objective(spec), actual, outputs.repeat_constant(constant, len(actual)))
    partition_of_row = np.asarray(test["partition"].to_pylist(), dtype=object)
    return tuple(float(losses[partition_of_row == partition].sum()) for partition in partitions)


def _convex_objective(spec: UseCase) -> Objective:
    """Return the objective, or the log loss in place of costs.

    Where the label rate has crossed the threshold of an action, actions by noise would cost less.
    """
    return find_objective("log_loss") if spec.objective.takes_costs else spec.objective


def _sample(rows: pa.Table, max_rows: int, random: np.random.Generator) -> pa.Table:
    if rows.num_rows <= max_rows:
        return rows
    return rows.take(np.sort(random.choice(rows.num_rows, max_rows, replace=False)))


def _sample_of_each_class(
    spec: UseCase, rows: pa.Table, max_rows: int, random: np.random.Generator
) -> pa.Table:
    """Return a sample in which no class is missing, since the first row of each is added."""
    sample = _sample(rows, max_rows, random)
    if not spec.problem.codes:
        return sample
    first_of_class = np.unique(target(spec, rows), return_index=True)[1]
    return pa.concat_tables([sample, rows.take(pa.array(first_of_class))])


def _shuffle_labels(spec: UseCase, fitted: pa.Table, random: np.random.Generator) -> pa.Table:
    """Return a sample of the rows with shuffled labels."""
    rows, name = _sample_of_each_class(spec, fitted, SHUFFLED_ROWS, random), spec.problem.target
    labels = rows[name].take(random.permutation(rows.num_rows))
    return rows.set_column(rows.column_names.index(name), name, labels)


def _rescale_to_constant(predictions: Array, constant: outputs.Constant, spec: UseCase) -> Array:
    """Return predictions whose mean is the constant; probabilities stay in [0, 1]."""
    if isinstance(constant, tuple):
        return _fit_proportions(predictions, np.array(constant))
    mean = float(predictions.mean())
    if not spec.problem.codes:
        return predictions + (constant - mean)
    if mean > constant:
        return predictions * (constant / mean)
    return 1 - (1 - predictions) * ((1 - constant) / (1 - mean))


def _fit_proportions(predictions: Array, shares: Array) -> Array:
    """Return probabilities whose rows sum to 1 and whose columns have the shares as means, up to rounding.

    Columns and rows are scaled in turn (iterative proportional fitting, Deming and Stephan 1940). A class
    with probability 0 in every row stays at 0.
    """
    for _ in range(MAX_SCALING_ROUNDS):
        means = predictions.mean(axis=0)
        predictions = predictions * np.divide(shares, means, out=np.zeros_like(means), where=means > 0)
        predictions = predictions / predictions.sum(axis=1, keepdims=True)
    return predictions


def loss_reduction(walk: Sequence[float], prior_walk: Sequence[float]) -> float | None:
    """Return the share of the prior's loss that a recipe removes, at most 1; None if that loss is 0.

    Parameters
    ----------
    walk, prior_walk : sums of the per-row losses of the two recipes' walks by partition, shape (n,).
    """
    prior_loss = sum(prior_walk)
    return 1 - sum(walk) / prior_loss if prior_loss else None


def past_loss_reductions(
    lake: Lake, partition: str, objective: str = "", refused_until: str = ""
) -> tuple[float, ...]:
    """Return the loss reductions of earlier partitions' newest attempts, oldest partition first.

    An attempt with another objective is left out: the same model removes another share of another loss. One
    that failed a leakage check, or had too little evidence for them, is left out unless an operator forced
    it. Otherwise a leak would be refused once and pass a week later.

    Parameters
    ----------
    refused_until : attempts up to this partition count too if they only reduced the loss too far. Some weeks
        are easier than others, and without an end to it no model would ever pass again.
    """
    reductions: dict[str, float] = {}
    for row in verdicts.attempts(lake):
        if row["partition"] < partition and _is_comparable(row, refused_until):
            earlier = _leakage(row)
            if earlier.loss_reduction is not None and earlier.objective in ("", objective):
                reductions[row["partition"]] = earlier.loss_reduction
    return tuple(reductions[key] for key in sorted(reductions))


def _is_comparable(row: Row, refused_until: str) -> bool:
    passed = {check.key: check.passed for check in checks_of(row["checks"])}
    failed = [key for key in LEAKAGE_CHECKS if not passed.get(key)]
    is_old = row["partition"] <= refused_until
    return row["verdict"] == FORCED or not failed or (failed == ["past_attempts"] and is_old)


def _leakage(row: Row) -> Leakage:
    try:
        return Evidence.from_json(row["evidence"]).facts.leakage
    except EvergreenError:
        return Leakage()  # of another schema
