"""Edge cases measure a model on bad input; whatever it does is recorded and never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.evaluate import robustness
from include.evaluate.robustness import FEW_ROWS, sample_indices
from include.judge.evidence import EdgeCase
from include.models import artifacts
from tests.evaluate.fits import ALL, Ward, ward
from tests.train.visits import KINDS

Respond = Callable[[pd.DataFrame], Any]
BOUNDS = "{column: earlier, min_value: 0, max_value: 40}"
CONTRACT = f"""      place: {{type: string}}
    contract: {{expectations: [{{type: expect_column_values_to_be_between, kwargs: {BOUNDS}}}]}}
  outcomes:
"""


class Planted(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that predicts whatever a function returns, and records its inputs."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond

    def fit(self, features: Any, actual: Any) -> Planted:
        """Learn nothing."""
        self.classes_, self.calls_ = np.array([0.0, 1.0]), []
        return self

    def predict_proba(self, features: pd.DataFrame) -> Any:
        """Return the function's result as the probability of 1."""
        self.calls_.append(features)
        ones = np.asarray(self.respond(features)) * np.ones(len(features))
        return np.column_stack([1 - ones, ones])


@pytest.fixture(scope="module")
def wards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ward]:
    """The clinic of each kind, its earlier visits between 0 and 40 by contract."""
    folder = tmp_path_factory.mktemp("edge")
    old = "      place: {type: string}\n  outcomes:\n"
    return {kind: ward(folder / kind, kind, **{old: CONTRACT}) for kind in KINDS}


@pytest.fixture
def clinic(wards: dict[str, Ward]) -> Ward:
    """The one that asks which visits are missed."""
    return wards["binary"]


def measure(clinic: Ward, estimator: Pipeline) -> dict[str, EdgeCase]:
    """Return the cases by their names."""
    cases = robustness.measure_robustness(estimator, clinic.spec, clinic.rows, clinic.actual, clinic.fitted)
    assert len({case.name for case in cases}) == len(cases)
    return {case.name: case for case in cases}


def plant(clinic: Ward, respond: Respond) -> Pipeline:
    """Return a planted model."""
    return Pipeline([("model", Planted(respond))]).fit(
        artifacts.model_input(clinic.rows, clinic.spec), clinic.actual
    )


def failures(clinic: Ward, respond: Respond) -> dict[str, str]:
    """Return the notes of the cases that a planted model fails."""
    cases = measure(clinic, plant(clinic, respond))
    assert all(bool(case.note) != case.passed for case in cases.values())
    return {name: case.note for name, case in cases.items() if not case.passed}


def low(features: pd.DataFrame) -> Any:
    """Return a probability that tolerates a missing distance."""
    return 0.2 + 0.1 * (pd.to_numeric(features["distance"]).to_numpy() > 5)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "recipe"), ALL)
def test_each_recipe_holds_in_every_case(wards: dict[str, Ward], kind: str, recipe: str) -> None:
    """Every recipe passes every edge case."""
    clinic = wards[kind]
    cases = measure(clinic, clinic.fit(recipe))
    assert [case for case in cases.values() if not case.passed] == []
    assert {case.kind for case in cases.values()} == {
        "missing",
        "noise",
        "unseen",
        "extreme",
        "dtype",
        "rows",
        "columns",
    }
    costly = {n for n, c in cases.items() if c.kind in ("missing", "noise", "unseen")} - {
        "all features missing"
    }
    assert {name for name, case in cases.items() if case.loss_increase is not None} == costly


def test_what_was_measured_once_is_measured_again(clinic: Ward) -> None:
    """The measurement is deterministic, with features in declared order."""
    estimator = clinic.fit()
    cases = measure(clinic, estimator)
    assert cases == measure(clinic, estimator)
    assert list(cases)[:4] == [
        "distance missing",
        "earlier missing",
        "place missing",
        "all features missing",
    ]


