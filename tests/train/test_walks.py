"""A walk follows from fits and labels alone: whoever extends it, and whenever, the table is the same."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from include.features.build import features
from include.features.labels import labels, training_set
from include.judge.judge import NOT_BLESSED
from include.models import artifacts
from include.replay.history import PastRows
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from include.train import walks
from include.train.fits import KnownRows, ensure_fits, read_fits
from include.train.recipes import recipes
from tests.corrections import empty
from tests.promote.conftest import record_verdict
from tests.train import visits

PARTITION = visits.LAST
ORIGINS = ("2024-03-10", "2024-03-14", "2024-03-20")


def fit(lake: Lake, spec: UseCase, *partitions: str) -> None:
    """Fit the two recipes that are quickly fitted, as trainings on these partitions would."""
    for partition in partitions:
        rows = KnownRows(lake, spec, partition, training_set(lake, spec, partition))
        ensure_fits(rows, partition, recipes(spec)[:2])


def table(lake: Lake) -> list[dict[str, object]]:
    """Return the rows of the walks in an order of their own."""
    return sorted(lake.rows(walks.TABLE), key=lambda row: (row["partition"], row["as_of"], row["recipe_key"]))


def loss_by_hand(lake: Lake, spec: UseCase, recipe: str, partition: str, until: str) -> tuple[int, float]:
    """Return the labeled rows of a partition, and what the recipe's newest fit before it lost on them."""
    newest = [f for f in read_fits(lake) if f.recipe == recipe and f.partition < partition][-1]
    rows = features(lake, spec, [partition]).join(
        labels(lake, spec, [partition], as_of=until), [*spec.key, "partition"], join_type="inner"
    )
    rows = rows.filter(rows[spec.problem.target].is_valid())
    predictions = artifacts.predict(artifacts.load_model(lake, newest.model), rows, spec)
    actual = rows[spec.problem.target].to_numpy()
    return len(actual), float(row_losses(spec.gate.objective, actual, predictions).sum())


@pytest.mark.full
@pytest.mark.parametrize(
    "kind", ["binary", *(pytest.param(k, marks=pytest.mark.full) for k in ("regression", "multiclass"))]
)
def test_each_partition_is_predicted_by_the_fit_before_it(kind: str, clinic: Path) -> None:
    """The rows and the loss are those by hand, from the first fit to the newest label."""
    spec = visits.usecase(clinic / "usecases", kind)
    lake = Lake(spec.name, str(clinic / "lake"))
    fit(lake, spec, *ORIGINS)
    walks.extend(lake, spec, PARTITION)
    rows = table(lake)
    assert sorted({row["partition"] for row in rows}) == spec.clock.keys("2024-03-11", "2024-03-28")
    assert all(row["fitted_on"] < row["partition"] for row in rows)  # type: ignore[operator]
    for row in rows[::5]:
        expected = loss_by_hand(lake, spec, row["recipe"], row["partition"], PARTITION)  # type: ignore[arg-type]
        assert (row["rows"], row["loss"]) == (expected[0], pytest.approx(expected[1]))
        assert json.loads(row["metrics"])  # type: ignore[arg-type]


@pytest.mark.full
def test_a_walk_is_the_same_in_whatever_order_it_is_extended(lake: Lake, spec: UseCase, clinic: Path) -> None:
    """At once, partition by partition, backward, and with a training that comes late: one table."""
    visits.revise(lake, ["2024-03-17"], later=6)
    fit(lake, spec, *ORIGINS)
    walks.extend(lake, spec, PARTITION)
    expected = table(lake)
    version = lake.version(walks.TABLE)
    for until in (PARTITION, "2024-03-18", PARTITION):
        walks.extend(lake, spec, until)
    assert lake.version(walks.TABLE) == version  # nothing was missing
    orders = (
        [*spec.clock.keys("2024-03-11", PARTITION)],
        [*reversed(spec.clock.keys("2024-03-11", PARTITION)), PARTITION],
        ["2024-03-20", PARTITION, "2024-03-15"],
    )
    for order in orders:
        lake.publish(walks.TABLE, _empty(lake), {"partition": spec.clock.keys(visits.FIRST, PARTITION)})
        for until in order:
            walks.extend(lake, spec, until)
        assert table(lake) == expected, order


def _empty(lake: Lake) -> pa.Table:
    rows = lake.read(walks.TABLE)
    assert rows is not None
    return rows.slice(0, 0)


