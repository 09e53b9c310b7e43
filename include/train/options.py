"""The options that a recipe may declare beside its parameters: what they require, and what they change.

`include.train.fitting` has those that hold out the newest partitions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from include.errors import SpecError

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.spec.stages import Recipe
    from include.train.estimators import Estimator

# losses and objectives that take the logarithm of the prediction themselves
LOG_LINKS = frozenset({"poisson", "gamma", "count:poisson", "reg:gamma", "reg:tweedie"})


class LogTarget(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The logarithm of 1 + the target, and back.

    A prediction is cut at about e times the largest label, because a linear model's overflows otherwise.

    Attributes
    ----------
    highest_ : the largest logarithm in `fit`.
    """

    def fit(self, values: Any, actual: Any = None) -> LogTarget:
        """Store the largest logarithm.

        Raises
        ------
        ValueError
            when a value isn't above -1.
        """
        if (least := float(np.min(values))) <= -1:
            raise ValueError(f"target: log1p needs labels above -1, but found {least:g}; remove the option")
        self.highest_ = float(np.log1p(np.max(values)))
        return self

    def transform(self, values: Any) -> NDArray[np.float64]:
        """Return log(1 + value), of the same shape."""
        return np.log1p(np.asarray(values, dtype=np.float64))

    def inverse_transform(self, values: Any) -> NDArray[np.float64]:
        """Return the values in the target's unit, of the same shape."""
        return np.expm1(np.minimum(np.asarray(values, dtype=np.float64), self.highest_ + 1))


def transform_target(estimator: BaseEstimator, recipe: Recipe, entry: Estimator) -> BaseEstimator:
    """Return a regressor that is fitted on a transformed target and predicts in the target's unit."""
    steps: list[tuple[str, Any]] = [("log", LogTarget())] if recipe.target else []
    # a log link needs a target of at least 0, which it scales by itself
    steps += [("scale", StandardScaler())] if entry.scales_target and not _log_links(recipe) else []
    if not steps:
        return estimator
    transformer = Pipeline(steps)
    return TransformedTargetRegressor(estimator, transformer=transformer, check_inverse=False)


def monotone_columns(recipe: Recipe, numeric: Sequence[str], categorical: Collection[str]) -> tuple[int, ...]:
    """Return the constraint of each column that `coded_columns` returns: 1, -1, or 0 for none."""
    return (*[0] * len(categorical), *(recipe.monotone.get(column, 0) for column in numeric))


def validate_options(spec: UseCase, recipe: Recipe, entry: Estimator, valid: Collection[str]) -> None:
    """Refuse options that make no sense for the problem, the estimator or beside each other.

    Parameters
    ----------
    valid : the parameters that the estimator has.

    Raises
    ------
    SpecError
        with the remedy.
    """
    checks = {
        "calibration": _calibration_problems(spec, recipe, entry),
        "target": _target_problems(spec, recipe, entry),
        "half_life": _half_life_problems(recipe, entry),
        "recent_intercept": _recent_intercept_problems(spec, recipe),
        "monotone": _monotone_problems(spec, recipe, entry),
        "early_stopping": _early_stopping_problems(spec, recipe, entry),
        "external_memory": _external_memory_problems(recipe),
        "engine": _engine_problems(recipe),
        "search": _search_problems(recipe, entry, valid),
    }
    declared = recipe.options
    for option, problems in checks.items():
        for required, found, remedy in problems if option in declared else ():
            subject = f"{spec.name}: training.{recipe.name}.{option}"
            raise SpecError(subject, required=required, found=found, remedy=remedy)


OptionProblem = tuple[str, str, str]  # what is required, what was found, and the remedy
REMOVE = "remove the option"
LEARNS = "an estimator that learns from the features"
BOOSTING = "hist_gradient_boosting or xgboost"


# values of XGBoost's parameters that workers can't share, with what is required instead
DASK_REFUSES = (
    ("tree_method", ("exact", "approx"), "tree_method hist for dask, whose workers add up histograms"),
    (
        "objective",
        ("reg:quantileerror", "reg:absoluteerror"),
        "an objective whose leaves aren't quantiles: dask would take the mean of each worker's quantile",
    ),
)


def _learns(recipe: Recipe, entry: Estimator) -> bool:
    return entry.learns and recipe.estimator != "prior"


def _calibration_problems(spec: UseCase, recipe: Recipe, entry: Estimator) -> Iterator[OptionProblem]:
    if not spec.problem.codes:
        yield "a binary or multiclass problem", spec.problem.kind, REMOVE
    if not _learns(recipe, entry):
        yield LEARNS, recipe.estimator, REMOVE


