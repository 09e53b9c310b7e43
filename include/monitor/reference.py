"""The reference of a model: how each column was distributed in its training, by partition, and a sample.

Training publishes a profile of all the reference's rows. The distances between the training's own windows
need counts by partition as well. They are counted once per model from the same features, and stored under the
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
from include.spec import UseCase
from include.stats.drift_measures import Binning, Counts
from include.stats.profiles import Profile
from include.storage.lake import Lake
from include.storage.windows import partition_before
from include.train.monitoring_baselines import champion_profiles


@dataclass(frozen=True)
class ReferenceColumn:
    """A column as the serving model saw it in training.

    Parameters
    ----------
    profile : of the reference.
    partitions : exact counts by partition and bin, shape (partitions, bins).
    fitted : which of those partitions are part of the reference, shape (partitions,).
    missing : by partition, the share of its rows without a value.
    unseen : by partition, the share of its values beyond what every other partition has.
    distinct : by partition, its number of distinct values. None, as above, if there are no counts by
        partition, or if they were stored before this was counted.
    """

    profile: Profile
    binning: Binning
    partitions: Counts | None = None
    fitted: NDArray[np.bool_] | None = None
    missing: NDArray[np.float64] | None = None
    unseen: NDArray[np.float64] | None = None
    distinct: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Reference:
    """The serving model's side of every comparison.

    Parameters
    ----------
    columns : by name: features, the target and the predictions (`Problem.outputs`).
    sample : feature rows that the model was fitted on, with a column of predictions; None if those are gone.
    rows : how many rows the sample was drawn from.
    """

    columns: dict[str, ReferenceColumn]
    sample: pa.Table | None
    rows: int


def read(lake: Lake, spec: UseCase, champion: Mapping[str, Any] | None) -> Reference | None:
    """Return a champion's reference, None if its training published none.

    Parameters
    ----------
    champion : its row of `switches`.
    """
    if champion is None:
        return None
    digest, trained = str(champion["model"]), str(champion["judged_on"])
    profiles = champion_profiles(lake, spec, champion)
    if not profiles:
        return None
    stored = _read_stored(lake, digest)
    if stored is None:
        last_fitted = _last_fitted(lake, spec, champion, trained)
        stored = _count_and_store(lake, spec, digest, trained, last_fitted, profiles)
    counts, sample = stored or ({"columns": {}, "rows": 0}, None)
    columns = {name: _column(profile, counts["columns"].get(name)) for name, profile in profiles.items()}
    return Reference(columns, sample, int(counts["rows"]))


def _column(profile: Profile, counts: dict[str, Any] | None) -> ReferenceColumn:
    if counts is None:
        return ReferenceColumn(profile, Binning.of(profile))
    names = counts["names"]
    return ReferenceColumn(
        profile,
        Binning(tuple(counts["edges"]), None if names is None else tuple(names)),
        partitions=np.array(counts["counts"], dtype=np.float64),
        fitted=np.array(counts["fitted"], dtype=np.bool_),
        missing=np.array(counts["missing"]),
        unseen=np.array(counts["unseen"]),
        distinct=np.array(counts["distinct"]) if "distinct" in counts else None,
    )


def _read_stored(lake: Lake, digest: str) -> tuple[dict[str, Any], pa.Table] | None:
    """Return the counts by partition and the sample that an earlier partition stored."""
    counts, sample = lake.get(f"references/{digest}.json"), lake.get(f"references/{digest}.parquet")
    if counts is None or sample is None:
        return None
    return json.loads(counts), pq.read_table(io.BytesIO(sample))


def _last_fitted(lake: Lake, spec: UseCase, champion: Mapping[str, Any], partition: str) -> tuple[str, str]:
    """Return the last partition that a champion was fitted on, and the last one before its test partitions.

    They come from its evidence, or else from the split that is declared now. After a walk forward the first
    is later than the second.
    """
    for row in lake.rows("attempts", {"key": str(champion["attempt"])}):
        evidence = json.loads(row["evidence"])
        return str(evidence["fitted"]), str(evidence["last_fitted"])
    last = partition_before(lake, spec, partition, spec.training.test)
    return last, last


def _count_and_store(
    lake: Lake,
    spec: UseCase,
    digest: str,
    partition: str,
    last_fitted: tuple[str, str],
    profiles: dict[str, Profile],
) -> tuple[dict[str, Any], pa.Table] | None:
    """Count the partitions of a training by the reference's bins, draw its sample, and store both."""
    shift, training = spec.clock.shift, spec.training
    window = training.window
    start = partition_before(lake, spec, partition, window) if window else spec.schedule.start
    partitions = spec.partitions(spec.features.spine, start, partition)
    rows = features(lake, spec, partitions)
    fitted = [key for key in partitions if key <= last_fitted[0]]
    fitted_rows = rows.filter(pc.less_equal(rows["partition"], last_fitted[0]))
    # after a walk forward the model was fitted on its test partitions too, and no others are left
    later = rows.filter(pc.greater(rows["partition"], min(last_fitted)))
    if not fitted_rows.num_rows:
        return None
    columns = {
        name: _column_counts(rows, name, profiles[name], fitted)
        for name in spec.features.columns
        if name in profiles
    }
    predicted = _with_predictions(lake, spec, digest, later)
    if predicted is not None:
        # the profile that training published has the partitions whose labels were known by then
        matured = [key for key in partitions if key <= shift(partition, -spec.labels.delay)]
        for name in spec.problem.outputs:
            if name in profiles:
                columns[name] = _column_counts(predicted, name, profiles[name], matured)
    counts = {"rows": fitted_rows.num_rows, "columns": columns}
    sink = io.BytesIO()
    pq.write_table(_sample(spec, fitted_rows, predicted), sink)
    lake.create(f"references/{digest}.json", json.dumps(counts, sort_keys=True, allow_nan=False).encode())
    lake.create(f"references/{digest}.parquet", sink.getvalue())
    return _read_stored(lake, digest)


