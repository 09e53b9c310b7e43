"""The recipe that serves follows the losses of the walks, with inertia; of recipes that tie the simplest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from include.spec import UseCase
from include.spec.gate import FairnessRequirement, FairnessRules, Rollout
from include.train.selection import (
    HYSTERESIS,
    LEARNING_RATE,
    MAX_EXCESS_LOSS,
    MIXING_RATE,
    best_baseline,
    choose,
    choose_recipe,
    choose_replacement,
    daily_if_sub_daily,
    final_weights,
    fixed_share_weights,
    lost_less,
    prior_became_best,
    proven_gain,
    refresh_instead,
    relative_losses,
)
from include.train.walks import Walks
from tests.train import visits

NAMES = ("prior", "linear", "boosting", "forest")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The clinic, which declares the recipes in `NAMES`."""
    return visits.usecase(tmp_path_factory.mktemp("selection"))


HARD = FairnessRequirement(metric="tpr_difference", at_most=0.1, hard=True)


def ruled(spec: UseCase, **rules: object) -> UseCase:
    """Return the use case with other rules of the gate."""
    return spec.model_copy(update={"gate": spec.gate.model_copy(update=rules)})


def hours(count: int, first: int = 0) -> tuple[str, ...]:
    """Return the keys of consecutive hours from the first one of 1 March 2024."""
    begin = datetime(2024, 3, 1) + timedelta(hours=first)
    return tuple(f"{begin + timedelta(hours=hour):%Y-%m-%dT%H%MZ}" for hour in range(count))


def test_a_part_of_pooled_walks_is_still_of_days() -> None:
    """What names their unit isn't told partitions."""
    days = walk(prior=[1.0] * 4, linear=[0.5] * 4).by_day()
    assert days.unit == days.only({"prior"}).unit == days.newest(1).unit == "days"


def until(walks: Walks, partition: str) -> Walks:
    """Return the walks up to a partition."""
    n = sum(key <= partition for key in walks.partitions)
    return Walks(walks.partitions[:n], walks.recipes, walks.rows[:n], walks.losses[:n])


def walk(rows: Sequence[float] | None = None, **losses: Sequence[float]) -> Walks:
    """Return the walks of recipes with these mean losses by partition, in the order of `NAMES`."""
    names = tuple(name for name in NAMES if name in losses)
    count = len(losses[names[0]])
    partitions = tuple(f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(count))
    table = np.array([losses[name] for name in names], dtype=float).T
    return Walks(partitions, names, np.array(rows or [100.0] * count), table)


def noisy(mean: float, count: int, seed: int) -> list[float]:
    """Return losses around a mean."""
    return list(mean + 0.02 * np.random.default_rng(seed).standard_normal(count))


# the weights


@given(
    arrays(
        float,
        array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.one_of(st.floats(0, MAX_EXCESS_LOSS), st.just(np.nan)),
    )
)
def test_weights_are_a_distribution_and_none_dies(losses: np.ndarray) -> None:
    """After any losses the weights sum to 1, and each is at least its part of the share."""
    weights = fixed_share_weights(losses)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert (weights[1:] >= MIXING_RATE / losses.shape[1] - 1e-12).all()


def test_weights_are_those_by_hand() -> None:
    """Each partition multiplies by exp(-rate loss), and then a share is spread over all recipes."""
    first = np.exp(-LEARNING_RATE * np.array([0.1, 0.3]))
    expected = (1 - MIXING_RATE) * first / first.sum() + MIXING_RATE / 2
    assert fixed_share_weights(np.array([[0.1, 0.3]])) == pytest.approx(np.array([[0.5, 0.5], expected]))


@given(arrays(float, (6, 3), elements=st.floats(0, MAX_EXCESS_LOSS)), st.integers(0, 2), st.floats(0, 1))
def test_a_loss_that_all_recipes_have_in_common_changes_no_weight(
    losses: np.ndarray, partition: int, common: float
) -> None:
    """Only differences between recipes count, so a hard partition doesn't matter by itself."""
    harder = losses.copy()
    harder[partition] += common
    assert fixed_share_weights(harder) == pytest.approx(fixed_share_weights(losses))


@given(st.floats(0, MAX_EXCESS_LOSS), st.floats(0, MAX_EXCESS_LOSS))
def test_a_recipe_without_a_loss_keeps_its_share(one: float, other: float) -> None:
    """While a recipe has no fit, the others trade their weight among themselves."""
    weights = fixed_share_weights(np.array([[one, other, np.nan]]))[1]
    assert weights[2] == pytest.approx(1 / 3)


