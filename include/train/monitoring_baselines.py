"""What the challenger was fitted on, as profiles: the side of a drift comparison that stays still."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.models import outputs
from include.references import digest_bytes, digest_json
from include.spec import UseCase
from include.stats import profiles
from include.stats.alarms import alarm_limits
from include.stats.drift_measures import Binning
from include.stats.profiles import Profile
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.storage.schemas import PARTITIONS, partition_row
from include.train.record import TrainingRecord


def reference_product(digest: str) -> str:
    """Return the product under which a model's reference is published."""
    return f"reference:{digest}"


def publish_reference(
    lake: Lake, spec: UseCase, record: TrainingRecord, rows: pa.Table, predictions: NDArray[np.float64]
) -> dict[str, Profile]:
    """Publish the profiles of the features, the target and what was predicted, and return them.

    Parameters
    ----------
    rows : the features and the target that were fitted on, shape (n, any).
    predictions : on rows that weren't, shape (m,) or (m, k): of the validation partitions by the recipe when
        it was fitted on the training partitions alone, and of the test partitions by the challenger, or by
        the walk forward where it was fitted on them. On the rows that it was fitted on its predictions would
        be surer than they will ever be again.
    """
    name = reference_product(record.challenger.digest)
    features = profiles.build_profile(
        name, record.partition, rows, spec.features.numeric, spec.features.categorical
    )
    said = pa.table(outputs.to_columns(spec, predictions))
    seen = profiles.build_profile(name, record.partition, said, said.column_names, [])
    came = profiles.label_profile(record.partition, rows, spec.problem.target)
    came = came.set_column(0, "product", pa.array([name]))
    where = {"product": name, "partition": record.partition}
    made = pa.concat_tables([features, came, seen]).sort_by("column")
    lake.publish("profiles", made, where)
    digest = digest_json([record.data, digest_bytes(predictions.tobytes())])
    done = partition_row(
        name,
        record.partition,
        rows.num_rows,
        digest,
        inputs={"training_set": record.data},
        spec=record.spec,
        code=record.code,
        note=f"what {record.challenger.name} v{record.version} was fitted on",
    )
    row = pa.Table.from_pylist([done], schema=PARTITIONS)
    lake.publish("partitions", row, where)
    return profiles.merge_profiles(made.to_pylist())


PRODUCT = "limits"
ORDER = ("model", "column")
Counts = NDArray[np.float64]


def publish_alarm_limits(
    lake: Lake,
    spec: UseCase,
    record: TrainingRecord,
    profiles: Mapping[str, Profile],
    rows: pa.Table,
    predictions: NDArray[np.float64],
) -> None:
    """Publish the limits of every feature and of the predictions, on the training partition.

    Parameters
    ----------
    profiles : what the challenger was fitted on, by column; it says how values are counted.
    rows : all partitions that have labels, in their order, shape (n, any).
    predictions : the challenger's, of these rows, shape (n,) or (n, k); surer where it was fitted, one jump.
    """
    said = outputs.to_columns(spec, predictions)
    given = pa.table({**{name: rows[name] for name in ("partition", *spec.features.columns)}, **said})
    partitions = sorted(pc.unique(rows["partition"]).to_pylist())
    cuts = {name: Binning.of(of) for name, of in profiles.items() if name != spec.problem.target}
    counted = {name: count(given, name, cut, partitions) for name, cut in cuts.items()}
    rules = spec.monitoring.sudden_changes
    found = alarm_limits(counted, rules, spec.training.seed)
    known = asdict(found) if found else {"middle": {}, "spread": {}, "height": None}
    newest = slice(max(len(partitions) - rules.past - rules.of, 0), None)
    made = [
        {
            "partition": record.partition,
            "model": record.challenger.digest,
            "partitions": json.dumps(partitions[newest]),
            "height": known["height"],
            "column": name,
            "cut": json.dumps(asdict(cut)),
            "middle": known["middle"].get(name),
            "spread": known["spread"].get(name),
            "counts": json.dumps(counted[name][newest].astype(int).tolist()),
        }
        for name, cut in sorted(cuts.items())
    ]
    _write(lake, record, pa.Table.from_pylist(made, schema=schemas.LIMITS), len(partitions))


def _write(lake: Lake, record: TrainingRecord, table: pa.Table, partitions: int) -> None:
    """Publish the limits, and last the row that says so.

    Another model of the same partition, of a training that was repeated, keeps its own: it may serve.
    """
    model = record.challenger.digest
    lake.publish("limits", table, {"partition": record.partition, "model": model})
    read = lake.read("limits", {"partition": record.partition})
    assert read is not None
    every = read.select(table.schema.names).sort_by([(name, "ascending") for name in ORDER])
    row = schemas.partition_row(
        PRODUCT,
        record.partition,
        every.num_rows,
        digest_table(every),
        inputs={"training_set": record.data, "model": model},
        spec=record.spec,
        code=record.code,
        note=f"from where on a column alarms, by {partitions} partitions",
    )
    where = {"product": PRODUCT, "partition": record.partition}
    lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)


def count(rows: pa.Table, name: str, cut: Binning, partitions: list[str]) -> Counts:
    """Return a column's values by partition and bin, shape (partitions, bins)."""
    partition = pc.index_in(rows["partition"], pa.array(partitions)).to_numpy()
    values = rows[name].combine_chunks()
    there = values.is_valid().to_numpy(zero_copy_only=False)
    if cut.names is None:
        values = values.cast(pa.float64())
        there &= np.isfinite(values.to_numpy(zero_copy_only=False))
    else:
        values = values.cast(pa.string())
    found = partition[there] * cut.bins + cut.places(values.filter(pa.array(there)))
    return np.bincount(found, minlength=len(partitions) * cut.bins).reshape(-1, cut.bins).astype(float)
