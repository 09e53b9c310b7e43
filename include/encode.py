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
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from include.spec import UseCase


def objects(column: pa.ChunkedArray) -> pd.Series:
    """Return texts as Python has them, None for null, each made once."""
    values, codes = _coded(column)
    return pd.Series(np.array([*values, None], dtype=object).take(codes), dtype=object)


def categories(column: pa.ChunkedArray) -> pd.Series:
    """Return texts as pandas' categories."""
    values, codes = _coded(column)
    return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object)))


def _coded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Return the texts that there are and which of them each row has, -1 for null."""
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.fill_null(-1).to_numpy()


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


def once(estimator: Pipeline, spec: UseCase) -> Pipeline | None:
    """Return the pipeline for frames of categories; None where something else than an encoder takes them."""
    columns = estimator[0] if isinstance(estimator, Pipeline) else None
    if not isinstance(columns, ColumnTransformer):
        return None
    texts, found = set(spec.features.categorical), []
    for name, one, of in columns.transformers_:
        encoder = isinstance(one, OneHotEncoder | OrdinalEncoder)
        if one != "drop" and not (texts.issuperset(of) if encoder else texts.isdisjoint(of)):
            return None
        found.append((name, _Once(one) if encoder else one, of))
    quick = copy.copy(columns)
    quick.transformers_ = found
    return Pipeline([("columns", quick), *estimator.steps[1:]])
