"""Walk-forward evaluation: judges a recipe on the test partitions, so the model may be fitted on them later.

The recipe is refitted at every origin on the labels known by that partition, as a training on it would have
been, and predicts the partitions up to the next origin. All these predictions together are the evidence. The
model that serves is the same recipe fitted on everything.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from include.judge.evidence import BASELINE, CHALLENGER
from include.models import artifacts, outputs
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.stages import Candidate
from include.train.fit import fit_recipe, require_learnable_labels
from include.train.split import Split

Array = NDArray[np.float64]
PATH = "evergreen/walk_forward.parquet"  # below the run


@dataclass(frozen=True)
class WalkForward:
    """The predictions for the m test rows, by the models' names in the evidence, and their stored bytes."""

    predictions: dict[str, Array]
    data: bytes

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return digest_bytes(self.data)


def refit_origins(spec: UseCase, partition: str, test_window: int) -> list[str]:
    """Return the partitions on which models are refitted to predict the test partitions, ascending.

    The first is the last partition before the test partitions. Each model predicts the ``gate.step``
    partitions after its own.
    """
    offsets = range(test_window, 0, -spec.gate.step)
    return [spec.clock.shift(partition, -offset) for offset in offsets]


def walk_forward(
    spec: UseCase,
    partition: str,
    challenger: Candidate,
    parts: Split,
    rows_known_at: Callable[[str], pa.Table],
) -> WalkForward:
    """Refit the challenger's recipe and each baseline at every origin, and predict the test rows.

    Parameters
    ----------
    partition : of the training.
    parts : of the training; its m test rows are predicted.
    rows_known_at : returns the labelled rows of the training set as they were known on a partition.

    Raises
    ------
    InsufficientData
        when the rows known at an origin are too few to fit on.
    """
    test = parts.test
    recipes = {CHALLENGER: challenger}
    recipes |= {f"{BASELINE}{candidate.name}": candidate for candidate in spec.training.baselines}
    row_partitions = np.asarray(test["partition"].to_pylist(), dtype=object)
    shape = outputs.predictions_shape(spec, test.num_rows)
    predictions = {name: np.empty(shape, dtype=np.float64) for name in recipes}
    origins = refit_origins(spec, partition, parts.test_window)
    for origin, until in zip(origins, [*origins[1:], partition], strict=True):
        indexes = np.flatnonzero((row_partitions > origin) & (row_partitions <= until))
        if not len(indexes):
            continue
        training_rows, rows = rows_known_at(origin), test.take(indexes)
        require_learnable_labels(spec, origin, training_rows)
        for name, recipe in recipes.items():
            estimator = fit_recipe(spec, recipe, training_rows)
            predictions[name][indexes] = artifacts.predict(estimator, rows, spec)
    return WalkForward(predictions, _to_parquet(test.select([*spec.key, "partition"]), predictions))


def _to_parquet(rows: pa.Table, predictions: Mapping[str, Array]) -> bytes:
    for name, values in predictions.items():
        rows = rows.append_column(name, outputs.to_single_column(values))
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


def read_walk(data: bytes) -> dict[str, Array]:
    """Return the predictions that `walk_forward` stored, in the order of the test rows."""
    rows = pq.read_table(io.BytesIO(data))
    names = [name for name in rows.column_names if name == CHALLENGER or name.startswith(BASELINE)]
    return {name: outputs.from_single_column(rows[name]) for name in names}
