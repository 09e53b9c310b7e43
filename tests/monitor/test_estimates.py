"""What is estimated before labels come is right where it is told, and isn't told where it wouldn't be."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from include.cli.inspect import pending_text
from include.features.labels import training_set
from include.judge.evidence import CHALLENGER, evidence_rows_key
from include.models import artifacts
from include.monitor.estimates import (
    MIN_ERROR_PARTITIONS,
    CalibrationMap,
    EstimatePair,
    LabeledPartition,
    calibrate,
    estimate_row,
    estimated_metrics,
    expected_metrics,
    held_out_estimates,
    learn_calibration,
    learn_held_out,
    pending_estimates,
)
from include.monitor.pipeline import monitor
from include.ops.verify import verify
from include.reports.history import draw_panels
from include.reports.history import read_history as year
from include.score.pipeline import score
from include.spec import UseCase, load
from include.spec.load import read
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.machines import run

ROOT = Path(__file__).parents[2]
SAME = CalibrationMap(((1.0, 0.0),))
seeds = st.integers(0, 10_000)


def of_kind(name: str) -> UseCase:
    """Return a use case of another kind."""
    return read(ROOT / "tests" / "usecases" / name / "usecase.yaml")


def pairs(apart: float, partitions: int = 10, rows: int = 100) -> list[LabeledPartition]:
    """Return partitions on which the estimate was that far off, and the naive guess 0.1."""
    return [
        LabeledPartition(f"{n:02}", rows, {"brier": EstimatePair(0.2 + apart, 0.2, 0.3)})
        for n in range(partitions)
    ]


@settings(max_examples=8)
@given(a=st.floats(0.3, 5), b=st.floats(0.3, 5), seed=seeds)
def test_calibrated_scores_give_their_own_expectation(a: float, b: float, seed: int, use: UseCase) -> None:
    """Whatever the scores' distribution, losses, ROC-AUC and precision are those of labels drawn by them."""
    random = np.random.default_rng(seed)
    chances = np.clip(random.beta(a, b, 4000), 0.001, 0.999)
    labels = (random.random(4000) < chances).astype(float)
    if min(labels.sum(), 4000 - labels.sum()) < 200:
        return
    found = expected_metrics(use, learn_calibration(use, labels, chances), chances)
    entropy = -(chances * np.log(chances) + (1 - chances) * np.log1p(-chances)).mean()
    assert found["brier"] == pytest.approx((chances * (1 - chances)).mean(), abs=0.02)
    assert found["log_loss"] == pytest.approx(entropy, abs=0.04)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(labels, chances), abs=0.05)
    if (chances >= 0.5).sum() > 400:
        assert found["precision@0.5"] == pytest.approx(chances[chances >= 0.5].mean(), abs=0.06)


@settings(max_examples=8)
@given(slope=st.floats(0.4, 2.5), height=st.floats(-1, 1), seed=seeds)
def test_what_held_out_rows_say_mends_the_scores(
    slope: float, height: float, seed: int, use: UseCase
) -> None:
    """Scores that are too sure, too shy or shifted are taken for what they were worth."""
    random = np.random.default_rng(seed)
    at = random.normal(0, 1.2, 6000)
    scores, true = 1 / (1 + np.exp(-at)), 1 / (1 + np.exp(-(slope * at + height)))
    labels = (random.random(6000) < true).astype(float)
    mended = learn_calibration(use, labels, scores)
    assert np.abs(calibrate(mended, scores) - true).mean() < 0.03
    came = float(np.square(scores - labels).mean())
    apart = [abs(expected_metrics(use, one, scores)["brier"] - came) for one in (mended, SAME)]
    assert apart[0] < 0.02
    assert apart[0] <= apart[1] + 0.02