@given(
    arrays(float, (40, 3), elements=st.floats(0, 2)),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 2)), max_size=2),
)
def test_the_weights_lose_little_more_than_the_best_sequence_of_recipes(
    losses: np.ndarray, changes: list[tuple[int, int]]
) -> None:
    """The theorem's bound holds: whatever the losses, no sequence with m changes is better by more."""
    path = np.zeros(40, dtype=int)
    for place, recipe in sorted(changes):
        path[place:] = recipe
    m, n, k, largest = int((np.diff(path) != 0).sum()), 40, 3, 2.0
    regret = ((m + 1) * np.log(k) + m * np.log(n / MIXING_RATE)) / LEARNING_RATE
    bound = regret + n * MIXING_RATE / LEARNING_RATE / (1 - MIXING_RATE) + n * LEARNING_RATE * largest**2 / 8
    expected = (fixed_share_weights(losses)[:-1] * losses).sum()
    assert expected <= losses[np.arange(40), path].sum() + bound


# the losses that they are made of


def test_losses_are_in_units_of_the_best_recipes_mean_loss_so_far() -> None:
    """The same problem in other units gives the same weights."""
    some = walk(prior=[2.0] * 3, linear=[2.0, 2.02, 2.04])
    assert relative_losses(some) == pytest.approx(np.array([[0, 0], [0, 0.01], [0, 0.02]]))
    scaled = Walks(some.partitions, some.recipes, some.rows, some.losses * 1e6)
    assert relative_losses(scaled) == pytest.approx(relative_losses(some))


def test_one_wild_partition_decides_nothing() -> None:
    """A loss beyond the best recipe's counts for so much at most, and few rows for less."""
    wild = walk(prior=[1.0] * 20, linear=[0.8] * 19 + [1e9], boosting=[0.95] * 20)
    assert relative_losses(wild)[-1, 1] == MAX_EXCESS_LOSS
    few = walk(rows=[100.0] * 19 + [1.0], prior=[1.0] * 20, linear=[0.8] * 19 + [5.0], boosting=[0.95] * 20)
    assert choose(few, "linear").recipe == "linear"


