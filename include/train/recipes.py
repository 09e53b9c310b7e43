"""The recipes that a training may fit: those declared, and their variants with a short memory.

A recipe is a declared way to fit a model: an estimator with its parameters, the features, the label and the
training window. Its key is the digest of all of that, so a recipe with another declaration is another one.
"""

from __future__ import annotations

from typing import Any

from include.references import digest_json
from include.spec import UseCase
from include.spec.stages import Recipe

SHORT_WINDOWS = (90, 30, 10)  # days that the variants of a recipe with a short memory are fitted on


def recipes(spec: UseCase, *, short_memory: bool = False) -> tuple[Recipe, ...]:
    """Return the recipes from the simplest to the most complex: the prior, other baselines, candidates.

    Parameters
    ----------
    short_memory : include a variant of each that is fitted on the newest partitions only, for a relation
        between features and label that has changed.
    """
    training = spec.training
    baselines = sorted(training.baselines, key=lambda recipe: recipe.estimator != "prior")
    declared = (*baselines, *training.candidates)
    if not short_memory:
        return declared
    windows = [spec.clock.partitions_in(days) for days in SHORT_WINDOWS]  # a partition a day, or more
    longest = training.window or max(windows) + 1
    result = [*declared]
    for window in windows:
        if not spec.labels.delay < window < longest:  # the newest partitions have no labels yet
            continue
        for recipe in declared:
            least = max(recipe.early_stopping or 0, recipe.recent_intercept or 0)
            if least < window < (recipe.window or longest):
                variant = recipe.model_copy(update={"name": f"{recipe.name}_{window}", "window": window})
                if all(variant.name != one.name and variant.unnamed != one.unnamed for one in result):
                    result.append(variant)
    return tuple(result)


def recipes_by_name(spec: UseCase) -> dict[str, Recipe]:
    """Return the recipes by their names, simplest first, those with a short memory included."""
    return {recipe.name: recipe for recipe in recipes(spec, short_memory=True)}


def baseline_names(spec: UseCase) -> set[str]:
    """Return the names of the baselines, and of their variants with a short memory."""
    names = {recipe.name for recipe in spec.training.baselines}
    variants = recipes(spec, short_memory=True)[len(recipes(spec)) :]
    return names | {recipe.name for recipe in variants if recipe.name.rpartition("_")[0] in names}


def recipe_key(spec: UseCase, recipe: Recipe) -> str:
    """Return the digest of everything declared that a fit of a recipe depends on, except its name."""
    features, labels = spec.features, spec.labels
    options: list[Any] = [recipe.options] if recipe.options else []  # the keys of recipes without any stay
    options += [spec.training.test] if recipe.search or recipe.calibration else []
    return digest_json([
        recipe.estimator, recipe.params, recipe.window or spec.training.window, spec.training.seed,
        features.columns, features.categorical, spec.sql, labels.sql, labels.source, labels.delay,
        spec.problem.kind, spec.problem.target, spec.problem.classes, *options,
        spec.gate.objective,  # walks are kept by this key, and have the objective's losses
        *([spec.problem.cost_matrix] if spec.objective.takes_costs else []),
        *spec.code_digests(
            spec.code("training", "estimators", recipe.estimator), of=("features", "gate.objective")
        ),
    ])  # fmt: skip


def recipe_names(spec: UseCase) -> dict[str, str]:
    """Return the recipes' names by their keys, simplest first, those with a short memory included."""
    return {recipe_key(spec, recipe): name for name, recipe in recipes_by_name(spec).items()}
