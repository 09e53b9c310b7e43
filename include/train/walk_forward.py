"""A recipe is judged by walking forward over the test partitions.

So that the model may be fitted on them after.

From every origin it is fitted on the labels that had come by that partition, as a training on it would have
been, and predicts the partitions until the next origin. All together are the evidence; what then serves is
the same recipe, fitted on everything.
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
PATH = "evergreen/walked.parquet"  # below the run


@dataclass(frozen=True)
class WalkForward:
    """What the recipes said of the m test rows, by the names of the evidence, and the bytes that keep it."""

    predictions: dict[str, Array]
    data: bytes

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return digest_bytes(self.data)


def refit_origins(spec: UseCase, partition: str, test: int) -> list[str]:
    """Return the partitions whose models predict the ``test`` partitions of a training, ascending.

    The first is the last partition before them; each predicts the ``gate.step`` partitions after itself.
    """
    back = range(test, 0, -spec.gate.step)
    return [spec.clock.shift(partition, -partitions) for partitions in back]


def walk_forward(
    spec: UseCase,
    partition: str,
    challenger: Candidate,
    parts: Split,
    known: Callable[[str], pa.Table],
) -> WalkForward:
    """Fit the challenger's recipe and each baseline anew at every origin, and predict the test rows.

    Parameters
    ----------
    partition : of the training.
    parts : of the training; its m test rows are predicted.
    known : gives the labelled rows of the training set as they were known on a partition.

    Raises
    ------
    EvergreenError
        when too little was known at an origin to fit on.
    """
    test = parts.test
    recipes = {CHALLENGER: challenger} | {f"{BASELINE}{c.name}": c for c in spec.training.baselines}
    of = np.asarray(test["partition"].to_pylist(), dtype=object)
    found = {
        name: np.empty(outputs.predictions_shape(spec, test.num_rows), dtype=np.float64) for name in recipes
    }
    starts = refit_origins(spec, partition, parts.tested)
    for origin, until in zip(starts, [*starts[1:], partition], strict=True):
        places = np.flatnonzero((of > origin) & (of <= until))
        if not len(places):
            continue
        rows, asked = known(origin), test.take(places)
        require_learnable_labels(spec, origin, rows)
        for name, recipe in recipes.items():
            found[name][places] = artifacts.predict(fit_recipe(spec, recipe, rows), asked, spec)
    return WalkForward(found, _bytes(test.select([*spec.key, "partition"]), found))


def read_walk(data: bytes) -> dict[str, Array]:
    """Return the predictions that `walk` kept, in the order of the test rows."""
    rows = pq.read_table(io.BytesIO(data))
    names = [name for name in rows.column_names if name == CHALLENGER or name.startswith(BASELINE)]
    return {name: outputs.from_single_column(rows[name]) for name in names}


def _bytes(rows: pa.Table, found: Mapping[str, Array]) -> bytes:
    for name, values in found.items():
        rows = rows.append_column(name, outputs.to_single_column(values))
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()