@pytest.mark.parametrize("seed", range(10))
def test_on_partitions_of_one_row_a_recipe_that_is_seldom_wrong_and_then_by_far_has_little_weight(
    seed: int,
) -> None:
    """Boosting is overconfident and loses as much as the prior on average, though less on most partitions."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 1.5, 300)
    sign = np.where(random.random(300) < 1 / (1 + np.exp(-truth)), -1, 1)
    names = {"prior": 0.0, "linear": 1.0, "boosting": 3.0}
    rows = walk([1.0] * 300, **{name: np.log1p(np.exp(sign * k * truth)) for name, k in names.items()})
    assert (rows.of("boosting") < rows.of("linear")).mean() > 0.7
    heaviest = fixed_share_weights(relative_losses(rows))[50:].argmax(axis=1)
    assert (heaviest == 1).mean() > 0.5
    assert (heaviest == 2).mean() < 0.4


# the choice


def test_a_changed_best_recipe_is_followed() -> None:
    """After the best recipe becomes the worst, its successor serves within a fortnight."""
    before, after = [0.5] * 100, [1.5] * 14
    turned = walk(prior=[1.0] * 114, linear=[0.9] * 114, boosting=before + after)
    assert choose(until(turned, turned.partitions[99]), "linear").recipe == "boosting"
    choice = choose(turned, "boosting")
    assert choice.recipe == "linear"
    assert "times the weight of boosting over 114 partitions" in choice.reason


def test_the_simpler_of_two_recipes_that_tie_is_chosen() -> None:
    """Where nothing serves yet and two recipes lose the same, the one that is declared simpler serves."""
    tied = walk(prior=[1.0] * 30, linear=[0.8] * 30, boosting=[0.8] * 30, forest=[0.798] * 30)
    choice = choose(tied, "")
    assert choice.recipe == "linear"
    assert choice.weights["forest"] > choice.weights["linear"]


def test_an_equal_recipe_replaces_nothing() -> None:
    """The serving recipe stays until another one is so many times as heavy, even if it is more complex."""
    tied = walk(prior=[1.0] * 30, linear=[0.8] * 30, boosting=[0.802] * 30)
    choice = choose(tied, "boosting")
    assert choice.weights["linear"] > choice.weights["boosting"]
    assert (choice.recipe, "boosting keeps serving" in choice.reason) == ("boosting", True)


@given(arrays(float, (25, 4), elements=st.floats(0.01, 2)), st.sampled_from(NAMES))
def test_a_switch_is_always_to_a_recipe_with_more_weight(losses: np.ndarray, serving: str) -> None:
    """Whatever the losses, what serves is replaced only by a recipe with `HYSTERESIS` times its weight."""
    some = walk(**{name: losses[:, place] for place, name in enumerate(NAMES)})
    choice = choose(some, serving)
    heaviest = max(choice.weights.values())
    assert (choice.recipe != serving) <= (heaviest >= HYSTERESIS * choice.weights[serving])
    if choice.recipe != serving:
        assert HYSTERESIS * choice.weights[choice.recipe] >= heaviest * (1 - 1e-9)
        assert choice.weights[choice.recipe] >= HYSTERESIS * choice.weights[serving] * (1 - 1e-9)
        assert lost_less(some, choice.recipe, serving)
    assert choose(some, choice.recipe).recipe == choice.recipe


def test_a_simple_recipe_that_is_hardly_heavier_replaces_nothing() -> None:
    """It is near the heaviest, but has less than `HYSTERESIS` times the weight of what serves."""
    some = walk(linear=[0.995] * 10, boosting=[1.0] * 10, forest=[0.985] * 10)
    weights = final_weights(some)
    assert weights["linear"] < HYSTERESIS * weights["boosting"] < weights["forest"]
    assert weights["forest"] < HYSTERESIS * weights["linear"]
    assert choose(some, "boosting").recipe == "forest"


def test_noise_switches_seldom() -> None:
    """Of two recipes that are equally good, the serving one is replaced a few times a year at most."""
    year = walk(prior=[1.0] * 365, linear=noisy(0.8, 365, 1), boosting=noisy(0.8, 365, 2))
    serving, switches = "linear", 0
    for partition in year.partitions[6::7]:
        choice = choose(until(year, partition), serving)
        switches += choice.recipe != serving
        serving = choice.recipe
    assert switches <= 3


def test_a_gain_below_the_declared_one_replaces_no_baseline() -> None:
    """With ``min_gain`` a candidate must have a loss lower than a baseline's by that share."""
    better = walk(prior=[1.0] * 60, linear=[0.8] * 60, boosting=[0.77] * 60)
    assert choose(better, "linear", baselines=["prior", "linear"]).recipe == "boosting"
    assert choose(better, "linear", min_gain=0.02, baselines=["prior", "linear"]).recipe == "boosting"
    assert choose(better, "linear", min_gain=0.05, baselines=["prior", "linear"]).recipe == "linear"


def test_without_a_walk_the_simplest_recipe_serves(spec: UseCase) -> None:
    """Nothing was observed, so nothing speaks for a more complex recipe."""
    nothing = Walks((), (), np.empty(0), np.empty((0, 0)))
    choice = choose_recipe(spec, nothing, "")
    assert choice.recipe == "prior"
    assert set(choice.weights) == {"prior", "linear", "boosting", "forest"}
    assert choose_recipe(spec, nothing, "forest").recipe == "forest"


# the proof


def test_with_prove_another_recipe_needs_a_proven_gain(spec: UseCase) -> None:
    """A lower loss that may be chance replaces nothing where a proof is required, and a clear one does."""
    strict = ruled(spec, prove=True)
    likely = walk(prior=[1.0] * 12, linear=noisy(0.8, 12, 3), boosting=noisy(0.795, 12, 9))
    gains = likely.of("linear") - likely.of("boosting")
    likely.losses[:, 2] += gains.mean() - 0.1 + 0.4 * np.cos(np.arange(12) * np.pi)
    assert choose_recipe(spec, likely, "linear").recipe == "boosting"
    choice = choose_recipe(strict, likely, "linear")
    assert choice.recipe == "linear"
    assert "but a lower loss isn't proven, gain 0.1 [-" in choice.reason
    clear = walk(prior=[1.0] * 30, linear=noisy(0.8, 30, 3), boosting=noisy(0.7, 30, 4))
    assert choose_recipe(strict, clear, "linear").recipe == "boosting"
    assert proven_gain(strict, clear, "boosting", "linear")[1] > 0