def test_harm_costs_what_it_does_to_the_loss(clinic: Ward) -> None:
    """Only corrupting a feature that the model uses raises the loss, by the right amount."""
    estimator = plant(clinic, lambda rows: np.where(rows["distance"].to_numpy() > 5, 0.9, 0.1))
    cases = measure(clinic, estimator)
    before = artifacts.predict(estimator, clinic.rows, clinic.spec)
    losses = [-np.log(np.where(clinic.actual == 1, p, 1 - p)).mean() for p in (before, 0.1)]
    assert cases["distance missing"].loss_increase == pytest.approx(losses[1] / losses[0] - 1)
    assert cases["distance with noise"].loss_increase != 0
    assert {
        cases[name].loss_increase for name in ("earlier missing", "earlier with noise", "place unseen")
    } == {0.0}


def test_harm_is_scaled_to_what_was_fitted(clinic: Ward) -> None:
    """Noise is half a fitted deviation, extremes are the contract's bounds or else thrice the range."""
    estimator = plant(clinic, low)
    measure(clinic, estimator)
    plain, *others = estimator[-1].calls_
    sizes = [len(plain) if len(table) % len(plain) == 0 else FEW_ROWS for table in others]
    tables = [
        table[start : start + size]  # many cases are predicted at once
        for table, size in zip(others, sizes, strict=True)
        for start in range(0, len(table), size)
    ]
    noise = [t["earlier"].to_numpy() - plain["earlier"] for t in tables if len(t) == len(plain)]
    noise = [n for n in noise if n.notna().all() and n.any()]
    assert len(noise) == 1
    deviation = np.std(clinic.fitted["earlier"].to_numpy())
    assert noise[0].std() == pytest.approx(deviation / 2, rel=0.2)
    ends = {
        c: {t[c].iloc[0] for t in tables if 1 < len(t) < len(plain) and t[c].nunique() == 1}
        for c in ("earlier", "distance")
    }
    assert {0.0, 40.0, -1e12, 1e12} <= ends["earlier"]
    seen = clinic.fitted["distance"].drop_null().to_numpy()
    width = seen.max() - seen.min()
    assert {seen.min() - width, seen.max() + width, -1e12, 1e12} <= ends["distance"]
    strange = [t["place"].iloc[0] for t in tables if t["place"].nunique() == 1 and len(t) == len(plain)]
    assert len(strange) == 1
    assert strange[0] not in clinic.fitted["place"].to_pylist()


def test_a_feature_that_was_never_there_can_be_harmed(clinic: Ward) -> None:
    """Without a fitted value there is no range and no noise, and still nothing crashes."""
    empty = pa.nulls(clinic.fitted.num_rows, pa.float64())
    place = clinic.fitted.column_names.index("distance")
    never = replace(clinic, fitted=clinic.fitted.set_column(place, "distance", empty))
    cases = measure(never, plant(never, low))
    assert all(case.passed for case in cases.values())
    assert cases["distance with noise"].loss_increase == 0.0


def test_a_foreign_exception_is_a_finding(clinic: Ward) -> None:
    """A model that fails on one missing value is noted by what it raised."""

    def respond(rows: pd.DataFrame) -> Any:
        return low(rows) * (1 / (1 - int(rows["earlier"].isna().any())))

    cases = failures(clinic, respond)
    assert set(cases) == {"earlier missing", "all features missing"}
    assert "ZeroDivisionError" in cases["earlier missing"]


@pytest.mark.parametrize("error", [SystemExit(1), RecursionError("too deep"), MemoryError(), StopIteration()])
def test_no_exception_gets_out(clinic: Ward, error: BaseException) -> None:
    """Whatever a model raises when a category is strange, the other cases are measured."""

    def respond(rows: pd.DataFrame) -> Any:
        if not set(rows["place"]) <= {"north", "south", "east", "new", None}:
            raise error
        return low(rows)

    cases = failures(clinic, respond)
    assert set(cases) == {"place unseen"}
    assert type(error).__name__ in cases["place unseen"]