@pytest.mark.full
def test_a_training_that_is_backfilled_corrects_the_walk(lake: Lake, spec: UseCase) -> None:
    """Partitions after its fit are predicted by it, as if it had come in time."""
    fit(lake, spec, *ORIGINS)
    walks.extend(lake, spec, PARTITION)
    expected = table(lake)
    late = [row for row in read_fits(lake) if row.partition == ORIGINS[1]]
    stored = lake.read("fits")
    assert stored is not None
    lake.publish("fits", stored.slice(0, 0), {"partition": ORIGINS[1]})
    walks.extend(lake, spec, PARTITION)
    assert table(lake) != expected
    fit(lake, spec, ORIGINS[1])
    assert [row for row in read_fits(lake) if row.partition == ORIGINS[1]] == late
    walks.extend(lake, spec, PARTITION)
    assert table(lake) == expected


def test_a_revised_label_counts_from_the_partition_that_brought_it(lake: Lake, spec: UseCase) -> None:
    """As of an earlier partition the walk has the old label, and afterwards the new one."""
    fit(lake, spec, *ORIGINS)
    visits.revise(lake, ["2024-03-20"], later=5)  # of the visits of 18 March
    walks.extend(lake, spec, PARTITION)
    revised = [row for row in table(lake) if row["partition"] == "2024-03-18"]
    assert sorted({row["as_of"] for row in revised}) == ["2024-03-20", "2024-03-25"]
    for until in ("2024-03-24", "2024-03-25"):
        walk = walks.read(lake, spec, until)
        rows, loss = loss_by_hand(lake, spec, "linear", "2024-03-18", until)
        assert walk.of("linear")[walk.partitions.index("2024-03-18")] == pytest.approx(loss / rows)
        assert walk.partitions[-1] == spec.clock.shift(until, -2)


def test_labels_that_a_correction_withdrew_are_in_no_walk_from_then_on(lake: Lake, spec: UseCase) -> None:
    """As of an earlier partition they still are, and no loss is the mean over no rows."""
    fit(lake, spec, ORIGINS[0])
    empty(lake, "outcomes", "2024-03-20", spec.clock.local("2024-03-25", "06:00"))  # of 18 March
    walks.extend(lake, spec, PARTITION)
    rows = {row["as_of"]: row["rows"] for row in table(lake) if row["partition"] == "2024-03-18"}
    assert rows == {"2024-03-20": 36, "2024-03-25": 0}
    assert "2024-03-18" in walks.read(lake, spec, "2024-03-24").partitions
    assert "2024-03-18" not in walks.read(lake, spec, "2024-03-25").partitions


def test_a_label_that_the_objective_excludes_leaves_the_losses_of_the_other_rows(clinic: Path) -> None:
    """A label below 0 has no Poisson deviance: it is in no sum of a walk, nor of a replay's."""
    spec = visits.usecase(clinic / "usecases", "regression", squared_error="poisson_deviance")
    lake = Lake(spec.name, str(clinic / "lake"))
    fit(lake, spec, ORIGINS[0])
    walks.extend(lake, spec, PARTITION)
    past = PastRows.read(lake, spec, PARTITION)
    for row in lake.rows(walks.TABLE, {"recipe": "linear"}):
        known = labels(lake, spec, [row["partition"]], as_of=PARTITION)[spec.problem.target].drop_null()
        counts = known.filter(pc.greater_equal(known, 0))
        assert 0 < row["rows"] == len(counts) < len(known)
        assert np.isfinite(row["loss"])
        assert past.newest[row["partition"]].sampled_actual.tolist() == counts.to_pylist()
    assert np.isfinite(walks.read(lake, spec, PARTITION).of("linear")).all()


def test_a_late_label_is_in_no_walk_before_it_came(lake: Lake, spec: UseCase) -> None:
    """A partition whose labels came five days late has no row as of the days between."""
    outcomes = lake.rows("validated_outcomes", {"partition": "2024-03-20"})
    shape = lake.read("validated_outcomes", {"partition": "2024-03-20"}).schema  # type: ignore[union-attr]
    late = [{**row, "known_at": row["known_at"] + timedelta(days=5)} for row in outcomes]
    lake.publish("validated_outcomes", pa.Table.from_pylist(late, schema=shape), {"partition": "2024-03-20"})
    fit(lake, spec, *ORIGINS)
    for until in ("2024-03-24", PARTITION):
        walks.extend(lake, spec, until)
    assert "2024-03-18" not in walks.read(lake, spec, "2024-03-24").partitions
    assert "2024-03-19" in walks.read(lake, spec, "2024-03-24").partitions
    assert "2024-03-18" in walks.read(lake, spec, "2024-03-25").partitions