def test_a_first_recipe_needs_no_proof(spec: UseCase) -> None:
    """Where none of the recipes serves there is nothing to be better than."""
    short = walk(prior=[1.0] * 5, linear=[0.8] * 5, boosting=[0.2] * 5)
    assert choose_recipe(ruled(spec, prove=True), short, "").recipe == "boosting"


def test_a_gain_is_measured_on_partitions_that_both_predicted(spec: UseCase) -> None:
    """A recipe that was declared later is compared on the partitions that it has predicted."""
    later = walk(prior=[1.0] * 10, linear=[5.0] * 5 + [0.8] * 5, boosting=[np.nan] * 5 + [0.7] * 5)
    assert proven_gain(spec, later, "boosting", "linear")[0] == pytest.approx(0.1)


def test_a_rule_that_is_right_on_most_weekdays_does_not_replace_a_better_recipe(spec: UseCase) -> None:
    """Best from Tuesday to Friday and far off on the other days: by the weights alone it would serve."""
    week = [2.2, 0.2, 0.2, 0.2, 0.2, 2.2, 2.2]
    days = walk(prior=[9.0] * 33, linear=(week * 5)[:33], boosting=[1.0] * 33)
    assert final_weights(days)["linear"] >= HYSTERESIS * final_weights(days)["boosting"]
    assert choose_recipe(spec, days, "boosting").recipe == "boosting"
    assert choose_replacement(spec, days, "boosting") is None
    better = walk(prior=[9.0] * 33, linear=[0.9] * 33, boosting=[1.0] * 33)
    assert choose_recipe(spec, better, "boosting").recipe == "linear"


# the fallback, and a champion that is broken


def test_the_fallback_is_the_best_baseline_that_is_not_chosen(spec: UseCase) -> None:
    """Where a baseline serves itself, the other one stands by."""
    some = walk(prior=[1.0] * 20, linear=[0.8] * 20, boosting=[0.4] * 20)
    choice = choose_recipe(spec, some, "")
    assert (choice.recipe, best_baseline(spec, some, choice)) == ("boosting", "linear")
    simple = walk(prior=[1.0] * 20, linear=[0.4] * 20, boosting=[0.8] * 20)
    choice = choose_recipe(spec, simple, "")
    assert (choice.recipe, best_baseline(spec, some, choice)) == ("linear", "prior")


def test_a_champion_that_a_baseline_beats_is_replaced_by_the_best_recipe(spec: UseCase) -> None:
    """Neither a proof nor a gain is required, and the successor needn't be the baseline."""
    broken = walk(prior=[1.0] * 24, linear=[0.9] * 24, boosting=[0.4] * 10 + [3.0] * 14, forest=[0.5] * 24)
    choice = choose_replacement(ruled(spec, prove=True), broken, "boosting")
    assert choice is not None
    assert choice.recipe == "forest"


def test_a_champion_that_only_a_candidate_beats_is_left_to_the_next_training(spec: UseCase) -> None:
    """No harm is done while it is better than each baseline."""
    outdone = walk(prior=[1.0] * 24, linear=[0.9] * 24, boosting=[0.7] * 24, forest=[0.4] * 24)
    assert choose(outdone, "boosting").recipe == "forest"
    assert choose_replacement(spec, outdone, "boosting") is None


def test_a_recipe_that_stands_in_for_a_broken_one_is_replaced_as_soon_as_another_is_better(
    spec: UseCase,
) -> None:
    """What served before has lost its privilege, so nothing is gained by waiting for the next training."""
    learned = walk(prior=[1.0] * 24, linear=[2.0] * 24, boosting=[3.0] * 10 + [0.5] * 14, forest=[2.0] * 24)
    assert choose_replacement(spec, learned, "prior") is None
    choice = choose_replacement(spec, learned, "prior", is_stand_in=True)
    assert choice is not None
    assert choice.recipe == "boosting"


@pytest.mark.parametrize(
    "rules",
    [
        {"prove": True},
        {"approval": "changes"},
        {"rollout": Rollout(kind="shadow")},
        {"requirements": (HARD,)},
        {"fairness": FairnessRules(columns=("store",), requirements=(HARD,))},
        {"checks": ("checks:mine",)},
    ],
)
def test_what_stands_in_keeps_serving_where_the_gate_holds_back_another_recipe(
    spec: UseCase, rules: dict[str, object]
) -> None:
    """It does no harm, so the change waits for its proof, a person, its trial, or the rules that block."""
    learned = walk(prior=[1.0] * 24, linear=[2.0] * 24, boosting=[3.0] * 10 + [0.5] * 14, forest=[2.0] * 24)
    assert choose_replacement(ruled(spec, **rules), learned, "prior", is_stand_in=True) is None


