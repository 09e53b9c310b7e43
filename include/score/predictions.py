"""The rows that scoring publishes: the prediction, who gave it, and the digest of what it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import environment, outputs, spool, tables
from include.features.build import schema as features_schema
from include.outputs import Constant
from include.refs import digest_table
from include.score.digests import row_digests
from include.score.ladder import Served, Step
from include.spec import UseCase

NEAR = 1e-9  # of a prediction
WHO = ("rung", "version", "model", "reason")  # the columns that say who served a row


def shape(spec: UseCase) -> pa.Schema:
    """Return the schema of `predictions` and `restated`: Evergreen's columns, then the key."""
    several = [("label", pa.string()), *((name, pa.float64()) for name in spec.problem.outputs)]
    classes = several if spec.problem.classes else []
    fields = [*tables.PREDICTIONS, *(pa.field(*one) for one in classes)]
    return pa.schema([*fields, *list(features_schema(spec))[: len(spec.key)]])


def build(spec: UseCase, rows: pa.Table, served: Served) -> pa.Table:
    """Return one row for each row of features, in their order."""
    who = {"rung": served.step.rung, "reason": served.reason}
    who |= {"version": served.step.version, "model": served.step.model}
    size = min(spool.BATCH, rows.num_rows)
    same = pa.table(
        {name: pa.repeat(pa.scalar(text), size) for name, text in who.items()}
    )  # all parts' memory
    made = spool.spread(lambda place, part: _built(spec, part, same, served.values[place]), rows)
    return spool.held(shape(spec), (batch for part in made for batch in part.to_batches()))


def _built(spec: UseCase, rows: pa.Table, same: pa.Table, values: NDArray[np.float64]) -> pa.Table:
    columns = {name: same[name].slice(0, rows.num_rows) for name in same.column_names}
    columns |= outputs.columns(spec, values) | {"row_digest": row_digests(spec, rows)}
    if spec.problem.classes:
        columns |= {
            "prediction": pa.array(values.max(axis=1)),
            "label": outputs.chosen(spec, values),
        }
    columns |= {name: rows[name] for name in ("night", *spec.key)}
    return pa.table([columns[name] for name in shape(spec).names], schema=shape(spec))


def parts(spec: UseCase, earlier: pa.Table, rows: pa.Table) -> list[tuple[Step, str, pa.Array]]:
    """Return who served a night's published predictions, why by none higher, and which of the rows.

    Parameters
    ----------
    rows : the night's features now; one that has no prediction yet goes with most of the others.

    Returns
    -------
    list of (Step, str, pa.Array)
        The rung, the reasons, and a boolean a row; every row is in one part.
    """
    if len(who := earlier.group_by(list(WHO)).aggregate([])) == 1:
        rung, version, model, reason = (who[name][0].as_py() for name in WHO)
        constant = None if model else _constant(spec, earlier.slice(0, 1))
        return [(Step(rung, version, model, constant), reason, pa.repeat(pa.scalar(True), rows.num_rows))]
    by = list(zip(*(earlier[name].to_pylist() for name in WHO), strict=True))
    most, of = Counter(by).most_common(1)[0][0], dict(zip(_keys(spec, earlier), by, strict=True))
    now = [of.get(key, most) for key in _keys(spec, rows)]
    found = []
    for one in dict.fromkeys(now):
        rung, version, model, reason = one
        constant = None if model else _constant(spec, earlier.slice(by.index(one), 1))
        mask = pa.array([other == one for other in now], pa.bool_())
        found.append((Step(rung, version, model, constant), str(reason), mask))
    return found


def _constant(spec: UseCase, row: pa.Table) -> Constant:
    """Return what a constant said, by one of its rows."""
    said = outputs.array(spec, row)[0]
    return tuple(said.tolist()) if spec.problem.classes else float(said)


def joined(spec: UseCase, tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several parts, each in the order of the key, in that order."""
    return tables[0] if len(tables) == 1 else spool.ordered(pa.concat_tables(tables), spec.key)


def _keys(spec: UseCase, rows: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(rows[name].to_pylist() for name in spec.key), strict=True))


def sentence(made: pa.Table) -> str:
    """Return who served how many rows, and why nobody higher."""
    counts = made.group_by(list(WHO)).aggregate([([], "count_all")]).to_pylist()
    counts.sort(key=lambda row: (-row["count_all"], row["rung"]))
    return "; ".join(
        f"{row['count_all']} rows by {Step(row['rung'], row['version']).name}"
        + (f": {row['reason']}" if row["reason"] else "")
        for row in counts
    )


def models_of(made: pa.Table) -> str:
    """Return the digests of the models that gave a night's rows, joined by ``+``."""
    return "+".join(sorted(made["model"].unique().to_pylist()))


def partition(
    product: str, night: str, made: pa.Table, inputs: Mapping[str, str], declaration: str, note: str
) -> pa.Table:
    """Return the row of `partitions` that says what a night's rows are, and what they were made from."""
    row = tables.published(
        product,
        night,
        made.num_rows,
        digest_table(made),
        inputs={**inputs, "model": models_of(made)},
        spec=declaration,
        code=environment.code_version(),
        note=note,
    )
    return pa.Table.from_pylist([row], schema=tables.PARTITIONS)


def near(spec: UseCase, served: pa.Table, now: pa.Table) -> bool:
    """Tell whether predictions of the same rows by the same models differ by no more than rounding.

    What a linear model says of a row has another last bit by how many rows it is asked about at once.
    """
    same = served.num_rows == now.num_rows and all(served[name].equals(now[name]) for name in WHO)
    return same and all(
        np.allclose(
            outputs.array(spec, served[place.start : place.stop]), outputs.array(spec, part), NEAR, atol=0
        )
        for place, part in spool.parts(now)
    )


def alike(spec: UseCase, rows: pa.Table, made: pa.Table) -> bool:
    """Tell whether rows of features are those that predictions were made from."""
    same = made.num_rows == rows.num_rows and all(
        made[c].equals(rows[c].cast(made[c].type)) for c in spec.key
    )
    return same and all(
        pa.chunked_array([row_digests(spec, part)]).equals(made["row_digest"][place])
        for place, part in spool.parts(rows)
    )