def test_several_classes_are_expected_as_drawn() -> None:
    """Of a multiclass problem accuracy is the mean of the highest probability, the log loss the entropy."""
    use = of_kind("flight_bands")
    random, k = np.random.default_rng(1), len(use.problem.classes)
    chances = random.dirichlet(np.full(k, 0.8), 4000).clip(1e-3)
    chances /= chances.sum(axis=1, keepdims=True)
    labels = (random.random(4000)[:, None] > chances.cumsum(axis=1)).sum(axis=1).clip(max=k - 1).astype(float)
    learned_of = learn_calibration(use, labels, chances)
    found = expected_metrics(use, learned_of, chances)
    assert set(found) == set(estimated_metrics(use))
    assert "calibration_error" not in found
    assert calibrate(learned_of, chances).sum(axis=1) == pytest.approx(np.ones(4000))
    assert found["accuracy"] == pytest.approx(chances.max(axis=1).mean(), abs=0.03)
    assert found["log_loss"] == pytest.approx(-(chances * np.log(chances)).sum(axis=1).mean(), abs=0.04)


def test_a_regressions_loss_is_that_of_like_predictions() -> None:
    """Where large predictions are further off, a partition of large ones is expected to be; r2 isn't told."""
    use, random = of_kind("flight_minutes"), np.random.default_rng(2)
    said = random.uniform(0, 100, 20_000)
    actual = said + random.normal(0, 1 + said / 10)
    mapped = learn_calibration(use, actual, said)
    for low in (0, 50, 90):
        some = said[(said >= low) & (said < low + 10)]
        found = expected_metrics(use, mapped, some)
        assert found["mae"] == pytest.approx((1 + some / 10).mean() * (2 / np.pi) ** 0.5, rel=0.1)
        assert found["rmse"] == pytest.approx(((1 + some / 10) ** 2).mean() ** 0.5, rel=0.1)
    assert "r2" not in expected_metrics(use, mapped, said)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_give_what_they_can(rows: int, use: UseCase) -> None:
    """No row gives nothing; a single one its losses, and no ROC-AUC."""
    found = expected_metrics(use, SAME, np.full(rows, 0.3))
    assert ("brier" in found, "roc_auc" in found) == (rows == 1, False)


def test_learning_from_one_class_or_partition_is_no_error(use: UseCase) -> None:
    """Labels of one class give a finite line; of a single partition there is no error to show."""
    one = learn_held_out(use, np.array(["a"] * 50, dtype=object), np.zeros(50), np.full(50, 0.1))
    assert np.isfinite(one.map.lines).all()
    assert one.partitions == ()


def test_the_error_is_learned_on_other_partitions(use: UseCase) -> None:
    """Each of the held-out partitions is estimated by a map that never saw it."""
    random = np.random.default_rng(3)
    of = np.repeat(np.array([f"{n:02}" for n in range(5)], dtype=object), 100)
    scores = random.uniform(0.05, 0.95, 500)
    labels = (random.random(500) < scores).astype(float)
    before = learn_held_out(use, of, labels, scores).partitions
    turned = np.where(of == "04", 1 - labels, labels)
    after = learn_held_out(use, of, turned, scores).partitions
    assert [partition.partition for partition in before] == sorted(set(of))
    assert before[4].pairs["brier"].estimate == after[4].pairs["brier"].estimate
    assert before[4].pairs["brier"].realized < after[4].pairs["brier"].realized


def test_the_interval_is_as_wide_as_the_error(use: UseCase) -> None:
    """It is told with the error of its partitions; one that is off by more shows a larger one."""
    small, large = (estimate_row("brier", 100, 0.2, pairs(apart)) for apart in (0.01, 0.05))
    assert (small["value"], small["reason"]) == (0.2, "")
    assert (small["error"], large["error"]) == (pytest.approx(0.01), pytest.approx(0.05))
    assert large["high"] - large["low"] == pytest.approx(5 * (small["high"] - small["low"]))
    wide = [estimate_row("brier", 100, guess, pairs(0.09)) for guess in (0.05, 0.9)]
    assert wide[0]["low"] == 0  # no loss is less
    assert wide[1]["high"] > 1