def test_a_serving_baseline_is_replaced_only_if_another_baseline_beats_it(spec: UseCase) -> None:
    """A baseline isn't a rival of itself."""
    fine = walk(prior=[1.0] * 24, linear=[0.9] * 24, boosting=[0.3] * 24)
    assert choose_replacement(spec, fine, "linear") is None
    broken = walk(prior=[1.0] * 24, linear=[0.5] * 10 + [3.0] * 14, boosting=[0.3] * 24)
    choice = choose_replacement(spec, broken, "linear")
    assert choice is not None
    assert choice.recipe == "boosting"


def test_a_changed_relation_is_one_that_the_prior_predicts_best_after_all() -> None:
    """Recipes that once learned something and are now worse than the prior need a shorter memory."""
    turned = walk(prior=[1.0] * 45, linear=[0.5] * 30 + [2.0] * 15, boosting=[0.6] * 30 + [2.5] * 15)
    assert prior_became_best(turned, NAMES, within=30)
    assert not prior_became_best(until(turned, turned.partitions[29]), NAMES, within=30)
    long_ago = walk(
        prior=[1.0] * 160,
        linear=[0.5] * 30 + [2.0] * 15 + [0.5] * 115,
        boosting=[0.6] * 30 + [2.5] * 15 + [0.6] * 115,
    )
    assert not prior_became_best(long_ago, NAMES, within=30)
    useless = walk(prior=[1.0] * 60, linear=[1.3] * 60, boosting=[1.2] * 60)
    assert not prior_became_best(useless, NAMES, within=30)  # nothing was ever learned


def test_variants_with_a_short_memory_hide_no_change() -> None:
    """The change is one of the declared recipes, whatever their variants have learned since."""
    turned = walk(prior=[1.0] * 45, linear=[0.5] * 30 + [2.0] * 15, boosting=[0.6] * 30 + [0.5] * 15)
    assert prior_became_best(turned, ("prior", "linear"), within=30)
    assert not prior_became_best(turned, NAMES, within=30)


def test_a_mean_loss_counts_partitions_by_their_rows() -> None:
    """A partition without a fit isn't in it, and a recipe without any has none."""
    some = walk(rows=[10.0, 30.0, 60.0], prior=[1.0, 2.0, np.nan], linear=[np.nan] * 3)
    assert some.mean("prior") == pytest.approx(1.75)
    assert np.isnan(some.mean("linear"))
    assert some.only(["linear"]).recipes == ("linear",)


def test_a_recipe_that_is_better_at_night_only_replaces_none_in_the_morning(spec: UseCase) -> None:
    """Hours are judged by whole days: what a recipe gains at night and loses by day switches nothing."""
    night = np.arange(24 * 10 + 12) % 24 < 12
    table = np.column_stack([np.full(night.size, 3.0), np.where(night, 1.0, 1.5), np.where(night, 1.5, 1.0)])
    keys = hours(night.size)
    walk = Walks(keys, ("prior", "ridge", "boosting"), np.full(night.size, 6.0), table)
    assert choose(walk, "boosting").recipe == "ridge"  # after a night
    days = walk.by_day()
    assert choose(days, "boosting").recipe == "boosting"
    assert choose(days, "").reason.endswith("over 11 days")
    assert days.partitions == keys[11::24]
    assert days.rows.tolist() == [72.0, *[144.0] * 10]  # the oldest is half a day
    assert days.of("ridge")[1:] == pytest.approx(1.25)
    hourly = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"batch": "5 * * * *"})})
    assert daily_if_sub_daily(hourly, walk).partitions == days.partitions
    assert daily_if_sub_daily(spec, walk) is walk


def test_a_block_has_the_loss_of_the_partitions_that_a_recipe_predicted() -> None:
    """Weighted by their rows; of a recipe without a fit in the whole block there is none."""
    table = np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan], [4.0, 5.0]])
    keys = (*hours(2), *hours(2, first=24))
    days = Walks(keys, ("prior", "ridge"), np.array([1.0, 3.0, 1.0, 1.0]), table).by_day()
    assert days.partitions == keys[1::2]
    assert days.of("prior").tolist() == [2.5, 3.0]
    assert np.isnan(days.of("ridge")[0])
    assert days.of("ridge")[1] == 5.0
    empty = Walks((), ("prior",), np.empty(0), np.empty((0, 1)))
    assert empty.by_day() is empty


