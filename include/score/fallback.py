"""The fallback chain: champion, previous champion, baseline, prior. The first step that can serve does.

Each step that is skipped gives a reason, and the reasons are stored with the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from include.errors import ModelError
from include.models import artifacts, outputs
from include.models.artifacts import Values
from include.models.outputs import Constant
from include.promote.ledger import Serving
from include.spec import UseCase
from include.storage.lake import Lake


@dataclass(frozen=True)
class FallbackStep:
    """One step of the chain: a model, or a constant.

    Parameters
    ----------
    served_by : ``champion``, ``previous``, ``baseline``, ``prior``, ``canary`` or ``shadow``.
    version, model : the model's version and digest, empty for a constant.
    constant : what a step without a model predicts for every row.
    unavailable : why this step can't serve, empty if it can.
    """

    served_by: str
    version: str = ""
    model: str = ""
    constant: Constant | None = None
    unavailable: str = ""

    @property
    def name(self) -> str:
        """The step in a sentence, as ``champion v3``."""
        return f"{self.served_by} v{self.version}" if self.version else self.served_by


@dataclass(frozen=True)
class StepPredictions:
    """The predictions of one step, and why each step before it was skipped."""

    step: FallbackStep
    reason: str
    values: Values


@dataclass(frozen=True)
class PrefetchedModel:
    """A model that is loaded already, and the predictions that it has made already.

    Parameters
    ----------
    predict_batch : predicts one batch of rows.
    precomputed : takes the position of a batch's first row and the batch; returns its predictions, or None if
        they weren't made from exactly these rows.
    """

    predict_batch: Callable[[pa.Table], Values]
    precomputed: Callable[[int, pa.Table], Values | None]


PopPrefetched = Callable[[str], PrefetchedModel | None]  # by the model's digest


def fallback_chain(serving: Serving, spec: UseCase, missing: Mapping[str, str]) -> list[FallbackStep]:
    """Return the steps in order; the last one is a constant and can always serve.

    Parameters
    ----------
    missing : see `missing_sources_reason`.
    """
    no_model = "no model had been promoted by this partition"
    models = {"champion": serving.champion, "previous": serving.previous, "baseline": serving.baseline}
    steps = []
    for served_by, row in models.items():
        if row is None:
            none = (
                "there is no earlier champion" if served_by == "previous" and serving.champion else no_model
            )
            steps.append(FallbackStep(served_by, unavailable=none))
        else:
            reason = missing_sources_reason(spec, served_by, missing)
            steps.append(FallbackStep(served_by, str(row["version"]), str(row["model"]), unavailable=reason))
    finite = serving.prior is not None and np.isfinite(serving.prior).all()
    return [*steps, FallbackStep("prior", constant=serving.prior if finite else spec.fallback)]


def missing_sources_reason(spec: UseCase, served_by: str, missing: Mapping[str, str]) -> str:
    """Return which required sources a step is without, as ``roads is unavailable``; empty if none.

    Parameters
    ----------
    missing : by source, why the partition is without it.
    """
    required: Mapping[str, tuple[str, ...]] = {
        str(name): sources for name, sources in spec.scoring.requires.items()
    }
    return ", ".join(f"{s} is {missing[s]}" for s in required.get(served_by, ()) if s in missing)


def first_available(steps: Sequence[FallbackStep]) -> FallbackStep:
    """Return the step that serves unless its model fails."""
    return next(step for step in steps if not step.unavailable)


def predict_with_fallback(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    steps: Sequence[FallbackStep],
    pop_prefetched: PopPrefetched,
) -> StepPredictions:
    """Return the predictions of the first step that can serve.

    Parameters
    ----------
    rows : features of the partition, shape (n, any).
    """
    skipped: list[str] = []
    for step in steps:
        reason = step.unavailable
        if not reason:
            try:
                values = predict_step(lake, spec, rows, step, pop_prefetched)
                return StepPredictions(step, "; ".join(skipped), values)
            except ModelError as error:
                reason = str(error)
        skipped.append(f"{step.name}: {reason}")
    raise AssertionError("the last step is a constant and can always serve")


def predict_step(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    step: FallbackStep,
    pop_prefetched: PopPrefetched = lambda model: None,
) -> Values:
    """Return the predictions of a step's model or constant.

    Raises
    ------
    ModelError
        when the model can't be loaded or can't predict the rows.
    """
    if step.constant is not None:
        return outputs.repeat_constant(step.constant, rows.num_rows)
    if prefetched := pop_prefetched(step.model):
        return artifacts.fill_predictions(prefetched.predict_batch, rows, spec, prefetched.precomputed)
    return artifacts.predict(artifacts.load_model(lake, step.model, spec), rows, spec)
