"""What the serving model learnt on, once a model.

How each column was spread, partition by partition, and a sample.

The profile that training published says how the reference's rows are spread in all. How far its own windows
are from each other needs them by partition: they are counted once from the same features, and kept under the
model's digest.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from include.errors import ModelError
from include.features.build import features
from include.models import artifacts, outputs
from include.monitor.checks.drift import LearnedColumn
from include.spec import UseCase
from include.stats import profiles as profile
from include.stats.drift_measures import Binning
from include.stats.profiles import Profile
from include.storage.lake import Lake


@dataclass(frozen=True)
class Reference:
    """The serving model's side of every comparison.

    Parameters
    ----------
    columns : by name, features, the target and what was predicted (`Problem.outputs`).
    sample : rows of the features that it was fitted on, beside them predictions; None where those are gone.
    rows : how many the sample was drawn from.
    """

    columns: dict[str, LearnedColumn]
    sample: pa.Table | None
    rows: int


def read(lake: Lake, spec: UseCase, champion: Mapping[str, Any] | None) -> Reference | None:
    """Return a champion's reference, None where its training published none.

    Parameters
    ----------
    champion : its row of `deployments`.
    """
    digest = str(champion["model"]) if champion else ""
    rows = lake.rows("profiles", {"product": f"reference:{digest}"}) if champion else []
    if champion is None or not rows:
        return None
    first = min(
        row["partition"] for row in rows
    )  # trained again to the same model, it has the same reference
    profiles = profile.merge_profiles([row for row in rows if row["partition"] == first])
    spread = _kept(lake, digest)
    if spread is None:
        spread = _count(lake, spec, digest, first, _fitted(lake, spec, champion, first), profiles)
    if spread is None:
        return Reference({name: LearnedColumn(p, Binning.of(p)) for name, p in profiles.items()}, None, 0)
    by_partition, sample = spread
    columns = {name: _column(p, by_partition["columns"].get(name)) for name, p in profiles.items()}
    return Reference(columns, sample, int(by_partition["rows"]))


def _column(of: Profile, spread: dict[str, Any] | None) -> LearnedColumn:
    if spread is None:
        return LearnedColumn(of, Binning.of(of))
    names = spread["names"]
    cut = Binning(tuple(spread["edges"]), None if names is None else tuple(names))
    partitions = np.array(spread["counts"], dtype=np.float64)
    learnt = np.array(spread["learnt"], dtype=np.bool_)
    return LearnedColumn(of, cut, partitions, learnt, np.array(spread["missing"]), np.array(spread["unseen"]))


def _kept(lake: Lake, digest: str) -> tuple[dict[str, Any], pa.Table] | None:
    """Return the spread and the sample that an earlier partition kept."""
    spread, sample = lake.get(f"references/{digest}.json"), lake.get(f"references/{digest}.parquet")
    return (
        None if spread is None or sample is None else (json.loads(spread), pq.read_table(io.BytesIO(sample)))
    )


def _fitted(lake: Lake, spec: UseCase, champion: Mapping[str, Any], partition: str) -> tuple[str, str]:
    """Return the last partition that a champion was fitted on, and the last before those it was judged on.

    By its evidence, or as the spec splits now. Of a walk forward the first is the later one.
    """
    for row in lake.rows("attempts", {"key": str(champion["attempt"])}):
        evidence = json.loads(row["evidence"])
        return str(evidence["fitted"]), str(evidence["last_fitted"])
    last = spec.clock.shift(partition, -spec.training.test)
    return last, last


def _count(
    lake: Lake,
    spec: UseCase,
    digest: str,
    partition: str,
    last: tuple[str, str],
    profiles: dict[str, Profile],
) -> tuple[dict[str, Any], pa.Table] | None:
    """Count the partitions of a training by the reference's bins, draw its sample, and keep both."""
    shift, training = spec.clock.shift, spec.training
    start = shift(partition, -training.window) if training.window else spec.schedule.start
    partitions = spec.partitions(spec.features.spine, start, partition)
    rows = features(lake, spec, partitions)
    fitted = [key for key in partitions if key <= last[0]]
    trained = rows.filter(pc.less_equal(rows["partition"], last[0]))
    # after a walk forward the partitions that it was judged on were fitted on as well, and none are left but
    # they
    later = rows.filter(pc.greater(rows["partition"], min(last)))
    if not trained.num_rows:
        return None
    found = {c: _spread(rows, c, profiles[c], fitted) for c in spec.features.columns if c in profiles}
    predicted = _predicted(lake, spec, digest, later)
    if predicted is not None:
        # those that had labels by then are in the profile that training published
        matured = [key for key in partitions if key <= shift(partition, -spec.labels.delay)]
        said = [name for name in spec.problem.outputs if name in profiles]
        found |= {name: _spread(predicted, name, profiles[name], matured) for name in said}
    spread = {"rows": trained.num_rows, "columns": found}
    sink = io.BytesIO()
    pq.write_table(_sample(spec, trained, predicted), sink)
    lake.create(f"references/{digest}.json", json.dumps(spread, sort_keys=True, allow_nan=False).encode())
    lake.create(f"references/{digest}.parquet", sink.getvalue())
    return _kept(lake, digest)


