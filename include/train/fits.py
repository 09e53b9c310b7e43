"""Every recipe's fits: one on each training partition, its model in the lake, recorded in the table `fits`.

A fit uses what was known on its partition, so it can be repeated, and is never needed twice.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.pipeline import Pipeline

from include.errors import EvergreenError, ModelError, SpecError, StaleDecision
from include.extensions import is_reference
from include.features.build import features
from include.features.labels import join_labels, training_set
from include.judge.judge import NOT_BLESSED
from include.models import artifacts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.stages import Recipe
from include.storage import schemas, spill
from include.storage.digests import digest_table
from include.storage.erasures import ERASURES_TABLE
from include.storage.lake import Lake
from include.storage.windows import partition_before
from include.train.fitting import CORES, fit_recipe
from include.train.recipes import recipe_key, recipe_names, recipes
from include.train.split import partitions_of

log = logging.getLogger(__name__)
TABLE = "fits"
MARGIN = 60  # partitions before the test partitions whose fits may still be needed: labels that come late


FitId = tuple[str, str]


@dataclass(frozen=True)
class Fit:
    """One fit of a recipe.

    Parameters
    ----------
    partition : of the training; the model predicts only later partitions.
    recipe, recipe_key : the recipe's name, and the digest of its declaration, see `recipe_key`.
    model : digest of the model, which is in the lake.
    data : digest of the rows that it was fitted on.
    rows, last_fitted : the number of these rows, and their last partition.
    moved : root mean square distance of its predictions from those of the recipe's previous fit, on the rows
        from ``last_fitted`` to ``partition``, which neither was fitted on; None for a recipe's first fit, or
        if there is no such row, or one of the two can't predict them.
    """

    partition: str
    recipe: str
    recipe_key: str
    model: str
    data: str
    rows: int
    last_fitted: str
    moved: float | None

    @property
    def id(self) -> FitId:
        """What identifies the fit in `attempts`: its training's partition and its model."""
        return self.partition, self.model


_FIELDS = tuple(field.name for field in fields(Fit))  # each training adds rows, and each task reads them all


@dataclass(frozen=True)
class KnownRows:
    """The rows for a training, and for trainings on earlier partitions, as known then.

    Parameters
    ----------
    labeled : the training set, shape (n, any).
    erasures : the version of the ledger of erasures before the rows were read; None if they aren't stored as
        fits.
    """

    lake: Lake
    spec: UseCase
    partition: str
    labeled: pa.Table
    erasures: int | None = None

    @cached_property
    def unlabeled(self) -> pa.Table:
        """The features of later rows, up to the training's partition, shape (m, any)."""
        last = str(pc.max(self.labeled["partition"]).as_py() or self.partition)
        later = [key for key in self.spec.clock.keys(last, self.partition) if key > last]
        return features(self.lake, self.spec, later)

    def require_current(self) -> None:
        """Refuse rows if some may have been erased since they were read.

        Raises
        ------
        StaleDecision
            when the ledger of erasures has changed.
        """
        if self.erasures is not None and self.lake.version(ERASURES_TABLE) != self.erasures:
            raise StaleDecision(
                f"{self.spec.name}: training on {self.partition}",
                required="no erasure while it runs",
                found="an erasure since it began",
                where=f"{self.lake.uri}/tables/{ERASURES_TABLE}",
                remedy="train again, then repeat the erasure, which finds what this training has stored",
            )

    def known_at(self, partition: str) -> pa.Table:
        """Return the labeled rows that a training on a partition up to this one would be fitted on."""
        if partition == self.partition:
            return self.labeled
        if self.spec.training.window:  # it reached further back than this training's
            return training_set(self.lake, self.spec, partition)
        return join_labels(self.lake, self.spec, self.labeled, partition)

    def between(self, after: str, until: str) -> pa.Table:
        """Return the features of the rows after a partition, up to another."""
        names = [name for name in self.labeled.column_names if name != self.spec.problem.target]
        rows = pa.concat_tables([self.labeled.select(names), self.unlabeled.select(names)])
        partition = rows["partition"]
        return rows.filter(pc.and_(pc.greater(partition, after), pc.less_equal(partition, until)))


