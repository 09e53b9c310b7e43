"""Score a partition in shards: each task reads, joins and predicts the rows of its share of the entities.

`plan_shards` fixes what all tasks read: the versions of the tables, and what the partition could know.
`score_shard` computes a shard's features and predictions and stores them, as objects that are written once.
`publish_shards` joins them, and publishes what `pipeline.score` would have, in the same commits. Wherever
shards could give another result, one task scores the partition.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from include.environment import code_version
from include.errors import ModelError, SpecError
from include.features.build import compute_features
from include.features.checks import require_equal
from include.promote import ledger
from include.references import Ref, digest_json
from include.score import fallback, pipeline, predictions
from include.spec import UseCase
from include.storage import spill
from include.storage.erasures import ERASURES_TABLE
from include.storage.lake import Lake

log = logging.getLogger(__name__)
PARTS = "shards/parts"  # what shards have computed, until their partition is published
VERIFIED = "shards/verified"  # an empty object for each partition whose whole features were compared
VERIFIED_PARTITIONS = 3  # that are compared before shards are relied on
FEATURES, PREDICTIONS = "features.arrow", "predictions.arrow"


@dataclass(frozen=True)
class Plan:
    """What all shards of a partition have in common; its digest is part of their keys.

    Parameters
    ----------
    shards : how many there are.
    spec, code : the digest of the declaration, and the version of the code.
    versions : of the tables that each shard reads, -1 for one that doesn't exist.
    missing : by source, why the partition is without it.
    inputs : the digest of each source's rows that were known at the decision.
    """

    partition: str
    shards: int
    spec: str
    code: str
    versions: Mapping[str, int]
    missing: Mapping[str, str]
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """The prefix of the plan's and the shards' objects."""
        return f"{PARTS}/{self.partition}/{digest_json(asdict(self))[:16]}"


def plan_shards(lake: Lake, spec: UseCase, partition: str) -> list[str]:
    """Store the plan of a partition, and return the key of each shard.

    Returns
    -------
    list of str
        Empty if one task scores the partition: it has predictions already, or no rows.
    """
    if lake.count("predictions", {"partition": partition}):
        lake.remove(lake.keys(f"{PARTS}/{partition}"))  # what a run left that was killed after its commit
        return []
    # read before the rows, so that a source published in between isn't "too late"
    states = pipeline.source_states(lake, spec, partition)
    tables = [*(f"validated_{name}" for name in spec.sources), "switches", ERASURES_TABLE]
    versions = {table: lake.version(table) for table in tables}
    rows = pipeline.rows_known_at(lake, spec, partition, versions)
    if not pc.any(pc.equal(rows[spec.features.spine]["partition"], partition)).as_py():
        return []
    missing = fallback.missing_sources(spec, partition, rows, states)
    inputs = pipeline.inputs_digest(rows)
    plan = Plan(partition, spec.scoring.shards, spec.digest, code_version(), versions, missing, inputs)
    lake.create(f"{plan.key}/plan.json", json.dumps(asdict(plan)).encode())
    return [f"{plan.key}/{number}" for number in range(plan.shards)]


def _read_plan(lake: Lake, spec: UseCase, key: str) -> Plan | None:
    """Return the plan of a shard, None if its shards can't be used: one task scores the partition then."""
    data = lake.get(f"{key.rpartition('/')[0]}/plan.json")
    if data is None:  # another run has published the partition, or rows were erased
        return None
    plan = Plan(**json.loads(data))
    return plan if (plan.spec, plan.code) == (spec.digest, code_version()) else None


