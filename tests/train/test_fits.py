"""A recipe is fitted once on each training partition, on what was known then; no fit predicts what it saw."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.pipeline import Pipeline

from include.features.build import features
from include.features.labels import training_set
from include.judge.judge import BLESSED, NOT_BLESSED
from include.models import artifacts
from include.models.registry import Registry
from include.promote import verdicts
from include.references import digest_bytes
from include.spec import UseCase
from include.spec.stages import Recipe
from include.storage import schemas
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import fits, fitting
from include.train.estimators import build_estimator
from include.train.fits import (
    Fit,
    KnownRows,
    accepted_fits,
    ensure_fits,
    newest_fits,
    read_fits,
    recipes_without_walk,
)
from include.train.fitting import fit_recipe
from include.train.pipeline import train
from include.train.recipes import recipe_key, recipe_names, recipes
from tests.promote.conftest import record_verdict
from tests.train import visits

PARTITION = visits.LAST
EARLIER = "2024-03-20"
Counter = Callable[[], list[str]]


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count the recipes that are fitted; each call returns the names since the one before."""
    names: list[str] = []

    def count(spec: UseCase, recipe: Recipe, rows: pa.Table, unshifted: Pipeline | None) -> Pipeline:
        names.append(recipe.name)
        return fit_recipe(spec, recipe, rows, unshifted)

    def since() -> list[str]:
        result = sorted(names)
        names.clear()
        return result

    monkeypatch.setattr(fits, "fit_recipe", count)
    return since


def known(lake: Lake, spec: UseCase, partition: str) -> KnownRows:
    """Return the rows for a training."""
    return KnownRows(lake, spec, partition, training_set(lake, spec, partition))


def quick(spec: UseCase) -> tuple[Recipe, ...]:
    """Return the two recipes that are quickly fitted."""
    return recipes(spec)[:2]


def refuse(lake: Lake, refused: Fit) -> None:
    """Record that the gate refused a fit."""
    record_verdict(lake, NOT_BLESSED, refused.partition, model=refused.model)


# once


@pytest.mark.full
def test_a_training_fits_each_recipe_once_and_its_rerun_none(
    lake: Lake, spec: UseCase, registry: Registry, fitted: Counter
) -> None:
    """Only a recipe without a walk is fitted on earlier partitions, and no fit is done twice."""
    names = sorted(recipe.name for recipe in recipes(spec))
    train(lake, spec, "2024-03-16", registry=registry)  # the walk's origins: 8 and 15 March
    assert fitted() == sorted(3 * names)
    record_verdict(lake, BLESSED, "2024-03-16")
    train(lake, spec, PARTITION, registry=registry)
    assert fitted() == names
    train(lake, spec, PARTITION, registry=registry)
    assert fitted() == []
    partitions = [fit.partition for fit in read_fits(lake)]
    assert sorted(set(partitions)) == ["2024-03-08", "2024-03-15", "2024-03-16", PARTITION]
    assert len(partitions) == 4 * len(names)


@pytest.mark.full
@pytest.mark.parametrize(
    "left",
    [
        pytest.param(["2024-03-15", "2024-03-16"], id="run again"),
        pytest.param(["2024-03-16", "2024-03-23", "2024-03-24"], id="the next training"),
    ],
)
def test_after_a_training_that_was_killed_while_it_filled_in_walks_what_is_left_is_fitted(
    lake: Lake, spec: UseCase, registry: Registry, fitted: Counter, left: list[str]
) -> None:
    """One origin is fitted already; neither it nor the others are taken for trainings with whole walks."""
    ensure_fits(known(lake, spec, "2024-03-16"), "2024-03-08", recipes(spec))
    names = fitted()
    train(lake, spec, left[-1], registry=registry)
    assert fitted() == sorted(len(left) * names)
    assert {fit.partition for fit in read_fits(lake)} == {"2024-03-08", *left}


@pytest.mark.full
def test_a_new_recipe_is_the_only_one_that_gets_a_walk(
    lake: Lake, spec: UseCase, registry: Registry, fitted: Counter, clinic: Path
) -> None:
    """The others have theirs, whatever else of the declaration changes."""
    train(lake, spec, EARLIER, registry=registry)
    record_verdict(lake, BLESSED, EARLIER)
    fitted()
    changed = visits.usecase(
        clinic / "usecases", **{"max_iter: 15": "max_iter: 5", "min_partitions: 3": "min_partitions: 4"}
    )
    train(lake, changed, PARTITION, registry=registry)
    assert fitted() == ["boosting", "boosting", "boosting", "forest", "linear", "prior"]