def fitting_rows(spec: UseCase, recipe: Recipe, partition: str, rows: pa.Table) -> pa.Table:
    """Return the labeled rows that a recipe is fitted on in a training on ``partition``."""
    if recipe.window is None:
        return rows
    if spec.sparse:
        newest = pc.is_in(rows["partition"], pa.array(partitions_of(rows)[-recipe.window :]))
    else:
        newest = pc.greater(rows["partition"], spec.clock.shift(partition, -recipe.window))
    return spill.filter_rows(rows, newest)


def read_fits(lake: Lake) -> list[Fit]:
    """Return all recorded fits, oldest first."""
    return sorted(map(_from_row, lake.rows(TABLE)), key=lambda fit: (fit.partition, fit.recipe))


def _from_row(row: dict[str, Any]) -> Fit:
    return Fit(*map(row.__getitem__, _FIELDS))


def champion_recipe(lake: Lake, spec: UseCase, champion: Mapping[str, Any] | None) -> str:
    """Return the name of the recipe that a champion is a fit of, empty if that isn't declared any more.

    A recipe whose declaration has changed is another recipe, also under the same name.

    Parameters
    ----------
    champion : its row of `switches`, None without one.
    """
    if champion is None:
        return ""
    names = recipe_names(spec)
    keys = [fit.recipe_key for fit in read_fits(lake) if fit.model == champion["model"]]
    declared = [names[key] for key in keys if key in names]
    recorded = str(champion.get("recipe") or "")
    if not keys:  # of a model that no training here has fitted
        return recorded if recorded in names.values() else ""
    return recorded if recorded in declared else declared[-1] if declared else ""


def refused_fits(lake: Lake) -> set[FitId]:
    """Return the fits that the gate refused, and that nobody forced: a walk goes on with the previous fit.

    An equal model of another training is another fit: a rule of thumb is the same in most trainings.
    """
    verdicts = lake.rows("attempts", columns=["partition", "model", "verdict"], order=["recorded"])
    last = {(row["partition"], row["model"]): row["verdict"] for row in verdicts}
    return {fit for fit, verdict in last.items() if verdict == NOT_BLESSED}


def accepted_fits(lake: Lake) -> list[Fit]:
    """Return the recorded fits that the gate didn't refuse, oldest first."""
    refused = refused_fits(lake)
    return [fit for fit in read_fits(lake) if fit.id not in refused]


def recent_models(lake: Lake, spec: UseCase) -> set[str]:
    """Return the digests of the fits that predict, or may have to predict again, a partition of a walk.

    They are the fits from `MARGIN` partitions before the newest training's test partitions on, and of each
    recipe the newest one before that, which predicted the first of these partitions.
    """
    fits = read_fits(lake)
    if not fits:
        return set()
    back = spec.training.test + spec.labels.delay + MARGIN
    first = partition_before(lake, spec, fits[-1].partition, back)
    accepted = [fit for fit in accepted_fits(lake) if fit.partition < first]
    before = {fit.recipe_key: fit.model for fit in accepted}
    return {*before.values(), *(fit.model for fit in fits if fit.partition >= first)}


def recipes_without_walk(
    spec: UseCase, needed: Sequence[Recipe], trained: Sequence[Fit], origins: Sequence[str]
) -> list[Recipe]:
    """Return the recipes of a training that need a walk: new ones, and of short memory those left for long.

    The latter are fitted after one change of the relation, and then not until the next. An old fit doesn't
    say what they would have predicted had they been fitted since.

    Parameters
    ----------
    trained : the fits of earlier trainings.
    origins : where a recipe without a walk is fitted, ascending.
    """
    first, declared = min(origins, default=""), {recipe_key(spec, recipe) for recipe in recipes(spec)}
    have_walk = {fit.recipe_key for fit in trained if fit.partition >= first or fit.recipe_key in declared}
    return [recipe for recipe in needed if recipe_key(spec, recipe) not in have_walk]


def newest_fits(fits: Sequence[Fit], names: Mapping[str, str], partition: str) -> dict[str, Fit]:
    """Return each declared recipe's newest fit of a partition before ``partition``, by the recipe's name.

    Parameters
    ----------
    fits : from `accepted_fits`.
    names : from `recipe_names`.
    """
    return newest_fits_by_partition(fits, names, [partition])[partition]


