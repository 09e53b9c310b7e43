"""Everything that is measured of a challenger beside its losses, gathered for the gate."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include import models, outputs
from include.evaluate import columns, coverage, edge, fairness, importance, sentinel, serve, slices
from include.evaluate.metrics import loss
from include.features.build import features
from include.lake import Lake
from include.promote.evidence import BASELINE, CHALLENGER, CHAMPION
from include.promote.facts import Facts, Fairness, Leak, Serving
from include.spec import UseCase
from include.spec.stages import Candidate

Array = NDArray[np.float64]
PRIOR = f"{BASELINE}prior"


@dataclass(frozen=True)
class Tested:
    """A challenger and the rows that it is judged on.

    Parameters
    ----------
    night : of the training.
    recipe : the candidate that it was fitted by.
    estimator, data, digest : the model as it would serve, read back, and its bytes.
    fitted : the rows that it was fitted and chosen on, all earlier than the test rows.
    deployed_fit : the rows that the model to serve was fitted on; of a walk forward the test rows as well.
    rows : the unseen test rows, shape (n, any), and ``actual``, their labels, shape (n,).
    nights : of those rows, ascending.
    predictions : of every model on the rows, as the losses are of them, each of shape (n,) or (n, k).
    deployed : what the challenger itself predicts: of a walk forward that isn't what is judged.
    """

    night: str
    recipe: Candidate
    estimator: Pipeline
    data: bytes
    digest: str
    fitted: pa.Table
    deployed_fit: pa.Table
    rows: pa.Table
    actual: Array
    nights: Sequence[str]
    predictions: Mapping[str, Array]
    deployed: Array

    def losses(self, spec: UseCase) -> dict[str, Array]:
        """Return every model's loss on each row."""
        of = spec.gate.objective
        return {name: loss(of, self.actual, values) for name, values in self.predictions.items()}

    def places(self) -> list[NDArray[np.intp]]:
        """Return where the rows of each night lie."""
        of = np.asarray(self.rows["night"].to_pylist(), dtype=object)
        return [np.flatnonzero(of == night) for night in self.nights]

    def parquet(self) -> bytes:
        """Return night, label and predictions of each row, as the report reads them."""
        said = {name: outputs.packed(values) for name, values in self.predictions.items()}
        table = pa.table({"night": self.rows["night"], "actual": self.actual, **said})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()


def gather(lake: Lake, spec: UseCase, tested: Tested) -> Facts:
    """Return the facts; without an unseen row there are none."""
    if not tested.rows.num_rows:
        return Facts()
    losses = tested.losses(spec)
    rival = (
        CHAMPION
        if CHAMPION in losses
        else min(
            (name for name in losses if name.startswith(BASELINE)),
            key=lambda name: float(losses[name].mean()),
        )
    )
    parts = columns.beside(lake, spec, tested.rows, spec.gate.slices.columns)
    walked = spec.gate.evidence == "walk_forward"
    return Facts(
        rival=rival,
        slices=slices.measure(spec, tested.rows, parts, losses, tested.nights, rival),
        fairness=_fairness(lake, spec, tested),
        edge_cases=edge.measure(tested.estimator, spec, tested.rows, tested.actual, tested.fitted),
        serving=_serving(lake, spec, tested),
        leak=_leak(lake, spec, tested, losses),
        coverage=coverage.measure(spec, tested.deployed_fit, _scored(lake, spec, tested)),
        importance=importance.measure(tested.estimator, spec, tested.rows, tested.actual),
        refit=float(loss(spec.gate.objective, tested.actual, tested.deployed).mean()) if walked else None,
    )


def _fairness(lake: Lake, spec: UseCase, tested: Tested) -> tuple[Fairness, ...]:
    if spec.gate.fairness is None:
        return ()
    groups = columns.beside(lake, spec, tested.rows, spec.gate.fairness.columns)
    return fairness.measure(spec, groups, tested.actual, tested.predictions[CHALLENGER])


def _serving(lake: Lake, spec: UseCase, tested: Tested) -> Serving:
    """Return how the model serves, as it was measured first: evidence made again has the same bytes."""
    key = f"evaluations/serving/{tested.digest}.json"
    kept = lake.get(key)
    if kept is not None:
        return Serving(**json.loads(kept))
    # a night's batch by itself: a linear model's last bits depend on the batch
    batch = tested.rows.filter(pc.equal(tested.rows["night"], tested.nights[-1]))
    predictions = models.predict(tested.estimator, batch, spec)
    found = serve.measure(tested.data, tested.digest, spec, batch, predictions)
    if found.same and not lake.create(key, json.dumps(asdict(found)).encode()):
        return Serving(**json.loads(lake.get(key) or b"{}"))  # another was first
    return found


def _leak(lake: Lake, spec: UseCase, tested: Tested, losses: Mapping[str, Array]) -> Leak:
    return Leak(
        alone=sentinel.alone(spec, tested.fitted, tested.rows),
        shuffled=sentinel.shuffled(spec, tested.recipe, tested.fitted, tested.rows, tested.nights),
        saved=sentinel.saved(losses[CHALLENGER].tolist(), losses[PRIOR].tolist())
        if PRIOR in losses
        else None,
        history=sentinel.history(lake, tested.night),
        too_few=sentinel.too_few(spec, tested.rows),
    )


def _scored(lake: Lake, spec: UseCase, tested: Tested) -> pa.Table:
    """Return every row to score since the first test night, with a label or without."""
    return features(lake, spec, spec.clock.keys(tested.nights[0], tested.night))
