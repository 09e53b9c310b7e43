"""The estimator registry: the estimators that a spec may name, each built with its preprocessing.

To add an estimator, decorate a function that returns it, unfitted, with `register`. Its docstring
becomes the estimator's line in docs/reference/estimators.md. A stored model may only contain trusted types,
which an estimator's format lists: those of a new library are a new format in `FORMATS` in
`include.models.artifacts`. A name as ``module:name`` is a use case's own estimator, see
`include.train.python_estimators`.

Every estimator runs on one thread: two fits with threads of their own on the same cores stall each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from include.errors import SpecError
from include.models import artifacts
from include.spec import UseCase
from include.spec.metrics import BINARY, CLASSIFICATION, MULTICLASS, REGRESSION
from include.spec.stages import Recipe
from include.train import options, python_estimators

ALL_KINDS = (*BINARY, *REGRESSION, *MULTICLASS)
# set in this module, from the spec's seed and columns, so a spec may not set them
RESERVED = frozenset(
    {"random_state", "n_jobs", "verbose", "warm_start", "categorical_features", "strategy"}
) | {
    *("booster", "callbacks", "device", "early_stopping_rounds", "enable_categorical", "feature_types"),
    *("missing", "validate_parameters", "verbosity"),
}

Builder = Callable[[UseCase], BaseEstimator]
Preprocessor = Callable[[Sequence[str], Sequence[str]], ColumnTransformer]


@dataclass(frozen=True)
class Estimator:
    """One estimator of the registry.

    Parameters
    ----------
    build : returns it, unfitted, with the spec's seed.
    preprocess : returns the preprocessing of numeric and categorical columns; None where the estimator takes
        the features as they are.
    column_params : its parameters that name a numeric feature.
    learns : whether it learns a relation from the labels; a rule of thumb doesn't.
    stored_as : the format of its stored model, one of `include.models.artifacts.FORMATS`.
    scales_target : whether a regression needs a target with mean 0 and standard deviation 1.
    monotone_param, rounds_param : its parameters for monotone constraints and for the number of boosting
        rounds; empty if it has none.
    """

    build: Builder
    preprocess: Preprocessor | None = None
    column_params: tuple[str, ...] = ()
    learns: bool = True
    stored_as: artifacts.Format = "skops"
    scales_target: bool = False
    monotone_param: str = ""
    rounds_param: str = ""


# by kind of problem and by the name that a spec uses, in the order of registration
ESTIMATORS: dict[str, dict[str, Estimator]] = {kind: {} for kind in ALL_KINDS}


def register(
    name: str,
    kinds: Sequence[str] = ALL_KINDS,
    preprocess: Preprocessor | None = None,
    column_params: tuple[str, ...] = (),
    **traits: Any,
) -> Callable[[Builder], Builder]:
    """Register the decorated function as an estimator of some kinds of problem, see `Estimator`."""

    def add(build: Builder) -> Builder:
        for kind in kinds:
            ESTIMATORS[kind][name] = Estimator(build, preprocess, column_params, **traits)
        return build

    return add


def build_estimator(spec: UseCase, recipe: Recipe, empty: Collection[str] = ()) -> Pipeline:
    """Return an unfitted pipeline for one of the spec's baselines or candidates.

    Parameters
    ----------
    empty : numeric features without any value to fit on, which the model ignores (boosting fails on them).

    Raises
    ------
    SpecError
        when the estimator or a parameter doesn't exist, with those that do.
    """
    subject = f"{spec.name}: training.{recipe.name}"
    entries, numeric = ESTIMATORS[spec.problem.kind], spec.features.numeric
    if recipe.estimator not in entries:
        code = python_estimators.estimator_code(spec, recipe)
        if code is None:
            required = (
                f"estimator: one of {', '.join(entries)} for a {spec.problem.kind} problem, or module:name"
            )
            raise SpecError(
                subject, required=required, found=recipe.estimator, remedy="correct it in usecase.yaml"
            )
        if recipe.options:
            listed = ", ".join(recipe.options)
            code.fail("no options but params, since the class itself can do what they do", listed)
        estimator = python_estimators.build(spec, code, recipe)
        if getattr(code.load(), "takes_raw", False):
            return Pipeline([("model", estimator)])
        columns = scaled_columns([name for name in numeric if name not in empty], spec.features.categorical)
        return Pipeline([("columns", columns.set_params(sparse_threshold=0)), ("model", estimator)])
    entry = entries[recipe.estimator]
    estimator = entry.build(spec)
    valid = sorted(set(estimator.get_params(deep=False)) - RESERVED)
    unknown = sorted(set(recipe.params) - set(valid))
    if unknown:
        required = f"params of {recipe.estimator}: {', '.join(valid) or 'none'}"
        raise SpecError(
            subject, required=required, found=", ".join(unknown), remedy="correct it in usecase.yaml"
        )
    options.validate_options(spec, recipe, entry, valid)
    estimator.set_params(**recipe.params)
    filled, categorical = [column for column in numeric if column not in empty], spec.features.categorical
    if recipe.monotone:
        constraints = options.monotone_columns(recipe, filled, categorical)
        estimator.set_params(**{entry.monotone_param: constraints})
    for name in entry.column_params:
        if (column := estimator.get_params(deep=False)[name]) not in numeric:
            required = f"params.{name}: a numeric feature, one of {', '.join(numeric) or 'none'}"
            raise SpecError(
                subject, required=required, found=repr(column), remedy="correct it in usecase.yaml"
            )
    if not spec.problem.codes:
        estimator = options.transform_target(estimator, recipe, entry)
    if entry.preprocess is None:
        return Pipeline([("model", estimator)])
    return Pipeline([("columns", entry.preprocess(filled, categorical)), ("model", estimator)])


def learns(spec: UseCase, recipe: Recipe) -> bool:
    """Return whether a recipe's estimator learns a relation from the labels; a rule of thumb doesn't."""
    if entry := ESTIMATORS[spec.problem.kind].get(recipe.estimator):
        return entry.learns
    code = python_estimators.estimator_code(spec, recipe)
    return bool(getattr(code.load(), "learns", True)) if code else True


def flat_parameters(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe's estimator, parameters and options under names that start with the recipe's."""
    declared = {**recipe.options, **recipe.params}
    params = {f"{recipe.name}.{name}": value for name, value in declared.items()}
    return {f"{recipe.name}.estimator": recipe.estimator, **params}