def test_a_refused_fit_is_taken_out_of_the_walk(lake: Lake, spec: UseCase) -> None:
    """The partitions that it had predicted are predicted by the previous fit."""
    fit(lake, spec, *ORIGINS[:2])
    walks.extend(lake, spec, PARTITION)
    expected = [row for row in table(lake) if row["recipe"] == "linear"]
    fit(lake, spec, ORIGINS[2])
    walks.extend(lake, spec, PARTITION)
    assert [row for row in table(lake) if row["recipe"] == "linear"] != expected
    (model,) = (f.model for f in read_fits(lake) if (f.partition, f.recipe) == (ORIGINS[2], "linear"))
    record_verdict(lake, NOT_BLESSED, ORIGINS[2], model=model)
    walks.extend(lake, spec, PARTITION)
    assert [row for row in table(lake) if row["recipe"] == "linear"] == expected


@pytest.mark.full
def test_recipes_that_are_not_declared_any_more_keep_their_walk(
    lake: Lake, spec: UseCase, clinic: Path
) -> None:
    """It isn't read while they aren't declared, and isn't made again when they are."""
    fit(lake, spec, *ORIGINS)
    walks.extend(lake, spec, PARTITION)
    expected = table(lake)
    other = visits.usecase(clinic / "usecases", **{"seed: 7": "seed: 8"})
    assert walks.read(lake, other, PARTITION).recipes == ()
    fit(lake, other, ORIGINS[0])
    walks.extend(lake, other, PARTITION)
    assert walks.read(lake, other, PARTITION).recipes == ("prior", "linear")
    version = lake.version(walks.TABLE)
    walks.extend(lake, spec, PARTITION)
    assert lake.version(walks.TABLE) == version
    assert [row for row in table(lake) if row in expected] == expected


def test_predictions_before_a_recipes_first_fit_are_missing(lake: Lake, spec: UseCase) -> None:
    """They are NaN and not a guess; every later row has one."""
    fit(lake, spec, ORIGINS[2])
    rows = training_set(lake, spec, PARTITION)
    predicted = walks.predict_walk(lake, spec, rows)
    after = np.array([partition > ORIGINS[2] for partition in rows["partition"].to_pylist()])
    for values in predicted.values():
        assert np.isnan(values[~after]).all()
        assert np.isfinite(values[after]).all()


# the sample of a large partition


def test_a_sample_is_chosen_by_the_key(lake: Lake, spec: UseCase) -> None:
    """It is the same in any order of the rows and beside any other partitions, and differs by partition."""
    few = spec.model_copy(update={"training": spec.training.model_copy(update={"walk_rows": 9})})
    rows = features(lake, spec, ["2024-03-20", "2024-03-21"])
    chosen = walks.sample(rows, few)
    assert [chosen["partition"].to_pylist().count(p) for p in ("2024-03-20", "2024-03-21")] == [9, 9]
    turned = rows.take(pa.array(np.random.default_rng(1).permutation(rows.num_rows)))
    again = walks.sample(turned, few)
    assert _keys(again) == _keys(chosen)
    alone = walks.sample(features(lake, spec, ["2024-03-21"]), few)
    assert _keys(alone) == {key for key in _keys(chosen) if key[0] == "2024-03-21"}
    by_partition = [
        {visit for partition, visit in _keys(chosen) if partition == p} for p in ("2024-03-20", "2024-03-21")
    ]
    assert by_partition[0] != by_partition[1]  # not always the same entities
    assert walks.sample(rows, spec) is rows  # small partitions are whole


def _keys(rows: pa.Table) -> set[tuple[str, str]]:
    return set(zip(rows["partition"].to_pylist(), rows["visit"].to_pylist(), strict=True))


def test_a_walk_of_samples_has_their_loss(lake: Lake, spec: UseCase) -> None:
    """Its mean loss is that of the sampled rows with labels."""
    few = spec.model_copy(update={"training": spec.training.model_copy(update={"walk_rows": 9})})
    fit(lake, few, ORIGINS[0])
    walks.extend(lake, few, PARTITION)
    walk = walks.read(lake, few, PARTITION)
    assert max(walk.rows) <= 9
    predicted = walks.sample(features(lake, spec, ["2024-03-25"]), few)
    labeled = predicted.join(labels(lake, spec, ["2024-03-25"], as_of=PARTITION), ["visit", "partition"])
    labeled = labeled.filter(labeled["missed"].is_valid())
    values = walks.predict_walk(lake, few, labeled)["linear"]
    expected = row_losses("log_loss", labeled["missed"].to_numpy(), values).mean()
    assert walk.of("linear")[walk.partitions.index("2024-03-25")] == pytest.approx(expected)