def score_shard(lake: Lake, spec: UseCase, key: str) -> Ref:
    """Store the features and the predictions of a shard, unless they are stored already.

    Nothing is stored if the features or a model fail: what serves then, and why, depends on all rows.

    Parameters
    ----------
    key : from `plan_shards`.
    """
    prefix, _, number = key.rpartition("/")
    reference = Ref(f"{lake.uri}/{key}", prefix.split("/")[2], note="stored already")
    plan = _read_plan(lake, spec, key)
    if plan is None:
        return replace(reference, note="not needed: one task scores the partition")
    if lake.size(f"{key}/{PREDICTIONS}") is not None:
        return reference
    shard = (int(number), plan.shards)
    source_rows = pipeline.rows_known_at(lake, spec, plan.partition, plan.versions, shard)
    try:
        rows = compute_features(spec, source_rows, [plan.partition])
        predicted = _predict(lake, spec, plan, rows)
    except (SpecError, ModelError) as error:
        subject = f"{spec.name}/{plan.partition}"
        log.warning("%s: a shard failed, so one task will score the whole partition: %s", subject, error)
        return replace(reference, note=f"not stored: {error}")
    lake.create(f"{key}/{FEATURES}", spill.to_bytes(rows))
    lake.create(f"{key}/{PREDICTIONS}", spill.to_bytes(predicted))
    # the rows may have been erased while they were read
    if lake.version(ERASURES_TABLE) != plan.versions[ERASURES_TABLE]:
        lake.remove([f"{key}/{FEATURES}", f"{key}/{PREDICTIONS}"])
    return replace(
        reference, rows=rows.num_rows, note=f"{rows.num_rows:,} rows, shard {number} of {plan.shards}"
    )


def _predict(lake: Lake, spec: UseCase, plan: Plan, rows: pa.Table) -> pa.Table:
    """Return a prediction for each row of a shard; raise ModelError if a model fails that should serve."""
    if not rows.num_rows:
        return predictions.predictions_schema(spec).empty_table()
    switches = ledger.switches(lake, plan.versions["switches"])
    return pipeline.predict_rows(lake, spec, plan.partition, rows, switches, plan.missing, skip_failing=False)


def publish_shards(lake: Lake, spec: UseCase, partition: str, keys: Sequence[str]) -> Ref | None:
    """Join a partition's shards, publish it and remove them; see `pipeline.score` for what is returned.

    Parameters
    ----------
    keys : from `plan_shards`.

    Returns
    -------
    Ref or None
        None if shards can't be used, so that one task has to score the partition.

    Raises
    ------
    SpecError
        if the shards' features differ from those of the whole partition, which is looked at until
        `VERIFIED_PARTITIONS` partitions agreed.
    """
    plan, ref = _read_plan(lake, spec, keys[0]), None
    stored = [[lake.data(f"{key}/{name}") for key in keys] for name in (FEATURES, PREDICTIONS)]
    features, predicted = ([spill.from_bytes(data) for data in of if data is not None] for of in stored)
    if plan is not None and len(features) == len(predicted) == plan.shards:
        rows = spill.sort_rows(pa.concat_tables(features), spec.key)
        _verify(lake, spec, plan, rows)
        states = pipeline.source_states(lake, spec, partition)
        run = pipeline.ScoringRun(lake, spec, partition, states, plan.missing, lambda: plan.inputs)
        switches = ledger.switches(lake, plan.versions["switches"])
        ref = run.publish(rows, switches, lambda: predictions.join_parts(spec, predicted))
        ref = pipeline.finish(lake, spec, partition, ref, plan.versions[ERASURES_TABLE])
    lake.remove(lake.keys(f"{PARTS}/{partition}"))
    return ref


def _verify(lake: Lake, spec: UseCase, plan: Plan, rows: pa.Table) -> None:
    """Compare the joined features of the first partitions with those of the whole partition."""
    sources = {name: spec.digest_of(name) for name in spec.sources}
    features = [spec.features.model_dump(mode="json"), spec.sql, spec.code_digests(of=("features",)), sources]
    verified = f"{VERIFIED}/{digest_json(features)[:16]}"
    if len(lake.keys(verified)) >= VERIFIED_PARTITIONS:
        return
    source_rows = pipeline.rows_known_at(lake, spec, plan.partition, plan.versions)
    require_equal(spec, compute_features(spec, source_rows, [plan.partition]), rows)
    lake.create(f"{verified}/{plan.partition}", b"")
