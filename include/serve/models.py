"""Loads models for single rows: the champion by ONNX Runtime if that predicts the same, else as pipelines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.errors import EvergreenError, ModelError
from include.export.convert import largest_difference, open_session, require_packages, session_input, to_onnx
from include.judge.checks import ONNX_TOLERANCE
from include.models import artifacts, outputs
from include.models.artifacts import Values
from include.spec import UseCase
from include.storage.lake import Lake

log = logging.getLogger(__name__)
ONNX, PIPELINE = "onnx", "scikit-learn"  # runtimes
COMPARED_ROWS = 1000  # rows on which both are compared, at most


@dataclass(frozen=True)
class ServedModel:
    """A model that is ready to predict.

    Parameters
    ----------
    runtime : `ONNX` or `PIPELINE`.
    predict_batch : returns the predictions of rows, or raises a ModelError.
    note : why it isn't served by ONNX Runtime; empty if it is, or if that wasn't tried.
    reload_changes_nothing : whether it would be the same if it was loaded again as the champion.
    """

    digest: str
    runtime: str
    predict_batch: Callable[[pa.Table], Values]
    note: str = ""
    reload_changes_nothing: bool = True


def load_served(
    lake: Lake, spec: UseCase, digest: str, *, onnx: bool, sample: pa.Table | None
) -> ServedModel:
    """Return a model of the lake, its digest verified.

    Parameters
    ----------
    onnx : serve it by ONNX Runtime if it can be converted and predicts the sample within 1e-9.
    sample : rows of features; None if there are none, and then it isn't served by ONNX Runtime.

    Raises
    ------
    ModelError
        when it isn't in the lake, or can't be loaded.
    """
    estimator = artifacts.load_model(lake, digest, spec)
    pipeline = artifacts.batch_predictor(estimator, spec)
    if not onnx:
        return ServedModel(digest, PIPELINE, pipeline, reload_changes_nothing=False)
    if sample is None:
        note = "there are no features in memory on which ONNX Runtime could be compared with it"
        return ServedModel(digest, PIPELINE, pipeline, note, reload_changes_nothing=False)
    try:
        require_packages()
        quick = onnx_predictor(to_onnx(estimator, spec), spec)
        rows = sample.slice(0, COMPARED_ROWS)
        difference = largest_difference(quick(rows), artifacts.predict(estimator, rows, spec))
        if not difference <= ONNX_TOLERANCE:  # also NaN
            raise ModelError(
                f"{spec.name}: ONNX",
                required=f"the model's predictions within {ONNX_TOLERANCE:g}",
                found=f"a difference of {difference:.3g} on {rows.num_rows} rows",
                remedy="the converter is wrong: report it",
            )
    except EvergreenError as error:
        return ServedModel(digest, PIPELINE, pipeline, str(error))
    except Exception as error:  # ONNX may raise anything, and the pipeline serves as well
        log.exception("%s: model %s can't be served by ONNX Runtime", spec.name, digest[:12])
        return ServedModel(digest, PIPELINE, pipeline, f"{type(error).__name__}: {error}")
    return ServedModel(digest, ONNX, quick)


def onnx_predictor(data: bytes, spec: UseCase) -> Callable[[pa.Table], Values]:
    """Return a function that predicts rows with an ONNX file, as `convert.predict_onnx` does."""
    session = open_session(data)

    def predict(rows: pa.Table) -> Values:
        predictions = np.asarray(session.run(None, session_input(rows, spec))[0], dtype=np.float64)
        shape = outputs.predictions_shape(spec, rows.num_rows)
        if predictions.shape != shape or not np.isfinite(predictions).all():
            raise ModelError(
                f"{spec.name}: model",
                required="finite predictions",
                found="a row with a number that the model refuses",
                remedy="check its features for numbers that are far too large",
            )
        return predictions

    return predict