@pytest.mark.parametrize(
    ("rows", "guess", "partitions", "reason"),
    [
        (
            100,
            0.2,
            pairs(0.2),
            "its error, 0.2, is no better than 0.1, that of always estimating the gate's mean",
        ),
        (
            100,
            0.2,
            pairs(0.01, MIN_ERROR_PARTITIONS - 1),
            "its error is measured on 6 of the 7 partitions required",
        ),
        (49, 0.2, pairs(0.01), "49 rows, but its error was measured on partitions of 100"),
        (1, None, pairs(0.01), "not defined on these 1 rows"),
    ],
)
def test_what_is_worth_nothing_is_not_told(
    rows: int, guess: float | None, partitions: list[LabeledPartition], reason: str
) -> None:
    """An error no smaller than the naive guess', unknown, or of larger partitions.

    No figure, and the reason.
    """
    found = estimate_row("brier", rows, guess, partitions)
    assert ("value" in found, found["reason"]) == (False, reason)


def test_an_estimate_that_goes_wrong_falls_silent() -> None:
    """As partitions come true otherwise than estimated the error grows, until nothing is told."""
    errors = [estimate_row("brier", 100, 0.2, [*pairs(0.01, 28), *pairs(0.3, bad)]) for bad in range(12)]
    grown = [one["error"] for one in errors]
    assert grown == sorted(grown)
    assert (errors[0]["reason"], "value" in errors[-1]) == ("", False)


# in the lake


def gate(lake: Lake, use: UseCase) -> None:
    """Give the champion test partitions: what it says of the history's last fourteen."""
    champion = lake.rows("switches")[0]
    rows = training_set(lake, use, machines.TRAINED)
    keep = sorted(set(rows["partition"].to_pylist()))[-14:]
    rows = rows.filter(pa.array([partition in keep for partition in rows["partition"].to_pylist()]))
    said = artifacts.predict(artifacts.load_model(lake, champion["model"]), rows, use)
    made = pa.table({"partition": rows["partition"], "actual": rows[use.problem.target], CHALLENGER: said})
    sink = io.BytesIO()
    pq.write_table(made, sink)
    lake.replace(evidence_rows_key(champion["attempt"]), sink.getvalue())