@pytest.mark.parametrize("options", [{}, {"search": {"C": (0.01, 1.0)}}], ids=["plain", "search"])
def test_a_recent_intercept_is_fitted_on_the_model_that_the_training_has_already(
    options: dict[str, Any], lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the model that the recipe gives without the other one, which isn't fitted twice."""
    plain = quick(spec)[1].model_copy(update=options)
    recent = plain.model_copy(update={"name": "recent", "recent_intercept": 5})
    alone = artifacts.serialize(fit_recipe(spec, recent, training_set(lake, spec, PARTITION)))
    built: list[str] = []

    def build(declared: UseCase, recipe: Recipe, empty: Collection[str]) -> Pipeline:
        built.append(recipe.name)
        return build_estimator(declared, recipe, empty)

    monkeypatch.setattr(fitting, "build_estimator", build)
    models = ensure_fits(known(lake, spec, PARTITION), PARTITION, [recent, plain])
    assert models["recent"].model == digest_bytes(alone) != models[plain.name].model
    assert set(built) == {plain.name}


def test_a_restated_history_is_fitted_again(lake: Lake, spec: UseCase, fitted: Counter) -> None:
    """A fit whose rows have changed is replaced; one with a window that they aren't in stays."""
    linear = quick(spec)[1]
    needed = [linear, linear.model_copy(update={"name": "newest", "window": 10})]
    before = ensure_fits(known(lake, spec, PARTITION), PARTITION, needed)
    assert fitted() == ["linear", "newest"]
    visits.revise(lake, ["2024-03-10"])
    after = ensure_fits(known(lake, spec, PARTITION), PARTITION, needed)
    assert fitted() == ["linear"]
    assert after["newest"] == before["newest"]
    assert after["linear"].model != before["linear"].model
    assert len(read_fits(lake)) == 2


def test_a_fit_whose_model_was_removed_is_fitted_again_and_its_row_stays(
    lake: Lake, spec: UseCase, fitted: Counter
) -> None:
    """The model comes back, also where the one is gone that it was compared with."""
    prior, linear = quick(spec)
    for partition in (EARLIER, PARTITION):
        ensure_fits(known(lake, spec, partition), partition, [linear])
    before = read_fits(lake)
    assert before[1].moved
    lake.remove([artifacts.model_key(fit.model) for fit in before])
    fitted()

    ensure_fits(known(lake, spec, PARTITION), PARTITION, [prior, linear])

    assert fitted() == ["linear", "prior"]
    assert [fit for fit in read_fits(lake) if fit.recipe == "linear"] == before
    assert artifacts.is_stored(lake, before[1].model)


# on what was known then


@pytest.mark.parametrize("window", [None, 12])
def test_rows_of_an_earlier_training_are_those_that_it_would_have_had(
    window: int | None, lake: Lake, spec: UseCase
) -> None:
    """Labels that were revised later are the old ones, and a window reaches back from that partition."""
    visits.revise(lake, ["2024-03-12"], later=5)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"window": window})})
    rows = known(lake, spec, PARTITION)
    for partition in ("2024-03-12", "2024-03-16", "2024-03-18", PARTITION):
        expected = training_set(lake, spec, partition)
        assert digest_table(rows.known_at(partition)) == digest_table(expected), partition


def test_a_fit_is_the_same_whichever_training_makes_it(lake: Lake, spec: UseCase, clinic: Path) -> None:
    """The model of an earlier partition is that of a training on it, to the bit."""
    visits.revise(lake, ["2024-03-18"], later=5)
    own = ensure_fits(known(lake, spec, EARLIER), EARLIER, quick(spec))
    lake.publish(fits.TABLE, lake.read(fits.TABLE).slice(0, 0), {"partition": EARLIER})  # type: ignore[union-attr]
    later = ensure_fits(known(lake, spec, PARTITION), EARLIER, quick(spec))
    assert later == own
    assert {fit.last_fitted for fit in own.values()} == {spec.clock.shift(EARLIER, -2)}


