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
    predictions : on rows that weren't, shape (m,) or (m, k): of the validation nights by the recipe when it
        was fitted on the training nights alone, and of the test nights by the challenger, or by the walk
        forward where it was fitted on them. On the rows that it was fitted on its predictions would be surer
        than they will ever be again.
    """
    name = reference_product(record.challenger.digest)
    features = profiles.build_profile(
        name, record.night, rows, spec.features.numeric, spec.features.categorical
    )
    said = pa.table(outputs.to_columns(spec, predictions))
    seen = profiles.build_profile(name, record.night, said, said.column_names, [])
    came = profiles.label_profile(record.night, rows, spec.problem.target)
    came = came.set_column(0, "product", pa.array([name]))
    where = {"product": name, "night": record.night}
    made = pa.concat_tables([features, came, seen]).sort_by("column")
    lake.publish("profiles", made, where)
    digest = digest_json([record.data, digest_bytes(predictions.tobytes())])
    done = partition_row(
        name,
        record.night,
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
    """Publish the limits of every feature and of the predictions, on the training night.

    Parameters
    ----------
    profiles : what the challenger was fitted on, by column; it says how values are counted.
    rows : all nights that have labels, in their order, shape (n, any).
    predictions : the challenger's, of these rows, shape (n,) or (n, k); surer where it was fitted, one jump.
    """
    said = outputs.to_columns(spec, predictions)
    given = pa.table({**{name: rows[name] for name in ("night", *spec.features.columns)}, **said})
    nights = sorted(pc.unique(rows["night"]).to_pylist())
    cuts = {name: Binning.of(of) for name, of in profiles.items() if name != spec.problem.target}
    counted = {name: count(given, name, cut, nights) for name, cut in cuts.items()}
    rules = spec.monitoring.jumps
    found = alarm_limits(counted, rules, spec.training.seed)
    known = asdict(found) if found else {"middle": {}, "spread": {}, "height": None}
    newest = slice(max(len(nights) - rules.past - rules.of, 0), None)
    made = [
        {
            "night": record.night,
            "model": record.challenger.digest,
            "nights": json.dumps(nights[newest]),
            "height": known["height"],
            "column": name,
            "cut": json.dumps(asdict(cut)),
            "middle": known["middle"].get(name),
            "spread": known["spread"].get(name),
            "counts": json.dumps(counted[name][newest].astype(int).tolist()),
        }
        for name, cut in sorted(cuts.items())
    ]
    _write(lake, record, pa.Table.from_pylist(made, schema=schemas.LIMITS), len(nights))


def _write(lake: Lake, record: TrainingRecord, table: pa.Table, nights: int) -> None:
    """Publish the limits, and last the row that says so.

    Another model of the same night, of a training that was repeated, keeps its own: it may serve.
    """
    model = record.challenger.digest
    lake.publish("limits", table, {"night": record.night, "model": model})
    read = lake.read("limits", {"night": record.night})
    assert read is not None
    every = read.select(table.schema.names).sort_by([(name, "ascending") for name in ORDER])
    row = schemas.partition_row(
        PRODUCT,
        record.night,
        every.num_rows,
        digest_table(every),
        inputs={"training_set": record.data, "model": model},
        spec=record.spec,
        code=record.code,
        note=f"from where on a column alarms, by {nights} nights",
    )
    where = {"product": PRODUCT, "night": record.night}
    lake.publish("partitions", pa.Table.from_pylist([row], schema=schemas.PARTITIONS), where)


def count(rows: pa.Table, name: str, cut: Binning, nights: list[str]) -> Counts:
    """Return a column's values by night and bin, shape (nights, bins)."""
    night = pc.index_in(rows["night"], pa.array(nights)).to_numpy()
    values = rows[name].combine_chunks()
    there = values.is_valid().to_numpy(zero_copy_only=False)
    if cut.names is None:
        values = values.cast(pa.float64())
        there &= np.isfinite(values.to_numpy(zero_copy_only=False))
    else:
        values = values.cast(pa.string())
    found = night[there] * cut.bins + cut.places(values.filter(pa.array(there)))
    return np.bincount(found, minlength=len(nights) * cut.bins).reshape(-1, cut.bins).astype(float)
