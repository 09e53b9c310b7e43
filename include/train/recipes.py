"""The estimators that a spec may name; each becomes one pipeline that does its own preprocessing.

A name maps to a builder and not to a class path, so that a spec can't load code. One thread each: two fits
with threads of their own on the same cores were seen to stall each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
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
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from include.errors import SpecError
from include.spec import UseCase
from include.spec.stages import Candidate


class ColumnPlusConstant(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Says a column's value plus a constant, and the median that it was fitted on where there is no value.

    Parameters
    ----------
    column : a numeric feature, in the target's unit.
    plus : what is added to it.

    Attributes
    ----------
    median_ : of the target in `fit`.
    """

    def __init__(self, column: str = "", plus: float = 0.0) -> None:
        self.column = column
        self.plus = plus

    def fit(self, given: pd.DataFrame, actual: Any) -> ColumnPlusConstant:
        """Keep the median; the rule itself learns nothing.

        Raises
        ------
        ValueError
            when ``plus`` isn't a finite number.
        """
        if not np.isfinite(float(self.plus)):
            raise ValueError(f"plus: a finite number is needed, found {self.plus}")
        self.median_ = float(np.median(actual))
        return self

    def predict(self, given: pd.DataFrame) -> NDArray[np.float64]:
        """Return one value a row, shape (n,)."""
        values = given[self.column].to_numpy(dtype=np.float64) + float(self.plus)
        return np.where(np.isfinite(values), values, self.median_)


Builder = Callable[[UseCase], BaseEstimator]
# set here, from the spec's seed and its columns; a spec that gives one is refused
RESERVED = frozenset({"random_state", "n_jobs", "verbose", "warm_start", "categorical_features", "strategy"})


def _prior(spec: UseCase) -> BaseEstimator:
    return DummyClassifier(strategy="prior") if spec.problem.codes else DummyRegressor(strategy="mean")


def _logistic(spec: UseCase) -> BaseEstimator:
    return LogisticRegression(max_iter=1000, random_state=spec.training.seed)


def _ridge(spec: UseCase) -> BaseEstimator:
    return Ridge(random_state=spec.training.seed)


def _boosting(spec: UseCase) -> BaseEstimator:
    kind = HistGradientBoostingClassifier if spec.problem.codes else HistGradientBoostingRegressor
    categorical = list(range(len(spec.features.categorical)))  # they come first
    # stopping early would set random rows aside, across time
    estimator: BaseEstimator = kind(
        categorical_features=categorical, early_stopping=False, random_state=spec.training.seed
    )
    return estimator


def _forest(spec: UseCase) -> BaseEstimator:
    kind = RandomForestClassifier if spec.problem.codes else RandomForestRegressor
    estimator: BaseEstimator = kind(n_jobs=1, random_state=spec.training.seed)
    return estimator


def _rule(spec: UseCase) -> BaseEstimator:
    return ColumnPlusConstant()


_CLASSIFIERS: dict[str, Builder] = {
    "prior": _prior,
    "logistic_regression": _logistic,
    "hist_gradient_boosting": _boosting,
    "random_forest": _forest,
}
RECIPES: dict[str, dict[str, Builder]] = {
    "binary": _CLASSIFIERS,
    "multiclass": _CLASSIFIERS,
    "regression": {
        "prior": _prior,
        "rule": _rule,
        "ridge": _ridge,
        "hist_gradient_boosting": _boosting,
        "random_forest": _forest,
    },
}


def build_estimator(spec: UseCase, candidate: Candidate, empty: Collection[str] = ()) -> Pipeline:
    """Return an unfitted pipeline for one of the spec's baselines or candidates.

    Parameters
    ----------
    empty : numeric features without any value to fit on, which the model ignores (boosting fails on them).

    Raises
    ------
    SpecError
        naming an estimator or a parameter that there isn't, and those that there are.
    """
    subject = f"{spec.name}: training.{candidate.name}"
    builders = RECIPES[spec.problem.kind]
    if candidate.estimator not in builders:
        required = f"estimator: one of {', '.join(builders)} for a {spec.problem.kind} problem"
        raise SpecError(subject, required=required, found=candidate.estimator)
    estimator = builders[candidate.estimator](spec)
    valid = sorted(set(estimator.get_params(deep=False)) - RESERVED)
    unknown = sorted(set(candidate.params) - set(valid))
    if unknown:
        required = f"params of {candidate.estimator}: {', '.join(valid) or 'none'}"
        raise SpecError(
            subject, required=required, found=", ".join(unknown), remedy="correct it in usecase.yaml"
        )
    estimator.set_params(**candidate.params)
    if isinstance(estimator, ColumnPlusConstant) and estimator.column not in spec.features.numeric:
        required = f"params.column: a numeric feature, one of {', '.join(spec.features.numeric) or 'none'}"
        raise SpecError(subject, required=required, found=repr(estimator.column))
    if candidate.estimator in ("prior", "rule"):
        return Pipeline([("model", estimator)])
    numeric = [column for column in spec.features.numeric if column not in empty]
    linear = candidate.estimator in ("logistic_regression", "ridge")
    columns = (_scaled if linear else _coded)(numeric, list(spec.features.categorical))
    return Pipeline([("columns", columns), ("model", estimator)])


def flat_parameters(candidate: Candidate) -> dict[str, Any]:
    """Return the parameters under names that tell the candidates apart."""
    own = {f"{candidate.name}.{name}": value for name, value in candidate.params.items()}
    return {f"{candidate.name}.estimator": candidate.estimator, **own}


def _scaled(numeric: list[str], categorical: list[str]) -> ColumnTransformer:
    """Return what a linear model needs: medians for what is missing, one scale, a column a category."""
    numbers = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    return ColumnTransformer([("categorical", categories, categorical), ("numeric", numbers, numeric)])


def _coded(numeric: list[str], categorical: list[str]) -> ColumnTransformer:
    """Return what trees need: numbers as they are, missing ones too, and categories as codes.

    Boosting admits 255 codes; the rarest share one. A category that training never saw counts as missing.
    """
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
        max_categories=254,
        min_frequency=5,
    )
    return ColumnTransformer([("categorical", categories, categorical), ("numeric", "passthrough", numeric)])