def scaled_columns(numeric: Sequence[str], categorical: Sequence[str]) -> ColumnTransformer:
    """Return a linear model's preprocessing: medians for missing values, one scale, one-hot categories."""
    numbers = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    return ColumnTransformer(
        [("categorical", categories, list(categorical)), ("numeric", numbers, list(numeric))]
    )


def coded_columns(numeric: Sequence[str], categorical: Sequence[str]) -> ColumnTransformer:
    """Return the preprocessing of trees: numbers as they are, also missing ones, and categories as codes.

    Boosting admits 255 codes, so the rarest categories share one. A category that training never saw counts
    as missing.
    """
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
        max_categories=254,
        min_frequency=5,
    )
    return ColumnTransformer(
        [("categorical", categories, list(categorical)), ("numeric", "passthrough", list(numeric))]
    )


class ColumnPlusConstant(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts a column's value plus a constant, or the median of the fitted target where it has no value.

    Parameters
    ----------
    column : a numeric feature, in the target's unit.
    plus : the constant.

    Attributes
    ----------
    median_ : of the target in `fit`.
    """

    def __init__(self, column: str = "", plus: float = 0.0) -> None:
        self.column = column
        self.plus = plus

    def fit(self, rows: pd.DataFrame, actual: Any) -> ColumnPlusConstant:
        """Store the target's median.

        Raises
        ------
        ValueError
            when ``plus`` isn't a finite number.
        """
        if not np.isfinite(float(self.plus)):
            raise ValueError(f"plus: a finite number is needed, but found {self.plus}")
        self.median_ = float(np.median(actual))
        return self

    def predict(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        """Return one value for each row, shape (n,)."""
        values = rows[self.column].to_numpy(dtype=np.float64) + float(self.plus)
        return np.where(np.isfinite(values), values, self.median_)


@register("prior")
def _prior(spec: UseCase) -> BaseEstimator:
    """The training mean or class shares for every row; one baseline must be `prior`, the others' measure.

    With the objective `quantile_loss`, the training quantile.
    """
    if spec.gate.quantile is not None:
        return DummyRegressor(strategy="quantile", quantile=spec.gate.quantile)
    return DummyClassifier(strategy="prior") if spec.problem.codes else DummyRegressor(strategy="mean")


@register("rule", REGRESSION, column_params=("column",), learns=False)
def _rule(spec: UseCase) -> BaseEstimator:
    """A rule of thumb as a baseline: a numeric feature plus a constant, as `{column: dep_delay, plus: -5}`.

    Where the feature has no value, the median of the training's target.
    """
    return ColumnPlusConstant()


@register("logistic_regression", CLASSIFICATION, scaled_columns)
def _logistic_regression(spec: UseCase) -> BaseEstimator:
    """A linear model: fast, and hard to beat on few rows; scikit-learn's `LogisticRegression`."""
    return LogisticRegression(max_iter=1000, random_state=spec.training.seed)


@register("ridge", REGRESSION, scaled_columns)
def _ridge(spec: UseCase) -> BaseEstimator:
    """A linear model: fast, and hard to beat on few rows; scikit-learn's `Ridge`."""
    return Ridge(random_state=spec.training.seed)


@register("mlp", preprocess=scaled_columns, scales_target=True)
def _mlp(spec: UseCase) -> BaseEstimator:
    """A neural network, for smooth relations of scaled numbers; scikit-learn's `MLPClassifier`.

    For a regression `MLPRegressor`, on a standardized target. At most 100 iterations over the rows, unless
    `max_iter` is declared.
    """
    estimator_class = MLPClassifier if spec.problem.codes else MLPRegressor
    estimator: BaseEstimator = estimator_class(max_iter=100, random_state=spec.training.seed)
    return estimator


@register(
    "hist_gradient_boosting",
    preprocess=coded_columns,
    monotone_param="monotonic_cst",
    rounds_param="max_iter",
)
def _hist_gradient_boosting(spec: UseCase) -> BaseEstimator:
    """Boosted trees, the first choice for many rows; scikit-learn's `HistGradientBoostingClassifier`.

    For a regression `HistGradientBoostingRegressor`. Missing values and categories need no preparation.
    """
    estimator_class = HistGradientBoostingClassifier if spec.problem.codes else HistGradientBoostingRegressor
    categorical = list(range(len(spec.features.categorical)))  # `coded_columns` puts them first
    # early stopping would hold out random rows, across time
    estimator: BaseEstimator = estimator_class(
        categorical_features=categorical, early_stopping=False, random_state=spec.training.seed
    )
    return estimator


@register("random_forest", preprocess=coded_columns)
def _random_forest(spec: UseCase) -> BaseEstimator:
    """Averaged deep trees, which need little tuning; scikit-learn's `RandomForestClassifier`.

    For a regression `RandomForestRegressor`. Its models are the largest: limit the trees' leaves.
    """
    estimator_class = RandomForestClassifier if spec.problem.codes else RandomForestRegressor
    estimator: BaseEstimator = estimator_class(n_jobs=1, random_state=spec.training.seed)
    return estimator


@register(
    "xgboost",
    preprocess=coded_columns,
    stored_as="ubj",
    monotone_param="monotone_constraints",
    rounds_param="n_estimators",
)
def _xgboost(spec: UseCase) -> BaseEstimator:
    """Boosted trees with more settings than scikit-learn's; XGBoost's `XGBClassifier`.

    For a regression `XGBRegressor`. Missing values and categories need no preparation. Predictions
    have the precision of float32.
    """
    from include.models.xgboost_models import XGBoostClassifier, XGBoostRegressor  # slow to import

    estimator_class = XGBoostClassifier if spec.problem.codes else XGBoostRegressor
    categorical = ["c"] * len(spec.features.categorical)  # `coded_columns` puts them first
    # of the objectives with these names, which XGBoost takes without listing them
    further = {} if spec.problem.codes else {"quantile_alpha": None, "tweedie_variance_power": None}
    estimator: BaseEstimator = estimator_class(
        enable_categorical=True,
        feature_types=categorical,
        n_jobs=1,
        random_state=spec.training.seed,
        **further,
    )
    return estimator
