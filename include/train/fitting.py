"""Fits a recipe with its options, and refuses rows that no model can be fitted on.

The searched parameters, the number of boosting rounds and the calibration are decided by a fit without the
newest partitions of the training rows, on these partitions. Then the model is fitted on all rows, so that
what serves has learned from the newest ones too. In a history that is too short to hold any out, the first
searched values, all rounds and no calibration are used.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble._forest import BaseForest
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.pipeline import Pipeline

from include.errors import InsufficientData, ModelError, SpecError
from include.models import artifacts, encoding
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage import spill
from include.train import dask_engine
from include.train.estimators import ESTIMATORS, build_estimator
from include.train.options import LogTarget
from include.train.python_estimators import estimator_code
from include.train.recent_intercept import (
    ShiftedClassifier,
    ShiftedRegressor,
    fit_class_shift,
    fit_value_shift,
)
from include.train.split import partitions_of

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
CORES = len(os.sched_getaffinity(0))
PATIENCE = 10  # rounds without a gain after which boosting stops
PER_CLASS = 5  # held-out rows of each fitted class that a calibration needs at least, as scikit-learn does


def target(spec: UseCase, rows: pa.Table) -> Array:
    """Return the label of each row, or the class's code for a multiclass problem, shape (n,)."""
    return np.asarray(rows[spec.problem.target].to_numpy(), dtype=np.float64)


def fit_recipe(spec: UseCase, recipe: Recipe, rows: pa.Table, unshifted: Pipeline | None = None) -> Pipeline:
    """Fit a recipe's pipeline on labeled rows.

    Parameters
    ----------
    unshifted : what the recipe without its `recent_intercept` gave on the same rows, which is used again.

    Raises
    ------
    SpecError
        when there is no such estimator, or it can't be fitted with these parameters.
    """
    arguments = (spec, recipe, rows, target(spec, rows), unshifted)
    if code := estimator_code(spec, recipe):
        required = f"an estimator that can be fitted on {rows.num_rows} rows"
        return cast("Pipeline", code.call(required, _fit_with_options, *arguments))
    try:
        return _fit_with_options(*arguments)
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{spec.name}: training.{recipe.name}",
            required=f"parameters with which {recipe.estimator} can be fitted on {rows.num_rows} rows",
            found=" ".join(str(error).split())[:300],
            where=str(spec.folder / "usecase.yaml"),
            remedy="correct the params of this recipe in usecase.yaml",
        ) from error


def is_learnable(spec: UseCase, rows: pa.Table) -> bool:
    """Return whether a model can be fitted on rows: they have labels, of two classes if they are classes.

    Further classes without a row share a small probability, see `outputs.add_unseen_classes`.
    """
    return _has_enough_classes(spec, target(spec, rows))


