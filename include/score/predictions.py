"""The table `predictions`: each row has its prediction, who served it, and the digest of its features.

`restated` and `shadows` have the same columns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.features.build import schema as features_schema
from include.models import outputs
from include.models.outputs import Constant
from include.references import Ref, digest_json
from include.score.fallback import FallbackStep, StepPredictions
from include.spec import UseCase
from include.stats import profiles
from include.stats.metrics import best_actions
from include.storage import schemas, spill
from include.storage.digests import digest_rows
from include.storage.lake import Lake

ACTION = "action"
SERVED_BY = ("served_by", "version", "model", "reason")  # the columns that say which step served a row
TOLERANCE = 1e-9  # relative, of a prediction


def predictions_schema(spec: UseCase) -> pa.Schema:
    """Return the schema of `predictions`: the fixed columns, those of each class, the action, the key."""
    return _schema(spec, has_action=bool(spec.problem.costs))


def _schema(spec: UseCase, *, has_action: bool) -> pa.Schema:
    per_class = [("label", pa.string()), *((name, pa.float64()) for name in spec.problem.outputs)]
    fields = [*schemas.PREDICTIONS, *(pa.field(*column) for column in per_class if spec.problem.classes)]
    fields += [pa.field(ACTION, pa.string())] if has_action else []
    return pa.schema([*fields, *list(features_schema(spec))[: len(spec.key)]])


def as_published(spec: UseCase, rows: pa.Table | None) -> pa.Table:
    """Return a partition's stored predictions with the columns that they were published with.

    They have an action if there were costs then, whatever the costs are now.
    """
    stored = schemas.align_to_schema(rows, _schema(spec, has_action=True))
    without_actions = stored[ACTION].null_count == stored.num_rows
    return stored.drop_columns([ACTION]) if without_actions else stored


def build_predictions(spec: UseCase, rows: pa.Table, predicted: StepPredictions) -> pa.Table:
    """Return one row of `predictions` for each row of features, in the same order."""
    step = predicted.step
    texts = {"served_by": step.served_by, "reason": predicted.reason}
    texts |= {"version": step.version, "model": step.model}
    size = min(spill.BATCH, rows.num_rows)
    # made once: all batches share its memory
    constants = pa.table({name: pa.repeat(pa.scalar(text), size) for name, text in texts.items()})
    tables = spill.map_batches(
        lambda span, batch: _build_batch(spec, batch, constants, predicted.values[span]), rows
    )
    batches = (batch for table in tables for batch in table.to_batches())
    return spill.spill_table(predictions_schema(spec), batches)


def _build_batch(spec: UseCase, rows: pa.Table, constants: pa.Table, values: NDArray[np.float64]) -> pa.Table:
    columns = {name: constants[name].slice(0, rows.num_rows) for name in constants.column_names}
    columns |= outputs.to_columns(spec, values) | {"row_digest": _row_digests(spec, rows)}
    if spec.problem.classes:
        columns |= {
            "prediction": pa.array(values.max(axis=1)),
            "label": outputs.predicted_class(spec, values),
        }
    if spec.problem.costs:
        columns[ACTION] = actions(spec, values)
    columns |= {name: rows[name] for name in ("partition", *spec.key)}
    schema = predictions_schema(spec)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def actions(spec: UseCase, values: NDArray[np.float64]) -> pa.Array:
    """Return each prediction's action with the lowest expected cost; of a use case with `problem.costs`."""
    positions = best_actions(values, spec.problem.cost_matrix)
    return pa.array(spec.problem.actions, pa.string()).take(pa.array(positions))


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
        f"{row['count_all']:,} rows by {FallbackStep(row['served_by'], row['version']).name}"
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
    inputs = {**inputs, "model": models}
    row = schemas.completion_row(product, partition, predictions, inputs=inputs, spec=spec, note=note)
    return pa.Table.from_pylist([row], schema=schemas.PARTITIONS)


def profiles_of(spec: UseCase, partition: str, features: pa.Table | None, served: pa.Table) -> pa.Table:
    """Return the profiles of a partition's features, unless they are lost, and of its predictions."""
    columns = spec.features
    tables = [profiles.build_profile("predictions", partition, served, spec.problem.outputs, [])]
    if features is not None:
        own = profiles.build_profile("features", partition, features, columns.numeric, columns.categorical)
        tables.insert(0, own)
    return pa.concat_tables(tables)


def features_reference(lake: Lake, ref: Ref) -> Ref:
    """Return the reference of a partition's features: the digest of the rows and the declaration behind them.

    Parameters
    ----------
    ref : of the partition's predictions, whose row `predictions_row` returned.
    """
    (row,) = lake.rows("partitions", {"product": "predictions", "partition": ref.partition})
    inputs = {name: digest for name, digest in json.loads(row["inputs"]).items() if name != "model"}
    return replace(ref, digest=digest_json([inputs, row["spec"]]))


def nearly_equal(spec: UseCase, served: pa.Table, current: pa.Table) -> bool:
    """Tell whether predictions of the same rows by the same models differ by no more than rounding.

    The last bit of a linear model's prediction depends on how many rows are predicted at once.
    """
    same_steps = served.num_rows == current.num_rows and all(
        served[name].equals(current[name]) for name in SERVED_BY
    )
    return same_steps and all(
        np.allclose(
            outputs.from_columns(spec, served[span.start : span.stop]),
            outputs.from_columns(spec, batch),
            rtol=TOLERANCE,
            atol=0,
        )
        for span, batch in spill.batches(current)
    )


def same_rows(spec: UseCase, rows: pa.Table, predictions: pa.Table) -> bool:
    """Tell whether predictions were made from exactly these rows of features."""
    same_keys = predictions.num_rows == rows.num_rows and all(
        predictions[name].equals(rows[name].cast(predictions[name].type)) for name in spec.key
    )
    return same_keys and all(
        pa.chunked_array([_row_digests(spec, batch)]).equals(predictions["row_digest"][span])
        for span, batch in spill.batches(rows)
    )


def _row_digests(spec: UseCase, rows: pa.Table) -> pa.Array:
    """Return the digest of each row's features."""
    return digest_rows(rows, spec.features.numeric, spec.features.categorical)
