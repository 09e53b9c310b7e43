"""Publishes what monitoring compares later partitions with: reference profiles and limits of sudden changes.

Both belong to one model. The reference profiles describe the rows that the challenger was fitted on, for
drift. The limits state, for each feature and for the predictions, how large a change from one partition to
the next must be to raise an alarm (`include.stats.alarms`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.models import outputs
from include.spec import UseCase
from include.stats import profiles
from include.stats.alarms import alarm_limits
from include.stats.drift_measures import Binning
from include.stats.profiles import Profile
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train.record import TrainingRecord

LIMITS = "limits"  # the product and its table
# The product of all models' reference profiles. One for each model would be a Delta partition for each
# training, and so a file that is never merged with others.
REFERENCE = "model:reference"  # which no source can be called
Counts = NDArray[np.float64]


def read_reference(lake: Lake, model: str, partition: str, column: str | None = None) -> dict[str, Profile]:
    """Return the profiles of what a model was fitted on by column, none if its training published none.

    Parameters
    ----------
    partition : of the training, by which the files are chosen.
    column : the only one to read; all by default.
    """
    where = {"product": REFERENCE, "partition": partition, "model": model}
    return profiles.merge_profiles(lake.rows("profiles", where | ({"column": column} if column else {})))


def champion_profiles(
    lake: Lake, spec: UseCase, champion: Mapping[str, object], column: str | None = None
) -> dict[str, Profile]:
    """Return the profiles of what a champion was fitted on by column, none if its training published none.

    Of a recipe that replaced the champion, the training published none, but its features and target are those
    of the model that the training judged.

    Parameters
    ----------
    column : the only one to read; all by default.
    """
    digest, trained = str(champion["model"]), str(champion["judged_on"])
    if profiles := read_reference(lake, digest, trained, column):
        return profiles
    for row in lake.rows("attempts", {"key": str(champion["attempt"])}, ["model"]):
        profiles = read_reference(lake, str(row["model"]), trained, column)
        return {name: of for name, of in profiles.items() if name not in spec.problem.outputs}
    return {}


def publish_reference_profiles(
    lake: Lake, model: str, partition: str, tables: Sequence[pa.Table]
) -> pa.Table:
    """Publish profiles of what a model was fitted on, whatever their product, and return them.

    Parameters
    ----------
    partition : of the training. The profiles of other models of that partition stay.
    """
    table = pa.concat_tables(tables).sort_by("column")
    for name, value in (("product", REFERENCE), ("model", model)):
        values = pa.repeat(pa.scalar(value), table.num_rows)
        table = table.set_column(table.schema.get_field_index(name), name, values)
    where = {"product": REFERENCE, "partition": partition, "model": model}
    lake.publish("profiles", table, where)
    return table


def publish_reference(
    lake: Lake, spec: UseCase, record: TrainingRecord, rows: pa.Table, predictions: NDArray[np.float64]
) -> dict[str, Profile]:
    """Publish the reference profiles of the features, the target and the predictions, and return them.

    Parameters
    ----------
    rows : the features and the target that the challenger was fitted on, shape (n, any).
    predictions : for rows that the predicting model was not fitted on, shape (m,) or (m, k). On the
        validation partitions they come from the recipe fitted on the training partitions alone; on the test
        partitions from the challenger, or from the walk forward if the challenger was fitted on them.
        Predictions for fitted rows would be more confident than any later ones.
    """
    build, output = profiles.build_profile, pa.table(outputs.to_columns(spec, predictions))
    features = spec.features
    tables = [
        build(REFERENCE, record.partition, rows, features.numeric, features.categorical),
        build(REFERENCE, record.partition, output, output.column_names, []),
        profiles.label_profile(record.partition, rows, spec.problem.target),
    ]
    table = publish_reference_profiles(lake, record.challenger.digest, record.partition, tables)
    return profiles.merge_profiles(table.to_pylist())


def publish_alarm_limits(
    lake: Lake,
    spec: UseCase,
    record: TrainingRecord,
    reference: Mapping[str, Profile],
    rows: pa.Table,
    predictions: NDArray[np.float64],
) -> None:
    """Publish the limits of sudden changes of every feature and of the predictions.

    Parameters
    ----------
    reference : the reference profiles by column, from which the bins are derived.
    rows : all labeled rows, ordered by partition, shape (n, any).
    predictions : the challenger's for these rows, shape (n,) or (n, k). They are more confident on fitted
        rows, which appears as a single sudden change.
    """
    columns = pa.table(
        {name: rows[name] for name in ("partition", *spec.features.columns)}
        | outputs.to_columns(spec, predictions)
    )
    partitions = sorted(pc.unique(rows["partition"]).to_pylist())
    binnings = {
        name: Binning.of(profile) for name, profile in reference.items() if name != spec.problem.target
    }
    counts = {name: count_by_partition(columns, name, cut, partitions) for name, cut in binnings.items()}
    rules = spec.monitoring.sudden_changes
    limits = alarm_limits(counts, rules, spec.training.seed, week=spec.clock.partitions_in(7))
    newest = slice(max(len(partitions) - rules.past - rules.of, 0), None)
    limit_rows = [
        {
            "partition": record.partition,
            "model": record.challenger.digest,
            "partitions": json.dumps(partitions[newest]),
            "spreads": limits.spreads if limits else None,
            "column": name,
            "binning": json.dumps(asdict(binning)),
            "median_log_score": limits.median_log_score.get(name) if limits else None,
            "log_score_spread": limits.log_score_spread.get(name) if limits else None,
            "counts": json.dumps(counts[name][newest].astype(int).tolist()),
        }
        for name, binning in sorted(binnings.items())
    ]
    _publish_limits(lake, record, pa.Table.from_pylist(limit_rows, schema=schemas.LIMITS), len(partitions))


def _publish_limits(lake: Lake, record: TrainingRecord, limits: pa.Table, partitions: int) -> None:
    """Publish a model's limits, and then the row in `partitions` that completes them.

    The limits of other models trained on the same partition are kept, since one of them may serve.
    """
    model = record.challenger.digest
    lake.publish(LIMITS, limits, {"partition": record.partition, "model": model})
    read = lake.read(LIMITS, {"partition": record.partition})
    assert read is not None
    all_models = read.select(limits.schema.names).sort_by([("model", "ascending"), ("column", "ascending")])
    status = schemas.partition_row(
        LIMITS,
        record.partition,
        all_models.num_rows,
        digest_table(all_models),
        inputs={"training_set": record.data, "model": model},
        spec=record.spec,
        code=record.code,
        note=f"alarm limits by column, from {partitions} partitions",
    )
    where = {"product": LIMITS, "partition": record.partition}
    lake.publish("partitions", pa.Table.from_pylist([status], schema=schemas.PARTITIONS), where)


def erase_categories(lake: Lake, partition: str, is_erased: Callable[[str, str], bool]) -> None:
    """Remove categories and their counts from the limits of a training's models.

    Later values of such a category would be counted with the rare ones.

    Parameters
    ----------
    is_erased : whether a column's category goes.
    """
    rows = lake.rows(LIMITS, {"partition": partition})
    changed = set()
    for row in rows:
        binning, counts = json.loads(row["binning"]), np.array(json.loads(row["counts"]), dtype=int)
        names = binning["names"] or ()
        erased = [i for i, name in enumerate(names) if is_erased(row["column"], name)]
        if erased:
            changed.add(row["model"])
            binning["names"] = [name for i, name in enumerate(names) if i not in erased]
            row["binning"] = json.dumps(binning)
            row["counts"] = json.dumps(np.delete(counts, erased, axis=1).tolist())
    if not changed:
        return
    limits = pa.Table.from_pylist(rows, schema=schemas.LIMITS)
    limits = limits.sort_by([("model", "ascending"), ("column", "ascending")])
    where = {"product": LIMITS, "partition": partition}
    status = [{**row, "digest": digest_table(limits)} for row in lake.rows("partitions", where)]
    # the digest first: repeated after a kill, the categories are still found
    lake.publish("partitions", pa.Table.from_pylist(status, schema=schemas.PARTITIONS), where)
    models = sorted(changed)
    lake.publish(
        LIMITS,
        limits.filter(pc.is_in(limits["model"], pa.array(models))),
        {"partition": partition, "model": models},
    )


def count_by_partition(rows: pa.Table, name: str, cut: Binning, partitions: list[str]) -> Counts:
    """Return the number of a column's values by partition and bin, shape (partitions, bins)."""
    partition_indexes = pc.index_in(rows["partition"], pa.array(partitions)).to_numpy()
    values = rows[name].combine_chunks()
    present = values.is_valid().to_numpy(zero_copy_only=False)
    if cut.names is None:
        values = values.cast(pa.float64())
        present &= np.isfinite(values.to_numpy(zero_copy_only=False))
    else:
        values = values.cast(pa.string())
    cells = partition_indexes[present] * cut.bins + cut.bin_indexes(values.filter(pa.array(present)))
    counts = np.bincount(cells, minlength=len(partitions) * cut.bins)
    return counts.reshape(-1, cut.bins).astype(float)
