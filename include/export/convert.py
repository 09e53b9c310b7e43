"""Turns a model into an ONNX file, and predicts with it as an edge device would.

The file has one input for each feature, by its name, of shape (rows, 1): numbers in double precision with NaN
where one is missing, and texts with `MISSING` where one is. Its one output is that of `artifacts.predict`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from include.errors import PYTHON, EvergreenError, ModelError, SpecError
from include.models import artifacts, outputs
from include.models.encoding import MISSING
from include.spec import UseCase
from include.spec.stages import Recipe
from include.train.estimators import ESTIMATORS

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from include.export.graph import Graph

INSTALL = f"{PYTHON} -m pip install --require-hashes -r requirements-onnx.txt"


def require_packages() -> None:
    """Raise an error with the command to run if the packages of the extra `onnx` aren't installed."""
    try:
        import onnx  # noqa: F401 - whether it can be imported is the question
        import onnxruntime  # noqa: F401 - as above
    except ImportError as error:
        raise EvergreenError(
            "ONNX",
            required="the packages onnx and onnxruntime of the optional extra `onnx`",
            found=f"no {error.name}",
            remedy=f"run `{INSTALL}` in the environment of this process",
        ) from None


def to_onnx(estimator: Any, spec: UseCase, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a fitted pipeline as an ONNX file; the same pipeline gives the same bytes.

    Parameters
    ----------
    metadata : texts that the file carries.

    Raises
    ------
    ModelError
        if there is no converter for the estimator or its preprocessing.
    EvergreenError
        if the packages of the extra `onnx` aren't installed.
    """
    require_packages()
    from include.export.columns import write_columns
    from include.export.graph import Graph
    from include.export.models import MODELS, WITHOUT_COLUMNS

    graph, source = Graph(), spec.features.columns[0]
    writable: Collection[type] = WITHOUT_COLUMNS
    steps = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    if type(steps[0]) is ColumnTransformer:
        source, writable = write_columns(graph, steps.pop(0)), MODELS
    if len(steps) != 1 or type(steps[0]) not in writable:
        without = " without its columns" if type(steps[0]) in MODELS else ""
        raise ModelError(
            f"{spec.name}: ONNX",
            required=f"an estimator with a converter: {', '.join(convertible(spec))}",
            found=", ".join(type(step).__name__ for step in steps) + without,
            remedy="serve a recipe of one of these, or write a converter in include/export/models.py",
        )
    (model,) = steps
    prediction = MODELS[type(model)](graph, model, source)
    classes = spec.problem.classes
    if not classes:
        prediction = graph.add("Squeeze", prediction, graph.constant([1], np.int64))
    elif len(positions := artifacts.known_classes(estimator, spec.problem)) < len(classes):
        prediction = _write_unknown_classes(graph, prediction, positions, len(classes))
    inputs = {name: name in spec.features.numeric for name in spec.features.columns}
    texts = {"missing_text": MISSING, "outputs": ", ".join(spec.problem.outputs)}
    return graph.model(inputs, prediction, len(classes), {**texts, **(metadata or {})})


def _write_unknown_classes(graph: Graph, prediction: str, positions: Sequence[int], count: int) -> str:
    """Return the probabilities of all classes, also of those that the model wasn't fitted on."""
    if len(positions) == 2:  # then it is the second's alone
        first = graph.add("Sub", graph.constant([[1.0]]), prediction)
        prediction = graph.add("Concat", first, prediction, axis=1)
    all_classes = outputs.add_unseen_classes(np.eye(len(positions)), positions, count)
    return graph.add("MatMul", prediction, graph.constant(all_classes))


def convertible(spec: UseCase) -> list[str]:
    """Return the estimators that a declaration may name and that have a converter."""
    require_packages()
    from include.export.models import MODELS

    entries = ESTIMATORS[spec.problem.kind].items()
    return [name for name, entry in entries if type(entry.build(spec)) in MODELS]


def require_convertible(spec: UseCase, recipe: Recipe) -> None:
    """Refuse a recipe whose estimator has no converter."""
    if recipe.estimator not in (names := convertible(spec)):
        raise SpecError(
            f"{spec.name}: training.{recipe.name}",
            required=f"an estimator that can be exported to ONNX, because of gate.onnx: {', '.join(names)}",
            found=recipe.estimator,
            remedy="remove the recipe, or gate.onnx",
        )
    if recipe.calibration:
        raise SpecError(
            f"{spec.name}: training.{recipe.name}.calibration",
            required="a recipe without calibration, for which there is no ONNX converter",
            found=recipe.calibration,
            remedy="remove calibration, or gate.onnx",
        )


def open_session(data: bytes) -> InferenceSession:
    """Return an ONNX file ready to predict, on one thread, so that its sums have one order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def session_input(rows: pa.Table, spec: UseCase) -> dict[str, NDArray[Any]]:
    """Return rows as the file takes them: without a frame, which costs fifty times a row's prediction."""
    columns: dict[str, NDArray[Any]] = {}
    for name in spec.features.numeric:
        columns[name] = rows[name].cast(pa.float64()).to_numpy()
    for name in spec.features.categorical:
        texts = [MISSING if value is None else str(value) for value in rows[name].to_pylist()]
        columns[name] = np.array(texts, dtype=object)
    return {name: values.reshape(-1, 1) for name, values in columns.items()}


def predict_onnx(data: bytes, rows: pa.Table, spec: UseCase) -> artifacts.Values:
    """Return the predictions of an ONNX file, in the shape of `artifacts.predict`."""
    (values,) = open_session(data).run(None, session_input(rows, spec))
    expected = outputs.predictions_shape(spec, rows.num_rows)
    assert values.shape == expected, (values.shape, expected)  # the converter's own mistake
    return np.asarray(values, dtype=np.float64)


def largest_difference(values: artifacts.Values, expected: artifacts.Values) -> float:
    """Return the largest difference between predictions, relative to those above 1.

    Parameters
    ----------
    values, expected : predictions of the same rows; the expected ones are finite.

    Returns
    -------
    float
        At least 0; NaN if one of the values isn't a number.
    """
    differences = np.abs(values - expected) / np.maximum(np.abs(expected), 1.0)
    return float(differences.max(initial=0.0))
