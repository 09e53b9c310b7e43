"""The rows that scoring publishes: the prediction, who gave it, and the digest of what it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from include import tables
from include.features.build import schema as features_schema
from include.score.ladder import Served, Step
from include.spec import UseCase


def shape(spec: UseCase) -> pa.Schema:
    """Return the schema of `predictions` and `restated`: Evergreen's columns, then the key."""
    return pa.schema([*tables.PREDICTIONS, *list(features_schema(spec))[: len(spec.key)]])


def build(spec: UseCase, rows: pa.Table, served: Served) -> pa.Table:
    """Return one row for each row of features, in their order."""
    same = {
        "rung": served.step.rung,
        "reason": served.reason,
        "version": served.step.version,
        "model": served.step.model,
    }
    columns = {name: pa.repeat(pa.scalar(text), rows.num_rows) for name, text in same.items()}
    columns |= {"prediction": pa.array(served.values, pa.float64()), "row_digest": row_digests(spec, rows)}
    columns |= {name: rows[name] for name in ("night", *spec.key)}
    return pa.table([columns[name] for name in shape(spec).names], schema=shape(spec))


def row_digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return a digest of each row's features, which a recomputed row must have again.

    It is taken over the numbers' IEEE 754 bytes and the texts' JSON, not over a library's way to print.
    """
    numbers = np.empty((rows.num_rows, len(spec.features.numeric)), dtype="<f8")
    for place, name in enumerate(spec.features.numeric):
        numbers[:, place] = rows[name].cast(pa.float64()).to_numpy()
    numbers += 0.0  # minus nought is nought
    numbers[np.isnan(numbers)] = np.nan  # one of the many ways to write it
    texts: Sequence[tuple[object, ...]] = [()] * rows.num_rows
    if spec.features.categorical:
        texts = list(zip(*(rows[name].to_pylist() for name in spec.features.categorical), strict=True))
    digests = [
        blake2b(number.tobytes() + json.dumps(text).encode(), digest_size=16).hexdigest()
        for number, text in zip(numbers, texts, strict=True)
    ]
    return pa.array(digests, pa.string())


def who(earlier: pa.Table) -> tuple[Step, str]:
    """Return the rung that served a night's published predictions, and why by none higher."""
    row = earlier.slice(0, 1).to_pylist()[0]
    constant = None if row["model"] else float(row["prediction"])
    return Step(row["rung"], row["version"], row["model"], constant), str(row["reason"])


def sentence(made: pa.Table) -> str:
    """Return who served how many rows, and why nobody higher."""
    step, reason = who(made)
    return f"{made.num_rows} rows by {step.name}" + (f": {reason}" if reason else "")


def alike(spec: UseCase, rows: pa.Table, made: pa.Table) -> bool:
    """Tell whether rows of features are those that predictions were made from."""
    same = made.num_rows == rows.num_rows and all(
        made[c].equals(rows[c].cast(made[c].type)) for c in spec.key
    )
    return same and row_digests(spec, rows).to_pylist() == made["row_digest"].to_pylist()