@pytest.fixture(scope="session")
def gated(base: Path, use: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake without the rows that were learned from, and with those that were judged on."""
    folder = tmp_path_factory.mktemp("gated") / "lake"
    lake = Lake("machines", str(shutil.copytree(base, folder)))
    gate(lake, use)
    machines.forget_history(lake)
    held_out_estimates(lake, use, lake.rows("switches")[0])
    return folder


@pytest.fixture(scope="session")
def lived(gated: Path, use: UseCase, week: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after three partitions, so that the labels of the first have come."""
    folder = tmp_path_factory.mktemp("lived") / "lake"
    shutil.copytree(gated, folder)
    run(Lake("machines", str(folder)), use, *week[:3])
    return folder


@pytest.fixture
def later(lived: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    return Lake("machines", str(shutil.copytree(lived, tmp_path / "later")))


@pytest.fixture
def own(gated: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    return Lake("machines", str(shutil.copytree(gated, tmp_path / "own")))


def rows_of(lake: Lake, partition: str) -> dict[str, dict[str, Any]]:
    """Return a partition's rows of `estimates` by metric."""
    return {row["metric"]: row for row in lake.rows("estimates", {"partition": partition})}


@pytest.mark.full
def test_a_partition_is_estimated_until_its_labels_come(later: Lake, use: UseCase, week: list[str]) -> None:
    """Each metric has a row; the partition is shown as estimated, and once its labels are there no more."""
    found = rows_of(later, week[2])
    assert set(found) == set(estimated_metrics(use))
    row = found["brier"]
    assert (row["version"], row["rows"], row["partitions"]) == (
        "1",
        machines.ROWS,
        15,
    )  # one lived partition more
    came = later.rows("performance", {"partition": week[0], "metric": "brier"})[0]["value"]
    guess = rows_of(later, week[0])["brier"]
    assert abs(guess["unchecked"] - came) < 4 * guess["error"]
    assert sorted({one["partition"] for one in pending_estimates(later)}) == week[1:3]
    assert sorted({one["partition"] for one in pending_estimates(later, as_of=week[1])}) == week[:2]
    assert "estimated" in pending_text(pending_estimates(later))
    assert pending_text([]) == ""
    assert not [d for d in verify(later, use).differences if "estimates" in d]


@pytest.mark.full
def test_the_year_shows_estimates_apart(later: Lake, use: UseCase, week: list[str]) -> None:
    """What is told of the first required metric is drawn under a name of its own."""
    row = rows_of(later, week[2])["roc_auc"] | {"value": 0.7, "low": 0.6, "high": 0.8, "reason": ""}
    made = pa.Table.from_pylist([row], schema=schemas.ESTIMATES)
    later.publish("estimates", made, {"partition": week[:3]})
    found = year(later, use)
    assert [(partition, one.value, one.high) for partition, one in found.estimated.items()] == [
        (week[2], 0.7, 0.8)
    ]
    assert list(found.realized) == week[:1]
    assert "estimated before labels arrived" in draw_panels(found)


def test_order_and_repetition_make_no_difference(
    later: Lake, own: Lake, use: UseCase, week: list[str]
) -> None:
    """Watched partition by partition and again, or only at the end.

    The last partition's estimates are the same.
    """
    once = rows_of(later, week[2])
    monitor(later, use, week[2])
    for partition in week[:3]:
        score(own, use, partition)
    monitor(own, use, week[2])
    assert once == rows_of(later, week[2]) == rows_of(own, week[2])


def test_a_killed_partition_is_made_good(
    own: Lake, use: UseCase, week: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after its estimates are written, the rerun replaces them: one row a metric."""
    score(own, use, week[0])
    real = Lake.publish
    for table in ("estimates", "findings", "drift"):

        def killed(self: Lake, name: str, *rest: Any, at: str = table) -> int:
            if name == at:
                raise KeyboardInterrupt
            return real(self, name, *rest)

        monkeypatch.setattr(Lake, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            monitor(own, use, week[0])
    monkeypatch.setattr(Lake, "publish", real)
    monitor(own, use, week[0])
    rows = own.rows("estimates")
    assert sorted(row["metric"] for row in rows) == sorted(estimated_metrics(use))
    assert not [d for d in verify(own, use).differences if "estimates" in d]


def test_beyond_what_was_learned_nothing_is_told(own: Lake, use: UseCase, week: list[str]) -> None:
    """A partition whose temperatures nobody has seen is silent, by that finding; its error stays measured."""
    machines.readings(own, use, week[0], lambda row: {**row, "temp": 400.0})
    run(own, use, week[0])
    for row in rows_of(own, week[0]).values():
        assert row["value"] is None
        assert row["reason"] == "missing values, or values that the champion never learned: temp"
    assert rows_of(own, week[0])["brier"]["error"] > 0


def test_another_rungs_partition_is_not_told(own: Lake, use: UseCase, week: list[str]) -> None:
    """What a lower rung served isn't the champion's, and has no estimate of it."""
    own.replace(artifacts.model_key(own.rows("switches")[0]["model"]), b"lost")
    run(own, use, week[0])
    found = {(row["value"], row["unchecked"], row["reason"]) for row in rows_of(own, week[0]).values()}
    assert found == {(None, None, f"{machines.ROWS} of {machines.ROWS} rows weren't served by the champion")}


def test_without_the_gates_rows_nothing_is_told(quick: Lake, use: UseCase, week: list[str]) -> None:
    """A champion that was promoted without a gate left nothing to estimate by.

    Nor is a partition unscored.
    """
    run(quick, use, week[0])
    monitor(quick, use, week[1])
    reasons = [{row["reason"] for row in rows_of(quick, partition).values()} for partition in week[:2]]
    assert reasons == [
        {"the rows of the gate's test partitions are gone, or the champion was promoted without a gate"},
        {"nothing was predicted for this partition"},
    ]


def test_it_is_in_no_declaration() -> None:
    """Nothing is declared for it, so every digest is as before; its name can't be a source's."""
    from include.spec.usecase import PRODUCTS

    assert "estimates" in PRODUCTS
    assert "estimate" not in str(load("flight_delay").model_dump())
