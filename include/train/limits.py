"""From where on a column alarms: a training has the nights, and says how far they jump without a fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include import outputs, tables
from include.lake import Lake
from include.monitor.alarms import limits
from include.monitor.measures import Cut
from include.profile import Profile
from include.refs import digest_table
from include.spec import UseCase
from include.train.record import Record

PRODUCT = "limits"
ORDER = ("model", "column")
Counts = NDArray[np.float64]


def publish(
    lake: Lake,
    spec: UseCase,
    record: Record,
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
    said = outputs.columns(spec, predictions)
    given = pa.table({**{name: rows[name] for name in ("night", *spec.features.columns)}, **said})
    nights = sorted(pc.unique(rows["night"]).to_pylist())
    cuts = {name: Cut.of(of) for name, of in profiles.items() if name != spec.problem.target}
    counted = {name: count(given, name, cut, nights) for name, cut in cuts.items()}
    rules = spec.monitoring.jumps
    found = limits(counted, rules, spec.training.seed)
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
    _write(lake, record, pa.Table.from_pylist(made, schema=tables.LIMITS), len(nights))


def _write(lake: Lake, record: Record, table: pa.Table, nights: int) -> None:
    """Publish the limits, and last the row that says so.

    Another model of the same night, of a training that was repeated, keeps its own: it may serve.
    """
    model = record.challenger.digest
    lake.publish("limits", table, {"night": record.night, "model": model})
    read = lake.read("limits", {"night": record.night})
    assert read is not None
    every = read.select(table.schema.names).sort_by([(name, "ascending") for name in ORDER])
    row = tables.published(
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
    lake.publish("partitions", pa.Table.from_pylist([row], schema=tables.PARTITIONS), where)


def count(rows: pa.Table, name: str, cut: Cut, nights: list[str]) -> Counts:
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
