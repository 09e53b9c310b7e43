"""Choose the recipe that serves by tracking the recipes' walks: pure functions of losses by partition.

The weights are those of fixed share: M. Herbster and M. K. Warmuth, Tracking the best expert, Machine
Learning 32, 1998; N. Cesa-Bianchi and G. Lugosi, Prediction, Learning, and Games, 2006, chapter 5. Their
theorem: for any sequence of losses in [0, M], if each partition's recipe were drawn by the weights, the
expected loss over n partitions would exceed that of the best sequence of recipes with m changes, chosen in
hindsight, by at most ((m + 1) ln k + m ln(n / share)) / rate + n share / rate + n rate M² / 8. Nothing is
assumed about how losses come about. Instead of drawing, the heaviest recipe serves, and it is replaced only
by one that is `HYSTERESIS` times as heavy and that also lost less over the newest `RECENT` partitions: the
weights forget within days, and a rule of thumb that is right on most weekdays would serve on the others too.
`python -m include replay` shows what that costs on real data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.intervals import gain_sequence
from include.train.recipes import SHORT_WINDOWS, recipes
from include.train.walks import Walks

Array = NDArray[np.float64]

LEARNING_RATE = 4.0  # for losses in the units of `relative_losses`
MIXING_RATE = 0.02  # of the weight that is spread over all recipes after each partition
HYSTERESIS = 1.5  # how many times heavier than the serving recipe its successor must be
RECENT = 7  # newest partitions, or days, on which the successor must have lost less: a week
KNOWN_DAYS = 14  # before the newest week, that show how much a recipe loses on a bad day or a weekend
MIN_OBSERVED = 3  # partitions with losses before a champion is replaced: one wild partition replaces none
MAX_EXCESS_LOSS = 1.0  # of one partition, beyond its best recipe's: one wild partition decides little
ORDINARY = 0.98  # share of the partitions whose losses beyond the best recipe's are counted in full
CONTENDER = 2.0  # times the lowest mean loss: recipes that lose more may differ by anything
LARGEST = np.sqrt(np.finfo(float).max)  # a loss whose sums don't overflow
MIN_UNIT = 1e-3  # of the unit of the losses, relative to the prior's median loss


def relative_losses(walks: Walks, min_gain: float = 0.0, baselines: Sequence[str] = ()) -> Array:
    """Return by how much each recipe lost more than the partition's best, shape (n, k).

    Values are from 0 to `MAX_EXCESS_LOSS`. The unit is the mean loss so far of the recipe that was the best
    until then, so a rate fits any problem. Where recipes differ by more than that, as on partitions of a few
    rows, the unit is what they ordinarily differ by: cut off at less, the losses would favor a recipe that is
    seldom wrong and then by far.

    Parameters
    ----------
    min_gain : a loss of a recipe that isn't a baseline counts 1 + ``min_gain`` times, so it only replaces a
        baseline if its loss is lower by that share.
    """
    if not walks.losses.size:
        return walks.losses
    handicap = np.array([1.0 if name in (*baselines, "prior") else 1 + min_gain for name in walks.recipes])
    # an infinite loss counts as the largest
    losses = np.where(np.isposinf(walks.losses), LARGEST, walks.losses * handicap)
    rows = walks.rows[:, None]
    predicted = np.cumsum(np.where(np.isfinite(losses), rows, 0.0), axis=0)
    means = np.cumsum(np.nan_to_num(losses) * rows, axis=0) / np.maximum(predicted, 1)
    means = np.where(predicted > 0, means, np.nan)
    # a perfect recipe has no loss to be measured in; and wild losses of one recipe say nothing of the others
    prior = walks.only({"prior"}).losses
    typical = pd.DataFrame(np.where(np.isfinite(prior), prior, np.nan)).expanding().median().max(axis=1)
    unit = np.fmax(np.nanmin(means, axis=1), MIN_UNIT * typical.to_numpy())
    excess = losses - np.nanmin(losses, axis=1, keepdims=True)
    ordinary = pd.DataFrame(excess).expanding().quantile(ORDINARY, interpolation="lower").to_numpy()
    contends = means <= CONTENDER * np.nanmin(means, axis=1, keepdims=True)
    unit = np.fmax(unit, np.where(contends, ordinary, 0.0).max(axis=1))
    # a partition of few rows is mostly noise and counts less
    size = np.minimum(walks.rows / np.median(walks.rows), 1.0)
    relative = excess / np.where(unit > 0, unit, 1.0)[:, None]
    return np.asarray(np.minimum(relative, MAX_EXCESS_LOSS) * size[:, None])


def fixed_share_weights(losses: Array) -> Array:
    """Return the weights of fixed share before each partition and after the last, shape (n + 1, k).

    Parameters
    ----------
    losses : shape (n, k). A recipe with NaN keeps its share of the weight (Freund, Schapire, Singer and
        Warmuth 1997, Using and combining predictors that specialize).
    """
    n, k = losses.shape
    weights = np.full((n + 1, k), 1 / k)
    for index, row in enumerate(losses):
        awake, before = np.isfinite(row), weights[index]
        after = before.copy()
        if awake.any():
            gains = before[awake] * np.exp(-LEARNING_RATE * (row[awake] - row[awake].min()))
            after[awake] = gains / gains.sum() * before[awake].sum()
        weights[index + 1] = (1 - MIXING_RATE) * after + MIXING_RATE / k
    return weights


def final_weights(walks: Walks, min_gain: float = 0.0, baselines: Sequence[str] = ()) -> dict[str, float]:
    """Return each recipe's weight after the last partition, summing to 1; see `relative_losses`."""
    weights = fixed_share_weights(relative_losses(walks, min_gain, baselines))[-1] if walks.recipes else ()
    return dict(zip(walks.recipes, map(float, weights), strict=True))


