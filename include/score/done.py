"""What follows from a night's predictions: profiles, and the row of `partitions` that says it is done."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from include import profile
from include.lake import Lake
from include.refs import Ref
from include.score import predictions
from include.spec import UseCase

Summed = tuple[pa.Table, pa.Table]  # the profiles, and the row


def summed(
    spec: UseCase, night: str, rows: pa.Table | None, made: pa.Table, inputs: Mapping[str, str]
) -> Summed:
    """Return what follows from a night's predictions; without the rows they were made from, from them alone.

    What such a night had seen isn't known any more, so its row names no inputs and no declaration.
    """
    declaration, seen = (spec.digest, inputs) if rows is not None else ("", {})
    with ThreadPoolExecutor(1) as beside:
        row = beside.submit(_row, night, made, seen, declaration)
        profiles = []  # in the order of their names
        if rows is not None:
            of = spec.features
            profiles.append(profile.build("features", night, rows, of.numeric, of.categorical))
        profiles.append(profile.build("predictions", night, made, spec.problem.outputs, []))
        return pa.concat_tables(profiles), row.result()


def _row(night: str, made: pa.Table, inputs: Mapping[str, str], declaration: str) -> pa.Table:
    return predictions.partition("predictions", night, made, inputs, declaration, predictions.sentence(made))


def publish(lake: Lake, night: str, of: Summed) -> Ref:
    """Publish it, the row last."""
    profiles, row = of
    lake.publish("profiles", profiles, {"product": profiles["product"].unique().to_pylist(), "night": night})
    lake.publish("partitions", row, {"product": "predictions", "night": night})
    (said,) = row.select(["digest", "rows", "note"]).to_pylist()
    return Ref(f"{lake.uri}/tables/predictions", night, **said)
