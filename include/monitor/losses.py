"""The realized loss of each model on each partition that it served, beside others' on the same rows.

Losses are stored as sums, so they add up over any partitions and pair by partition. The others are the
constant of the training's labels and the deployed baseline, which is the next fallback step. The constant
stands for the baseline if none is deployed or the deployed one can't predict.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.errors import ModelError
from include.features.build import features
from include.models import artifacts, outputs
from include.models.outputs import Constant
from include.promote import ledger
from include.spec import UseCase
from include.stats.metrics import has_loss, row_losses
from include.storage import schemas
from include.storage.lake import Lake, newest_known

LOSSES = "losses"
CONSTANT = "constant"
BASELINE_SUFFIX = "_of_baseline"  # after an output's name: the baseline's prediction
Array = NDArray[np.float64]


@dataclass(frozen=True)
class LossSeries:
    """The partitions with labels of a recipe's consecutive champions, ascending, as known on a partition.

    Parameters
    ----------
    partitions : shape (n,).
    rows : labeled rows that the champion served.
    loss, baseline, constant : sums of the objective's loss, of the champion, the baseline and the training
        labels' constant on the same rows.
    expected : sum of the loss that the model's own probabilities imply; NaN for a regression.
    observed, predicted : sums of the target and of the predictions; for a multiclass problem the rows of each
        class and the sums of its probabilities, shape (n, k), NaN where earlier code stored none.
    against : the baseline, as ``baseline v3`` or ``constant``.
    """

    partitions: tuple[str, ...]
    rows: Array
    loss: Array
    baseline: Array
    constant: Array
    expected: Array
    observed: Array
    predicted: Array
    against: tuple[str, ...]


def loss_series(lake: Lake, champions: Sequence[Mapping[str, Any]], partition: str) -> LossSeries:
    """Return the losses of the matured partitions of consecutive champions, as known on a partition.

    Parameters
    ----------
    champions : switches, oldest first; each serves from its partition on until the next one does.
    """
    newest: dict[str, int] = {}  # by partition, the place of its newest row
    model_on = serving_model(champions)
    where = {"model": sorted({row["model"] for row in champions})}
    published = lake.read(LOSSES, where, order=("partition", "as_of"))
    published = schemas.LOSSES.empty_table() if published is None else published
    columns = [published[name].to_pylist() for name in ("partition", "as_of", "model", "rows")]
    for row, (scored, as_of, model, count) in enumerate(zip(*columns, strict=True)):
        if as_of <= partition and model_on(scored) == model and count:
            newest[scored] = row
    rows = published.take(pa.array(list(newest.values()), pa.int64()))
    names = ("rows", "loss", "baseline", "constant", "expected", "observed", "predicted")
    sums = {name: rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in names}
    texts = rows["by_class"].to_pylist() if "by_class" in rows.column_names else []  # earlier code had none
    by_class = [json.loads(text) if text else None for text in texts]
    if stored := next((pair for pair in by_class if pair), None):
        unknown = np.full_like(stored, np.nan, dtype=float)
        both = np.stack([unknown if pair is None else np.array(pair, float) for pair in by_class])
        sums |= {"observed": both[:, 0], "predicted": both[:, 1]}
    return LossSeries(tuple(newest), **sums, against=tuple(rows["against"].to_pylist()))


def serving_model(champions: Sequence[Mapping[str, Any]]) -> Callable[[str], str | None]:
    """Return a function that gives the model of consecutive champions that serves a partition.

    It is None before the first.

    Parameters
    ----------
    champions : switches, oldest first; each serves from its partition on until the next one does.
    """
    by_effect = sorted(range(len(champions)), key=lambda index: str(champions[index]["effective_from"]))
    effects = [str(champions[index]["effective_from"]) for index in by_effect]
    newest = accumulate(by_effect, max)  # from each of these partitions on
    models = [None, *(str(champions[index]["model"]) for index in newest)]
    return lambda partition: models[bisect_right(effects, partition)]


def baseline_predictions(
    lake: Lake, spec: UseCase, partitions: Sequence[str]
) -> tuple[pa.Table | None, dict[str, str]]:
    """Return the predictions of the baseline deployed on each partition, and its name by partition.

    The features are rebuilt point-in-time for each partition. A partition that isn't in the result has only
    the constant.
    """
    keys, switches = [*spec.key, "partition"], ledger.switches(lake)
    by_model: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for partition in partitions:
        deployed = ledger.serving_of(switches, partition).baseline
        if deployed is not None:
            by_model.setdefault(str(deployed["model"]), []).append(partition)
            names[partition] = f"baseline v{deployed['version']}"
    parts = []
    for digest, served in by_model.items():
        rows = features(lake, spec, served)
        try:
            values = artifacts.predict(artifacts.load_model(lake, digest, spec), rows, spec)
        except ModelError:
            continue
        part = rows.select(keys)
        for name, column in outputs.to_columns(spec, values).items():
            part = part.append_column(name + BASELINE_SUFFIX, column)
        parts.append(part)
    if not parts:
        return None, {}
    predictions = pa.concat_tables(parts)
    predicted = set(predictions["partition"].unique().to_pylist())
    return predictions, {partition: name for partition, name in names.items() if partition in predicted}


def losses_of_partition(
    spec: UseCase,
    labeled: pa.Table,
    as_of: str,
    constant: Constant,
    baseline: pa.Table | None,
    baseline_names: Mapping[str, str],
) -> pa.Table:
    """Return a partition's rows of `losses`, one for each model that served.

    A label without a loss, such as one below 0 for the Poisson deviance, is left out.

    Parameters
    ----------
    labeled : the partition's predictions beside the target, null for rows without a label.
    as_of : the partition as of which the labels are known.
    constant : of the newest training.
    baseline, baseline_names : the result of `baseline_predictions`.
    """
    partition, target = labeled["partition"][0].as_py(), spec.problem.target
    if partition in baseline_names and baseline is not None:
        predictions = baseline.filter(pc.equal(baseline["partition"], partition))
        labeled = labeled.join(predictions, [*spec.key, "partition"], join_type="left outer")
        labeled = labeled.sort_by([(name, "ascending") for name in spec.key])
    else:
        for name in spec.problem.outputs:
            nulls = pa.nulls(labeled.num_rows, pa.float64())
            labeled = labeled.append_column(name + BASELINE_SUFFIX, nulls)
    labeled = labeled.filter(labeled[target].is_valid())
    incomplete = labeled[spec.problem.outputs[0] + BASELINE_SUFFIX].null_count
    against = CONSTANT if incomplete else baseline_names.get(partition, CONSTANT)
    rows = []
    for (model, version), served in _by_model(labeled):
        part = served.filter(pa.array(has_loss(spec, served[target].to_numpy())))
        if not part.num_rows:
            continue
        actual, predicted = part[target].to_numpy(), outputs.from_columns(spec, part)
        constants = outputs.repeat_constant(constant, len(actual))
        other = constants if against == CONSTANT else outputs.from_columns(spec, part, BASELINE_SUFFIX)
        rows.append({
            "partition": partition, "as_of": as_of, "model": model, "version": version, "rows": len(actual),
            "loss": float(row_losses(spec.objective, actual, predicted).sum()),
            "baseline": float(row_losses(spec.objective, actual, other).sum()),
            "constant": float(row_losses(spec.objective, actual, constants).sum()),
            "against": against,
            "expected": self_expected_loss(spec, predicted),
            "observed": None if spec.problem.classes else float(actual.sum()),
            "predicted": None if spec.problem.classes else float(predicted.sum()),
            "by_class": _sums_by_class(spec, actual, predicted) if spec.problem.classes else None,
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schemas.LOSSES)


def _sums_by_class(spec: UseCase, actual: Array, predicted: Array) -> str:
    counts = [float((actual == code).sum()) for code in spec.problem.codes]
    return json.dumps([counts, predicted.sum(axis=0).tolist()])


def self_expected_loss(spec: UseCase, predicted: Array) -> float | None:
    """Return the sum of the losses that probabilities imply, None for a regression.

    A row that is 1 with probability p is expected to lose p L(1, p) + (1 - p) L(0, p): its entropy for the
    log loss, and p (1 - p) for the Brier score.
    """
    if spec.problem.classes:
        positions = enumerate(predicted.T)
        return sum(
            float((p * row_losses(spec.objective, np.full(len(p), k), predicted)).sum()) for k, p in positions
        )
    if spec.problem.kind != "binary":
        return None
    positive, negative = (
        row_losses(spec.objective, np.full_like(predicted, label), predicted) for label in (1.0, 0.0)
    )
    return float((predicted * positive + (1 - predicted) * negative).sum())


def _by_model(rows: pa.Table) -> list[tuple[tuple[str, str], pa.Table]]:
    """Return the rows by model and version; rows of a constant have no model and are left out."""
    pairs = zip(rows["model"].to_pylist(), rows["version"].to_pylist(), strict=True)
    models = sorted({(model, version) for model, version in pairs if model})
    return [(pair, rows.filter(pc.equal(rows["model"], pair[0]))) for pair in models]


def loss_sums(lake: Lake, partitions: Sequence[str]) -> dict[str, Array]:
    """Return the newest sums of rows, loss and baseline, shape (3,), by partition with labeled rows."""
    columns = ["partition", "as_of", "model", "rows", "loss", "baseline"]
    # one scan of the table is faster than a filter by a list of partitions
    newest = newest_known(lake.rows(LOSSES, None, columns), "partition", "model")
    selected, sums = set(partitions), dict[str, Array]()
    for (partition, _), row in sorted(newest.items()):
        if partition in selected and row["rows"]:
            values = np.array([row["rows"], row["loss"], row["baseline"]], float)
            sums[partition] = sums.get(partition, np.zeros(3)) + values
    return sums


def mean_losses(lake: Lake, partitions: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return by partition the loss per row of what served, and of the baseline on the same rows."""
    sums = loss_sums(lake, partitions).items()
    return {partition: (float(loss / rows), float(other / rows)) for partition, (rows, loss, other) in sums}