def require_learnable_labels(spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse rows that no model can be fitted on: rows without labels, or of one class only.

    Raises
    ------
    InsufficientData
        as above.
    SpecError
        when the objective isn't defined for the labels.
    """
    if is_learnable(spec, rows):
        least = target(spec, rows).min()
        if spec.gate.objective == "poisson_deviance" and least < 0:
            raise SpecError(
                f"{spec.name}: gate.objective",
                required=f"labels of at least 0 for poisson_deviance, as {spec.problem.target}",
                found=f"{least:g}",
                where=str(spec.folder / "usecase.yaml"),
                remedy="correct labels.sql, or use another objective",
            )
        return
    labels, codes = target(spec, rows), spec.problem.codes
    values = sorted(set(labels.tolist()))
    required, remedy = "values", "see labels.sql in usecase.yaml, or load more history"
    found = ", ".join(f"{value:g}" for value in values[:5])
    if codes:
        required = "both 0 and 1"
    if spec.problem.classes:
        required = f"rows of two classes or more of {', '.join(spec.problem.classes)}"
        counts = zip(spec.problem.classes, codes, strict=True)
        found = ", ".join(f"{int((labels == code).sum())} {name}" for name, code in counts if len(labels))
    raise InsufficientData(
        f"{spec.name}: training on {partition}",
        required=f"{required} as {spec.problem.target} in the training partitions",
        found=found or "no labeled row",
        remedy=remedy,
    )


def chosen_params(estimator: Pipeline) -> dict[str, Any]:
    """Return the parameters that `fit_recipe` chose for a pipeline by name; none without a search."""
    return dict(getattr(estimator, "chosen_", {}))


def _fit_with_options(
    spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array, unshifted: Pipeline | None
) -> Pipeline:
    """Return a recipe's pipeline, fitted with all its options.

    Its attribute ``chosen_`` has the parameters that were chosen, if any.

    Parameters
    ----------
    rows : with the column ``partition`` if an option holds partitions out or weighs them, shape (n, any).
    actual : the label of each row, shape (n,).
    """
    estimator = _fit_unshifted(spec, recipe, rows, actual) if unshifted is None else unshifted
    if not recipe.recent_intercept:
        return estimator
    return _with_recent_intercept(spec, recipe, rows, actual, estimator)


def _fit_unshifted(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array) -> Pipeline:
    chosen: dict[str, Any] = {}
    if recipe.search:
        chosen |= _search(spec, recipe, rows, actual)
        recipe = _with_params(recipe, chosen, search={})
    if recipe.early_stopping:
        rounds = _best_rounds(spec, recipe, rows, actual)
        chosen |= rounds
        recipe = _with_params(recipe, rounds, early_stopping=None)
    estimator = _fit_all(spec, recipe, rows, actual)
    if recipe.calibration:
        estimator = _calibrate(spec, recipe, rows, actual, estimator)
    if chosen:
        estimator.chosen_ = chosen
    if spec.problem.classes:
        setattr(estimator, artifacts.DECLARED, list(spec.problem.classes))
    return estimator


def _with_params(recipe: Recipe, params: dict[str, Any], **changes: Any) -> Recipe:
    return recipe.model_copy(update={"params": {**recipe.params, **params}, **changes})


def _fit_all(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array) -> Pipeline:
    if recipe.external_memory and rows.num_rows >= recipe.external_memory:
        return _fit_batches(spec, recipe, rows, actual)
    if recipe.engine == "dask":
        with dask_engine.connect(spec, recipe) as cluster:
            boost = partial(cluster.train, rows=rows.num_rows)
            return _fit_batches(spec, recipe, rows, actual, boost)
    options = {"model__sample_weight": _weights(spec, recipe, rows)} if recipe.half_life else {}
    pipeline = _built(spec, recipe, rows)
    _use_threads(pipeline[-1], CORES)  # each tree has a seed of its own, whichever thread fits it
    pipeline.fit(_values(spec, recipe, rows), actual, **options)
    _use_threads(pipeline[-1], 1)  # as the order in which threads add up predictions isn't fixed
    return pipeline


def _values(spec: UseCase, recipe: Recipe, rows: pa.Table) -> pd.DataFrame:
    """Return the features as `artifacts.model_input` does, or without values for a model that reads none."""
    if recipe.estimator != "prior":
        return artifacts.model_input(rows, spec)
    one_value = pd.Series(np.broadcast_to(np.nan, rows.num_rows), copy=False)
    return pd.DataFrame(dict.fromkeys(spec.features.columns, one_value), copy=False)


def _use_threads(model: Any, count: int) -> None:
    """Let a forest, or one with a transformed target, use several threads."""
    for part in (model, getattr(model, "regressor", None), getattr(model, "regressor_", None)):
        if isinstance(part, BaseForest):
            part.n_jobs = count


def _fit_batches(
    spec: UseCase,
    recipe: Recipe,
    rows: pa.Table,
    actual: Array,
    boost: Callable[..., Any] | None = None,
) -> Pipeline:
    """Fit XGBoost on batches of rows; only the labels, weights and categories are whole in memory."""
    pipeline, weights = _built(spec, recipe, rows), _weights(spec, recipe, rows)
    columns, model = (step for _, step in pipeline.steps)
    columns.fit(artifacts.model_input(rows.slice(0, spill.BATCH), spec))
    if categorical := list(spec.features.categorical):
        texts = pd.DataFrame({name: encoding.text_values(rows[name], coded=False) for name in categorical})
        columns.named_transformers_["categorical"].fit(texts)

    def batches() -> Iterator[tuple[Array, Array, Array | None]]:
        for start in range(0, rows.num_rows, spill.BATCH):
            batch = rows.slice(start, spill.BATCH)
            part = slice(start, start + batch.num_rows)
            frame = columns.transform(artifacts.model_input(batch, spec))
            yield frame, actual[part], None if weights is None else weights[part]

    model.fit_batches(batches, len(spec.problem.codes), boost)
    return pipeline


def _built(spec: UseCase, recipe: Recipe, rows: pa.Table) -> Pipeline:
    empty = [column for column in spec.features.numeric if rows[column].null_count == rows.num_rows]
    return build_estimator(spec, recipe, empty)


def _weights(spec: UseCase, recipe: Recipe, rows: pa.Table) -> Array | None:
    """Return each row's weight by the age of its partition, with a mean of 1; None without a half-life."""
    if not recipe.half_life:
        return None
    keys = partitions_of(rows)
    ages = {key: age for age, key in enumerate(reversed(spec.clock.keys(keys[0], keys[-1])))}
    age = np.asarray([ages[key] for key in rows["partition"].to_pylist()], dtype=np.float64)
    weights = np.exp2(-age / recipe.half_life)
    return np.asarray(weights / weights.mean())


def _hold_out(rows: pa.Table, count: int) -> NDArray[np.bool_] | None:
    """Return which rows are of the newest partitions, at most half of all; None if there is only one."""
    keys = partitions_of(rows)
    count = min(count, len(keys) // 2)
    return np.asarray(pc.greater_equal(rows["partition"], keys[-count])) if count else None


def _has_enough_classes(spec: UseCase, actual: Array) -> bool:
    return len(np.unique(actual)) >= (2 if spec.problem.codes else 1)


def _search(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array) -> dict[str, Any]:
    """Return the searched values with the lowest loss, by the objective, on the newest partitions."""
    grid, budget = ParameterGrid(recipe.search), recipe.search_fits
    newest = _hold_out(rows, spec.training.test)
    if newest is None or not _has_enough_classes(spec, actual[~newest]):
        return {name: values[0] for name, values in recipe.search.items()}
    drawn = ParameterSampler(recipe.search, budget, random_state=spec.training.seed)
    points = [dict(point) for point in (drawn if len(grid) > budget else grid)]
    older, held_out = (spill.filter_rows(rows, pa.array(mask)) for mask in (~newest, newest))

    def loss(point: dict[str, Any]) -> float:
        estimator = _fit_unshifted(spec, _with_params(recipe, point, search={}), older, actual[~newest])
        predictions = artifacts.predict(estimator, held_out, spec)
        return float(row_losses(spec.objective, actual[newest], predictions).mean())

    losses: dict[int, float] = {}
    errors = []
    for index, point in enumerate(points):
        try:
            losses[index] = loss(point)
        except (ValueError, ModelError) as error:  # a fit that diverges isn't a choice, and no reason to stop
            log.warning("%s: skipped parameters %s of %s: %s", spec.name, point, recipe.name, error)
            errors.append(error)
    if not losses:
        raise errors[-1]
    return points[min(losses, key=lambda index: (math.isnan(losses[index]), losses[index]))]


def _best_rounds(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array) -> dict[str, int]:
    """Return the number of rounds with the lowest loss on the newest partitions, as a parameter."""
    entry = ESTIMATORS[spec.problem.kind][recipe.estimator]
    newest = _hold_out(rows, recipe.early_stopping or 0)
    if newest is None or not _has_enough_classes(spec, actual[~newest]):
        return {}
    held_out_rows = newest & (np.isin(actual, actual[~newest]) if spec.problem.codes else True)
    if not held_out_rows.any():
        return {}
    older = rows.filter(pa.array(~newest))
    plain = recipe.model_copy(update={"target": None})
    values = LogTarget().fit(actual).transform(actual) if recipe.target else actual
    columns, model = (step for _, step in _built(spec, plain, older).steps)
    fitted = columns.fit_transform(artifacts.model_input(older, spec), values[~newest])
    held_out = columns.transform(artifacts.model_input(rows.filter(pa.array(held_out_rows)), spec))
    weights, labels = _weights(spec, recipe, older), values[held_out_rows]
    rounds = STOPPING[entry.rounds_param]
    return {entry.rounds_param: rounds(model, fitted, values[~newest], held_out, labels, weights)}


def _boosting_rounds(
    model: Any, fitted: Array, labels: Array, held_out: Array, held_out_labels: Array, weights: Array | None
) -> int:
    """Return the best number of iterations of scikit-learn's gradient boosting."""
    model.set_params(early_stopping=True, n_iter_no_change=PATIENCE)
    model.fit(fitted, labels, sample_weight=weights, X_val=held_out, y_val=held_out_labels)
    return max(int(np.argmax(model.validation_score_)), 1)  # the first score is of no iteration


def _xgboost_rounds(
    model: Any, fitted: Array, labels: Array, held_out: Array, held_out_labels: Array, weights: Array | None
) -> int:
    """Return the best number of XGBoost's rounds."""
    model.set_params(early_stopping_rounds=PATIENCE)
    model.fit(fitted, labels, sample_weight=weights, eval_set=[(held_out, held_out_labels)])
    return int(model.best_iteration) + 1


# by the parameter that has the number of rounds
STOPPING: dict[str, Callable[..., int]] = {"max_iter": _boosting_rounds, "n_estimators": _xgboost_rounds}


def _calibrate(spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array, estimator: Pipeline) -> Pipeline:
    """Return a pipeline with a calibration that a fit without the newest partitions needed on them.

    As in scikit-learn's calibration with ``ensemble=False``, but with later rows in place of random folds.
    """
    newest = _hold_out(rows, spec.training.test)
    if (
        newest is None
        or not np.isin(actual, actual[~newest]).all()
        or any((actual[newest] == code).sum() < PER_CLASS for code in np.unique(actual))
    ):
        log.warning("%s: %s is fitted without calibration: too few rows", spec.name, recipe.name)
        return estimator
    earlier = _fit_all(spec, recipe, rows.filter(pa.array(~newest)), actual[~newest])
    held_out = artifacts.model_input(rows.filter(pa.array(newest)), spec)
    for _, step in earlier.steps[:-1]:
        held_out = step.transform(held_out)
    calibrated = CalibratedClassifierCV(FrozenEstimator(earlier[-1]), method=recipe.calibration)
    calibrated.fit(held_out, actual[newest])
    (mapping,) = calibrated.calibrated_classifiers_
    mapping.estimator, calibrated.estimator = estimator[-1], None  # skops would store the model twice
    return Pipeline([*estimator.steps[:-1], ("model", calibrated)])


def _with_recent_intercept(
    spec: UseCase, recipe: Recipe, rows: pa.Table, actual: Array, estimator: Pipeline
) -> Pipeline:
    """Return a copy of a pipeline whose intercept is fitted again on the newest partitions."""
    first = partitions_of(rows)[-(recipe.recent_intercept or 0) :][0]
    newest = np.asarray(pc.greater_equal(rows["partition"], first))
    labels, values = actual[newest], artifacts.model_input(rows.filter(pa.array(newest)), spec)
    *steps, (name, model) = estimator.steps
    if spec.problem.codes:
        codes = np.searchsorted(estimator.classes_, labels)
        shifted: Any = ShiftedClassifier(model, fit_class_shift(estimator.predict_proba(values), codes))
    else:
        offset = 1.0 if recipe.target else 0.0 if spec.gate.objective == "poisson_deviance" else None
        predicted = np.asarray(estimator.predict(values), dtype=np.float64)
        factor, added = fit_value_shift(spec.objective, labels, predicted, offset=offset)
        shifted = ShiftedRegressor(model, factor, added)
    result = copy(estimator)  # with the parameters that were chosen, and the classes declared
    result.steps = [*steps, (name, shifted)]
    return result