@dataclass(frozen=True)
class Choice:
    """The recipe that should serve, and why.

    Parameters
    ----------
    recipe : its name.
    weights : of each recipe, summing to 1.
    reason : a sentence.
    """

    recipe: str
    weights: dict[str, float]
    reason: str


def choose(
    walks: Walks,
    serving_recipe: str,
    *,
    min_gain: float = 0.0,
    baselines: Sequence[str] = (),
    recent: int = RECENT,
) -> Choice:
    """Return the recipe that should serve next.

    Of the recipes that are nearly as heavy as the heaviest, the simplest is chosen.

    Parameters
    ----------
    serving_recipe : the one that serves, empty if none of the walks' recipes does.
    recent : newest partitions, or days, on which the successor must have lost less.
    """
    by_name = final_weights(walks, min_gain, baselines)
    best = max(walks.recipes, key=lambda name: by_name[name])
    if serving_recipe in by_name and by_name[best] < HYSTERESIS * by_name[serving_recipe]:
        why = f"no other recipe has {HYSTERESIS:g} times its weight"
        return Choice(serving_recipe, by_name, f"{serving_recipe} keeps serving: {why}")
    least = max(by_name[best] / HYSTERESIS, HYSTERESIS * by_name.get(serving_recipe, 0.0))
    heavy = [name for name in walks.recipes if by_name[name] >= least]
    chosen = next((name for name in heavy if lost_less(walks, name, serving_recipe, recent)), serving_recipe)
    if chosen == serving_recipe:
        ratio = by_name[heavy[0]] / by_name[serving_recipe]
        why = f"{heavy[0]} has {ratio:.3g} times its weight, but didn't lose less over the last {recent}"
        return Choice(serving_recipe, by_name, f"{serving_recipe} keeps serving: {why} {walks.unit}")
    basis = f"over {len(walks.partitions)} {walks.unit if len(walks.partitions) != 1 else walks.unit[:-1]}"
    if not len(walks.partitions):
        return Choice(chosen, by_name, f"{chosen} is the simplest recipe, and no other has been observed yet")
    if serving_recipe in by_name:
        ratio = by_name[chosen] / by_name[serving_recipe]
        why = f"{chosen} has {ratio:.3g} times the weight of {serving_recipe}"
        return Choice(chosen, by_name, f"{why} {basis}")
    return Choice(chosen, by_name, f"{chosen} is the simplest of the recipes with the largest weight {basis}")


