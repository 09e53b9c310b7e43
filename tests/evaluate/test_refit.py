"""A fit on broken labels is refused and an honest one passes; after a real change one passes a week later."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from include.evaluate.refit import growth, measure_movement, measure_refit, refused_before
from include.features.labels import training_set
from include.judge.checks import MIN_PAST_MOVES, movement, twin
from include.judge.context import Check, CheckContext
from include.judge.evidence import Refit
from include.judge.judge import NOT_BLESSED
from include.models import artifacts
from include.spec import UseCase
from include.spec.load import read
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train.fits import Fit, KnownRows, ensure_fits, read_fits
from include.train.fitting import target
from include.train.recipes import recipes
from include.train.record import FittedModel, Selection, TrainingRecord
from tests.promote.conftest import evidence, facts, losses, record_verdict
from tests.train import visits

SATURDAYS = [(date(2024, 3, 16) + timedelta(weeks=week)).isoformat() for week in range(13)]
*WEEKS, NOW, LATER = SATURDAYS


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quarter of visits, and a fit of the linear recipe in each weekly training but the last two."""
    folder = tmp_path_factory.mktemp("weeks")
    spec = visits.usecase(folder)
    lake = Lake(spec.name, str(folder / "lake"))
    visits.fill(lake, spec, visits.FIRST, LATER)
    for week in WEEKS:
        fit(lake, spec, week)
    return folder