def newest_fits_by_partition(
    fits: Sequence[Fit], names: Mapping[str, str], partitions: Sequence[str]
) -> dict[str, dict[str, Fit]]:
    """Return the `newest_fits` of each partition, in one pass over the fits.

    Parameters
    ----------
    partitions : ascending.
    """
    newest: dict[str, Fit] = {}
    by_partition, index = {}, 0
    for partition in partitions:
        before = index
        while index < len(fits) and fits[index].partition < partition:
            index += 1
        declared = {names[fit.recipe_key]: fit for fit in fits[before:index] if fit.recipe_key in names}
        newest = {**newest, **declared} if declared else newest
        by_partition[partition] = newest
    return by_partition


def ensure_fits(
    known_rows: KnownRows,
    partition: str,
    needed: Sequence[Recipe],
    failures: dict[str, EvergreenError] | None = None,
) -> dict[str, Fit]:
    """Return the fits of recipes in a training on a partition by name; fit and store what isn't recorded.

    A recorded fit whose model was removed is fitted again. Its row stays if that is the same model.

    Parameters
    ----------
    known_rows : the rows; of a training on ``partition`` or a later one.
    failures : gets the error of each recipe that can't be fitted, by name; the result is without it.

    Raises
    ------
    SpecError, ModelError
        when a recipe can't be fitted and there are no ``failures`` to add it to.
    """
    lake, spec = known_rows.lake, known_rows.spec
    all_fits, refused = read_fits(lake), refused_fits(lake)
    recorded = {fit.recipe_key: fit for fit in all_fits if fit.partition == partition}
    before = {fit.recipe_key: fit for fit in all_fits if fit.partition < partition and fit.id not in refused}
    rows, result, missing = known_rows.known_at(partition), {}, []
    for recipe in needed:
        key, own = recipe_key(spec, recipe), fitting_rows(spec, recipe, partition, rows)
        data, same = digest_table(own), recorded.get(key)
        if same is not None and same.data == data and artifacts.is_stored(lake, same.model):
            result[recipe.name] = same
        else:
            missing.append((recipe, key, own, data))
    fitted = _fit_at_once(spec, partition, [(recipe, own) for recipe, _, own, _ in missing])
    known_rows.require_current()  # an erasure that has ended lists no fit that is stored later
    for (recipe, key, own, data), fit in zip(missing, fitted, strict=True):
        if isinstance(fit, EvergreenError):
            if failures is None:
                raise fit
            log.warning("%s %s: %s is left out: %s", spec.name, partition, recipe.name, fit)
            failures[recipe.name] = fit
            continue
        estimator, model_bytes = fit
        model = artifacts.store_model(lake, model_bytes)
        if (same := recorded.get(key)) is not None and (same.data, same.model) == (data, model):
            result[recipe.name] = same  # the fit that it moved from may be gone too
            continue
        last = str(pc.max(own["partition"]).as_py())
        earlier = before.get(key)
        moved = _distance(known_rows, earlier.model, estimator, last, partition) if earlier else None
        result[recipe.name] = Fit(partition, recipe.name, key, model, data, own.num_rows, last, moved)
    if missing:
        fits = {**recorded, **{fit.recipe_key: fit for fit in result.values()}}
        table = pa.Table.from_pylist([asdict(fit) for fit in fits.values()], schemas.FITS)
        lake.publish(TABLE, table.sort_by("recipe_key"), {"partition": partition})
    return {recipe.name: result[recipe.name] for recipe in needed if recipe.name in result}


def prediction_error(spec: UseCase, recipe: str, error: ModelError) -> ModelError:
    """Return the error of a recipe whose model can't predict rows, with the recipe's name and a remedy."""
    return ModelError(
        f"{spec.name}: training.{recipe}",
        required=error.required or "predictions",
        found=error.found,
        where=error.where,
        remedy=f"correct the recipe {recipe}, or remove it from training in usecase.yaml",
    )


