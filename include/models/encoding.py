"""Speeds up scoring by encoding each distinct combination of categories once instead of once for each row.

scikit-learn's encoders look up every row's text again, though the result depends on the row's categories
alone. Here each combination is encoded once and the result is repeated for its rows. The rest of the pipeline
stays scikit-learn's own.
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

# Stands for null in an ONNX file, whose inputs of texts can't be null: onnxruntime turns None into the text
# "None". An empty text is not a missing one, and may be a category.
MISSING = "<missing>"


def text_values(column: pa.ChunkedArray, *, coded: bool) -> pd.Series:
    """Return texts as Python objects with None for null, each created once; or as pandas categories."""
    encoded = column.combine_chunks().dictionary_encode()
    values, codes = encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy()
    if coded:
        return pd.Series(pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object)))
    return pd.Series(np.array([*values, None], dtype=object).take(codes), dtype=object)


def encode_once(estimator: Pipeline, spec: UseCase) -> Pipeline | None:
    """Return an equivalent pipeline that takes frames of pandas categories, or None if there is none.

    There is one only for scikit-learn's own classes, fitted on columns by name, of which the encoders alone
    take texts. Any other pipeline could predict differently.
    """
    if type(estimator) is not Pipeline or len(estimator.steps) < 2:
        return None
    name, columns = estimator.steps[0]
    if type(columns) is not ColumnTransformer or not hasattr(columns, "transformers_"):
        return None
    if _outputs_frames(columns):
        return None
    categories, transformers = set(spec.features.categorical), []
    for label, transformer, selected in columns.transformers_:
        is_encoder = type(transformer) in (OneHotEncoder, OrdinalEncoder)
        by_name = isinstance(selected, list) and all(isinstance(column, str) for column in selected)
        if transformer != "drop" and not (
            by_name and (categories.issuperset(selected) if is_encoder else categories.isdisjoint(selected))
        ):
            return None
        transformers.append((label, _DistinctEncoder(transformer) if is_encoder else transformer, selected))
    quick_columns, quick = copy.copy(columns), copy.copy(estimator)
    quick_columns.transformers_ = transformers
    quick.steps = [(name, quick_columns), *estimator.steps[1:]]
    return quick


def _outputs_frames(columns: ColumnTransformer) -> bool:
    """Return whether transformers output frames, by `set_output` or by scikit-learn's global setting."""
    transformers = [columns, *(transformer for _, transformer, _ in columns.transformers_)]
    settings = [
        getattr(transformer, "_sklearn_output_config", {}).get("transform", "default")
        for transformer in transformers
    ]
    return {get_config()["transform_output"], *settings} != {"default"}


class _DistinctEncoder:
    """Wraps a fitted encoder and applies it to the distinct rows only."""

    def __init__(self, encoder: OneHotEncoder | OrdinalEncoder) -> None:
        self.encoder = encoder

    def transform(self, frame: pd.DataFrame) -> Any:
        """Return the encoder's result for each row of pandas categories, shape (n, any), n > 0."""
        combination = np.zeros(len(frame), np.int64)  # of each row, below n
        for name in frame.columns:
            column = frame[name].cat
            combination = pd.factorize(combination * (len(column.categories) + 1) + column.codes + 1)[0]
        first_row = np.empty(combination.max() + 1, np.int64)
        first_row[combination[::-1]] = np.arange(len(combination))[::-1]
        distinct = frame.iloc[first_row].astype(object)
        return self.encoder.transform(distinct.where(distinct.notna(), None))[combination]
