"""The fallback chain: champion, previous champion, baseline, constant. The first step that can serve does.

Each step that is skipped gives a reason, and the reasons are stored with the predictions. A canary is a step
before the champion, for its share of the entities.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.errors import ModelError
from include.models import artifacts, outputs
from include.models.artifacts import BatchPredictor, Values
from include.models.outputs import Constant
from include.promote.ledger import CANARY, SHADOW, Serving, Trial
from include.spec import UseCase
from include.storage import spill
from include.storage.lake import Lake


@dataclass(frozen=True)
class FallbackStep:
    """One step of the chain: a model, or a constant.

    Parameters
    ----------
    served_by : ``champion``, ``previous``, ``baseline``, ``constant``, ``canary`` or ``shadow``.
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


LoadModel = Callable[[str], BatchPredictor]  # by the model's digest; may raise a ModelError


def fallback_chain(serving: Serving, spec: UseCase, missing: Mapping[str, str]) -> list[FallbackStep]:
    """Return the steps in order; the last one is a constant and can always serve.

    Parameters
    ----------
    missing : see `missing_sources`.
    """
    no_model = "no model had been promoted before this partition"
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
    finite = serving.constant is not None and np.isfinite(serving.constant).all()
    return [*steps, FallbackStep("constant", constant=serving.constant if finite else spec.constant)]


def missing_sources(
    spec: UseCase,
    partition: str,
    source_rows: Mapping[str, pa.Table],
    states: Mapping[str, dict[str, object]],
) -> dict[str, str]:
    """Return by source why the partition is without it, as ``unavailable``.

    Parameters
    ----------
    source_rows : see `pipeline.rows_known_at`.
    states : see `pipeline.source_states`.
    """
    missing = {}
    for name in spec.sources:
        row = states.get(name)
        if row is None or row["outcome"] != "published":
            missing[name] = str(row["outcome"]) if row else "not published"
        elif row["rows"] and not pc.any(pc.equal(source_rows[name]["partition"], partition)).as_py():
            # point-in-time: a backfill must not use what the scheduled run couldn't know
            missing[name] = "published too late for this partition"
    return missing


def missing_sources_reason(spec: UseCase, served_by: str, missing: Mapping[str, str]) -> str:
    """Return which required sources a step is without, as ``roads is unavailable``; empty if none.

    Parameters
    ----------
    missing : see `missing_sources`.
    """
    required: Mapping[str, tuple[str, ...]] = {
        str(name): sources for name, sources in spec.scoring.requires.items()
    }
    return ", ".join(f"{s} is {missing[s]}" for s in required.get(served_by, ()) if s in missing)


def shadow_steps(trials: Iterable[Trial], serving: Set[str]) -> list[FallbackStep]:
    """Return a step for each model on trial that isn't the only one that serves.

    Parameters
    ----------
    serving : the digests of the models that served the rows.
    """
    on_trial = {str(row["model"]): row for trial in trials for row in (trial.candidate, trial.incumbent)}
    return [
        FallbackStep(SHADOW, str(row["version"]), model)
        for model, row in on_trial.items()
        if serving != {model}
    ]


def split_canary(
    spec: UseCase,
    rows: pa.Table,
    steps: list[FallbackStep],
    trials: Sequence[Trial],
    missing: Mapping[str, str],
) -> list[tuple[pa.Table, list[FallbackStep]]]:
    """Return the rows with their fallback chain: one group, or two if a canary serves some of the rows.

    Parameters
    ----------
    missing : by source, why the partition is without it. A canary requires the champion's sources.
    """
    for trial in trials:
        if trial.kind == CANARY:
            model, version = str(trial.candidate["model"]), str(trial.candidate["version"])
            reason = missing_sources_reason(spec, "champion", missing)
            canary = FallbackStep(CANARY, version, model, unavailable=reason)
            share = pa.array(canary_entities(spec, rows, model), pa.bool_())
            groups = [
                (spill.filter_rows(rows, share), [canary, *steps]),
                (spill.filter_rows(rows, pc.invert(share)), steps),
            ]
            return [(group, chain) for group, chain in groups if group.num_rows]
    return [(rows, steps)]


def canary_entities(spec: UseCase, rows: pa.Table, model: str) -> list[bool]:
    """Tell for each row whether its entity is in the canary's share.

    The hash includes the model's digest, so that each canary gets other entities.
    """
    columns = spec.gate.rollout.entity or spec.key
    limit = int(spec.gate.rollout.share * 2**64)
    entities = zip(*(rows[name].to_pylist() for name in columns), strict=True)
    texts = (f"{model}{json.dumps(entity, default=str)}".encode() for entity in entities)
    return [int.from_bytes(blake2b(text, digest_size=8).digest()) < limit for text in texts]


def predict_with_fallback(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    steps: Sequence[FallbackStep],
    load: LoadModel | None = None,
    *,
    skip_failing: bool = True,
) -> StepPredictions:
    """Return the predictions of the first step that can serve.

    Parameters
    ----------
    rows : features of the partition, shape (n, any).
    load : see `predict_step`.
    skip_failing : whether the next step serves if a model fails.

    Raises
    ------
    ModelError
        when a model fails, unless ``skip_failing``.
    """
    skipped: dict[str, list[str]] = {}  # the names of steps by their reason
    for step in steps:
        reason = step.unavailable
        if not reason:
            try:
                values = predict_step(lake, spec, rows, step, load)
                texts = (f"{', '.join(names)}: {why}" for why, names in skipped.items())
                return StepPredictions(step, "; ".join(texts), values)
            except ModelError as error:
                if not skip_failing:
                    raise
                reason = str(error)
        skipped.setdefault(reason, []).append(step.name)
    raise AssertionError("the last step is a constant and can always serve")


def predict_step(
    lake: Lake, spec: UseCase, rows: pa.Table, step: FallbackStep, load: LoadModel | None = None
) -> Values:
    """Return the predictions of a step's model or constant.

    Parameters
    ----------
    load : returns the function that predicts a batch by a model. Default: the model is read from the lake.

    Raises
    ------
    ModelError
        when the model can't be loaded or can't predict the rows.
    """
    if step.constant is not None:
        return outputs.repeat_constant(step.constant, rows.num_rows)
    if load is None:
        return artifacts.predict(artifacts.load_model(lake, step.model, spec), rows, spec)
    return artifacts.predict_batches(load(step.model), rows, spec)