def serialize_fit(spec: UseCase, recipe: Recipe, estimator: Pipeline) -> bytes:
    """Return a recipe's fitted pipeline as `artifacts.serialize` does.

    Raises
    ------
    SpecError
        when it has an estimator of the use case that can't be stored as data and loaded again.
    """
    if not is_reference(recipe.estimator):
        return artifacts.serialize(estimator)
    subject, required = (
        f"{spec.name}: training.{recipe.name}",
        "a model that is stored as data and loaded again",
    )
    remedy = "let its attributes be numbers, texts, arrays, lists, dictionaries and classes of its own module"
    try:
        data = artifacts.serialize(estimator)
        artifacts.deserialize(data, digest_bytes(data), spec)
    except ModelError as error:
        where, found = error.where, error.found
    except (Exception, SystemExit) as error:  # skops may raise anything for a type that it can't store
        where, found = "", f"{type(error).__name__}: {error}"
    else:
        return data
    raise SpecError(
        subject, required=required, found=f"{recipe.estimator}: {found}", where=where, remedy=remedy
    )


def _fit_at_once(
    spec: UseCase, partition: str, recipes_and_rows: Sequence[tuple[Recipe, pa.Table]]
) -> list[tuple[Pipeline, bytes] | EvergreenError]:
    """Fit recipes, which don't depend on each other, on as many threads as there are cores; log each.

    Returns
    -------
    list
        Of each recipe its pipeline and that pipeline as bytes, or why there is none.
    """

    def fit(
        recipe: Recipe, rows: pa.Table, unshifted: Pipeline | None
    ) -> tuple[Pipeline, bytes] | EvergreenError:
        began = time.monotonic()
        try:
            pipeline = fit_recipe(spec, recipe, rows, unshifted)
            data = serialize_fit(spec, recipe, pipeline)
            if is_reference(recipe.estimator):  # those built in predict what they were fitted on
                artifacts.predict(pipeline, rows, spec)
        except SpecError as error:
            return error
        except ModelError as error:
            return prediction_error(spec, recipe.name, error)
        seconds = time.monotonic() - began
        log.info(
            "%s %s: fitted %s on %d rows in %.1f s", spec.name, partition, recipe.name, rows.num_rows, seconds
        )
        return pipeline, data

    def fit_group(indexes: Sequence[int]) -> dict[int, tuple[Pipeline, bytes] | EvergreenError]:
        """Fit recipes that differ in `recent_intercept` only, the one without it first."""
        fits: dict[int, tuple[Pipeline, bytes] | EvergreenError] = {}
        unshifted = None
        for index in sorted(indexes, key=lambda index: recipes_and_rows[index][0].recent_intercept or 0):
            recipe, rows = recipes_and_rows[index]
            fits[index] = result = fit(recipe, rows, unshifted)
            if not recipe.recent_intercept and not isinstance(result, EvergreenError):
                unshifted = result[0]
        return fits

    groups: dict[str, list[int]] = defaultdict(list)
    for index, (recipe, _) in enumerate(recipes_and_rows):
        groups[recipe_key(spec, recipe.model_copy(update={"recent_intercept": None}))].append(index)
    with ThreadPoolExecutor(CORES) as workers:
        # candidates, which take longest, are declared last
        fits = [workers.submit(fit_group, indexes) for indexes in reversed(groups.values())]
        results = {index: result for future in fits for index, result in future.result().items()}
    return [results[index] for index in range(len(recipes_and_rows))]


def _distance(
    known_rows: KnownRows, earlier: str, estimator: Pipeline, after: str, until: str
) -> float | None:
    """Return how far a model's predictions are from those of an earlier one, see `Fit`."""
    rows = known_rows.between(after, until)
    if not rows.num_rows:
        return None
    try:
        model = artifacts.load_model(known_rows.lake, earlier, known_rows.spec)
        before = artifacts.predict(model, rows, known_rows.spec)
        now = artifacts.predict(estimator, rows, known_rows.spec)
    except ModelError as error:
        log.warning("%s: couldn't compare a fit with the one before: %s", known_rows.spec.name, error)
        return None
    return distance(now, before)


def distance(values: artifacts.Values, others: artifacts.Values) -> float:
    """Return the root mean square distance of two models' predictions of the same rows."""
    return float(np.sqrt(np.square(values - others).mean()))
