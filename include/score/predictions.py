"""The rows that scoring publishes: the prediction, who gave it, and the digest of what it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import environment
from include.features.build import schema as features_schema
from include.models import outputs
from include.models.outputs import Constant
from include.score.fallback import Rung, Served
from include.spec import UseCase
from include.storage import schemas, spill
from include.storage.digests import digest_table

Bits = NDArray[np.uint64]
SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)  # of pi, as good as any
NAN, NULL = 0x7FF8000000000000, 0x7FF8000000000001
GAMMA, LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(31)
MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
WIDTH = 32  # characters
DIGITS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def row_digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return each row's digest, 32 hexadecimal characters."""
    states = np.repeat(np.array(SEEDS, np.uint64)[:, np.newaxis], rows.num_rows, axis=1)
    spare = np.empty_like(states)
    for name in spec.features.numeric:
        _mix(states, _number(rows[name]), spare)
    for name in spec.features.categorical:
        _mix(states, _text(rows[name]), spare)
    plain = states.T.astype(">u8", order="C").view(np.uint8)
    ends = np.arange(rows.num_rows + 1, dtype=np.int32) * np.int32(WIDTH)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(DIGITS[plain])]
    return pa.Array.from_buffers(pa.string(), rows.num_rows, buffers, 0)


def _number(column: pa.ChunkedArray) -> Bits:
    column = column.cast(pa.float64(), safe=False)  # a whole number beyond 2 ** 53 is the nearest float
    values = column.to_numpy() + 0.0  # minus nought is nought
    bits: Bits = values.view(np.uint64)
    bits[np.isnan(values)] = NAN
    if column.null_count:
        bits[column.is_null().to_numpy()] = NULL
    return bits


def _text(column: pa.ChunkedArray) -> Bits:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    known = [blake2b(text.encode(), digest_size=16).digest() for text in coded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*known, NULL.to_bytes(8, "big") * 2]), ">u8").astype(np.uint64)
    codes = coded.indices.fill_null(len(known)).to_numpy()
    found: Bits = table.reshape(-1, 2).take(codes, axis=0).T
    return found


def _mix(states: Bits, bits: Bits, spare: Bits) -> None:
    """Mix a column's bits, or those for each state, into the states in place; they wrap at 2 ** 64."""
    states ^= bits
    states += GAMMA
    for shift, factor in MIX:
        np.right_shift(states, shift, out=spare)
        states ^= spare
        states *= factor
    np.right_shift(states, LAST, out=spare)
    states ^= spare


NEAR = 1e-9  # of a prediction
WHO = ("served_by", "version", "model", "reason")  # the columns that say who served a row


def predictions_schema(spec: UseCase) -> pa.Schema:
    """Return the schema of `predictions` and `restated`: Evergreen's columns, then the key."""
    several = [("label", pa.string()), *((name, pa.float64()) for name in spec.problem.outputs)]
    classes = several if spec.problem.classes else []
    fields = [*schemas.PREDICTIONS, *(pa.field(*one) for one in classes)]
    return pa.schema([*fields, *list(features_schema(spec))[: len(spec.key)]])


def build_predictions(spec: UseCase, rows: pa.Table, served: Served) -> pa.Table:
    """Return one row for each row of features, in their order."""
    who = {"served_by": served.step.rung, "reason": served.reason}
    who |= {"version": served.step.version, "model": served.step.model}
    size = min(spill.BATCH, rows.num_rows)
    same = pa.table(
        {name: pa.repeat(pa.scalar(text), size) for name, text in who.items()}
    )  # all parts' memory
    made = spill.map_batches(lambda place, part: _built(spec, part, same, served.values[place]), rows)
    return spill.spill_table(
        predictions_schema(spec), (batch for part in made for batch in part.to_batches())
    )


def _built(spec: UseCase, rows: pa.Table, same: pa.Table, values: NDArray[np.float64]) -> pa.Table:
    columns = {name: same[name].slice(0, rows.num_rows) for name in same.column_names}
    columns |= outputs.to_columns(spec, values) | {"row_digest": row_digests(spec, rows)}
    if spec.problem.classes:
        columns |= {
            "prediction": pa.array(values.max(axis=1)),
            "label": outputs.predicted_class(spec, values),
        }
    columns |= {name: rows[name] for name in ("partition", *spec.key)}
    return pa.table(
        [columns[name] for name in predictions_schema(spec).names], schema=predictions_schema(spec)
    )


