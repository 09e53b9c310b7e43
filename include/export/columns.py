"""Writes a fitted `ColumnTransformer` as a graph: from one tensor for each feature to one matrix.

An encoder becomes a table from each text that it knows to what it returns for it. The encoder itself fills
the table, also for missing and unknown texts, so the result is scikit-learn's whatever its options are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from include.errors import ModelError
from include.export.graph import ML, Graph
from include.models.encoding import MISSING

Values = NDArray[np.float64]


def write_columns(graph: Graph, columns: ColumnTransformer) -> str:
    """Return what a fitted transformer returns, as one dense matrix, shape (rows, any)."""
    parts = []
    for _, transformer, selected in columns.transformers_:
        if isinstance(transformer, OneHotEncoder | OrdinalEncoder):
            parts += [_write_table(graph, transformer, index) for index in range(len(selected))]
        elif transformer != "drop" and len(selected):
            parts.append(_write_numbers(graph, transformer, selected))
    return join(graph, parts)


def join(graph: Graph, parts: Sequence[str]) -> str:
    """Return matrices side by side."""
    return graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _write_table(graph: Graph, encoder: OneHotEncoder | OrdinalEncoder, index: int) -> str:
    """Return what an encoder returns for its column at ``place``, shape (rows, any)."""
    column = str(encoder.feature_names_in_[index])
    texts, results = encoder_table(encoder, index)

    def look_up(values: NDArray[Any], default: NDArray[Any]) -> str:
        tensors = {"keys_tensor": texts, "values_tensor": values, "default_tensor": default}
        return graph.add("LabelEncoder", column, domain=ML, **tensors)

    if results.shape[1] == 1:
        return look_up(results[:-1, 0], results[-1:, 0])
    row = look_up(np.arange(len(texts)), np.array([len(texts)]))
    encoded = graph.add("Gather", graph.constant(results), row)  # shape (rows, 1, any)
    return graph.add("Squeeze", encoded, graph.constant([1], np.int64))


def encoder_table(encoder: OneHotEncoder | OrdinalEncoder, index: int) -> tuple[NDArray[Any], Values]:
    """Return the texts that an encoder knows in one of its columns, and what it returns for each.

    Parameters
    ----------
    index : of the column.

    Returns
    -------
    texts : the known ones, then `MISSING`, shape (n,).
    results : for each of ``texts``, and last for any other text, shape (n + 1, any).

    Raises
    ------
    ModelError
        if `MISSING` is a category itself.
    """
    columns = list(encoder.feature_names_in_)
    column = columns[index]
    categories = [value for value in encoder.categories_[index] if not pd.isna(value)]
    known_texts = [str(value) for value in categories]  # of a key that isn't text, such as a number or a day
    if MISSING in known_texts:
        raise ModelError(
            f"feature {column}",
            required=f"categories other than {MISSING}, which stands for a missing value in an ONNX file",
            found=f"the category {MISSING}",
            remedy="return another text in features.sql, or null",
        )
    unknown = "?".join(["", *known_texts])  # longer than any known text
    others = {name: values[0] for name, values in zip(columns, encoder.categories_, strict=True)}
    rows = pd.DataFrame({**others, column: [*categories, None, unknown]}, columns=columns, dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a text is unknown is the purpose
        encoded = encoder.transform(rows)
    if isinstance(encoder, OrdinalEncoder):
        block = slice(index, index + 1)
    else:
        ends = np.cumsum([0, *encoder._n_features_outs])
        block = slice(ends[index], ends[index + 1])
        encoded = encoded.toarray() if encoder.sparse_output else encoded
    return np.array([*known_texts, MISSING], dtype=object), np.asarray(encoded[:, block], dtype=np.float64)


def _write_numbers(graph: Graph, transformer: Any, selected: Sequence[str]) -> str:
    """Return what the transformers of numeric columns return, one after the other."""
    matrix = join(graph, selected)
    steps = [step for _, step in transformer.steps] if isinstance(transformer, Pipeline) else [transformer]
    for step in steps:
        kinds = (OneHotEncoder, OrdinalEncoder, *NUMBERS)
        if type(step) not in NUMBERS:
            raise ModelError(
                f"the transformer of {', '.join(selected)}",
                required=f"one of {', '.join(kind.__name__ for kind in kinds)}",
                found=type(step).__name__,
                remedy="write its graph in include/export/columns.py",
            )
        matrix = NUMBERS[type(step)](graph, step, matrix)
    return matrix


def _write_imputer(graph: Graph, imputer: SimpleImputer, matrix: str) -> str:
    values = graph.constant(imputer.statistics_[None, :])
    return graph.add("Where", graph.add("IsNaN", matrix), values, matrix)


def _write_scaler(graph: Graph, scaler: StandardScaler, matrix: str) -> str:
    centered = graph.add("Sub", matrix, graph.constant(scaler.mean_[None, :]))
    return graph.add("Div", centered, graph.constant(scaler.scale_[None, :]))


def _write_unchanged(graph: Graph, transformer: FunctionTransformer, matrix: str) -> str:
    if transformer.func is not None:
        found = str(transformer.func)
        raise ModelError(
            "a FunctionTransformer",
            required="one without a function",
            found=found,
            remedy="write its graph in include/export/columns.py",
        )
    return matrix


# what may be done to numbers, each exactly as scikit-learn does it
NUMBERS: dict[type, Callable[[Graph, Any, str], str]] = {
    SimpleImputer: _write_imputer,
    StandardScaler: _write_scaler,
    FunctionTransformer: _write_unchanged,  # what `passthrough` becomes when it is fitted
}
