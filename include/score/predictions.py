"""The table `predictions`: each row has its prediction, who served it, and the digest of its features.

`restated` and `shadows` have the same columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import environment
from include.features import point_in_time
from include.features.build import schema as features_schema
from include.models import outputs
from include.models.outputs import Constant
from include.score.fallback import FallbackStep, StepPredictions
from include.spec import UseCase
from include.stats.metrics import best_decisions
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.shares import Bits, mix

DECISION = "decision"
SERVED_BY = ("served_by", "version", "model", "reason")  # the columns that say which step served a row
TOLERANCE = 1e-9  # relative, of a prediction


def predictions_schema(spec: UseCase) -> pa.Schema:
    """Return the schema of `predictions`: the fixed columns, those of each class, the decision, the key."""
    return _schema(spec, has_decision=bool(spec.problem.costs))


def _schema(spec: UseCase, *, has_decision: bool) -> pa.Schema:
    per_class = [("label", pa.string()), *((name, pa.float64()) for name in spec.problem.outputs)]
    fields = [*schemas.PREDICTIONS, *(pa.field(*column) for column in per_class if spec.problem.classes)]
    fields += [pa.field(DECISION, pa.string())] if has_decision else []
    return pa.schema([*fields, *list(features_schema(spec))[: len(spec.key)]])


def as_published(spec: UseCase, rows: pa.Table | None) -> pa.Table:
    """Return a partition's stored predictions with the columns that they were published with.

    They have a decision if there were costs then, whatever the costs are now.
    """
    stored = point_in_time.conform(rows, _schema(spec, has_decision=True))
    undecided = stored[DECISION].null_count == stored.num_rows
    return stored.drop_columns([DECISION]) if undecided else stored


def build_predictions(spec: UseCase, rows: pa.Table, predicted: StepPredictions) -> pa.Table:
    """Return one row of `predictions` for each row of features, in the same order."""
    step = predicted.step
    texts = {"served_by": step.served_by, "reason": predicted.reason}
    texts |= {"version": step.version, "model": step.model}
    size = min(spill.BATCH, rows.num_rows)
    # made once: all batches share its memory
    constants = pa.table({name: pa.repeat(pa.scalar(text), size) for name, text in texts.items()})
    tables = spill.map_batches(
        lambda place, batch: _build_batch(spec, batch, constants, predicted.values[place]), rows
    )
    batches = (batch for table in tables for batch in table.to_batches())
    return spill.spill_table(predictions_schema(spec), batches)


def _build_batch(spec: UseCase, rows: pa.Table, constants: pa.Table, values: NDArray[np.float64]) -> pa.Table:
    columns = {name: constants[name].slice(0, rows.num_rows) for name in constants.column_names}
    columns |= outputs.to_columns(spec, values) | {"row_digest": row_digests(spec, rows)}
    if spec.problem.classes:
        columns |= {
            "prediction": pa.array(values.max(axis=1)),
            "label": outputs.predicted_class(spec, values),
        }
    if spec.problem.costs:
        columns[DECISION] = decisions(spec, values)
    columns |= {name: rows[name] for name in ("partition", *spec.key)}
    schema = predictions_schema(spec)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def decisions(spec: UseCase, values: NDArray[np.float64]) -> pa.Array:
    """Return each prediction's decision with the lowest expected cost; of a use case with `problem.costs`."""
    places = best_decisions(values, spec.problem.cost_matrix)
    return pa.array(spec.problem.decisions, pa.string()).take(pa.array(places))


@dataclass(frozen=True)
class ServedPart:
    """The rows of a partition that one step served.

    Parameters
    ----------
    reason : why each step before it was skipped.
    mask : a boolean for each row of the partition.
    """

    step: FallbackStep
    reason: str
    mask: pa.Array


def served_parts(spec: UseCase, served: pa.Table, rows: pa.Table) -> list[ServedPart]:
    """Return which step served which rows of a partition; every row is in exactly one part.

    Parameters
    ----------
    served : the published predictions.
    rows : the partition's features now. A row without a published prediction joins the largest part.
    """
    if len(served.group_by(list(SERVED_BY)).aggregate([])) == 1:
        everything = pa.repeat(pa.scalar(True), rows.num_rows)
        return [ServedPart(*_step_of(spec, served.slice(0, 1)), everything)]
    sources = list(zip(*(served[name].to_pylist() for name in SERVED_BY), strict=True))
    largest = Counter(sources).most_common(1)[0][0]
    source_by_key = dict(zip(_keys(spec, served), sources, strict=True))
    row_sources = [source_by_key.get(key, largest) for key in _keys(spec, rows)]
    parts = []
    for source in dict.fromkeys(row_sources):
        mask = pa.array([other == source for other in row_sources], pa.bool_())
        parts.append(ServedPart(*_step_of(spec, served.slice(sources.index(source), 1)), mask))
    return parts