def lost_less(walks: Walks, recipe: str, serving_recipe: str, recent: int = RECENT) -> bool:
    """Return whether a recipe lost less than the serving one over the newest partitions of both."""
    if serving_recipe not in walks.recipes:
        return True
    losses = np.column_stack([_finite(walks.of(recipe)), _finite(walks.of(serving_recipe))])
    both = np.flatnonzero(~np.isnan(losses).any(axis=1))[-recent:]
    return not len(both) or bool(np.diff(walks.rows[both] @ losses[both])[0] > 0)


def broke_on_newest_day(days: Walks, serving_recipe: str) -> bool:
    """Return whether the newest day is plainly worse than the serving recipe's worst before the newest week.

    What is bad each weekend was as bad on the weekends before. A recipe that another one beats by far on a
    day isn't broken if it lost no more than on other days.
    """
    losses = _finite(days.of(serving_recipe))
    losses = losses[~np.isnan(losses)]
    before = losses[:-RECENT]
    return len(before) >= KNOWN_DAYS and bool(losses[-1] >= HYSTERESIS * before.max())


def _finite(losses: Array) -> Array:
    """Return losses in which a fit that can't predict loses the most."""
    return np.where(np.isposinf(losses), LARGEST, losses)


def prior_became_best(walks: Walks, recipes: Sequence[str], within: int) -> bool:
    """Return whether the prior became the best of the recipes within the newest partitions, after it was not.

    The recipes that learn from all of the past have then learned something that no longer holds.

    Parameters
    ----------
    recipes : the declared ones; one is ``prior``.
    """
    own = walks.only(recipes)
    if len(own.recipes) < 2 or "prior" not in own.recipes:
        return False
    weights, prior = fixed_share_weights(relative_losses(own)), own.recipes.index("prior")
    others = np.delete(weights, prior, axis=1).max(axis=1)
    learned = np.maximum.accumulate(others >= HYSTERESIS * weights[:, prior])
    broken = learned & (weights[:, prior] >= HYSTERESIS * others)
    return bool(broken[-within:].any())


def daily_if_sub_daily(spec: UseCase, walks: Walks) -> Walks:
    """Return the walks by blocks of a day, if a day has several partitions.

    One recipe may be better in the morning and another at night, and neither should serve only for that.
    """
    return walks.by_day() if spec.clock.sub_daily else walks


def choose_recipe(spec: UseCase, walks: Walks, serving_recipe: str) -> Choice:
    """Return the recipe that should serve next; all declared recipes if none has a walk yet.

    With ``gate.prove`` the serving recipe stays until another one's loss is shown to be lower.
    """
    names = tuple(recipe.name for recipe in recipes(spec))
    if not walks.partitions:
        walks = Walks((), names, np.empty(0), np.empty((0, len(names))))
    baselines = [recipe.name for recipe in spec.training.baselines]
    days = daily_if_sub_daily(spec, walks)
    choice = choose(days, serving_recipe, min_gain=spec.gate.min_gain, baselines=baselines)
    if spec.gate.prove and serving_recipe in walks.recipes and choice.recipe != serving_recipe:
        gain = proven_gain(spec, walks, choice.recipe, serving_recipe)
        if gain[1] <= 0:
            why = f"{serving_recipe} stays: {choice.reason}, but a lower loss isn't proven"
            return Choice(serving_recipe, choice.weights, f"{why}, gain {gain[0]:.4g} [{gain[1]:.4g}, inf)")
    return choice