def _predicted(lake: Lake, spec: UseCase, digest: str, rows: pa.Table) -> pa.Table | None:
    """Return the rows with what the model says of them, None where it can't say."""
    try:
        values = artifacts.predict(artifacts.load_model(lake, digest), rows, spec)
    except ModelError:
        return None
    for name, said in outputs.to_columns(spec, values).items():
        rows = rows.append_column(name, said)
    return rows if rows.num_rows else None


def _spread(rows: pa.Table, name: str, of: Profile, learnt: list[str]) -> dict[str, Any]:
    """Count one column by partition and bin; rows are sorted by partition."""
    cut = Binning.of(of)
    partitions = sorted(pc.unique(rows["partition"]).to_pylist())
    values = rows[name].combine_chunks()
    partition = pc.index_in(rows["partition"], pa.array(partitions)).to_numpy()
    total = np.bincount(partition, minlength=len(partitions))
    partition = partition[values.is_valid().to_numpy(zero_copy_only=False)]
    values = values.drop_null()
    values = values.cast(pa.string() if cut.names is not None else pa.float64())
    counts = np.bincount(partition * cut.bins + cut.bin_indexes(values), minlength=len(partitions) * cut.bins)
    return {
        "edges": list(cut.edges),
        "names": None if cut.names is None else list(cut.names),
        "counts": counts.reshape(len(partitions), cut.bins).tolist(),
        "missing": (1 - np.bincount(partition, minlength=len(partitions)) / total).tolist(),
        "learnt": [key in set(learnt) for key in partitions],
        "unseen": _alone(partition, values, len(partitions)).tolist(),
    }


def _alone(partition: NDArray[np.intp], values: pa.Array, partitions: int) -> NDArray[np.float64]:
    """Return by partition the share of its values beyond what every other partition holds.

    Shape (partitions,).
    """
    rows = np.bincount(partition, minlength=partitions)
    if pa.types.is_string(values.type):
        codes = values.dictionary_encode().indices.to_numpy()
        pairs = np.unique(np.stack([codes, partition]), axis=1)
        in_partitions = np.bincount(pairs[0], minlength=codes.max(initial=-1) + 1)
        beyond = np.bincount(partition[in_partitions[codes] == 1], minlength=partitions)
        return np.asarray(beyond / np.maximum(rows, 1))
    numbers = values.to_numpy(zero_copy_only=False)
    share = np.zeros(partitions)
    for place in range(partitions):
        own, others = numbers[partition == place], numbers[partition != place]
        if len(own) and len(others):
            share[place] = np.mean((own < others.min()) | (own > others.max()))
    return share


def _sample(spec: UseCase, rows: pa.Table, predicted: pa.Table | None) -> pa.Table:
    """Return a seeded sample of the training features, and beside it one of predictions on rows held out."""
    random = np.random.default_rng(spec.training.seed)
    size = min(spec.monitoring.report_rows, rows.num_rows)
    drawn = rows.take(np.sort(random.choice(rows.num_rows, size, replace=False))).select(
        list(spec.features.columns)
    )
    few = 0 if predicted is None else min(size, predicted.num_rows)
    places = np.sort(random.choice(predicted.num_rows, few, replace=False)) if predicted is not None else None
    for name in spec.problem.outputs:
        values = pa.array([], pa.float64()) if predicted is None else predicted[name].take(places)
        padded = pa.chunked_array([*pa.chunked_array([values]).chunks, pa.nulls(size - few, pa.float64())])
        drawn = drawn.append_column(name, padded)
    return drawn