@pytest.mark.parametrize("each", [1, 2, 12, 24])
def test_a_day_is_a_day_however_many_of_its_hours_have_rows(spec: UseCase, each: int) -> None:
    """Of a sparse hourly spine a week isn't 168 partitions: a recipe that breaks is replaced within days."""
    keys = tuple(key for day in range(60) for key in hours(each, first=24 * day))
    broken = np.arange(len(keys)) >= 55 * each
    table = np.column_stack([np.full(len(keys), 3.0), np.where(broken, 6.0, 1.0), np.full(len(keys), 1.2)])
    walk = Walks(keys, ("prior", "boosting", "linear"), np.full(len(keys), 6.0), table)
    hourly = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"batch": "0 * * * *"})})
    days = daily_if_sub_daily(hourly, walk)
    assert len(days.partitions) == 60
    assert choose(days, "boosting").recipe == "linear"


def test_a_champion_that_breaks_within_a_day_of_hours_is_replaced_on_the_next(spec: UseCase) -> None:
    """Its week was better than the baseline's, but it was never as far behind; days wait for a week."""
    hourly = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"batch": "0 * * * *"})})
    table = np.column_stack([np.full(960, 4.0), np.repeat([1.0] * 38 + [6.0] * 2, 24)])
    walk = Walks(hours(960), ("prior", "boosting"), np.full(960, 6.0), table)
    choice = choose_replacement(hourly, walk, "boosting")
    assert choice is not None
    assert choice.recipe == "prior"
    assert choose_replacement(hourly, walk, "boosting", is_stand_in=True) is None
    assert choose_replacement(hourly, walk.newest(20 * 24), "boosting") is None  # fewer days to compare with
    days = replace(walk.by_day(), unit="partitions")
    assert choose_replacement(spec, days, "boosting") is None  # a daily use case waits for its week


def test_an_hourly_champion_that_another_recipe_beats_on_a_usual_day_stays(spec: UseCase) -> None:
    """Real: "as yesterday" was right by luck on one day, and on the next lost six times as much."""
    hourly = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"batch": "0 * * * *"})})
    losses = np.column_stack([[4.0] * 38 + [0.5] * 2, [3.0] + [1.0] * 37 + [3.0] * 2])
    walk = Walks(hours(960), ("prior", "boosting"), np.full(960, 6.0), np.repeat(losses, 24, axis=0))
    assert choose_replacement(hourly, walk, "boosting") is None
    broken = replace(walk, losses=np.where(walk.losses == 3, [[3.0, 5.0]], walk.losses))
    broken.losses[:24] = walk.losses[:24]
    assert choose_replacement(hourly, broken, "boosting") is not None


def test_an_hourly_champion_that_is_bad_each_weekend_stays(spec: UseCase) -> None:
    """It was as far behind on the weekends before, so the week counts."""
    hourly = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"batch": "0 * * * *"})})
    losses = np.repeat(([1.0] * 5 + [6.0] * 2) * 6, 24)
    table = np.column_stack([np.full(losses.size, 4.0), losses])
    walk = Walks(hours(losses.size), ("prior", "boosting"), np.full(losses.size, 6.0), table)
    assert choose_replacement(hourly, walk, "boosting") is None


def test_an_hour_that_a_fit_cannot_predict_counts_on_its_day() -> None:
    """Also where it can't predict any of the day: that isn't a day without a fit."""
    table = np.array([[1.0, np.inf], [1.0, 1.0], [1.0, np.inf]])
    days = Walks((*hours(2), *hours(1, first=24)), ("prior", "ridge"), np.ones(3), table).by_day()
    assert np.isinf(days.of("ridge")).all()
    assert days.of("prior").tolist() == [1.0, 1.0]


def test_a_recipe_that_cannot_predict_is_replaced(spec: UseCase) -> None:
    """An infinite loss is the largest, on the newest week too; one wild partition replaces nobody."""
    table = {"prior": [0.7] * 40, "linear": [0.5] * 40, "boosting": [0.3] * 30 + [np.inf] * 10}
    chosen = choose_replacement(spec, walk(**table), "boosting")
    assert chosen is not None
    assert chosen.recipe == "linear"
    assert choose(walk(**table), "boosting").recipe == "linear"
    once = {**table, "boosting": [0.3] * 35 + [np.inf] + [0.3] * 4}
    assert choose_replacement(spec, walk(**once), "boosting") is None