def refresh_instead(choice: Choice, serving_recipe: str, declined: str) -> Choice:
    """Return the serving recipe instead of another one, so that it isn't stale while others are refused.

    The next training may propose another recipe again.

    Parameters
    ----------
    declined : the recipe that the training before proposed, and that doesn't serve.
    """
    if choice.recipe == serving_recipe:
        return choice
    why = f"the training before proposed {declined}, which doesn't serve; {choice.reason}"
    return Choice(serving_recipe, choice.weights, f"{serving_recipe} is refreshed: {why}")


def has_relation_changed(spec: UseCase, walks: Walks) -> bool:
    """Return whether the relation has changed within the longest short memory, see `prior_became_best`."""
    return prior_became_best(
        daily_if_sub_daily(spec, walks), [recipe.name for recipe in recipes(spec)], max(SHORT_WINDOWS)
    )


def recipes_to_fit(spec: UseCase, walks: Walks, serving_recipe: str) -> tuple[Recipe, ...]:
    """Return the recipes that a training fits: the declared ones, and after a change those of short memory.

    Those of short memory are fitted as well while one of them serves, or should serve next.

    Parameters
    ----------
    serving_recipe : the one that serves, empty if none of the walks' recipes does.
    """
    names = [recipe.name for recipe in recipes(spec)]
    changed = has_relation_changed(spec, walks)
    short = not {serving_recipe, choose_recipe(spec, walks, serving_recipe).recipe} <= {"", *names}
    return recipes(spec, short_memory=changed or short)


def proven_gain(spec: UseCase, walks: Walks, recipe: str, serving_recipe: str) -> tuple[float, float]:
    """Return by how much a recipe's loss per row is lower than another's, and a bound valid at any time."""
    gains = walks.of(serving_recipe) - walks.of(recipe)
    gain = gain_sequence(gains[np.isfinite(gains)].tolist(), spec.gate.block_partitions, spec.gate.alpha)
    return gain.mean, gain.low


def best_baseline(spec: UseCase, walks: Walks, choice: Choice, failed: Collection[str] = ()) -> str:
    """Return the baseline with the best walk that isn't chosen itself, if there is another.

    Baselines are compared among themselves: beside a far better recipe all of them lose the most that counts.

    Parameters
    ----------
    failed : recipes that couldn't be fitted.
    """
    baselines = recipes(spec)[: len(spec.training.baselines)]
    names = [recipe.name for recipe in baselines if recipe.name not in failed]
    weights = final_weights(daily_if_sub_daily(spec, walks).only(names))
    return max(names, key=lambda name: (name != choice.recipe, weights.get(name, 0.0)))


def choose_replacement(
    spec: UseCase, walks: Walks, serving_recipe: str, *, is_stand_in: bool = False
) -> Choice | None:
    """Return the recipe that should replace a serving one that is worse than a baseline; None if none should.

    Neither a proof nor an approval is required, since what serves does harm.

    Parameters
    ----------
    walks : with a column for ``serving_recipe``.
    is_stand_in : whether ``serving_recipe`` replaced a broken recipe itself. Then a better recipe needn't
        wait for a training, and what serves needn't be worse than a baseline, unless the gate holds back a
        change.
    """
    if (~np.isnan(walks.of(serving_recipe))).sum() < MIN_OBSERVED:
        return None
    baselines = [recipe.name for recipe in spec.training.baselines]
    walks = daily_if_sub_daily(spec, walks)
    # what stands in does no such harm, and would change from day to day
    broke_today = spec.clock.sub_daily and not is_stand_in and broke_on_newest_day(walks, serving_recipe)
    recent = 1 if broke_today else RECENT
    choice = choose(walks, serving_recipe, min_gain=spec.gate.min_gain, baselines=baselines, recent=recent)
    # by themselves, since beside a far better recipe the weights of both would be no more than the share
    weights = final_weights(walks.only({serving_recipe, *baselines}))
    is_broken = any(
        weights[name] >= HYSTERESIS * weights[serving_recipe]
        and lost_less(walks, name, serving_recipe, recent)
        for name in baselines
        if name in weights
    )
    takes_over = is_stand_in and not spec.gate.holds_back_changes
    return choice if (is_broken or takes_over) and choice.recipe != serving_recipe else None
