"""Every recipe's walk: a rolling backtest of what its newest fit before each partition lost there.

The table `walks` has one row per partition, recipe and partition on which the labels became known or changed.
It follows from the fits and the labels alone, so whoever extends it first, and in whatever order, the rows
are the same. Where partitions are large, a sample of the rows is predicted, chosen by a hash of the key.
A recipe whose fit can't predict the rows of a partition has an infinite loss there. A row stays as it is
when upkeep has removed its model, see `include.ops.upkeep.remove_models`.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.features.build import features
from include.features.labels import known_on, labels_known_on, matured
from include.models import artifacts, outputs
from include.spec import UseCase
from include.spec.clock import time_of
from include.stats.metrics import all_metric_values, has_loss, row_losses
from include.storage import schemas
from include.storage.lake import Lake
from include.storage.windows import partition_before
from include.train.fits import Fit, accepted_fits, newest_fits_by_partition, prediction_error
from include.train.recipes import recipe_names
from include.train.split import partitions_of

log = logging.getLogger(__name__)
Array = NDArray[np.float64]
TABLE = "walks"
WINDOW = 400  # partitions of the walks that a decision looks at, whatever the lake's age
WINDOW_DAYS = 60  # and at least these days, where a day has several partitions
BLOCK = 60  # partitions whose rows are held at once


@dataclass(frozen=True)
class Walks:
    """The mean loss of each recipe on each partition, predicted by the fit that it had then.

    Parameters
    ----------
    partitions : ascending, shape (n,).
    recipes : names, from the simplest to the most complex, shape (k,). One is ``prior``.
    rows : labeled rows of each partition that were predicted, shape (n,).
    losses : mean loss per row, shape (n, k); NaN where a recipe had no fit.
    unit : what each of them is: partitions, or days of several partitions.
    """

    partitions: tuple[str, ...]
    recipes: tuple[str, ...]
    rows: Array
    losses: Array
    unit: str = "partitions"

    def only(self, recipes: Collection[str]) -> Walks:
        """Return the walks of some recipes."""
        columns = [index for index, name in enumerate(self.recipes) if name in recipes]
        names = tuple(self.recipes[column] for column in columns)
        return replace(self, recipes=names, losses=self.losses[:, columns])

    def newest(self, count: int) -> Walks:
        """Return the walks on the newest partitions."""
        newest = slice(-count, None)
        return replace(
            self, partitions=self.partitions[newest], rows=self.rows[newest], losses=self.losses[newest]
        )

    def by_day(self) -> Walks:
        """Return the mean losses of blocks of a day, which end with the newest partition and days before it.

        Each block has the last of its partitions as its key, and a recipe's loss on those that it had a fit
        for. Days without partitions are left out.
        """
        if not self.partitions:
            return self
        times = np.array([time_of(key) for key in self.partitions], dtype="datetime64[s]")
        age = (times[-1] - times) // np.timedelta64(1, "D")
        first = np.flatnonzero(np.diff(age, prepend=age[0] + 1))
        weights = np.where(np.isnan(self.losses), 0.0, self.rows[:, None])
        sums = np.add.reduceat(np.where(weights > 0, self.losses, 0.0) * weights, first)
        counts = np.add.reduceat(weights, first)
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        last = [*(first[1:] - 1), len(age) - 1]
        keys = tuple(self.partitions[index] for index in last)
        return Walks(keys, self.recipes, np.add.reduceat(self.rows, first), means, unit="days")

    def of(self, recipe: str) -> Array:
        """Return a recipe's losses, shape (n,)."""
        return np.asarray(self.losses[:, self.recipes.index(recipe)])

    def mean(self, recipe: str) -> float:
        """Return a recipe's mean loss per row over the partitions that it had a fit for, NaN without any."""
        losses = self.of(recipe)
        is_known = ~np.isnan(losses)
        return float(np.average(losses[is_known], weights=self.rows[is_known])) if is_known.any() else np.nan


def walk_window(spec: UseCase) -> int:
    """Return how many of the newest partitions of the walks a decision looks at."""
    return max(WINDOW, spec.clock.partitions_in(WINDOW_DAYS), spec.training.test + spec.labels.delay)