def test_nan_on_what_is_missing_is_a_finding(clinic: Ward) -> None:
    """A missing value that comes out as NaN isn't a prediction."""
    cases = failures(clinic, lambda rows: rows["earlier"].to_numpy() * 0 + 0.2)
    assert set(cases) == {"earlier missing", "all features missing"}
    assert "finite predictions" in cases["earlier missing"]


def test_a_model_that_goes_by_the_order_of_columns_is_found(clinic: Ward) -> None:
    """What it says of the same rows must not depend on which column comes first."""
    cases = failures(clinic, lambda rows: 0.2 + 0.1 * (rows.iloc[:, 0].to_numpy() > 2))
    assert set(cases) == {"columns in another order"}
    assert "predictions differ" in cases["columns in another order"]


def test_a_model_that_says_something_else_of_a_row_alone_is_found(clinic: Ward) -> None:
    """A row alone has the prediction that it has among others, but for the last bits of a sum."""
    for alone, noted in ((0.2 + 1e-9, {"a single row": "20 of 20 predictions differ"}), (0.2 + 1e-11, {})):
        assert failures(clinic, lambda rows, single=alone: single if len(rows) == 1 else 0.2) == noted


def test_a_probability_above_one_is_found(clinic: Ward) -> None:
    """A finite number that can't be a probability is none, at the extremes or anywhere."""
    cases = failures(clinic, lambda rows: np.where(rows["distance"].to_numpy() > 1e9, 1.2, 0.2))
    assert cases == {"distance extreme": "at 1e+12: 1.2 as a probability"}
    assert failures(clinic, lambda rows: 1.2) == {"original rows": "1.2 as a probability"}
    beyond = {"original rows": "1.0000001 as a probability"}
    assert failures(clinic, lambda rows: 1.0000001) == beyond


def test_a_type_may_be_refused_in_a_sentence_only(clinic: Ward) -> None:
    """Words instead of numbers are refused by the column's name, and a refusal elsewhere isn't allowed."""
    words = clinic.rows.set_column(
        clinic.rows.column_names.index("earlier"), "earlier", pa.array(["many"] * clinic.rows.num_rows)
    )
    with pytest.raises(
        ModelError, match=r"missed_visits: rows to predict: expected numbers as earlier.*many"
    ):
        artifacts.model_input(words, clinic.spec)

    def respond(rows: pd.DataFrame) -> Any:
        if any(isinstance(value, float) for value in rows["place"]):
            raise TypeError("a place is a word")
        return low(rows)

    assert failures(clinic, respond) == {}


def test_without_rows_nothing_is_measured(clinic: Ward) -> None:
    """Without rows there is no finding, and the gate says that they are missing."""
    none = replace(clinic, rows=clinic.rows.slice(0, 0), actual=clinic.actual[:0])
    assert measure(none, clinic.fit()) == {}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 5))
def test_a_part_of_the_rows_is_spread_over_the_partitions(counts: list[int], most: int, seed: int) -> None:
    """At most so many rows, each once and in order, and no partition has more than its share."""
    partitions = [f"2024-01-{day + 1:02}" for day, count in enumerate(counts) for _ in range(count)]
    table = pa.table({"partition": partitions})
    sample = sample_indices(table, most, seed)
    assert sample.tolist() == sorted(set(sample.tolist())) == sample_indices(table, most, seed).tolist()
    assert len(sample) <= most
    if len(partitions) <= most:
        assert len(sample) == len(partitions)
        return
    share = max(1, most // len(counts))
    sampled = [partitions[i] for i in sample]
    per_partition = [sampled.count(f"2024-01-{day + 1:02}") for day in range(len(counts))]
    if most >= len(counts):
        assert per_partition == [min(share, count) for count in counts]
    assert max(per_partition) <= share
