"""A recipe is what its fits depend on, and its variants with a short memory are recipes too."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.spec import UseCase
from include.train.recipes import recipe_key, recipes
from tests.train import visits


def test_a_short_memory_gives_each_recipe_a_variant_for_each_window(spec: UseCase) -> None:
    """A variant has a shorter window than the recipe and the training, and some labels, and is there once."""
    names = [recipe.name for recipe in recipes(spec)]
    assert names == ["prior", "linear", "boosting", "forest"]
    windows = [f"{name}_{window}" for window in (90, 30, 10) for name in names]
    assert [recipe.name for recipe in recipes(spec, short_memory=True)] == [*names, *windows]
    boosting = spec.training.candidates[0]
    declared = (boosting, boosting.model_copy(update={"name": "recent", "window": 30}))
    training = spec.training.model_copy(update={"window": 60, "candidates": declared})
    short = recipes(spec.model_copy(update={"training": training}), short_memory=True)
    assert [recipe.name for recipe in short] == [
        *("prior", "linear", "boosting", "recent"),
        *("prior_30", "linear_30", "prior_10", "linear_10", "boosting_10"),
    ]
    late = spec.model_copy(update={"labels": spec.labels.model_copy(update={"delay": 10})})
    assert [recipe.name for recipe in recipes(late, short_memory=True)] == [*names, *windows[:8]]


@pytest.mark.parametrize("option", ["early_stopping", "recent_intercept"])
def test_a_variant_is_longer_than_the_partitions_that_its_recipe_takes_apart(
    option: str, spec: UseCase
) -> None:
    """Of a recipe with an option of 30 newest partitions none is fitted on 30 or fewer."""
    own = spec.training.candidates[0].model_copy(update={option: 30})
    training = spec.training.model_copy(update={"candidates": (own,)})
    short = recipes(spec.model_copy(update={"training": training}), short_memory=True)
    assert [recipe.name for recipe in short if getattr(recipe, option)] == ["boosting", "boosting_90"]


def test_a_recipe_is_what_its_fit_depends_on(tmp_path: Path) -> None:
    """Its key changes with each of these, and with nothing else."""
    spec = visits.usecase(tmp_path)
    linear = spec.training.baselines[1]
    key = recipe_key(spec, linear)
    for change in (
        {"seed: 7": "seed: 8"},
        {"delay: 2": "delay: 1"},
        {"minutes > 15": "minutes > 20"},
        {"numeric: [distance, earlier]": "numeric: [distance]"},
        {"objective: log_loss": "objective: brier"},  # the walk is of its losses
    ):
        assert recipe_key(visits.usecase(tmp_path, **change), linear) != key, change
    for update in ({"params": {"C": 2.0}}, {"window": 20}, {"estimator": "random_forest"}):
        assert recipe_key(spec, linear.model_copy(update=update)) != key, update
    assert recipe_key(spec, linear.model_copy(update={"name": "logistic"})) == key
    for change in (
        {"test: 8": "test: 9"},
        {"min_partitions: 3": "min_partitions: 4"},
        {"n_estimators: 10": "n_estimators: 5"},
    ):
        assert recipe_key(visits.usecase(tmp_path, **change), linear) == key, change