def extend(lake: Lake, spec: UseCase, until: str) -> None:
    """Add what is missing in the walks of the declared recipes, up to the labels known on a partition.

    Parameters
    ----------
    until : the partition as of which labels are known.
    """
    fits = accepted_fits(lake)
    if not fits:
        return
    first = max(fits[0].partition, partition_before(lake, spec, until, walk_window(spec)))
    partitions = [key for key in matured(lake, spec, until) if key > first]
    arrivals = known_on(lake, spec, partitions, until)
    stored: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    columns = ["partition", "as_of", "recipe_key", "model"]
    for row in lake.rows(TABLE, {"partition": partitions}, columns) if partitions else ():
        stored[row["partition"]].add((row["as_of"], row["recipe_key"], row["model"]))
    due: dict[str, dict[str, Fit]] = {}
    names = recipe_names(spec)
    is_stored = cache(partial(artifacts.is_stored, lake))
    for partition, newest in newest_fits_by_partition(fits, names, partitions).items():
        needed = {
            (as_of, fit.recipe_key, fit.model) for as_of in arrivals[partition] for fit in newest.values()
        }
        missing = {model for _, _, model in needed - stored[partition]}
        if any(map(is_stored, missing)):
            due[partition] = newest
    keys = sorted(due)
    for start in range(0, len(keys), BLOCK):
        block = keys[start : start + BLOCK]
        own = {key: arrivals[key] for key in block}
        _publish(lake, spec, {key: due[key] for key in block}, own, is_stored)


def _publish(
    lake: Lake,
    spec: UseCase,
    due: Mapping[str, Mapping[str, Fit]],
    arrivals: Mapping[str, Sequence[str]],
    is_stored: Callable[[str], bool],
) -> None:
    """Publish the walks' rows of some partitions.

    Parameters
    ----------
    due : by partition and recipe, the fit.
    arrivals : by partition, those on which its labels became known or changed.
    is_stored : whether a model is in the lake; a row stays as it is if it isn't.
    """
    partitions = list(due)
    without_model = {
        (key, fit.recipe_key)
        for key, fits in due.items()
        for fit in fits.values()
        if not is_stored(fit.model)
    }
    due = {
        key: {name: fit for name, fit in fits.items() if is_stored(fit.model)} for key, fits in due.items()
    }
    table = pa.Table.from_pylist([*_walk_rows(lake, spec, due, arrivals)], schema=schemas.WALKS)
    own_keys = recipe_names(spec)
    earlier = lake.read(TABLE, {"partition": partitions})
    if earlier is not None:  # the walks of recipes that were declared before stay
        pairs = zip(earlier["partition"].to_pylist(), earlier["recipe_key"].to_pylist(), strict=True)
        stays = [key not in own_keys or (partition, key) in without_model for partition, key in pairs]
        other = earlier.filter(pa.array(stays, pa.bool_()))
        table = pa.concat_tables([other.select(table.column_names).cast(schemas.WALKS), table])
    order_by = [(name, "ascending") for name in ("partition", "as_of", "recipe", "recipe_key")]
    lake.publish(TABLE, table.sort_by(order_by), {"partition": partitions})


def _walk_rows(
    lake: Lake,
    spec: UseCase,
    due: Mapping[str, Mapping[str, Fit]],
    arrivals: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, Any]]:
    """Yield the walks' rows of some partitions; one whose model can't be loaded is left out."""
    keys = [*spec.key, "partition"]
    rows = sample(features(lake, spec, list(due)), spec)
    predicted = predict(lake, spec, rows, due)
    order = np.asarray(rows["partition"].to_pylist(), dtype=object)
    position = "row position"  # no column of a source may have this name
    rows = rows.select(keys).append_column(position, pa.array(np.arange(rows.num_rows)))
    for partition, as_of, actual_rows in labels_known_on(lake, spec, arrivals):
        own = rows.filter(pa.array(order == partition, pa.bool_()))
        labeled = own.join(actual_rows, keys, join_type="inner").sort_by(position)
        labeled = labeled.filter(labeled[spec.problem.target].is_valid())
        labeled = labeled.filter(pa.array(has_loss(spec, labeled[spec.problem.target].to_numpy())))
        positions, actual = labeled[position].to_numpy(), labeled[spec.problem.target].to_numpy()
        for name, fit in due[partition].items():
            values = predicted[name][positions]
            if np.isnan(values).any():
                continue
            predicts = bool(np.isfinite(values).all())
            metrics = all_metric_values(spec, actual, values) if predicts else {}
            losses = row_losses(spec.objective, actual, values) if predicts else values
            yield {
                "partition": partition, "as_of": as_of, "recipe": name, "recipe_key": fit.recipe_key,
                "fitted_on": fit.partition, "model": fit.model, "rows": len(actual),
                "loss": float(losses.sum()),
                "metrics": json.dumps(metrics, sort_keys=True),
            }  # fmt: skip