@pytest.fixture
def lake(weeks: Path, tmp_path: Path) -> Lake:
    """That lake, copied."""
    shutil.copytree(weeks / "lake", tmp_path / "lake")
    return Lake("missed_visits", str(tmp_path / "lake"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """Asks which visits will be missed."""
    return visits.usecase(tmp_path_factory.mktemp("spec"))


def known(lake: Lake, spec: UseCase, partition: str) -> KnownRows:
    """Return the rows for a training."""
    return KnownRows(lake, spec, partition, training_set(lake, spec, partition))


def fit(lake: Lake, spec: UseCase, partition: str) -> Fit:
    """Fit the linear recipe."""
    return ensure_fits(known(lake, spec, partition), partition, recipes(spec)[1:2])["linear"]


def measured(lake: Lake, spec: UseCase, partition: str, champion: str = WEEKS[-1]) -> Refit:
    """Fit, and compare with the earlier fits and with the one of a champion's training."""
    challenger = fit(lake, spec, partition)
    model = FittedModel("linear", challenger.model, "")
    record = TrainingRecord(
        spec.name, partition, spec.digest, challenger.data, "", "1", 0.2, challenger.last_fitted,
        challenger.rows, {}, {}, model, model, Selection("linear", "linear", "prior", "", {}, {}, 0),
    )  # fmt: skip
    (serving,) = (f for f in read_fits(lake) if f.partition == champion)
    return measure_refit(known(lake, spec, partition), record, serving.model, serving.last_fitted)


def checks(spec: UseCase, refit: Refit) -> dict[str, Check]:
    """Return the results of both checks by name."""
    test = losses(np.ones(12), prior=np.ones(12))
    context = CheckContext(evidence(test, facts=facts(test, refit=refit)), spec.gate, has_champion=True)
    (moved,), (twins,) = movement(context), twin(context)
    return {"movement": moved, "twin": twins}


def failed(spec: UseCase, refit: Refit) -> list[str]:
    """Return the names of the checks that refuse a fit."""
    return [name for name, check in checks(spec, refit).items() if not check.passed]


def refuse(lake: Lake, refused: Fit) -> None:
    """Record that the gate refused a fit."""
    record_verdict(lake, NOT_BLESSED, refused.partition, model=refused.model)


@pytest.mark.full
def test_a_row_loses_weight_to_those_that_join_it_and_with_a_half_life_to_newer_ones(
    lake: Lake, spec: UseCase
) -> None:
    """So a fit may know the rows less well that the fit a week before has seen too."""
    before, after = read_fits(lake)[-2:]
    recipe = recipes(spec)[1]
    joined = before.rows / after.rows
    aging = recipe.model_copy(update={"half_life": 7})
    assert growth(spec, recipe, after, before) == 1 - joined > 0
    assert growth(spec, aging, after, before) == 1 - joined / 2
    assert growth(spec, recipe, before, after) == 0


@pytest.mark.full
def test_a_fit_of_the_same_rows_says_nothing_of_how_far_fits_move(lake: Lake, spec: UseCase) -> None:
    """Its movement is zero, whose logarithm would allow any movement, or none at all."""
    fits = [fit for fit in read_fits(lake) if fit.recipe == "linear"]
    moves = [fit.moved for fit in fits[1:-1]]
    fits = [*fits[:-1], replace(fits[-2], partition=fits[-1].partition, moved=0.0), fits[-1]]
    assert measure_movement(fits, set()).past_moves == tuple(moves)
    assert measure_movement([replace(fit, moved=0.0) for fit in fits], set()).past_moves == ()


@pytest.mark.full
def test_earlier_fits_whose_models_were_removed_are_not_compared_with(lake: Lake, spec: UseCase) -> None:
    """How far they moved is recorded, and the twin is fitted again."""
    champion = WEEKS[-2]
    whole = measured(lake, spec, NOW, champion)
    kept = [fit.model for fit in read_fits(lake) if fit.partition in (champion, NOW)]
    lake.remove([key for key in lake.keys("models") if key not in map(artifacts.model_key, kept)])

    refit = measured(lake, spec, NOW, champion)

    assert refit == replace(whole, growth=0.0)


@pytest.mark.full
def test_an_honest_refit_passes(lake: Lake, spec: UseCase) -> None:
    """A week of new rows moves the predictions as far as the weeks before did."""
    refit = measured(lake, spec, NOW)
    assert len(refit.past_moves) >= MIN_PAST_MOVES
    assert failed(spec, refit) == []


@pytest.mark.full
def test_a_fit_on_newly_flipped_labels_is_refused(lake: Lake, spec: UseCase) -> None:
    """A fortnight of labels is wrong: on them the serving model looks worse, but the fit moved far."""
    visits.revise(lake, spec.clock.keys("2024-05-19", NOW))
    refit = measured(lake, spec, NOW)
    assert sum(refit.serving) > sum(refit.twin)
    assert failed(spec, refit) == ["movement"]


def test_a_fit_on_a_flipped_history_is_refused(lake: Lake, spec: UseCase) -> None:
    """A history was restated wrongly: the twin, fitted on it, loses more on the right new rows."""
    visits.revise(lake, spec.clock.keys("2024-03-03", WEEKS[-1]))
    assert "twin" in failed(spec, measured(lake, spec, NOW))


def test_a_refit_after_a_real_change_passes_a_week_later(lake: Lake, spec: UseCase) -> None:
    """The refused fit has been right since, so the next one is allowed to move as far."""
    visits.revise(lake, spec.clock.keys("2024-05-19", LATER))
    first = measured(lake, spec, NOW)
    assert failed(spec, first) == ["movement"]
    refuse(lake, fit(lake, spec, NOW))
    second = measured(lake, spec, LATER)
    assert second.moved is not None
    assert first.moved is not None
    assert second.moved > first.moved
    assert second.past_moves == first.past_moves  # the refused one sets no example
    assert sum(second.refused) < sum(second.serving)
    assert failed(spec, second) == []
    assert "lost no more than the serving model since" in checks(spec, second)["movement"].note


def test_a_fit_on_labels_that_were_repaired_is_compared_with_the_fit_before_the_fault(
    lake: Lake, spec: UseCase
) -> None:
    """After a refusal for flipped labels that were then put right, the next fit passes at once."""
    broken = spec.clock.keys("2024-05-19", NOW)
    visits.revise(lake, broken)
    refuse(lake, fit(lake, spec, NOW))
    visits.revise(lake, broken)
    refit = measured(lake, spec, LATER)
    assert sum(refit.refused) > sum(refit.serving)
    assert failed(spec, refit) == []


@pytest.mark.parametrize(
    ("fitted", "refused", "judged"),
    [
        (["05-01", "06-01", "07-01"], {1}, 1),  # monthly partitions: one has come since
        (["05-01", "06-01", "07-01", "08-01"], {1, 2}, 1),
        (["02-01", "03-01", "04-01", "08-01"], {1, 2}, 2),  # none of the partitions was seen by either
        (["05-01", "06-01", "06-15", "07-01"], {1}, None),  # one was accepted since
        (["05-01", "08-01", "08-01"], {1}, None),  # no partition has come since
    ],
)
def test_a_fit_that_was_refused_is_judged_by_partitions_that_it_had_not_seen(
    fitted: list[str], refused: set[int], judged: int | None, lake: Lake
) -> None:
    """Of those refused since the last accepted one, the newest that saw none of them, or else the oldest."""
    one = read_fits(lake)[-1]
    fits = [replace(one, partition=f"2024-{day}", last_fitted=f"2024-{day}") for day in fitted]
    newest = ["2024-05-15", "2024-06-01", "2024-07-01", "2024-08-01"]
    rejected = refused_before(fits, newest, {fits[index].id for index in refused})
    assert rejected is (None if judged is None else fits[judged])


def test_the_twin_is_an_earlier_fit_where_the_data_are_the_same(
    lake: Lake, spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fitted for it then, and its losses are the serving model's to the bit."""
    fit(lake, spec, NOW)
    monkeypatch.setattr("include.evaluate.refit.fit_recipe", None)
    refit = measured(lake, spec, NOW)
    assert refit.twin == refit.serving
    rows = training_set(lake, spec, NOW)
    newest = spec.clock.keys("2024-05-24", "2024-05-30")
    actual, partition = target(spec, rows), np.array(rows["partition"].to_pylist())
    (serving,) = (f for f in read_fits(lake) if f.partition == WEEKS[-1])
    predictions = artifacts.predict(artifacts.load_model(lake, serving.model), rows, spec)
    each = row_losses(spec.gate.objective, actual, predictions)
    assert refit.serving == pytest.approx([each[partition == key].sum() for key in newest])
    assert refit.rows == (36,) * 7


def test_a_stale_champion_is_compared_on_the_newest_week_only(lake: Lake, spec: UseCase) -> None:
    """Of all partitions that it has not seen, the twin is tested on as many as lie between two fits."""
    refit = measured(lake, spec, NOW, champion=WEEKS[1])
    assert refit.rows == (36,) * 7
    assert refit.twin != refit.serving


def test_a_champion_that_needs_a_removed_feature_leaves_the_twin_out(
    lake: Lake, spec: UseCase, tmp_path: Path
) -> None:
    """It can't predict any row of the new declaration, so there is nothing to compare with, and no error."""
    fewer = visits.usecase(tmp_path, **{"numeric: [distance, earlier]": "numeric: [distance]"})
    (fewer.folder / "features.sql").write_text("SELECT visit, partition, distance, place FROM spine")
    fewer = read(fewer.folder / "usecase.yaml")
    refit = measured(lake, fewer, NOW)
    assert (refit.twin, refit.serving, refit.rows) == ((), (), ())


def test_both_fits_are_measured_on_test_rows_that_they_have_seen(lake: Lake, spec: UseCase) -> None:
    """These are the test partitions up to the last one that the previous fit was fitted on."""
    refit = measured(lake, spec, NOW)
    assert refit.seen_rows == ()
    longer = spec.model_copy(update={"training": spec.training.model_copy(update={"test": 21})})
    refit = measured(lake, longer, NOW)
    keys = spec.clock.keys("2024-05-12", "2024-05-23")
    rows = training_set(lake, spec, NOW)
    actual, partition = target(spec, rows), np.array(rows["partition"].to_pylist())
    before, now = [f for f in read_fits(lake) if f.partition in (WEEKS[-1], NOW)]
    for fitted, sums in ((before, refit.seen_before), (now, refit.seen_now)):
        predictions = artifacts.predict(artifacts.load_model(lake, fitted.model), rows, spec)
        each = row_losses(spec.gate.objective, actual, predictions)
        assert sums == pytest.approx([each[partition == key].sum() for key in keys])
    assert refit.seen_rows == (36,) * 12
