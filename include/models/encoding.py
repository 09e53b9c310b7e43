"""Categories are encoded once for each combination that rows have, and not once for each row.

scikit-learn's encoders look up every row's text again. What they answer depends on the row alone, so it is
asked once of each and handed out; the rest of the pipeline is scikit-learn's own.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn import get_config
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from include.spec import UseCase


def text_values(column: pa.ChunkedArray, *, coded: bool) -> pd.Series:
    """Return texts as Python has them, None for null, each made once; or as pandas' categories."""
    found = column.combine_chunks().dictionary_encode()
    values, codes = found.dictionary.to_pylist(), found.indices.fill_null(-1).to_numpy()
    if coded:
        return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object)))
    return pd.Series(np.array([*values, None], dtype=object).take(codes), dtype=object)


class _Once:
    """Stands for a fitted encoder."""

    def __init__(self, encoder: OneHotEncoder | OrdinalEncoder) -> None:
        self.encoder = encoder

    def transform(self, given: pd.DataFrame) -> Any:
        """Return what the encoder says of each row of pandas' categories, shape (n, any), n > 0."""
        place = np.zeros(len(given), np.int64)  # of each row's combination, below n
        for name in given.columns:
            column = given[name].cat
            place = pd.factorize(place * (len(column.categories) + 1) + column.codes + 1)[0]
        first = np.empty(place.max() + 1, np.int64)
        first[place[::-1]] = np.arange(len(place))[::-1]
        few = given.iloc[first].astype(object)
        return self.encoder.transform(few.where(few.notna(), None))[place]


def encode_once(estimator: Pipeline, spec: UseCase) -> Pipeline | None:
    """Return the pipeline for frames of categories; None for one that could say something else of them.

    That is any but scikit-learn's own classes, fitted on columns by name, of which only encoders take texts.
    """
    if type(estimator) is not Pipeline or len(estimator.steps) < 2:
        return None
    name, columns = estimator.steps[0]
    if type(columns) is not ColumnTransformer or not hasattr(columns, "transformers_") or _frames(columns):
        return None
    categories, found = set(spec.features.categorical), []
    for label, one, of in columns.transformers_:
        encoder = type(one) in (OneHotEncoder, OrdinalEncoder)
        named = isinstance(of, list) and all(isinstance(column, str) for column in of)
        if one != "drop" and not (
            named and (categories.issuperset(of) if encoder else categories.isdisjoint(of))
        ):
            return None
        found.append((label, _Once(one) if encoder else one, of))
    quick, ready = copy.copy(columns), copy.copy(estimator)
    quick.transformers_ = found
    ready.steps = [(name, quick), *estimator.steps[1:]]
    return ready


def _frames(columns: ColumnTransformer) -> bool:
    """Tell whether frames come out of transformers, by `set_output` or by scikit-learn's own setting."""
    own = [columns, *(one for _, one, _ in columns.transformers_)]
    said = [getattr(one, "_sklearn_output_config", {}).get("transform", "default") for one in own]
    return {get_config()["transform_output"], *said} != {"default"}
