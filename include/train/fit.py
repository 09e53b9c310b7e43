"""Fits candidates and baselines: once on the training partitions to compare them, once more to serve."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import InsufficientData, SpecError
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.metrics import metric_names
from include.spec.stages import Candidate
from include.stats.metrics import metric_values, row_losses
from include.train.recipes import build_estimator
from include.train.record import FittedModel
from include.train.split import Split

Array = NDArray[np.float64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationFit:
    """A candidate fitted on the training partitions and measured on the validation partitions.

    Parameters
    ----------
    predictions : for the validation rows, see `include.models.artifacts.predict`.
    loss : mean of the gate's objective over the validation rows; the best value is 0.0.
    seconds : how long fitting took.
    """

    candidate: Candidate
    predictions: Array
    loss: float
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class FinalFit:
    """A candidate fitted to serve, its stored bytes, and its predictions for the m test rows."""

    fitted: FittedModel
    estimator: Pipeline
    data: bytes
    predictions: Array


def target(spec: UseCase, rows: pa.Table) -> Array:
    """Return the label of each row, or the class's code for a multiclass problem, shape (n,)."""
    return np.asarray(rows[spec.problem.target].to_numpy(), dtype=np.float64)


def fit_and_validate(spec: UseCase, candidate: Candidate, parts: Split) -> ValidationFit:
    """Fit a candidate on the training partitions and measure it on the validation partitions."""
    started = time.perf_counter()
    estimator = fit_recipe(spec, candidate, parts.train)
    seconds = time.perf_counter() - started
    predictions, actual = artifacts.predict(estimator, parts.validation, spec), target(spec, parts.validation)
    loss = float(row_losses(spec.gate.objective, actual, predictions).mean())
    log.info(
        "%s: %s %.4f on the validation partitions, fitted in %.1f s",
        candidate.name,
        spec.gate.objective,
        loss,
        seconds,
    )
    metrics = metric_values(metric_names(spec), actual, predictions, spec.problem.classes)
    return ValidationFit(candidate, predictions, loss, metrics, seconds)


def fit_final(spec: UseCase, validated: ValidationFit, rows: pa.Table, test: pa.Table) -> FinalFit:
    """Fit a validated candidate to serve.

    Parameters
    ----------
    rows : the training and validation partitions; after a walk forward the test partitions as well.
    test : the rows to predict.
    """
    estimator = fit_recipe(spec, validated.candidate, rows)
    data = artifacts.serialize(estimator)
    predictions = artifacts.predict(estimator, test, spec)
    fitted = FittedModel(
        name=validated.candidate.name,
        digest=digest_bytes(data),
        validation=validated.loss,
        predictions=digest_bytes(predictions.tobytes()),
    )
    return FinalFit(fitted, estimator, data, predictions)


def fit_recipe(spec: UseCase, candidate: Candidate, rows: pa.Table) -> Pipeline:
    """Fit a candidate's pipeline on labelled rows.

    Raises
    ------
    SpecError
        when there is no such estimator, or it can't be fitted with these parameters.
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


def require_learnable_labels(spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse rows that no model can be fitted on: rows without labels, or without one of the classes."""
    labels, codes = target(spec, rows), spec.problem.codes
    values = sorted(set(labels.tolist()))
    if values and (not codes or values == list(codes)):
        return
    required, remedy = "values", "see labels.sql in usecase.yaml, or load more history"
    found = ", ".join(f"{value:g}" for value in values[:5])
    if codes:
        required = "both 0 and 1"
    if spec.problem.classes:
        required = f"rows of each class, {', '.join(spec.problem.classes)},"
        counts = zip(spec.problem.classes, codes, strict=True)
        found = ", ".join(f"{int((labels == code).sum())} {name}" for name, code in counts if len(labels))
        remedy += ", or merge a class that hardly occurs into another"
    raise InsufficientData(
        f"{spec.name}: training on {partition}",
        required=f"{required} as {spec.problem.target} in the training partitions",
        found=found or "no labelled row",
        remedy=remedy,
    )