def _target_problems(spec: UseCase, recipe: Recipe, entry: Estimator) -> Iterator[OptionProblem]:
    if spec.problem.codes:
        yield "a regression", spec.problem.kind, REMOVE
    if not _learns(recipe, entry):
        yield LEARNS, recipe.estimator, REMOVE
    for name, value in _log_links(recipe):
        required = "a loss that doesn't take the logarithm itself"
        yield required, f"{name} {value}", f"{REMOVE} or the {name}"


def _log_links(recipe: Recipe) -> list[tuple[str, str]]:
    """Return the declared parameters, also searched ones, that are one of `LOG_LINKS`."""
    return [
        (name, value)
        for name in ("loss", "objective")
        for value in (recipe.params.get(name), *recipe.search.get(name, ()))
        if isinstance(value, str) and value in LOG_LINKS
    ]


def _half_life_problems(recipe: Recipe, entry: Estimator) -> Iterator[OptionProblem]:
    if not entry.learns:
        yield "an estimator that is fitted on weighted rows", recipe.estimator, REMOVE


def _recent_intercept_problems(spec: UseCase, recipe: Recipe) -> Iterator[OptionProblem]:
    count, window = recipe.recent_intercept or 0, recipe.window or spec.training.window
    if recipe.estimator == "prior":
        yield "a recipe that learns more than the level", "prior", f"{REMOVE}, or declare window"
    if window and count >= window:
        yield f"fewer than the window of {window} partitions", str(count), "name fewer partitions"


def _monotone_problems(spec: UseCase, recipe: Recipe, entry: Estimator) -> Iterator[OptionProblem]:
    if not entry.monotone_param:
        yield BOOSTING, recipe.estimator, f"{REMOVE}, or use one of them"
    if spec.problem.kind == "multiclass":
        yield "a binary problem or a regression", spec.problem.kind, REMOVE
    if entry.monotone_param in {**recipe.params, **recipe.search}:
        yield "the constraints once", f"{entry.monotone_param} too", f"remove {entry.monotone_param}"


def _early_stopping_problems(spec: UseCase, recipe: Recipe, entry: Estimator) -> Iterator[OptionProblem]:
    if not entry.rounds_param:
        yield BOOSTING, recipe.estimator, f"{REMOVE}, or use one of them"
    window, count = recipe.window or spec.training.window, recipe.early_stopping or 0
    if window and count >= window:
        yield f"fewer than the window of {window} partitions", str(count), "hold out fewer partitions"
    if "early_stopping" in {**recipe.params, **recipe.search}:
        found = "the parameter early_stopping, which holds out random rows"
        yield "partitions that are held out in time", found, "remove the parameter"
    if entry.rounds_param in recipe.search:
        found = f"{entry.rounds_param} under search"
        yield f"{entry.rounds_param}, as the most rounds, under params", found, "search other parameters"


def _external_memory_problems(recipe: Recipe) -> Iterator[OptionProblem]:
    if recipe.estimator != "xgboost":
        yield "xgboost", recipe.estimator, f"{REMOVE}, or use xgboost"
    for option in ("target", "early_stopping"):
        if option in recipe.options:
            yield f"no {option}, which needs all rows in memory", option, "remove one of the two"


def _engine_problems(recipe: Recipe) -> Iterator[OptionProblem]:
    if recipe.estimator != "xgboost":
        yield "xgboost for dask", recipe.estimator, f"{REMOVE}, or use xgboost"
    for option in ("target", "early_stopping", "external_memory"):
        if option in recipe.options:
            yield f"no {option} with dask, whose workers share the rows", option, "remove one of the two"
    for name, refused, required in DASK_REFUSES:
        for value in (recipe.params.get(name), *recipe.search.get(name, ())):
            if value in refused:
                yield required, f"{name} {value}", f"{REMOVE} or the {name}"


def _search_problems(recipe: Recipe, entry: Estimator, valid: Collection[str]) -> Iterator[OptionProblem]:
    if not _learns(recipe, entry):
        yield LEARNS, recipe.estimator, REMOVE
    if unknown := ", ".join(sorted(set(recipe.search) - set(valid))):
        required = f"parameters of {recipe.estimator}: {', '.join(sorted(valid))}"
        yield required, unknown, "correct it in usecase.yaml"
    if twice := ", ".join(sorted(set(recipe.search) & set(recipe.params))):
        required = "each parameter under params or under search"
        yield required, f"{twice} under both", "remove it from params"
    if all(len(values) == 1 for values in recipe.search.values()):
        yield "two values or more of a parameter", "one of each", "move it to params"