def test_a_fit_is_the_same_on_any_number_of_cores(
    lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest's trees are fitted on several threads, and its model says nothing of them."""
    forest = Recipe(name="forest", estimator="random_forest", params={"n_estimators": 20})
    rows, models = training_set(lake, spec, PARTITION), set()
    for cores in (1, 4):
        monkeypatch.setattr(fitting, "CORES", cores)
        models.add(artifacts.serialize(fit_recipe(spec, forest, rows)))
    assert len(models) == 1
    assert fit_recipe(spec, forest, rows)[-1].n_jobs == 1  # predictions are added up in a fixed order


def test_rows_between_are_those_without_labels_too(lake: Lake, spec: UseCase) -> None:
    """The distance of two fits is taken on rows whose labels haven't come."""
    rows = known(lake, spec, PARTITION).between("2024-03-27", PARTITION)
    partitions = sorted(set(rows["partition"].to_pylist()))
    assert partitions == ["2024-03-28", "2024-03-29", PARTITION]
    assert spec.problem.target not in rows.column_names


@pytest.mark.parametrize("kind", list(visits.KINDS))
def test_the_movement_is_the_distance_on_rows_that_neither_fit_has_seen(kind: str, clinic: Path) -> None:
    """It is the root mean square over the rows after the last label; a first fit has none."""
    spec = visits.usecase(clinic / "usecases", kind)
    lake = Lake(spec.name, str(clinic / "lake"))
    first = ensure_fits(known(lake, spec, EARLIER), EARLIER, quick(spec))["linear"]
    second = ensure_fits(known(lake, spec, PARTITION), PARTITION, quick(spec))["linear"]
    rows = features(lake, spec, ["2024-03-29", PARTITION])
    before, after = (
        artifacts.predict(artifacts.load_model(lake, fit.model), rows, spec) for fit in (first, second)
    )
    assert first.moved is None
    assert second.moved == pytest.approx(np.sqrt(np.mean((after - before) ** 2)))


# refused, and newest


def test_a_refused_fit_predicts_nothing(lake: Lake, spec: UseCase) -> None:
    """The recipe goes on with the previous fit, and the next fit's movement is from that one."""
    needed = quick(spec)[1:]
    first = ensure_fits(known(lake, spec, "2024-03-12"), "2024-03-12", needed)["linear"]
    visits.revise(lake, ["2024-03-14", "2024-03-15", "2024-03-16"], later=3)
    second = ensure_fits(known(lake, spec, EARLIER), EARLIER, needed)["linear"]
    assert newest_fits(accepted_fits(lake), recipe_names(spec), PARTITION) == {"linear": second}
    refuse(lake, second)
    assert newest_fits(accepted_fits(lake), recipe_names(spec), PARTITION) == {"linear": first}
    third = ensure_fits(known(lake, spec, PARTITION), PARTITION, needed)["linear"]
    rows = features(lake, spec, ["2024-03-29", PARTITION])
    before, after = (
        artifacts.predict(artifacts.load_model(lake, fit.model), rows, spec) for fit in (first, third)
    )
    assert third.moved == pytest.approx(np.sqrt(np.mean((after - before) ** 2)))


def test_an_equal_model_of_another_training_is_not_refused(lake: Lake, spec: UseCase) -> None:
    """The prior of unchanged labels is the same model in each training, and its walk goes on."""
    needed = quick(spec)[:1]
    fit = ensure_fits(known(lake, spec, EARLIER), EARLIER, needed)["prior"]
    copy = replace(fit, partition=PARTITION)
    lake.publish("fits", pa.Table.from_pylist([asdict(copy)], schemas.FITS), {"partition": PARTITION})
    refuse(lake, copy)
    assert accepted_fits(lake) == [fit]


def test_a_fit_that_a_person_forced_is_accepted(lake: Lake, spec: UseCase) -> None:
    """The newest word on it counts, which is no longer the gate's."""
    fit = ensure_fits(known(lake, spec, PARTITION), PARTITION, quick(spec)[1:])["linear"]
    refuse(lake, fit)
    assert accepted_fits(lake) == []
    (attempt,) = verdicts.attempts(lake)
    verdicts.record_forced(lake, attempt, "a person", "it is right")
    assert accepted_fits(lake) == [fit]


def test_a_fit_predicts_only_what_comes_after_its_partition(lake: Lake, spec: UseCase) -> None:
    """On its own partition and earlier ones the recipe has no fit yet."""
    ensure_fits(known(lake, spec, EARLIER), EARLIER, quick(spec))
    recorded = accepted_fits(lake)
    assert newest_fits(recorded, recipe_names(spec), EARLIER) == {}
    assert set(newest_fits(recorded, recipe_names(spec), spec.clock.shift(EARLIER, 1))) == {"prior", "linear"}
    other = [replace(fit, recipe_key="of another declaration") for fit in recorded]
    assert newest_fits(other, recipe_names(spec), PARTITION) == {}


def test_a_recipe_of_short_memory_that_was_left_for_long_gets_a_walk_again(spec: UseCase) -> None:
    """It was fitted after a change of the relation, and not since; a declared recipe goes on with its fit."""
    needed = recipes(spec, short_memory=True)
    short, origins = list(needed[len(recipes(spec)) :]), ["2024-06-02", "2024-06-09"]

    def trained(partition: str) -> list[Fit]:
        keys = {recipe.name: recipe_key(spec, recipe) for recipe in needed}
        return [Fit(partition, name, key, "", "", 1, partition, None) for name, key in keys.items()]

    first_change = trained("2024-03-10")
    assert recipes_without_walk(spec, needed, [], origins) == list(needed)
    assert recipes_without_walk(spec, needed, first_change, origins) == short
    assert recipes_without_walk(spec, needed, [*first_change, *trained("2024-06-02")], origins) == []
    assert recipes_without_walk(spec, needed, first_change, []) == []