def sample(rows: pa.Table, spec: UseCase) -> pa.Table:
    """Return at most ``training.walk_rows`` rows of each partition, chosen by a hash of the key.

    Parameters
    ----------
    rows : features, sorted by partition.
    """
    limit = spec.training.walk_rows
    counts = pc.value_counts(rows["partition"]).to_pylist()
    if all(count["counts"] <= limit for count in counts):
        return rows
    from pandas.util import hash_pandas_object

    # with the partition, so that it isn't always the same entities
    keys = rows.select([*spec.key, "partition"]).to_pandas()
    hashes = hash_pandas_object(keys, index=False).to_numpy()
    partition = np.asarray(rows["partition"].to_pylist(), dtype=object)
    chosen = [
        positions[np.sort(np.argsort(hashes[positions], kind="stable")[:limit])]
        for positions in (np.flatnonzero(partition == count["values"]) for count in counts)
    ]
    return rows.take(pa.array(np.sort(np.concatenate(chosen))))


def predict(
    lake: Lake, spec: UseCase, rows: pa.Table, newest: Mapping[str, Mapping[str, Fit]]
) -> dict[str, artifacts.Values]:
    """Return each recipe's predictions of rows by the fit that it had on their partition.

    Parameters
    ----------
    rows : features with the column ``partition``, shape (n, any).
    newest : by partition and recipe, the fit.

    Returns
    -------
    dict of str to ndarray
        By recipe, of shape (n,) or (n, k); NaN without a fit, or where it can't be loaded; infinite for all
        rows of a partition if the fit can't predict one of them.
    """
    partition = np.asarray(rows["partition"].to_pylist(), dtype=object)
    by_model: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, fits in newest.items():
        for name, fit in fits.items():
            by_model[name, fit.model].append(key)
    predicted: dict[str, artifacts.Values] = {}
    for (name, model), keys in by_model.items():
        values = predicted.setdefault(name, np.full(outputs.predictions_shape(spec, rows.num_rows), np.nan))
        positions = np.flatnonzero(np.isin(partition, keys))
        if not len(positions):
            continue
        try:
            estimator = artifacts.load_model(lake, model, spec)
        except ModelError as error:
            log.warning(
                "%s: the walk of %s has gaps, since one of its fits can't be loaded: %s",
                spec.name,
                name,
                error,
            )
            continue
        values[positions] = predict_each(spec, name, estimator, rows.take(pa.array(positions)))
    return predicted


def predict_each(spec: UseCase, recipe: str, estimator: Pipeline, rows: pa.Table) -> artifacts.Values:
    """Return a fit's predictions, infinite for a partition if it can't predict one of its rows."""
    try:
        return artifacts.predict(estimator, rows, spec)
    except ModelError as error:
        partition = np.asarray(rows["partition"].to_pylist(), dtype=object)
        keys = partitions_of(rows)
        if len(keys) == 1:
            log.warning("%s, on %s", prediction_error(spec, recipe, error), keys[0])
            return np.full(outputs.predictions_shape(spec, rows.num_rows), np.inf)
    values = np.empty(outputs.predictions_shape(spec, rows.num_rows))
    for key in keys:
        own = partition == key
        values[own] = predict_each(spec, recipe, estimator, rows.filter(pa.array(own, pa.bool_())))
    return values


def predict_walk(
    lake: Lake, spec: UseCase, rows: pa.Table, only: Collection[str] | None = None
) -> dict[str, artifacts.Values]:
    """Return each recipe's predictions of rows by the fits that it had on their partitions, see `predict`.

    Parameters
    ----------
    only : the recipes that are needed; default: all.
    """
    names = {key: name for key, name in recipe_names(spec).items() if only is None or name in only}
    fits = accepted_fits(lake)
    return predict(lake, spec, rows, newest_fits_by_partition(fits, names, partitions_of(rows)))


def read(lake: Lake, spec: UseCase, until: str) -> Walks:
    """Return the walks of the declared recipes as known on a partition, the newest `walk_window` of them."""
    names = recipe_names(spec)
    first = partition_before(lake, spec, until, walk_window(spec))
    losses: dict[tuple[str, str], tuple[str, int, float]] = {}
    where = {"partition": spec.clock.keys(first, until)}
    for row in lake.rows(TABLE, where, ["partition", "as_of", "recipe_key", "rows", "loss"]):
        key = (row["partition"], row["recipe_key"])
        if row["recipe_key"] in names and first < row["partition"] and row["as_of"] <= until:
            losses[key] = max(losses.get(key, ("", 0, 0.0)), (row["as_of"], row["rows"], row["loss"]))
    losses = {key: newest for key, newest in losses.items() if newest[1]}  # labels may be withdrawn
    partitions = tuple(sorted({partition for partition, _ in losses}))
    present = {key for _, key in losses}
    order = [key for key in names if key in present]
    values = np.full((len(partitions), len(order)), np.nan)
    rows = np.zeros(len(partitions))
    positions = {partition: position for position, partition in enumerate(partitions)}
    for (partition, name), (_, count, loss) in losses.items():
        position = positions[partition]
        rows[position], values[position, order.index(name)] = count, loss / count
    return Walks(partitions, tuple(names[key] for key in order), rows, values)
