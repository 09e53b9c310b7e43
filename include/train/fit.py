"""Fit a recipe twice: on the training partitions to choose it.

Then on what it may have seen to let it serve.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import EvergreenError, SpecError
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.metrics import names
from include.spec.stages import Candidate
from include.stats.metrics import metric_values, row_losses
from include.train.recipes import build_estimator
from include.train.record import FittedModel
from include.train.split import Split

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationFit:
    """A recipe fitted on the training partitions, and what it said of the validation partitions.

    Parameters
    ----------
    predictions : of the validation rows, see `include.models.artifacts.predict`.
    loss : mean of the gate's objective on them; the best value is 0.0.
    seconds : that fitting took.
    """

    candidate: Candidate
    predictions: Array
    loss: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class FinalFit:
    """A recipe fitted to serve, with its predictions of the m test rows."""

    fitted: FittedModel
    estimator: Pipeline
    data: bytes
    predictions: Array


def target(spec: UseCase, rows: pa.Table) -> Array:
    """Return the label of each row, of a multiclass problem the class's place, shape (n,)."""
    return np.asarray(rows[spec.problem.target].to_numpy(), dtype=np.float64)


def fit_and_validate(spec: UseCase, candidate: Candidate, parts: Split) -> ValidationFit:
    """Fit on the training partitions and measure on the validation partitions."""
    started = time.perf_counter()
    estimator = fit_recipe(spec, candidate, parts.train)
    seconds = time.perf_counter() - started
    predictions, actual = artifacts.predict(estimator, parts.validation, spec), target(spec, parts.validation)
    mean = float(row_losses(spec.gate.objective, actual, predictions).mean())
    log.info(
        "%s: %s %.4f on the validation partitions, %.1f s", candidate.name, spec.gate.objective, mean, seconds
    )
    figures = metric_values(names(spec), actual, predictions, spec.problem.classes)
    return ValidationFit(candidate, predictions, mean, figures, seconds)


def fit_final(spec: UseCase, trial: ValidationFit, rows: pa.Table, test: pa.Table) -> FinalFit:
    """Fit on ``rows``: training and validation partitions.

    And after a walk forward the test partitions as well.
    """
    estimator = fit_recipe(spec, trial.candidate, rows)
    data = artifacts.serialize(estimator)
    predictions = artifacts.predict(estimator, test, spec)
    fitted = FittedModel(
        name=trial.candidate.name,
        digest=digest_bytes(data),
        validation=trial.loss,
        predictions=digest_bytes(predictions.tobytes()),
    )
    return FinalFit(fitted, estimator, data, predictions)


def require_learnable_labels(spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse labels that can't be learnt from: none, or of a classifier not every class."""
    labels, codes = target(spec, rows), spec.problem.codes
    found = sorted(set(labels.tolist()))
    if found and (not codes or found == list(codes)):
        return
    required, remedy = "values", "see labels.sql in usecase.yaml, or load more history"
    said = ", ".join(f"{value:g}" for value in found[:5])
    if codes:
        required = "both 0 and 1"
    if spec.problem.classes:
        required = f"rows of each class, {', '.join(spec.problem.classes)},"
        came = zip(spec.problem.classes, codes, strict=True)
        said = ", ".join(f"{int((labels == code).sum())} {name}" for name, code in came if len(labels))
        remedy += ", or put a class that hardly comes together with another"
    raise EvergreenError(
        f"{spec.name}: training on {partition}",
        required=f"{required} as {spec.problem.target} in the training partitions",
        found=said or "no labelled row",
        remedy=remedy,
    )


def fit_recipe(spec: UseCase, candidate: Candidate, rows: pa.Table) -> Pipeline:
    """Fit a recipe on labelled rows.

    Raises
    ------
    SpecError
        when there is no such recipe, or it can't be fitted with these parameters.
    """
    empty = [column for column in spec.features.numeric if rows[column].null_count == rows.num_rows]
    pipeline = build_estimator(spec, candidate, empty)
    try:
        return pipeline.fit(artifacts.model_input(rows, spec), target(spec, rows))
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{spec.name}: training.{candidate.name}",
            required=f"parameters with which {candidate.estimator} can be fitted on {rows.num_rows} rows",
            found=" ".join(str(error).split())[:300],
            where=str(spec.folder / "usecase.yaml"),
        ) from error
