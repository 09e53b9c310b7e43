"""Planted leaks show in the figures; honest recipes don't, on informative or worthless data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin

from include.evaluate import leakage
from include.evaluate.measure import permutation_importance
from include.judge.checks import all_features, past_attempts, shuffled_labels, single_feature
from include.judge.context import CheckContext
from include.judge.evidence import Leakage, Losses, NewestScores
from include.judge.judge import judge
from include.models import artifacts
from include.promote import verdicts
from include.spec import UseCase
from include.spec.stages import Recipe
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train import estimators
from include.train.fitting import fit_recipe, target
from tests.promote.conftest import evidence, losses, partitions
from tests.train import visits

TEST = partitions(12)
WEEKS = partitions(100)[::7]
FOREST = Recipe(name="forest", estimator="random_forest", params={"n_estimators": 5, "min_samples_leaf": 40})
LINEAR = Recipe(name="linear", estimator="logistic_regression")


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """Asks which visits will be missed."""
    return visits.usecase(tmp_path_factory.mktemp("leakage"))


@pytest.fixture(scope="session")
def late(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """Asks how many minutes late they come."""
    return visits.usecase(tmp_path_factory.mktemp("leakage"), "regression")


def rows(spec: UseCase, count: int, seed: int, *, rate: float = 0.3, **features: object) -> pa.Table:
    """Return rows of twelve partitions; only the passed features are related to the label."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < rate).astype(float)
    plain = {
        "partition": [TEST[i * len(TEST) // count] for i in range(count)],
        "distance": random.exponential(5, count),
        "earlier": random.poisson(1.0, count).astype(float),
        "place": random.choice(["north", "south", "east"], count),
        spec.problem.target: labels,
    }
    columns = {name: value(labels, random) if callable(value) else value for name, value in features.items()}
    return pa.table(plain | columns)


def nearly(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the label plus noise, missing in one row of ten."""
    return np.where(random.random(len(labels)) < 0.1, np.nan, labels + random.normal(0, 0.2, len(labels)))


def coded(labels: np.ndarray, random: np.random.Generator) -> list[str | None]:
    """Return one of forty codes, the odd ones those of the ones, and a few that are missing."""
    codes = 2 * random.integers(0, 20, len(labels)) + labels.astype(int)
    return [None if i % 50 == 0 else f"c{code:02}" for i, code in enumerate(codes)]


def hint(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a number that is higher, on average, where the label is 1."""
    return labels + random.normal(0, 1, len(labels))


def gained(spec: UseCase, recipe: Recipe, fitted: pa.Table, test: pa.Table) -> bool:
    """Tell whether the gate finds that shuffled labels were learned."""
    shuffled_losses = leakage.shuffled_label_losses(spec, recipe, fitted, test, TEST)
    actual = test[spec.problem.target].to_numpy()
    constant = np.full(len(actual), fitted[spec.problem.target].to_numpy().mean())
    prior = row_losses(spec.gate.objective, actual, constant).reshape(len(TEST), -1).sum(axis=1)
    count = (test.num_rows // len(TEST),) * len(TEST)
    sums = {"challenger": tuple(prior), "baseline:prior": tuple(prior)}
    record = evidence(Losses(TEST, count, sums))
    case = CheckContext(
        replace(record, facts=replace(record.facts, leakage=Leakage(shuffled_losses=shuffled_losses))),
        spec.gate,
        has_champion=False,
    )
    return not all(check.passed for check in shuffled_labels(case))


# one feature alone


@pytest.mark.parametrize(("feature", "leak"), [("earlier", nearly), ("place", coded)])
def test_a_feature_that_nearly_is_the_label_is_found(
    use: UseCase, feature: str, leak: Callable[..., object]
) -> None:
    """A numeric or categorical feature that reveals the label has a high score; the others don't."""
    fitted, test = (rows(use, 1200, seed, **{feature: leak}) for seed in (1, 2))
    scores = leakage.single_feature_scores(use, fitted, test)
    assert set(scores) == set(use.features.columns)
    assert max(scores, key=lambda name: scores[name]) == feature
    assert scores.pop(feature) > 0.95
    assert all(0.5 <= value < 0.6 for value in scores.values())


def test_a_key_of_each_row_decides_nothing(use: UseCase) -> None:
    """Unseen or entirely missing values score no better than chance."""
    keys = [[f"{part}{i}" for i in range(600)] for part in "ab"]
    fitted, test = (rows(use, 600, i, place=keys[i], earlier=np.full(600, np.nan)) for i in (0, 1))
    scores = leakage.single_feature_scores(use, fitted, test)
    assert scores["place"] == scores["earlier"] == 0.5


@pytest.mark.parametrize("where", [0, 1], ids=["fitted", "test"])
def test_one_wild_number_stops_no_measurement(use: UseCase, where: int) -> None:
    """A value that only double precision can hold is the largest of its feature, which still has a score."""
    tables = [rows(use, 600, seed, earlier=nearly) for seed in (1, 2)]
    wild = tables[where]["earlier"].to_numpy().copy()
    wild[7] = 1e300
    tables[where] = tables[where].set_column(2, "earlier", pa.array(wild))
    assert leakage.single_feature_scores(use, *tables)["earlier"] > 0.95


def test_of_a_regression_it_is_r2(late: UseCase) -> None:
    """A revealing feature has an R² near 1, an unrelated one near or below 0."""

    def minutes(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return random.normal(0, 10, len(labels))

    tables = [rows(late, 1200, seed, distance=minutes) for seed in (1, 2)]
    name = late.problem.target
    fitted, test = (
        part.set_column(part.column_names.index(name), name, pa.array(part["distance"].to_numpy() * 3 + 1))
        for part in tables
    )
    scores = leakage.single_feature_scores(late, fitted, test)
    assert scores["distance"] > 0.9
    assert scores["earlier"] < 0.05


def test_rows_of_one_class_give_no_figure_and_the_gate_refuses(use: UseCase) -> None:
    """A score that is undefined is missing, and a missing score fails the check."""
    fitted, test = rows(use, 600, 1), rows(use, 600, 2, rate=0)
    scores = leakage.single_feature_scores(use, fitted, test)
    assert scores == {}
    record = evidence(losses(np.ones(12), prior=np.ones(12)))
    case = CheckContext(
        replace(record, facts=replace(record.facts, leakage=Leakage(single_feature=scores))),
        use.gate,
        has_champion=False,
    )
    assert [check.passed for check in single_feature(case)] == [False]


def test_fitted_rows_of_one_class_leave_the_challenger_to_be_judged(use: UseCase) -> None:
    """Where the first case came in the test rows, nothing can be fitted before, and the rest is measured."""
    fitted, test = rows(use, 600, 1, rate=0.0), rows(use, 600, 2, earlier=nearly)
    predictions = test["earlier"].to_numpy()
    assert set(leakage.single_feature_scores(use, fitted, test).values()) == {0.5}
    assert list(leakage.all_feature_scores(use, fitted, test, predictions)[0]) == ["challenger"]
    losses = leakage.shuffled_label_losses(use, FOREST, fitted, test, TEST)
    assert losses == leakage.constant_losses(use, fitted, test, TEST)


def test_a_sample_is_the_same_each_time(use: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows are sampled with a seed, so a repeated evaluation gives the same scores."""
    monkeypatch.setattr(leakage, "MAX_FITTED_ROWS", 500)
    fitted, test = rows(use, 1200, 1, earlier=nearly), rows(use, 1200, 2, earlier=nearly)
    assert leakage.single_feature_scores(use, fitted, test) == leakage.single_feature_scores(
        use, fitted, test
    )
    assert leakage.single_feature_scores(use, fitted, test)["earlier"] > 0.95


# copies of training rows


@pytest.mark.parametrize("at_once", [200, leakage.DIGESTED_ROWS])
def test_test_rows_that_training_has_too_are_counted(
    use: UseCase, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy counts each time, also one with a missing value; one with another label doesn't."""
    monkeypatch.setattr(leakage, "DIGESTED_ROWS", at_once)
    fitted, test = rows(use, 600, 1, earlier=nearly, place=coded), rows(use, 600, 2)
    assert leakage.copied_rows(use, fitted, test) == 0
    copies = fitted.slice(100, 250)
    label = copies.column_names.index(use.problem.target)
    other = copies.set_column(label, use.problem.target, pc.subtract(1.0, copies[use.problem.target]))
    test = pa.concat_tables([test, copies, copies, other])
    assert leakage.copied_rows(use, fitted, test) == 500


# all features together


def together(spec: UseCase, count: int, seed: int, label: Callable[..., np.ndarray]) -> pa.Table:
    """Return rows whose label is computed from distance and earlier."""
    table, random = rows(spec, count, seed), np.random.default_rng(seed + 100)
    if spec.problem.codes:
        columns = {"distance": random.normal(0, 1, count), "earlier": random.normal(0, 1, count)}
    else:
        columns = {name: random.poisson(20, count).astype(float) for name in ("distance", "earlier")}
    columns[spec.problem.target] = label(columns["distance"], columns["earlier"], random).astype(float)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def whole(distance: np.ndarray, earlier: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the sum of two counts, as all sales are of those in the shop and those online."""
    return distance + earlier


def side(distance: np.ndarray, earlier: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return on which side of a line a row is."""
    return distance + earlier > 0


def noisy(distance: np.ndarray, earlier: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a label that the features explain well and not entirely."""
    return distance + earlier + random.normal(0, 2, len(distance))


def side_of_noisy(distance: np.ndarray, earlier: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a class that the features explain well and not entirely."""
    return distance + earlier + random.normal(0, 0.5, len(distance)) > 0


def measured(spec: UseCase, recipe: Recipe, label: Callable[..., np.ndarray]) -> CheckContext:
    """Fit a recipe and measure what the checks of features need, with the permutation importance."""
    fitted, test = (together(spec, 1500, seed, label) for seed in (1, 2))
    estimator, actual = fit_recipe(spec, recipe, fitted), target(spec, test)
    scores = leakage.all_feature_scores(spec, fitted, test, artifacts.predict(estimator, test, spec))
    leak = Leakage(
        single_feature=leakage.single_feature_scores(spec, fitted, test),
        all_features=scores[0],
        revealing=scores[1],
    )
    record = evidence(losses(np.ones(12), prior=np.ones(12)))
    importance = permutation_importance(estimator, spec, test, actual)
    facts = replace(record.facts, leakage=leak, importance=importance)
    return CheckContext(replace(record, facts=facts), spec.gate, has_champion=False)


@pytest.mark.parametrize(("kind", "label"), [("late", whole), ("use", side)])
def test_features_that_reveal_the_label_together_are_found_at_the_first_attempt(
    kind: str, label: Callable[..., np.ndarray], request: pytest.FixtureRequest
) -> None:
    """Neither feature decides alone; the message names both, and how to accept them."""
    context = measured(request.getfixturevalue(kind), FOREST, label)
    assert single_feature(context)[0].passed
    (check,) = all_features(context)
    assert not check.passed
    columns = check.note.partition("importance are ")[2].partition("; ")[0]
    assert set(columns.split(", ")) == {"distance", "earlier"}
    assert check.note.endswith("otherwise raise gate.leak.max_score (1 disables this check)")
    leak = context.gate.leak.model_copy(update={"max_score": 1.0})
    assert all_features(replace(context, gate=context.gate.model_copy(update={"leak": leak})))[0].passed


@pytest.mark.parametrize(("kind", "label"), [("late", noisy), ("use", side_of_noisy)])
def test_a_strong_and_honest_model_is_no_leak(
    kind: str, label: Callable[..., np.ndarray], request: pytest.FixtureRequest
) -> None:
    """Features that explain nine tenths of the label pass."""
    context = measured(request.getfixturevalue(kind), FOREST, label)
    (check,) = all_features(context)
    assert check.passed
    assert max(context.evidence.facts.leakage.all_features.values()) > 0.85


def equal_signs(distance: np.ndarray, earlier: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a label that no linear model learns."""
    return distance * earlier > 0


def test_a_leak_that_the_recipe_does_not_learn_is_found(use: UseCase) -> None:
    """A code that is read with another one is none to a linear recipe, which serves what it saw of it."""
    linear = Recipe(name="logistic", estimator="logistic_regression")
    context = measured(use, linear, equal_signs)
    scores = context.evidence.facts.leakage.all_features
    assert max(scores["a linear model"], scores["challenger"]) < 0.6
    (check,) = all_features(context)
    assert (check.passed, check.note.split(";")[0]) == (False, "a model of trees")
    # by the model that finds it: a linear one would name any
    columns = check.note.partition("importance are ")[2].partition("; ")[0]
    assert set(columns.split(", ")) == {"distance", "earlier"}


def test_what_the_challenger_alone_finds_counts(use: UseCase) -> None:
    """What none of our models learns is a leak too if the challenger's predictions are the labels."""
    fitted, test = (together(use, 600, seed, lambda d, e, r: r.random(len(d)) > 0.5) for seed in (1, 2))
    scores, revealing = leakage.all_feature_scores(use, fitted, test, target(use, test))
    assert (scores.pop("challenger"), revealing) == (1, {})
    assert max(scores.values()) < 0.6


def test_too_few_rows_of_a_class_are_no_ground_to_refuse_a_model(use: UseCase) -> None:
    """With 49 rows of a class nothing is judged, and the check says so."""
    fitted, test = (together(use, 600, seed, side) for seed in (1, 2))
    labels = target(use, test)
    ones, zeros = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    few = test.take(np.concatenate([ones, zeros[:49]]))
    assert leakage.all_feature_scores(use, fitted, few, np.full(few.num_rows, 0.5))[0] == {}
    least = test.take(np.concatenate([ones, zeros[:50]]))
    assert leakage.all_feature_scores(use, fitted, least, np.full(least.num_rows, 0.5))[0] == {
        "challenger": 0.5,
        "a linear model": pytest.approx(1, abs=0.02),
        "a model of trees": pytest.approx(1, abs=0.05),
    }


# the newest test partitions alone


def refused_feature(spec: UseCase, fitted: pa.Table, test: pa.Table) -> str:
    """Return the feature for which the check of single features refuses a challenger, empty if it passes."""
    leak = Leakage(
        single_feature=leakage.single_feature_scores(spec, fitted, test),
        newest=leakage.newest_scores(spec, test, np.full(test.num_rows, 0.5)),
    )
    record = evidence(losses(np.ones(12), prior=np.ones(12)))
    context = CheckContext(
        replace(record, facts=replace(record.facts, leakage=leak)), spec.gate, has_champion=True
    )
    (check,) = single_feature(context)
    return "" if check.passed else check.note.partition(";")[0]


@pytest.mark.parametrize("kind", ["use", "late"])
def test_a_feature_that_becomes_the_label_is_refused_as_soon_as_a_few_partitions_show_it(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """The rows before the test partitions can't teach it, and over all of these it says little."""
    spec = request.getfixturevalue(kind)
    fitted, test = rows(spec, 4800, 1), rows(spec, 4800, 2)
    label = spec.problem.target
    if kind == "late":
        minutes = np.random.default_rng(3).integers(0, 9, (2, 4800)).astype(float)
        fitted, test = (
            part.set_column(part.column_names.index(label), label, pa.array(values))
            for part, values in zip((fitted, test), minutes, strict=True)
        )
    leaking = np.where(np.asarray(test["partition"]) >= TEST[10], test[label], test["earlier"])
    leak = test.set_column(test.column_names.index("earlier"), "earlier", pa.array(leaking))
    assert leakage.single_feature_scores(spec, fitted, leak)["earlier"] < 0.7
    assert refused_feature(spec, fitted, leak) == f"earlier on the test partitions since {TEST[11]}"
    assert refused_feature(spec, fitted, test) == ""


def test_of_few_rows_no_newest_partitions_are_scored(use: UseCase) -> None:
    """Half of the test partitions have fewer rows of a class than are needed."""
    newest = leakage.newest_scores(use, rows(use, 600, 1), np.full(600, 0.5))
    assert newest == NewestScores()
    assert leakage.newest_scores(use, rows(use, 800, 1), np.full(800, 0.5)).first == TEST[6]


def test_the_newest_partitions_alone_refuse_no_more_honest_features(use: UseCase) -> None:
    """Of 200 unrelated columns none is refused, and of 100 with a ROC-AUC of 0.95 at most one by luck."""

    def strong(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return 2.33 * labels + random.normal(0, 1, len(labels))

    parts = [rows(use, 1200, seed, earlier=strong) for seed in range(101)]
    names = [refused_feature(use, fitted, test) for fitted, test in pairwise(parts)]
    assert [name for name in names if name and not name.startswith("earlier on")] == []
    assert len([name for name in names if name]) <= 1


# shuffled labels


class Peeking(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Knows the true label of each distance from elsewhere, whatever labels it is given to learn from."""

    truth: dict[float, float] = {}  # noqa: RUF012  # planted by the test

    def fit(self, features: np.ndarray, labels: np.ndarray) -> Peeking:
        """Learn nothing."""
        self.classes_ = np.array([0.0, 1.0])
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Return a guess, surer where the truth is known."""
        ones = np.array([0.2 + 0.6 * self.truth.get(distance, 0.5) for distance in features[:, 1]])
        return np.column_stack([1 - ones, ones])


def test_a_recipe_that_sees_the_true_labels_is_caught(use: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that knows the true labels gains over the prior even on shuffled labels."""
    fitted, test = rows(use, 1200, 1), rows(use, 1200, 2)
    both = pa.concat_tables([fitted, test])
    truth = dict(zip(both["distance"].to_pylist(), both[use.problem.target].to_pylist(), strict=True))
    monkeypatch.setattr(Peeking, "truth", truth)
    peeking = estimators.Estimator(lambda spec: Peeking(), estimators.coded_columns)
    monkeypatch.setitem(estimators.ESTIMATORS["binary"], "peeking", peeking)
    assert gained(use, Recipe(name="peeking", estimator="peeking"), fitted, test)


@pytest.mark.full
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(FOREST, id="forest", marks=pytest.mark.full), pytest.param(LINEAR, id="linear")],
)
def test_an_honest_recipe_gains_nothing_from_noise(use: UseCase, recipe: Recipe) -> None:
    """Of 20 data sets with a falling rate, at most one is rejected (with a single shuffle, four were)."""
    refused = 0
    for seed in range(20):
        training = use.training.model_copy(update={"seed": seed})
        spec = use.model_copy(update={"training": training})
        fitted = rows(spec, 1200, 100 + seed, distance=hint)
        test = rows(spec, 1200, 200 + seed, rate=0.1, distance=hint)
        refused += gained(spec, recipe, fitted, test)
    assert refused <= 1


def test_a_recipe_of_another_level_gains_nothing_by_it(use: UseCase) -> None:
    """Balanced class weights predict one half; a rate that rose to one half isn't a leak."""
    balanced = LINEAR.model_copy(update={"params": {"class_weight": "balanced"}})
    fitted, test = rows(use, 1200, 1), rows(use, 1200, 2, rate=0.6)
    assert not gained(use, balanced, fitted, test)


def test_a_rate_that_crossed_the_threshold_of_a_decision_is_no_leak(tmp_path: Path) -> None:
    """Where costs are the objective, noise may have come to decide better, which proves nothing."""
    costs = "statement: s, costs: {0: {wait: 0, warn: 2}, 1: {wait: 4, warn: 0}}"
    changes = {"statement: s": costs, "objective: log_loss": "objective: cost"}
    spec = visits.usecase(tmp_path, **changes)
    fitted, test = rows(spec, 1200, 1), rows(spec, 1200, 2, rate=0.6)
    shuffled = leakage.shuffled_label_losses(spec, FOREST, fitted, test, TEST)
    prior = leakage.constant_losses(spec, fitted, test, TEST)
    record = evidence(Losses(TEST, (100,) * len(TEST), {"challenger": prior, "baseline:prior": prior}))
    facts = replace(record.facts, leakage=Leakage(shuffled_losses=shuffled, constant_losses=prior))
    (check,) = shuffled_labels(CheckContext(replace(record, facts=facts), spec.gate, has_champion=False))
    assert check.passed, check


def test_shuffled_losses_are_of_the_partitions_that_are_asked_for(use: UseCase) -> None:
    """Losses are deterministic, in the order of the partitions, and of no other partition's rows."""
    fitted, test = rows(use, 600, 1), rows(use, 600, 2)
    some = leakage.shuffled_label_losses(use, LINEAR, fitted, test, TEST[3:6])
    assert some == leakage.shuffled_label_losses(use, LINEAR, fitted, test, TEST[3:6])
    part = test.filter([partition in TEST[3:6] for partition in test["partition"].to_pylist()])
    assert some == leakage.shuffled_label_losses(use, LINEAR, fitted, part, TEST[3:6])
    assert all(0 < partition < 50 * 2 for partition in some)
    assert leakage.shuffled_label_losses(use, LINEAR, fitted, test, ()) == ()


@pytest.mark.parametrize("prior", [0.05, 0.3, 0.9])
def test_levelled_probabilities_stay_probabilities(use: UseCase, prior: float) -> None:
    """Their mean becomes the prior, their order stays, and none leaves [0, 1]."""
    probabilities = np.array([0.0, 0.1, 0.4, 1.0])
    rescaled = leakage._rescale_to_constant(probabilities, prior, use)
    assert rescaled.mean() == pytest.approx(prior)
    assert (np.diff(rescaled) >= 0).all()
    assert 0 <= rescaled.min() <= rescaled.max() <= 1


# its own history


def test_what_is_saved_is_a_share_of_the_priors_loss() -> None:
    """The loss reduction equals values computed by hand; it is undefined if the prior's loss is 0."""
    assert leakage.loss_reduction((1.0, 2.0), (2.0, 4.0)) == 0.5
    assert leakage.loss_reduction((3.0,), (2.0,)) == -0.5
    assert leakage.loss_reduction((1.0,), (0.0,)) is None
    assert leakage.loss_reduction((), ()) is None


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake without attempts."""
    return Lake("missed_visits", str(tmp_path / "lake"))


def attempt(
    lake: Lake,
    use: UseCase,
    partition: str,
    saved: float,
    data: str = "d",
    objective: str = "",
    **changes: object,
) -> str:
    """Judge an attempt against its history, record it, and return its key."""
    waves = 1 + 0.01 * np.cos(np.arange(12))
    test_losses = losses((1 - saved) * waves, prior=waves)
    record = evidence(test_losses, usecase=use.name, partition=partition, data=data)
    shares = leakage.loss_reduction(test_losses.sums["challenger"], test_losses.sums["baseline:prior"])
    leak = replace(
        record.facts.leakage,
        loss_reduction=shares,
        past_loss_reductions=leakage.past_loss_reductions(lake, partition),
        objective=objective,
    )
    record = replace(record, facts=replace(record.facts, leakage=leak), **changes)  # type: ignore[arg-type]
    verdicts.record_attempt(lake, record, lambda: judge(record, use.gate, champion=False))
    return record.key


def refused(lake: Lake, use: UseCase, partition: str, saved: float) -> bool:
    """Tell whether the gate finds an attempt too good against the history."""
    record = evidence(losses(np.ones(12), prior=np.ones(12)))
    leak = Leakage(loss_reduction=saved, past_loss_reductions=leakage.past_loss_reductions(lake, partition))
    checks = past_attempts(
        CheckContext(replace(record, facts=replace(record.facts, leakage=leak)), use.gate, has_champion=False)
    )
    return not all(check.passed for check in checks)


def test_far_more_than_ever_before_is_refused_and_a_little_more_is_not(lake: Lake, use: UseCase) -> None:
    """A far higher reduction is rejected only after three ordinary attempts."""
    for partition, share in zip(WEEKS, (0.10, 0.12, 0.11), strict=False):
        assert not refused(lake, use, partition, 0.6)
        attempt(lake, use, partition, share)
    assert leakage.past_loss_reductions(lake, WEEKS[3]) == pytest.approx((0.10, 0.12, 0.11))
    assert refused(lake, use, WEEKS[3], 0.6)
    assert not refused(lake, use, WEEKS[3], 0.2)


def test_a_refused_leak_sets_no_bar_for_the_next(lake: Lake, use: UseCase) -> None:
    """A refused leak is refused again a week later, until an operator forces it, or the weeks have passed.

    An attempt that shares no test partition with a refused one has it in its history.
    """
    for partition in WEEKS[:3]:
        attempt(lake, use, partition, 0.1)
    key = attempt(lake, use, WEEKS[3], 0.6)
    late = leakage.past_loss_reductions(lake, WEEKS[4], refused_until=WEEKS[3])
    assert late == pytest.approx((0.1, 0.1, 0.1, 0.6))
    assert leakage.past_loss_reductions(lake, WEEKS[4]) == pytest.approx((0.1, 0.1, 0.1))
    assert refused(lake, use, WEEKS[4], 0.6)
    verdicts.record_forced(lake, verdicts.attempt(lake, key), "ann", "the new source is honest")
    assert leakage.past_loss_reductions(lake, WEEKS[4]) == pytest.approx((0.1, 0.1, 0.1, 0.6))
    assert not refused(lake, use, WEEKS[4], 0.6)


def test_an_attempt_whose_features_together_show_a_leak_is_no_history(
    lake: Lake, use: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two attempts, the one that failed the check of all features doesn't count."""
    attempt(lake, use, WEEKS[0], 0.1)
    record = evidence(losses(np.ones(12), prior=np.ones(12)))
    perfect = replace(record.facts, leakage=replace(record.facts.leakage, all_features={"challenger": 0.99}))
    monkeypatch.setattr("tests.promote.conftest.facts", lambda found: perfect)
    attempt(lake, use, WEEKS[1], 0.2)
    assert leakage.past_loss_reductions(lake, WEEKS[2]) == pytest.approx((0.1,))


def test_history_is_the_newest_attempt_of_each_earlier_partition(lake: Lake, use: UseCase) -> None:
    """The history has each earlier partition's newest attempt, oldest partition first."""
    for partition, share, data in [
        (WEEKS[2], 0.10, "d"),
        (WEEKS[0], 0.20, "d"),
        (WEEKS[0], 0.15, "revised"),
        (WEEKS[4], 0.12, "d"),
    ]:
        attempt(lake, use, partition, share, data)
    assert leakage.past_loss_reductions(lake, WEEKS[4]) == pytest.approx((0.15, 0.10))
    assert leakage.past_loss_reductions(lake, WEEKS[0]) == ()


def test_attempts_with_another_objective_are_no_history(lake: Lake, use: UseCase) -> None:
    """A model that removes a tenth of the log loss may remove a third of the Brier score, and leaks nothing.

    Earlier code didn't record the objective, and its attempts still count.
    """
    for partition, share, objective in zip(WEEKS, (0.1, 0.12, 0.3), ("", "log_loss", "brier"), strict=False):
        attempt(lake, use, partition, share, objective=objective)
    assert leakage.past_loss_reductions(lake, WEEKS[3], "log_loss") == pytest.approx((0.1, 0.12))
    assert leakage.past_loss_reductions(lake, WEEKS[3], "brier") == pytest.approx((0.1, 0.3))


def test_evidence_of_another_schema_and_thin_attempts_are_no_history(lake: Lake, use: UseCase) -> None:
    """Unreadable evidence and attempts without a verdict are left out of the history."""
    attempt(lake, use, WEEKS[0], 0.1)
    attempt(lake, use, WEEKS[1], 0.2, schema=1)
    thin = losses((0.4, 0.5), prior=(1.0, 1.0))
    attempt(lake, use, WEEKS[2], 0.5, losses=thin)
    assert leakage.past_loss_reductions(lake, WEEKS[3]) == pytest.approx((0.1,))


@pytest.fixture(scope="session")
def timely(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """Asks whether visits come early, on time or late."""
    return visits.usecase(tmp_path_factory.mktemp("leakage"), "multiclass")


def of_three(spec: UseCase, count: int, seed: int, **features: object) -> pa.Table:
    """Return rows whose label is one of three classes, the last a rare one."""
    table = rows(spec, count, seed)
    labels = np.random.default_rng(seed + 100).choice(3, count, p=[0.3, 0.65, 0.05]).astype(float)
    features = {name: value(labels) for name, value in features.items() if callable(value)}
    for name, values in {spec.problem.target: labels, **features}.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def test_a_feature_that_gives_one_of_three_classes_away_is_a_leak(timely: UseCase) -> None:
    """A feature that reveals only a rare class still has a high score."""
    leak = {"earlier": lambda labels: np.where(labels == 2, 9.0, np.arange(len(labels)) % 5)}
    scores = leakage.single_feature_scores(
        timely, of_three(timely, 3000, 1, **leak), of_three(timely, 3000, 2, **leak)
    )
    assert scores["earlier"] > 0.99
    assert max(scores["distance"], scores["place"]) < 0.7


def test_a_class_of_six_rows_is_no_ground_to_refuse_a_model(timely: UseCase) -> None:
    """A class of six rows is reported and not judged, and the other classes still are."""
    leak = {"earlier": lambda labels: np.where(labels == 2, 9.0, np.arange(len(labels)) % 5)}
    fitted, test = of_three(timely, 3000, 1, **leak), of_three(timely, 3000, 2, **leak)
    rare = np.flatnonzero(test[timely.problem.target].to_numpy() == 2)
    few = test.take(np.setdiff1d(np.arange(test.num_rows), rare[6:]))
    assert leakage.too_few_rows(timely, few) == {"late": 6}
    assert max(leakage.single_feature_scores(timely, fitted, few).values()) < 0.7
    least = test.take(np.setdiff1d(np.arange(test.num_rows), rare[50:]))
    assert leakage.too_few_rows(timely, least) == {}
    assert leakage.single_feature_scores(timely, fitted, least)["earlier"] > 0.99


def test_few_rows_of_either_class_or_of_a_regression_are_named(use: UseCase, late: UseCase) -> None:
    """The rarer class of a binary problem counts, also if it has no row, since then no score is defined."""
    test = rows(use, 600, 2)
    ones = np.flatnonzero(test[use.problem.target].to_numpy() == 1)
    nearly_all = test.take(np.concatenate([ones, np.setdiff1d(np.arange(600), ones)[:49]]))
    assert leakage.too_few_rows(use, nearly_all) == {use.problem.target: 49}
    assert leakage.single_feature_scores(use, test, nearly_all) == {}
    assert leakage.too_few_rows(use, test.take(ones)) == {use.problem.target: 0}
    assert leakage.too_few_rows(late, rows(late, 49, 2)) == {late.problem.target: 49}
    assert leakage.too_few_rows(late, rows(late, 50, 2)) == {}


@pytest.mark.parametrize("recipe", [FOREST, LINEAR], ids=lambda recipe: str(recipe.name))
def test_noise_of_three_classes_gains_nothing(recipe: Recipe, timely: UseCase) -> None:
    """Fitted on shuffled labels, a multiclass recipe isn't better than the class shares."""
    fitted, test = of_three(timely, 2400, 1), of_three(timely, 1200, 2)
    shuffled_losses = leakage.shuffled_label_losses(timely, recipe, fitted, test, TEST)
    labels = [table[timely.problem.target].to_numpy() for table in (fitted, test)]
    shares = np.bincount(labels[0].astype(int)) / len(labels[0])
    assert sum(shuffled_losses) > row_losses("log_loss", labels[1], np.tile(shares, (1200, 1))).sum()


@given(st.lists(st.tuples(*[st.integers(1, 50)] * 3), min_size=3, max_size=30))
def test_levelled_probabilities_have_the_priors_mean(scores: list[tuple[int, int, int]]) -> None:
    """Rows sum to 1, columns have the prior's mean, and a class with probability 0 stays at 0."""
    probabilities, prior = np.array(scores, dtype=float), (0.5, 0.3, 0.2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    rescaled = leakage._rescale_to_constant(probabilities, prior, None)  # type: ignore[arg-type]
    assert rescaled.sum(axis=1) == pytest.approx(1)
    assert rescaled.mean(axis=0) == pytest.approx(np.array(prior), abs=1e-3)
    never = leakage._rescale_to_constant(probabilities * (1, 1, 0), prior, None)  # type: ignore[arg-type]
    assert np.isfinite(never).all()
    assert not never[:, 2].any()
