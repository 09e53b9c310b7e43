"""Measure whether a new fit is broken: how far its predictions moved, and how a twin does on the newest rows.

The twin is the challenger's recipe fitted on today's data without the newest partitions. If today's data is
what an earlier fit had, that fit is the twin.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.judge.evidence import Refit
from include.models import artifacts
from include.stats.metrics import row_losses
from include.storage.digests import digest_table
from include.train import walks
from include.train.fit import fit_recipe, is_learnable, target
from include.train.fits import Fit, KnownRows, fitting_rows, read_fits, recipe_key, recipes, refused_models
from include.train.record import TrainingRecord
from include.train.split import partitions_of

Array = NDArray[np.float64]
PAST_MOVES = 26  # of the recipe's newest fits


def measure_refit(known_rows: KnownRows, record: TrainingRecord, champion: str, last_fitted: str) -> Refit:
    """Compare a challenger's fit with the recipe's fits before it and with the serving model.

    Parameters
    ----------
    known_rows : the rows of the training.
    champion : digest of the serving model.
    last_fitted : the last partition that it was fitted on; empty if unknown.
    """
    lake, spec, partition = known_rows.lake, known_rows.spec, record.partition
    recipe = next(r for r in recipes(spec, short_memory=True) if r.name == record.challenger.name)
    key, refused = recipe_key(spec, recipe), refused_models(lake)
    fits = [fit for fit in read_fits(lake) if fit.key == key and fit.partition <= partition]
    moves = [fit.moved for fit in fits[:-1] if fit.moved is not None and fit.model not in refused]
    moved = Refit(moved=fits[-1].moved, past_moves=tuple(moves[-PAST_MOVES:]))
    newest = [key for key in partitions_of(known_rows.labelled) if key > last_fitted][-spec.training.step :]
    earlier = (
        known_rows.labelled.filter(pc.less(known_rows.labelled["partition"], newest[0])) if newest else None
    )
    if earlier is None or not is_learnable(spec, fitting_rows(spec, recipe, partition, earlier)):
        return moved
    rows = walks.sample(
        known_rows.labelled.filter(pc.greater_equal(known_rows.labelled["partition"], newest[0])), spec
    )
    try:
        serving = artifacts.load_model(lake, champion)
    except ModelError:
        return moved
    own = fitting_rows(spec, recipe, partition, earlier)
    data = digest_table(own)
    same = [fit for fit in fits if fit.data == data]
    twin = artifacts.load_model(lake, same[-1].model) if same else fit_recipe(spec, recipe, own)
    previous = [fit for fit in fits[:-1] if fit.last_fitted < newest[0]][-1:]
    rejected = [fit for fit in previous if fit.model in refused]
    return Refit(
        moved=moved.moved,
        past_moves=moved.past_moves,
        rows=tuple(int(pc.sum(pc.equal(rows["partition"], key)).as_py()) for key in newest),
        twin=_losses(known_rows, twin, rows, newest),
        serving=_losses(known_rows, serving, rows, newest),
        refused=_losses(known_rows, _load(known_rows, rejected[0]), rows, newest) if rejected else (),
    )


def _load(known_rows: KnownRows, fit: Fit) -> Pipeline:
    return artifacts.load_model(known_rows.lake, fit.model)


def _losses(
    known_rows: KnownRows, model: Pipeline, rows: pa.Table, partitions: list[str]
) -> tuple[float, ...]:
    """Return the sums of a model's losses by partition."""
    spec = known_rows.spec
    losses = row_losses(spec.gate.objective, target(spec, rows), artifacts.predict(model, rows, spec))
    partition = np.asarray(rows["partition"].to_pylist(), dtype=object)
    return tuple(float(losses[partition == key].sum()) for key in partitions)
