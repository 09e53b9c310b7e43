"""Shadow scoring: models on trial score each partition too, and their predictions go to `shadows`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set

import pyarrow as pa

from include.errors import ModelError
from include.promote.ledger import SHADOW
from include.promote.trials import Trial
from include.score import fallback, predictions
from include.score.fallback import FallbackStep, StepPredictions
from include.spec import UseCase
from include.storage import spill
from include.storage.digests import digest_table
from include.storage.lake import Lake

log = logging.getLogger(__name__)
TABLE = "shadows"


def score_shadow(
    lake: Lake,
    spec: UseCase,
    rows: pa.Table,
    served: pa.Table,
    trials: Iterable[Trial],
    inputs: Mapping[str, str],
) -> None:
    """Publish to `shadows` the predictions of each model on trial that doesn't serve every row.

    Idempotent: predictions that match their recorded digest are kept. What a killed run left without its row
    in `partitions`, or what was changed since, is computed again. A model that can't score the rows logs a
    warning and is skipped, so its trial lacks this partition.

    Parameters
    ----------
    rows : the partition's features, shape (n, any).
    served : the partition's predictions.
    inputs : the digest of each source's rows that were known at the decision time.
    """
    partition = rows["partition"][0].as_py()
    steps = shadow_steps(trials, set(served["model"].unique().to_pylist()))
    if not steps:
        return
    recorded = _recorded(lake, spec, partition)
    tables = [] if recorded is None else [recorded]
    recorded_models = set() if recorded is None else set(recorded["model"].to_pylist())
    for step in steps:
        if step.model in recorded_models:
            continue
        try:
            values = fallback.predict_step(lake, spec, rows, step)
        except ModelError as error:
            log.warning("%s/%s: shadow scoring by v%s failed: %s", spec.name, partition, step.version, error)
            continue
        tables.append(predictions.build_predictions(spec, rows, StepPredictions(step, "", values)))
    if tables and (recorded is None or len(tables) > 1):
        _publish(lake, spec, partition, pa.concat_tables(tables), inputs)


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


def _recorded(lake: Lake, spec: UseCase, partition: str) -> pa.Table | None:
    """Return a partition's shadow predictions, None unless they have the digest that was recorded."""
    for row in lake.rows("partitions", {"product": TABLE, "partition": partition}):
        published = lake.read(TABLE, {"partition": partition})
        shadows = _sort(spec, predictions.as_published(spec, published))
        if digest_table(shadows) == row["digest"]:
            return shadows
    return None


def _publish(lake: Lake, spec: UseCase, partition: str, shadows: pa.Table, inputs: Mapping[str, str]) -> None:
    shadows = _sort(spec, shadows)
    lake.publish(TABLE, shadows, {"partition": partition})
    row = predictions.predictions_row(
        TABLE, partition, shadows, inputs, spec.digest, predictions.serving_sentence(shadows)
    )
    lake.publish("partitions", row, {"product": TABLE, "partition": partition})


def _sort(spec: UseCase, rows: pa.Table) -> pa.Table:
    return spill.sort_rows(rows, ("model", *spec.key))
