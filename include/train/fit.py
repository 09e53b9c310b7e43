"""Fits a recipe, and refuses rows that no model can be fitted on."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import InsufficientData, SpecError
from include.spec import UseCase
from include.spec.stages import Recipe
from include.train import tuning
from include.train.python_estimators import estimator_code

Array = NDArray[np.float64]


def target(spec: UseCase, rows: pa.Table) -> Array:
    """Return the label of each row, or the class's code for a multiclass problem, shape (n,)."""
    return np.asarray(rows[spec.problem.target].to_numpy(), dtype=np.float64)


def fit_recipe(spec: UseCase, candidate: Recipe, rows: pa.Table) -> Pipeline:
    """Fit a candidate's pipeline on labeled rows.

    Raises
    ------
    SpecError
        when there is no such estimator, or it can't be fitted with these parameters.
    """
    if code := estimator_code(spec, candidate):
        required = f"an estimator that can be fitted on {rows.num_rows} rows"
        return cast("Pipeline", code.call(required, tuning.fit, spec, candidate, rows, target(spec, rows)))
    try:
        return tuning.fit(spec, candidate, rows, target(spec, rows))
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{spec.name}: training.{candidate.name}",
            required=f"parameters with which {candidate.estimator} can be fitted on {rows.num_rows} rows",
            found=" ".join(str(error).split())[:300],
            where=str(spec.folder / "usecase.yaml"),
            remedy="correct the params of this recipe in usecase.yaml",
        ) from error


def is_learnable(spec: UseCase, rows: pa.Table) -> bool:
    """Return whether a model can be fitted on rows, see `tuning.is_learnable`."""
    return tuning.is_learnable(spec, target(spec, rows))


def require_learnable_labels(spec: UseCase, partition: str, rows: pa.Table) -> None:
    """Refuse rows that no model can be fitted on: rows without labels, or of one class only.

    Raises
    ------
    InsufficientData
        as above.
    SpecError
        when the objective isn't defined for the labels.
    """
    if is_learnable(spec, rows):
        least = target(spec, rows).min()
        if spec.gate.objective == "poisson_deviance" and least < 0:
            raise SpecError(
                f"{spec.name}: gate.objective",
                required=f"labels of at least 0 for poisson_deviance, as {spec.problem.target}",
                found=f"{least:g}",
                where=str(spec.folder / "usecase.yaml"),
                remedy="correct labels.sql, or use another objective",
            )
        return
    labels, codes = target(spec, rows), spec.problem.codes
    values = sorted(set(labels.tolist()))
    required, remedy = "values", "see labels.sql in usecase.yaml, or load more history"
    found = ", ".join(f"{value:g}" for value in values[:5])
    if codes:
        required = "both 0 and 1"
    if spec.problem.classes:
        required = f"rows of two classes or more of {', '.join(spec.problem.classes)}"
        counts = zip(spec.problem.classes, codes, strict=True)
        found = ", ".join(f"{int((labels == code).sum())} {name}" for name, code in counts if len(labels))
    raise InsufficientData(
        f"{spec.name}: training on {partition}",
        required=f"{required} as {spec.problem.target} in the training partitions",
        found=found or "no labeled row",
        remedy=remedy,
    )
