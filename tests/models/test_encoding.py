"""Encoding each combination of categories once says of every row what the pipeline says by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import config_context
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, TargetEncoder

from include.errors import ModelError
from include.models import artifacts, encoding
from include.spec import UseCase, load
from include.spec.stages import Recipe
from include.train.estimators import build_estimator

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
        name: build_estimator(spec, Recipe(name=name, estimator=name, params=SIZES.get(name, {}))).fit(
            artifacts.model_input(rows, spec), chance.integers(0, 2, 400).astype(float)
        )
        for name in NAMES
    }


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
@given(texts=TEXTS)
def test_every_row_has_the_pipelines_own_prediction(
    spec: UseCase, fitted: dict[str, Pipeline], name: str, texts: list[tuple[str | None, ...]]
) -> None:
    """To the bit, for texts that are empty, missing, new, or only look missing."""
    rows = _rows(spec, texts)
    own = fitted[name].predict_proba(artifacts.model_input(rows, spec))[:, 1]
    assert artifacts.predict(fitted[name], rows, spec).tobytes() == np.ascontiguousarray(own).tobytes()


@pytest.mark.parametrize("kind", [OneHotEncoder, OrdinalEncoder])
def test_an_encoder_is_asked_of_each_combination_once(
    spec: UseCase, fitted: dict[str, Pipeline], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand rows of four combinations are four questions."""
    asked, real = [], kind.transform
    monkeypatch.setattr(kind, "transform", lambda self, x: (asked.append(len(x)), real(self, x))[1])
    rows = _rows(spec, [("a", "b", None), ("a", "b", "a"), ("new", None, None), ("b", "a", "")] * 250)
    name = "logistic_regression" if kind is OneHotEncoder else "hist_gradient_boosting"
    artifacts.predict(fitted[name], rows, spec)
    assert asked[0] == 4


def _first(given: pd.DataFrame) -> np.ndarray:
    return np.array([[ord((text or " ")[0]) for text in row] for row in given.to_numpy()], dtype=float)


class Contrary(Pipeline):
    """A pipeline that gives each class the other's probability."""

    def predict_proba(self, X: pd.DataFrame) -> Any:  # noqa: N803 (scikit-learn's name)
        """Return what the pipeline says, turned."""
        return super().predict_proba(X)[:, ::-1]


def _steps(*of: tuple[str, Any, Any], **how: Any) -> list[tuple[str, Any]]:
    forest = RandomForestClassifier(n_estimators=5, random_state=7)
    return [("columns", ColumnTransformer(list(of), **how)), ("model", forest)]


TEXT, PLACES = ["carrier", "origin", "dest"], [19, 20, 21]
MASK = [place in PLACES for place in range(22)]
OWN = {
    "a function": Pipeline(
        _steps(("own", FunctionTransformer(_first), TEXT[:1]), ("codes", OrdinalEncoder(), TEXT[1:]))
    ),
    "targets": Pipeline(_steps(("means", TargetEncoder(), PLACES))),
    "places": Pipeline(_steps(("codes", OrdinalEncoder(), PLACES))),
    "a mask": Pipeline(_steps(("codes", OrdinalEncoder(), MASK))),
    "a slice": Pipeline(_steps(("codes", OrdinalEncoder(), slice(19, 22)))),
    "the rest": Pipeline(_steps(("first", "passthrough", slice(0, 19)), remainder=OrdinalEncoder())),
    "a number's codes": Pipeline(_steps(("codes", OrdinalEncoder(), ["weekday", *TEXT]))),
    "frames": Pipeline(_steps(("codes", OrdinalEncoder(), TEXT))).set_output(transform="pandas"),
    "a subclass": Contrary(_steps(("codes", OrdinalEncoder(), TEXT))),
}


@pytest.mark.parametrize("name", OWN)
def test_a_pipeline_that_takes_texts_another_way_is_left_alone(spec: UseCase, name: str) -> None:
    """A recipe of a user's own is given the objects that it was fitted on."""
    rows = _rows(spec, [("a", "b", "n"), ("b", "a", "x"), ("a", "a", "x")] * 20)
    rows = rows.set_column(rows.column_names.index("weekday"), "weekday", pa.array([1.0, 2.0, 3.0] * 20))
    made = OWN[name].fit(artifacts.model_input(rows, spec), [0.0, 1.0, 1.0] * 20)
    assert encoding.encode_once(made, spec) is None
    own = made.predict_proba(artifacts.model_input(rows, spec))[:, 1]
    assert artifacts.predict(made, rows, spec).tolist() == own.tolist()


@pytest.mark.parametrize("made", [Pipeline([]), Pipeline(_steps(("codes", OrdinalEncoder(), TEXT)))])
def test_a_pipeline_that_can_say_nothing_is_the_ladders_to_pass_over(spec: UseCase, made: Pipeline) -> None:
    """One without steps and one that was never fitted fail as a model does."""
    with pytest.raises(ModelError):
        artifacts.predict(made, _rows(spec, [("a", "b", None)]), spec)


def test_nothing_is_encoded_once_where_scikit_learn_is_told_to_give_frames(
    spec: UseCase, fitted: dict[str, Pipeline]
) -> None:
    """Its own setting, too, makes of an encoder's answer something else than an array."""
    assert encoding.encode_once(fitted["random_forest"], spec)
    with config_context(transform_output="pandas"):
        assert encoding.encode_once(fitted["random_forest"], spec) is None