def served_parts(spec: UseCase, earlier: pa.Table, rows: pa.Table) -> list[tuple[Rung, str, pa.Array]]:
    """Return who served a partition's published predictions, why by none higher, and which of the rows.

    Parameters
    ----------
    rows : the partition's features now; one that has no prediction yet goes with most of the others.

    Returns
    -------
    list of (Step, str, pa.Array)
        The rung, the reasons, and a boolean a row; every row is in one part.
    """
    if len(who := earlier.group_by(list(WHO)).aggregate([])) == 1:
        rung, version, model, reason = (who[name][0].as_py() for name in WHO)
        constant = None if model else _constant(spec, earlier.slice(0, 1))
        return [(Rung(rung, version, model, constant), reason, pa.repeat(pa.scalar(True), rows.num_rows))]
    by = list(zip(*(earlier[name].to_pylist() for name in WHO), strict=True))
    most, of = Counter(by).most_common(1)[0][0], dict(zip(_keys(spec, earlier), by, strict=True))
    now = [of.get(key, most) for key in _keys(spec, rows)]
    found = []
    for one in dict.fromkeys(now):
        rung, version, model, reason = one
        constant = None if model else _constant(spec, earlier.slice(by.index(one), 1))
        mask = pa.array([other == one for other in now], pa.bool_())
        found.append((Rung(rung, version, model, constant), str(reason), mask))
    return found


def _constant(spec: UseCase, row: pa.Table) -> Constant:
    """Return what a constant said, by one of its rows."""
    said = outputs.from_columns(spec, row)[0]
    return tuple(said.tolist()) if spec.problem.classes else float(said)


def join_parts(spec: UseCase, tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several parts, each in the order of the key, in that order."""
    return tables[0] if len(tables) == 1 else spill.sort_rows(pa.concat_tables(tables), spec.key)


def _keys(spec: UseCase, rows: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(rows[name].to_pylist() for name in spec.key), strict=True))


def serving_sentence(made: pa.Table) -> str:
    """Return who served how many rows, and why nobody higher."""
    counts = made.group_by(list(WHO)).aggregate([([], "count_all")]).to_pylist()
    counts.sort(key=lambda row: (-row["count_all"], row["served_by"]))
    return "; ".join(
        f"{row['count_all']} rows by {Rung(row['served_by'], row['version']).name}"
        + (f": {row['reason']}" if row["reason"] else "")
        for row in counts
    )


def model_digests(made: pa.Table) -> str:
    """Return the digests of the models that gave a partition's rows, joined by ``+``."""
    return "+".join(sorted(made["model"].unique().to_pylist()))


def predictions_row(
    product: str, partition: str, made: pa.Table, inputs: Mapping[str, str], declaration: str, note: str
) -> pa.Table:
    """Return the row of `partitions` that says what a partition's rows are, and what they were made from."""
    row = schemas.partition_row(
        product,
        partition,
        made.num_rows,
        digest_table(made),
        inputs={**inputs, "model": model_digests(made)},
        spec=declaration,
        code=environment.code_version(),
        note=note,
    )
    return pa.Table.from_pylist([row], schema=schemas.PARTITIONS)


def nearly_equal(spec: UseCase, served: pa.Table, now: pa.Table) -> bool:
    """Tell whether predictions of the same rows by the same models differ by no more than rounding.

    What a linear model says of a row has another last bit by how many rows it is asked about at once.
    """
    same = served.num_rows == now.num_rows and all(served[name].equals(now[name]) for name in WHO)
    return same and all(
        np.allclose(
            outputs.from_columns(spec, served[place.start : place.stop]),
            outputs.from_columns(spec, part),
            NEAR,
            atol=0,
        )
        for place, part in spill.batches(now)
    )


def same_rows(spec: UseCase, rows: pa.Table, made: pa.Table) -> bool:
    """Tell whether rows of features are those that predictions were made from."""
    same = made.num_rows == rows.num_rows and all(
        made[c].equals(rows[c].cast(made[c].type)) for c in spec.key
    )
    return same and all(
        pa.chunked_array([row_digests(spec, part)]).equals(made["row_digest"][place])
        for place, part in spill.batches(rows)
    )