def _step_of(spec: UseCase, row: pa.Table) -> tuple[FallbackStep, str]:
    """Return the step that served a row, and its reason."""
    served_by, version, model, reason = (str(row[name][0].as_py()) for name in SERVED_BY)
    constant: Constant | None = None
    if not model:
        value = outputs.from_columns(spec, row)[0]
        constant = tuple(value.tolist()) if spec.problem.classes else float(value)
    return FallbackStep(served_by, version, model, constant), reason


def _keys(spec: UseCase, rows: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(rows[name].to_pylist() for name in spec.key), strict=True))


def join_parts(spec: UseCase, tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of several tables sorted by key; each table is sorted by key already."""
    return tables[0] if len(tables) == 1 else spill.sort_rows(pa.concat_tables(tables), spec.key)


def serving_sentence(predictions: pa.Table) -> str:
    """Return how many rows each step served, and why the steps before it were skipped."""
    counts = predictions.group_by(list(SERVED_BY)).aggregate([([], "count_all")]).to_pylist()
    counts.sort(key=lambda row: (-row["count_all"], row["served_by"]))
    return "; ".join(
        f"{row['count_all']} rows by {FallbackStep(row['served_by'], row['version']).name}"
        + (f": {row['reason']}" if row["reason"] else "")
        for row in counts
    )


def predictions_row(
    product: str, partition: str, predictions: pa.Table, inputs: Mapping[str, str], spec: str, note: str
) -> pa.Table:
    """Return the row of `partitions` that records a partition's predictions and their lineage.

    Parameters
    ----------
    inputs : the digest of each source's rows; the digests of the models, joined by ``+``, are added.
    spec : the declaration's digest.
    """
    models = "+".join(sorted(predictions["model"].unique().to_pylist()))
    row = schemas.partition_row(
        product,
        partition,
        predictions.num_rows,
        digest_table(predictions),
        inputs={**inputs, "model": models},
        spec=spec,
        code=environment.code_version(),
        note=note,
    )
    return pa.Table.from_pylist([row], schema=schemas.PARTITIONS)


def nearly_equal(spec: UseCase, served: pa.Table, current: pa.Table) -> bool:
    """Tell whether predictions of the same rows by the same models differ by no more than rounding.

    The last bit of a linear model's prediction depends on how many rows are predicted at once.
    """
    same_steps = served.num_rows == current.num_rows and all(
        served[name].equals(current[name]) for name in SERVED_BY
    )
    return same_steps and all(
        np.allclose(
            outputs.from_columns(spec, served[place.start : place.stop]),
            outputs.from_columns(spec, batch),
            rtol=TOLERANCE,
            atol=0,
        )
        for place, batch in spill.batches(current)
    )


def same_rows(spec: UseCase, rows: pa.Table, predictions: pa.Table) -> bool:
    """Tell whether predictions were made from exactly these rows of features."""
    same_keys = predictions.num_rows == rows.num_rows and all(
        predictions[name].equals(rows[name].cast(predictions[name].type)) for name in spec.key
    )
    return same_keys and all(
        pa.chunked_array([row_digests(spec, batch)]).equals(predictions["row_digest"][place])
        for place, batch in spill.batches(rows)
    )


# The digest of a row's features: a 128-bit hash by column, computed for all rows at once.

SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)  # the first digits of pi
NAN, NULL = 0x7FF8000000000000, 0x7FF8000000000001
WIDTH = 32  # characters
HEX_PAIRS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)


def row_digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return each row's digest, 32 hexadecimal characters."""
    states = np.repeat(np.array(SEEDS, np.uint64)[:, np.newaxis], rows.num_rows, axis=1)
    scratch = np.empty_like(states)
    for name in spec.features.numeric:
        mix(states, _number_bits(rows[name]), scratch)
    for name in spec.features.categorical:
        mix(states, _text_bits(rows[name]), scratch)
    octets = states.T.astype(">u8", order="C").view(np.uint8)
    offsets = np.arange(rows.num_rows + 1, dtype=np.int32) * np.int32(WIDTH)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(HEX_PAIRS[octets])]
    return pa.Array.from_buffers(pa.string(), rows.num_rows, buffers, 0)


def _number_bits(column: pa.ChunkedArray) -> Bits:
    column = column.cast(pa.float64(), safe=False)  # an integer beyond 2 ** 53 becomes the nearest float
    values = column.to_numpy() + 0.0  # -0.0 becomes 0.0
    bits: Bits = values.view(np.uint64)
    bits[np.isnan(values)] = NAN
    if column.null_count:
        bits[column.is_null().to_numpy()] = NULL
    return bits


def _text_bits(column: pa.ChunkedArray) -> Bits:
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in encoded.dictionary.to_pylist()]
    table = np.frombuffer(b"".join([*digests, NULL.to_bytes(8, "big") * 2]), ">u8").astype(np.uint64)
    codes = encoded.indices.fill_null(len(digests)).to_numpy()
    bits: Bits = table.reshape(-1, 2).take(codes, axis=0).T
    return bits
