"""Encoding each combination of categories once says of every row what the pipeline says by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder

from include import encode, models
from include.spec import UseCase, load
from include.spec.stages import Candidate
from include.train.recipes import build

NAMES = ("hist_gradient_boosting", "logistic_regression", "random_forest")
KNOWN = ("", "a", "b", "nan", "None", "ä", None)
TEXTS = st.lists(st.tuples(*[st.sampled_from([*KNOWN, "new"])] * 3), min_size=1, max_size=40)
SIZES: dict[str, dict[str, Any]] = {
    "hist_gradient_boosting": {"max_iter": 5},
    "random_forest": {"n_estimators": 5},
}


@pytest.fixture(scope="module")
def spec() -> UseCase:
    """Three categories and nineteen numbers."""
    return load("flight_delay")


def _rows(spec: UseCase, texts: list[tuple[str | None, ...]]) -> pa.Table:
    chance = np.random.default_rng(len(texts))
    rows = {c: pa.array(chance.normal(size=len(texts))) for c in spec.features.numeric}
    columns = zip(*texts, strict=True)
    return pa.table(
        rows | {c: pa.array(v, pa.string()) for c, v in zip(spec.features.categorical, columns, strict=True)}
    )


@pytest.fixture(scope="module")
def fitted(spec: UseCase) -> dict[str, Pipeline]:
    """A small model of each kind, which saw missing texts and some too rare for a code of their own."""
    chance = np.random.default_rng(7)
    columns = [chance.choice(np.array(KNOWN, object), 400) for _ in range(3)]
    rows = _rows(spec, list(zip(*columns, strict=True)))
    return {
        name: build(spec, Candidate(name=name, estimator=name, params=SIZES.get(name, {}))).fit(
            models.frame(rows, spec), chance.integers(0, 2, 400).astype(float)
        )
        for name in NAMES
    }


@pytest.mark.parametrize("name", NAMES)
@given(texts=TEXTS)
def test_every_row_has_the_pipelines_own_prediction(
    spec: UseCase, fitted: dict[str, Pipeline], name: str, texts: list[tuple[str | None, ...]]
) -> None:
    """To the bit, for texts that are empty, missing, new, or only look missing."""
    rows = _rows(spec, texts)
    own = fitted[name].predict_proba(models.frame(rows, spec))[:, 1]
    assert models.predict(fitted[name], rows, spec).tobytes() == np.ascontiguousarray(own).tobytes()


@pytest.mark.parametrize("kind", [OneHotEncoder, OrdinalEncoder])
def test_an_encoder_is_asked_of_each_combination_once(
    spec: UseCase, fitted: dict[str, Pipeline], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand rows of four combinations are four questions."""
    asked, real = [], kind.transform
    monkeypatch.setattr(kind, "transform", lambda self, x: (asked.append(len(x)), real(self, x))[1])
    rows = _rows(spec, [("a", "b", None), ("a", "b", "a"), ("new", None, None), ("b", "a", "")] * 250)
    name = "logistic_regression" if kind is OneHotEncoder else "hist_gradient_boosting"
    models.predict(fitted[name], rows, spec)
    assert asked[0] == 4


def _first(given: pd.DataFrame) -> np.ndarray:
    return np.array([[ord((text or " ")[0]) for text in row] for row in given.to_numpy()], dtype=float)


def test_a_pipeline_that_takes_texts_another_way_is_left_alone(spec: UseCase) -> None:
    """A recipe of a user's own is given the objects that it was fitted on, beside an encoder too."""
    first, *others = spec.features.categorical
    steps = [("own", FunctionTransformer(_first), [first]), ("codes", OrdinalEncoder(), others)]
    rows = _rows(spec, [("a", "b", None), ("b", "a", "x")] * 20)
    forest = RandomForestClassifier(n_estimators=5, random_state=7)
    made = Pipeline([("columns", ColumnTransformer(steps)), ("model", forest)])
    made.fit(models.frame(rows, spec), [0.0, 1.0] * 20)
    assert encode.once(made, spec) is None
    assert (
        models.predict(made, rows, spec).tolist()
        == made.predict_proba(models.frame(rows, spec))[:, 1].tolist()
    )
