"""Shadow scoring: models on trial score each partition too, and their predictions go to `shadows`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import ModelError
from include.promote.ledger import CANARY, SHADOW
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
    serving_models = set(served["model"].unique().to_pylist())
    on_trial = {str(row["model"]): row for trial in trials for row in (trial.candidate, trial.incumbent)}
    on_trial = {model: row for model, row in on_trial.items() if serving_models != {model}}
    if not on_trial:
        return
    recorded = _recorded(lake, spec, partition)
    tables = [] if recorded is None else [recorded]
    recorded_models = set() if recorded is None else set(recorded["model"].to_pylist())
    for model, row in on_trial.items():
        if model in recorded_models:
            continue
        step = FallbackStep(SHADOW, str(row["version"]), model)
        try:
            values = fallback.predict_step(lake, spec, rows, step)
        except ModelError as error:
            log.warning(
                "%s/%s: shadow scoring by v%s failed: %s", spec.name, partition, row["version"], error
            )
            continue
        tables.append(predictions.build_predictions(spec, rows, StepPredictions(step, "", values)))
    if tables and (recorded is None or len(tables) > 1):
        _publish(lake, spec, partition, pa.concat_tables(tables), inputs)


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
            reason = fallback.missing_sources_reason(spec, "champion", missing)
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
