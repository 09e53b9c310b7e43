"""A model on trial scores each partition beside the one that serves; its rows are kept apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import ModelError
from include.features import point_in_time
from include.promote.trials import CANARY_ROLE, SHADOW, Trial
from include.score import fallback, predictions
from include.score.fallback import Rung, Served
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
    on_trial: Iterable[Trial],
    inputs: Mapping[str, str],
) -> None:
    """Publish to `shadows` what each model on trial says of the rows that it doesn't serve.

    What is there as recorded stays, so scoring a partition again changes nothing; what a kill left without
    its row in `partitions`, or was changed since, is made anew. A model that can't score the rows is logged
    and leaves none: the trial then lacks the partition.

    Parameters
    ----------
    rows : the partition's features, shape (n, any).
    served : the partition's predictions.
    inputs : the digest of what the partition saw of each source.
    """
    partition, everywhere = rows["partition"][0].as_py(), set(served["model"].unique().to_pylist())
    wanted = {str(row["model"]): row for trial in on_trial for row in (trial.candidate, trial.incumbent)}
    wanted = {model: row for model, row in wanted.items() if everywhere != {model}}
    if not wanted:
        return
    kept = _kept(lake, spec, partition)
    made = [kept] if kept is not None else []
    have = set(kept["model"].to_pylist()) if kept is not None else set()
    for model, row in wanted.items():
        if model in have:
            continue
        step = Rung(SHADOW, str(row["version"]), model)
        try:
            values = fallback.predict_rung(lake, spec, rows, step)
        except ModelError as error:
            log.warning("%s/%s: v%s can't score beside: %s", spec.name, partition, row["version"], error)
            continue
        made.append(predictions.build_predictions(spec, rows, Served(step, "", values)))
    if made and (kept is None or len(made) > 1):
        _publish(lake, spec, partition, pa.concat_tables(made), inputs)


def _kept(lake: Lake, spec: UseCase, partition: str) -> pa.Table | None:
    """Return a partition's rows if they are those that were recorded."""
    for recorded in lake.rows("partitions", {"product": TABLE, "partition": partition}):
        found = _sorted(
            spec,
            point_in_time.conform(
                lake.read(TABLE, {"partition": partition}), predictions.predictions_schema(spec)
            ),
        )
        if digest_table(found) == recorded["digest"]:
            return found
    return None


def _publish(lake: Lake, spec: UseCase, partition: str, made: pa.Table, inputs: Mapping[str, str]) -> None:
    made = _sorted(spec, made)
    lake.publish(TABLE, made, {"partition": partition})
    done = predictions.predictions_row(
        TABLE, partition, made, inputs, spec.digest, predictions.serving_sentence(made)
    )
    lake.publish("partitions", done, {"product": TABLE, "partition": partition})


def _sorted(spec: UseCase, rows: pa.Table) -> pa.Table:
    return spill.sort_rows(rows, ("model", *spec.key))


Part = tuple[pa.Table, list[Rung]]


def split_canary(spec: UseCase, rows: pa.Table, rungs: list[Rung], on_trial: Sequence[Trial]) -> list[Part]:
    """Return the partition's rows in one part, or in two when a canary serves some of them.

    With their rungs.
    """
    for trial in on_trial:
        if trial.kind == CANARY_ROLE:
            model, version = str(trial.candidate["model"]), str(trial.candidate["version"])
            chosen = pa.array(canary_entities(spec, rows, model), pa.bool_())
            both = [(spill.filter_rows(rows, chosen), [Rung(CANARY_ROLE, version, model), *rungs])]
            both.append((spill.filter_rows(rows, pc.invert(chosen)), rungs))
            return [part for part in both if part[0].num_rows]
    return [(rows, rungs)]


def canary_entities(spec: UseCase, rows: pa.Table, model: str) -> list[bool]:
    """Tell for each row whether its entity is in the canary's share.

    The model's digest goes into the hash, so that it isn't always the same entities that try what is new.
    """
    columns = spec.gate.rollout.entity or spec.key
    edge = int(spec.gate.rollout.share * 2**64)
    names = zip(*(rows[name].to_pylist() for name in columns), strict=True)
    texts = (f"{model}{json.dumps(name, default=str)}".encode() for name in names)
    return [int.from_bytes(blake2b(text, digest_size=8).digest()) < edge for text in texts]
