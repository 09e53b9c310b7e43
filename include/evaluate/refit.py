"""Measure whether a new fit is broken: how far its predictions moved, and how a twin does on the newest rows.

The twin is the challenger's recipe fitted on today's data without the newest partitions. If today's data is
what an earlier fit had, that fit is the twin.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.judge.evidence import Refit
from include.models import artifacts
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.digests import digest_table
from include.train import walks
from include.train.fits import (
    Fit,
    FitId,
    KnownRows,
    fitting_rows,
    read_fits,
    refused_fits,
)
from include.train.fitting import fit_recipe, is_learnable, target
from include.train.recipes import recipe_key, recipes_by_name
from include.train.record import TrainingRecord
from include.train.selection import RECENT
from include.train.split import partitions_of, split
from include.train.walks import Walks

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
    recipe = recipes_by_name(spec)[record.challenger.name]
    key, refused = recipe_key(spec, recipe), refused_fits(lake)
    fits = [fit for fit in read_fits(lake) if fit.recipe_key == key and fit.partition <= partition]
    moved = measure_movement(fits, refused)
    newest = twin_partitions(spec, partitions_of(known_rows.labeled), last_fitted)
    earlier = (
        known_rows.labeled.filter(pc.less(known_rows.labeled["partition"], newest[0])) if newest else None
    )
    if earlier is None or not is_learnable(spec, fitting_rows(spec, recipe, partition, earlier)):
        return moved
    rows = walks.sample(
        known_rows.labeled.filter(pc.greater_equal(known_rows.labeled["partition"], newest[0])), spec
    )
    try:  # a model of an earlier declaration may need another feature or know other classes
        serving = _losses(known_rows, artifacts.load_model(lake, champion, spec), rows, newest)
    except ModelError:
        return moved
    own = fitting_rows(spec, recipe, partition, earlier)
    data = digest_table(own)
    same = [fit for fit in fits if fit.data == data and artifacts.is_stored(lake, fit.model)]
    twin = artifacts.load_model(lake, same[-1].model, spec) if same else fit_recipe(spec, recipe, own)
    rejected = refused_before(fits, newest, refused)
    if rejected and not artifacts.is_stored(lake, rejected.model):
        rejected = None
    later = twin_partitions(spec, newest, rejected.last_fitted) if rejected else []
    return replace(
        moved,
        **_seen_by_both(known_rows, recipe, fits, refused),
        rows=tuple(int(pc.sum(pc.equal(rows["partition"], key)).as_py()) for key in newest),
        twin=_losses(known_rows, twin, rows, newest),
        serving=serving,
        refused=_losses(known_rows, _load(known_rows, rejected), rows, later) if rejected else (),
    )


def _seen_by_both(
    known_rows: KnownRows, recipe: Recipe, fits: Sequence[Fit], refused: Collection[FitId]
) -> dict[str, Any]:
    """Return the losses of the newest fit and the recipe's previous fit on test rows that both have seen."""
    before = accepted_before(fits, refused)
    if before is None or not artifacts.is_stored(known_rows.lake, before.model):
        return {}
    test = split(known_rows.labeled, known_rows.spec, known_rows.partition).test
    partitions = seen_partitions(known_rows.spec, recipe, fits[-1], before, partitions_of(test))
    both = pc.is_in(test["partition"], pa.array(partitions, pa.string()))
    rows = walks.sample(test.filter(both), known_rows.spec)
    seen_rows = tuple(int(pc.sum(pc.equal(rows["partition"], key)).as_py()) for key in partitions)
    known_walks = walks.read(known_rows.lake, known_rows.spec, known_rows.partition)
    return {
        "seen_rows": seen_rows,
        "seen_walk": walk_losses(known_walks, recipe.name, partitions, seen_rows),
        "growth": growth(known_rows.spec, recipe, fits[-1], before),
        "seen_now": _losses(known_rows, _load(known_rows, fits[-1]), rows, partitions),
        "seen_before": _losses(known_rows, _load(known_rows, before), rows, partitions),
    }


