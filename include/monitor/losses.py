"""What each model lost on a partition that it served, as sums.

They add up to any partitions, and pair by partition.

Beside the loss stands a baseline's on the same rows: the deployed one's, which is what the ladder would serve
next, or the training prior's where none is deployed or it can't predict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from include.promote.ledger import Row
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.storage import schemas
from include.storage.lake import Lake

LOSSES = "losses"
PRIOR = "prior"
OTHER = "_of_baseline"  # after a column's name: what the baseline predicted, beside the served one
Array = NDArray[np.float64]


@dataclass(frozen=True)
class LossSeries:
    """A model's partitions with labels, ascending, as known on a partition.

    Parameters
    ----------
    partitions : shape (n,).
    rows : labelled rows that the model served.
    loss, baseline : sums of the objective's loss, of the model and of the baseline on the same rows.
    expected : sum of the loss that the model's own probabilities expect; NaN where it has none.
    observed, predicted : sums of the target and of the predictions.
    against : who the baseline is, as ``baseline v3`` or ``prior``.
    """

    partitions: tuple[str, ...]
    rows: Array
    loss: Array
    baseline: Array
    expected: Array
    observed: Array
    predicted: Array
    against: tuple[str, ...]


def loss_series(lake: Lake, champion: Mapping[str, Any], partition: str) -> LossSeries:
    """Return the sums of a champion's matured partitions since it serves, as known on a partition."""
    newest: dict[str, Row] = {}
    found = lake.rows(LOSSES, {"model": champion["model"]})
    for row in sorted(found, key=lambda row: (str(row["partition"]), str(row["known"]))):
        if row["known"] <= partition and row["partition"] >= champion["effective"] and row["rows"]:
            newest[row["partition"]] = row
    rows = list(newest.values())
    names = ("rows", "loss", "baseline", "expected", "observed", "predicted")
    columns = {name: np.array([row[name] for row in rows], dtype=float) for name in names}
    return LossSeries(tuple(newest), **columns, against=tuple(row["against"] for row in rows))


def baseline_losses(
    lake: Lake, spec: UseCase, partitions: Sequence[str]
) -> tuple[pa.Table | None, dict[str, str]]:
    """Return what the baseline that was deployed on each partition says of its rows.

    And who that is by partition.

    The features are made anew as each partition saw them. A partition that isn't there has the prior.
    """
    keys, rows = [*spec.key, "partition"], ledger.switches(lake)
    by: dict[str, list[str]] = {}
    who: dict[str, str] = {}
    for partition in partitions:
        deployed = ledger.serving_of(rows, partition).baseline
        if deployed is not None:
            by.setdefault(str(deployed["model"]), []).append(partition)
            who[partition] = f"baseline v{deployed['version']}"
    parts = []
    for digest, some in by.items():
        seen = features(lake, spec, some)
        try:
            values = artifacts.predict(artifacts.load_model(lake, digest), seen, spec)
        except ModelError:
            continue
        part = seen.select(keys)
        for name, column in outputs.to_columns(spec, values).items():
            part = part.append_column(name + OTHER, column)
        parts.append(part)
    made = pa.concat_tables(parts) if parts else None
    there = set() if made is None else set(made["partition"].unique().to_pylist())
    return made, {partition: name for partition, name in who.items() if partition in there}


def losses_of_partition(
    spec: UseCase, both: pa.Table, known: str, prior: Constant, made: pa.Table | None, who: Mapping[str, str]
) -> pa.Table:
    """Return a partition's rows of `losses`, one for each model that served.

    Parameters
    ----------
    both : the partition's predictions beside the target, null where there is no label.
    prior : what is predicted where no baseline is deployed.
    made, who : what `rivals` gave.
    """
    partition, target = both["partition"][0].as_py(), spec.problem.target
    if partition in who and made is not None:
        mine = made.filter(pc.equal(made["partition"], partition))
        both = both.join(mine, [*spec.key, "partition"], join_type="left outer")
        both = both.sort_by([(name, "ascending") for name in spec.key])
    else:
        for name in spec.problem.outputs:
            both = both.append_column(name + OTHER, pa.nulls(both.num_rows, pa.float64()))
    both = both.filter(both[target].is_valid())
    against = who.get(partition, PRIOR) if not both[spec.problem.outputs[0] + OTHER].null_count else PRIOR
    rows = []
    for (model, version), part in _served(both):
        actual, predicted = part[target].to_numpy(), outputs.from_columns(spec, part)
        constant = outputs.repeat_constant(prior, len(actual))
        other = constant if against == PRIOR else outputs.from_columns(spec, part, OTHER)
        rows.append({
            "partition": partition, "known": known, "model": model, "version": version, "rows": len(actual),
            "loss": float(row_losses(spec.gate.objective, actual, predicted).sum()),
            "baseline": float(row_losses(spec.gate.objective, actual, other).sum()),
            "against": against,
            "expected": expected_own_loss(spec, predicted),
            "observed": None if spec.problem.classes else float(actual.sum()),
            "predicted": None if spec.problem.classes else float(predicted.sum()),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schemas.LOSSES)


def expected_own_loss(spec: UseCase, predicted: Array) -> float | None:
    """Return the sum of the loss that probabilities expect of themselves, None of a kind without any.

    A row that is 1 with probability p loses p L(1, p) + (1 - p) L(0, p): its entropy for the log loss,
    p (1 - p) for Brier's.
    """
    if spec.problem.classes:
        places = enumerate(predicted.T)
        return sum(
            float((p * row_losses(spec.gate.objective, np.full(len(p), k), predicted)).sum())
            for k, p in places
        )
    if spec.problem.kind != "binary":
        return None
    one, none = (row_losses(spec.gate.objective, np.full_like(predicted, v), predicted) for v in (1.0, 0.0))
    return float((predicted * one + (1 - predicted) * none).sum())


def _served(rows: pa.Table) -> list[tuple[tuple[str, str], pa.Table]]:
    """Return the rows of each model that served, constants aside."""
    pairs = zip(rows["model"].to_pylist(), rows["version"].to_pylist(), strict=True)
    found = sorted({(model, version) for model, version in pairs if model})
    return [(pair, rows.filter(pc.equal(rows["model"], pair[0]))) for pair in found]