def _with_predictions(lake: Lake, spec: UseCase, digest: str, rows: pa.Table) -> pa.Table | None:
    """Return the rows with a model's predictions, None if it can't predict them."""
    try:
        values = artifacts.predict(artifacts.load_model(lake, digest, spec), rows, spec)
    except ModelError:
        return None
    for name, column in outputs.to_columns(spec, values).items():
        rows = rows.append_column(name, column)
    return rows if rows.num_rows else None


def _column_counts(rows: pa.Table, name: str, profile: Profile, fitted: list[str]) -> dict[str, Any]:
    """Count one column by partition and bin; rows are sorted by partition."""
    binning = Binning.of(profile)
    partitions = sorted(pc.unique(rows["partition"]).to_pylist())
    values = rows[name].combine_chunks()
    partition = pc.index_in(rows["partition"], pa.array(partitions)).to_numpy()
    total = np.bincount(partition, minlength=len(partitions))
    partition = partition[values.is_valid().to_numpy(zero_copy_only=False)]
    values = values.drop_null()
    values = values.cast(pa.string() if binning.names is not None else pa.float64())
    counts = np.bincount(
        partition * binning.bins + binning.bin_indexes(values), minlength=len(partitions) * binning.bins
    )
    return {
        "edges": list(binning.edges),
        "names": None if binning.names is None else list(binning.names),
        "counts": counts.reshape(len(partitions), binning.bins).tolist(),
        "missing": (1 - np.bincount(partition, minlength=len(partitions)) / total).tolist(),
        "fitted": [key in set(fitted) for key in partitions],
        "unseen": _unseen_elsewhere(partition, values, len(partitions)).tolist(),
        "distinct": _distinct(partition, values, len(partitions)).tolist(),
    }


def _distinct(partition: NDArray[np.intp], values: pa.Array, partitions: int) -> NDArray[np.int64]:
    """Return by partition its number of distinct values, shape (partitions,)."""
    rows = pa.table({"partition": partition, "value": values})
    counts = rows.group_by("partition").aggregate([("value", "count_distinct")])
    distinct = np.zeros(partitions, dtype=np.int64)
    distinct[counts["partition"].to_numpy()] = counts["value_count_distinct"].to_numpy()
    return distinct


def _unseen_elsewhere(partition: NDArray[np.intp], values: pa.Array, partitions: int) -> NDArray[np.float64]:
    """Return by partition the share of its values that no other partition has, shape (partitions,)."""
    rows = np.bincount(partition, minlength=partitions)
    if pa.types.is_string(values.type):
        codes = values.dictionary_encode().indices.to_numpy()
        pairs = np.unique(np.stack([codes, partition]), axis=1)
        in_partitions = np.bincount(pairs[0], minlength=codes.max(initial=-1) + 1)
        beyond = np.bincount(partition[in_partitions[codes] == 1], minlength=partitions)
        return np.asarray(beyond / np.maximum(rows, 1))
    numbers = values.to_numpy(zero_copy_only=False)
    low, high = np.full(partitions, np.inf), np.full(partitions, -np.inf)
    np.minimum.at(low, partition, numbers)
    np.maximum.at(high, partition, numbers)
    low, high = _of_others(low, np.minimum, np.inf), _of_others(high, np.maximum, -np.inf)
    beyond = np.bincount(
        partition[(numbers < low[partition]) | (numbers > high[partition])], minlength=partitions
    )
    return np.where(rows == len(numbers), 0.0, beyond / np.maximum(rows, 1))  # one alone has no others


def _of_others(extremes: NDArray[np.float64], combine: np.ufunc, none: float) -> NDArray[np.float64]:
    """Return for each partition the minimum or maximum over all others, ``none`` if there are none."""
    before = np.concatenate([[none], combine.accumulate(extremes)[:-1]])
    after = np.concatenate([combine.accumulate(extremes[::-1])[::-1][1:], [none]])
    return np.asarray(combine(before, after))


def _sample(spec: UseCase, rows: pa.Table, predicted: pa.Table | None) -> pa.Table:
    """Return a seeded sample of the training features, with columns of predictions on held-out rows."""
    random = np.random.default_rng(spec.training.seed)
    size = min(spec.monitoring.report_rows, rows.num_rows)
    positions = np.sort(random.choice(rows.num_rows, size, replace=False))
    sample = rows.take(positions).select(list(spec.features.columns))
    count = 0 if predicted is None else min(size, predicted.num_rows)
    if predicted is not None:
        positions = np.sort(random.choice(predicted.num_rows, count, replace=False))
    for name in spec.problem.outputs:
        values = pa.array([], pa.float64()) if predicted is None else predicted[name].take(positions)
        padded = pa.chunked_array([*pa.chunked_array([values]).chunks, pa.nulls(size - count, pa.float64())])
        sample = sample.append_column(name, padded)
    return sample