def walk_losses(
    known_walks: Walks, recipe: str, partitions: Sequence[str], rows: Sequence[int]
) -> tuple[float | None, ...]:
    """Return the sums of a recipe's losses in its walk by partition, None where it has none.

    Parameters
    ----------
    rows : of each partition, shape (n,).
    """
    means = {}
    if recipe in known_walks.recipes:
        means = dict(zip(known_walks.partitions, known_walks.of(recipe), strict=True))
    sums = [means.get(key, np.nan) * count for key, count in zip(partitions, rows, strict=True)]
    return tuple(float(total) if np.isfinite(total) else None for total in sums)


def growth(spec: UseCase, recipe: Recipe, fit: Fit, before: Fit) -> float:
    """Return by what share a row's weight in a recipe's fit fell since the previous fit; 0 if it didn't.

    More rows share the weight, and with a half-life older rows lose theirs to newer ones.
    """
    share = before.rows / fit.rows
    if recipe.half_life:
        age = len(spec.clock.keys(before.last_fitted, fit.last_fitted)) - 1
        share *= 2 ** (-age / recipe.half_life)
    return max(1 - share, 0.0)


def accepted_before(fits: Sequence[Fit], refused: Collection[FitId]) -> Fit | None:
    """Return the newest fit before the last that the gate didn't refuse, None if there is none."""
    return next((fit for fit in reversed(fits[:-1]) if fit.id not in refused), None)


def seen_partitions(spec: UseCase, recipe: Recipe, fit: Fit, before: Fit, test: Sequence[str]) -> list[str]:
    """Return those test partitions that two fits of a recipe were both fitted on."""
    window = recipe.window or spec.training.window
    if spec.sparse and window:
        test = test[-window:]
        window = None
    first = spec.clock.shift(fit.partition, 1 - window) if window else ""
    return [key for key in test if first <= key <= before.last_fitted]


def measure_movement(fits: Sequence[Fit], refused: Collection[FitId]) -> Refit:
    """Return how far the last of a recipe's fits moved, and how far those before it did.

    Parameters
    ----------
    fits : of one recipe, oldest first, the challenger's last.
    refused : the fits that the gate refused.
    """
    # a fit of the same rows is the same model: it says nothing of how far others move
    moves = [fit.moved for fit in fits[:-1] if fit.moved and fit.id not in refused]
    return Refit(moved=fits[-1].moved, past_moves=tuple(moves[-PAST_MOVES:]))


def twin_partitions(spec: UseCase, labeled: Sequence[str], last_fitted: str) -> list[str]:
    """Return the newest labeled partitions that a model wasn't fitted on: for the serving one, the twin's."""
    return [key for key in labeled if key > last_fitted][-max(spec.walk_step, RECENT) :]


def refused_before(fits: Sequence[Fit], newest: Sequence[str], refused: Collection[FitId]) -> Fit | None:
    """Return a fit that the gate refused since the last accepted one, None if no partition judges it.

    Parameters
    ----------
    fits : of one recipe, oldest first.
    newest : the newest labeled partitions. The newest fit that saw none of them is preferred, or else the one
        that saw the fewest.
    """
    since = list(takewhile(lambda fit: fit.id in refused, reversed(fits[:-1])))
    unseen = [fit for fit in since if fit.last_fitted < newest[0]][:1]
    return next((fit for fit in (*unseen, *since[-1:]) if fit.last_fitted < newest[-1]), None)


def _load(known_rows: KnownRows, fit: Fit) -> Pipeline:
    return artifacts.load_model(known_rows.lake, fit.model, known_rows.spec)


def _losses(
    known_rows: KnownRows, model: Pipeline, rows: pa.Table, partitions: list[str]
) -> tuple[float, ...]:
    """Return the sums of a model's losses by partition."""
    spec = known_rows.spec
    losses = row_losses(spec.objective, target(spec, rows), artifacts.predict(model, rows, spec))
    partition = np.asarray(rows["partition"].to_pylist(), dtype=object)
    return tuple(float(losses[partition == key].sum()) for key in partitions)