def test_a_baseline_that_is_heavy_for_a_few_days_replaces_nobody(spec: UseCase) -> None:
    """It must have lost less over the newest week too, also if a candidate that did is as heavy."""
    from_tuesday_on = ([2.2] + [0.3] * 4 + [2.2] * 2) * 5
    walks = walk(prior=[9.0] * 33, linear=from_tuesday_on[:33], boosting=[1.0] * 33, forest=[0.4] * 33)
    weights = final_weights(walks.only({"boosting", "linear"}))
    assert weights["linear"] > HYSTERESIS * weights["boosting"]
    assert choose(walks, "boosting").recipe == "forest"
    assert choose_replacement(spec, walks, "boosting") is None


def test_a_champion_is_not_replaced_before_it_was_observed(spec: UseCase) -> None:
    """Two partitions are too few, in production and in a replay."""
    few = [np.nan] * 28 + [9.0, 9.0]
    assert choose_replacement(spec, walk(prior=[1.0] * 30, boosting=few), "boosting") is None
    assert choose_replacement(spec, walk(prior=[1.0] * 30, boosting=[*few[1:], 9.0]), "boosting") is not None


def test_a_serving_recipe_is_refreshed_after_another_one_was_proposed_in_vain() -> None:
    """Also where a third recipe has the largest weight, so that what serves isn't stale."""
    choice = choose(walk(prior=[1.0] * 20, linear=[0.9] * 20, boosting=[0.3] * 20), "linear")
    assert choice.recipe == "boosting"
    refreshed = refresh_instead(choice, "linear", "forest")
    assert (refreshed.recipe, refreshed.weights) == ("linear", choice.weights)
    assert "proposed forest" in refreshed.reason
    assert refresh_instead(refreshed, "linear", "forest") is refreshed


def test_the_order_of_the_recipes_is_the_declared_one(tmp_path: Path) -> None:
    """The prior is the simplest wherever it is declared, then other baselines, then candidates."""
    swapped = "    - {name: linear, estimator: logistic_regression}\n"
    prior = "    - {name: prior, estimator: prior}\n"
    spec = visits.usecase(tmp_path, **{prior + swapped: swapped + prior})
    assert [recipe.name for recipe in spec.training.baselines] == ["linear", "prior"]
    empty = Walks((), (), np.empty(0), np.empty((0, 0)))
    assert tuple(choose_recipe(spec, empty, "").weights) == NAMES


@pytest.mark.parametrize("wild", [1e8, 1e12, np.inf])
def test_one_wild_loss_of_one_recipe_keeps_no_worse_one_in_service(wild: float) -> None:
    """The other recipes are compared as if it weren't there."""
    third = [0.9] * 100 + [wild] + [0.9] * 99
    wild_walk = walk(prior=[1.0] * 200, linear=[0.7] * 200, boosting=third)
    assert choose(wild_walk, "prior").recipe == "linear"


@pytest.mark.parametrize("wild", [1e6, np.inf])
@pytest.mark.parametrize("others", [[], [0.9]])
def test_a_recipe_that_loses_wildly_on_most_partitions_hides_no_difference_between_others(
    wild: float, others: list[float]
) -> None:
    """A fit that diverges or can't predict says nothing of how much another loses."""
    third = [wild, wild, *others] * 20
    count = len(third)
    wild_walk = walk(prior=[1.0] * count, linear=[0.7] * count, boosting=third)
    assert choose(wild_walk, "", baselines=["prior"]).recipe == "linear"
    assert choose(wild_walk, "prior", baselines=["prior"]).recipe == "linear"


@pytest.mark.parametrize("perfect", [{"linear": [0.0] * 40}, {name: [0.0] * 40 for name in NAMES[1:]}])
def test_perfect_recipes_differ_from_the_prior_however_small_its_loss(
    perfect: dict[str, list[float]],
) -> None:
    """They have no loss to be measured in, so the unit is a share of the prior's."""
    relative = relative_losses(walk(prior=[1e-9] * 40, **perfect))
    assert relative[:, 0] == pytest.approx(MAX_EXCESS_LOSS)
    assert (relative[:, 1:] == 0).all()
