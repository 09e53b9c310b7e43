"""A use case's own estimator is fitted, stored, loaded in another process and judged as a built-in one."""

from __future__ import annotations

import ast
import io
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest

from include.errors import ModelError, SpecError
from include.evaluate.pipeline import evaluate
from include.evaluate.serving import measure_serving
from include.features.build import features
from include.features.labels import training_set
from include.judge.evidence import Evidence
from include.models import artifacts
from include.models.registry import Registry
from include.promote.promotion import force
from include.promote.verdicts import judge_and_record
from include.references import digest_bytes
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.train.estimators import learns
from include.train.fitting import fit_recipe
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from include.validate.pipeline import errors
from tests.architecture.tree import ROOT, python_files
from tests.extensions.conftest import BOOSTING, MY_MODEL, NEAREST, Declare
from tests.train import visits

OWN = {BOOSTING: NEAREST}
RAW = """
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin


class ByPlace(ClassifierMixin, BaseEstimator):
    takes_raw = True
    learns = False

    def __init__(self, column="place", random_state=None):
        self.column, self.random_state = column, random_state

    def fit(self, rows, actual):
        assert isinstance(rows, pd.DataFrame) and rows["place"].isna().any()
        self.classes_ = [0.0, 1.0]
        self.overall_ = float(actual.mean())
        self.means_ = pd.Series(actual).groupby(rows[self.column]).mean().to_dict()
        return self

    def predict(self, rows):
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(float)

    def predict_proba(self, rows):
        share = rows[self.column].map(self.means_).fillna(self.overall_).to_numpy(dtype=float)
        return pd.DataFrame({"no": 1 - share, "yes": share}).to_numpy()
"""


@pytest.fixture
def lake(tmp_path: Path, declare: Declare) -> Lake:
    """The clinic's lake."""
    made = Lake("missed_visits", str(tmp_path / "lake"))
    visits.fill(made, declare())
    return made


def fitted(lake: Lake, spec: UseCase) -> tuple[bytes, np.ndarray]:
    """Return the first candidate's stored bytes, and its predictions of the last partition."""
    model = fit_recipe(spec, spec.training.candidates[0], training_set(lake, spec, visits.LAST))
    return artifacts.serialize(model), artifacts.predict(model, features(lake, spec, [visits.LAST]), spec)


@pytest.mark.full
@pytest.mark.parametrize(
    ("declared", "modules"),
    [
        (NEAREST, {"my_model": MY_MODEL}),
        ('{name: raw, estimator: "raw:ByPlace", params: {column: place}}', {"raw": RAW}),
    ],
    ids=["derived from nothing", "takes the frame"],
)
def test_it_predicts_the_same_in_another_process(
    declared: str, modules: dict[str, str], lake: Lake, declare: Declare
) -> None:
    """It is stored by skops, the same bytes twice, and a fresh process imports its module again."""
    spec = declare({BOOSTING: declared}, **modules)
    assert errors(spec) == []
    data, predictions = fitted(lake, spec)
    assert len(np.unique(predictions)) > 2
    assert fitted(lake, spec)[0] == data
    rows = features(lake, spec, [visits.LAST])
    result = measure_serving(data, digest_bytes(data), spec, rows, predictions)
    assert (result.identical, result.note) == (True, "")


def test_its_array_is_dense(declare: Declare) -> None:
    """Also where there are so many categories that a linear model gets a sparse matrix."""
    spec = declare(OWN, my_model=MY_MODEL)
    count, numbers = 400, np.arange(400.0)
    places = [f"place {number % 12}" for number in range(count)]
    rows = pa.table({"distance": numbers, "earlier": numbers, "place": places, "missed": numbers % 2})
    model = fit_recipe(spec, spec.training.candidates[0], rows)
    assert model.steps[-1][1].estimator.rows_.shape == (count, 14)


def test_attributes_tell_what_it_takes_and_learns(declare: Declare, lake: Lake) -> None:
    """The spec's seed is its random state, and `learns = False` makes a rule of thumb of it."""
    spec = declare({BOOSTING: '{name: raw, estimator: "raw:ByPlace"}'}, raw=RAW)
    model = fit_recipe(spec, spec.training.candidates[0], training_set(lake, spec, visits.LAST))
    assert model.steps[-1][1].random_state == spec.training.seed
    assert not learns(spec, spec.training.candidates[0])
    assert learns(spec, spec.training.candidates[1])


def test_its_types_are_trusted_for_its_own_use_case_only(lake: Lake, declare: Declare) -> None:
    """Another declaration loads no such model, and a class of another module is loaded by none."""
    spec = declare(OWN, my_model=MY_MODEL)
    data, _ = fitted(lake, spec)
    with pytest.raises(ModelError, match=r"found evergreen_usecases.missed_visits.my_model.Nearest.*FORMATS"):
        artifacts.deserialize(data, digest_bytes(data), declare())
    with pytest.raises(ModelError, match="expected trusted types"):
        artifacts.deserialize(data, digest_bytes(data))
    inner = MY_MODEL.replace("import numpy as np", "import numpy as np\nfrom .shared import Scale").replace(
        "self.neighbors = neighbors", "self.neighbors = neighbors\n        self.scale_ = Scale()"
    )
    spec = declare(OWN, my_model=inner, shared="class Scale:\n    def __init__(self): self.by = 1.0\n")
    data, _ = fitted(lake, spec)
    with pytest.raises(
        ModelError, match=r"found evergreen_usecases.missed_visits.shared.Scale;.*estimator's module"
    ):
        artifacts.deserialize(data, digest_bytes(data), spec)


def test_a_model_names_no_class_that_the_module_only_imports(lake: Lake, declare: Declare) -> None:
    """An artifact that was made to name one by the estimator's module is refused."""
    inner = MY_MODEL.replace("import numpy as np", "import numpy as np\nfrom .shared import Scale").replace(
        "self.neighbors = neighbors", "self.neighbors = neighbors\n        self.scale_ = Scale()"
    )
    spec = declare(OWN, my_model=inner, shared="class Scale:\n    def __init__(self): self.by = 1.0\n")
    data, _ = fitted(lake, spec)
    forged = io.BytesIO()
    with ZipFile(io.BytesIO(data)) as archive, ZipFile(forged, "w") as copy:
        for name in archive.namelist():
            copy.writestr(
                name, archive.read(name).replace(b"missed_visits.shared", b"missed_visits.my_model")
            )
    with pytest.raises(ModelError, match=r"expected trusted types, but found evergreen.*my_model\.Scale;"):
        artifacts.deserialize(forged.getvalue(), digest_bytes(forged.getvalue()), spec)


def test_a_module_that_breaks_takes_down_its_own_models_only(lake: Lake, declare: Declare) -> None:
    """Scoring gets a ModelError, so that the fallback chain goes on: a built-in model loads."""
    spec = declare(OWN, my_model=MY_MODEL)
    own = artifacts.store_model(lake, fitted(lake, spec)[0])
    linear = fit_recipe(spec, spec.training.baselines[1], training_set(lake, spec, visits.LAST))
    built_in = artifacts.store_model(lake, artifacts.serialize(linear))
    spec = declare(OWN, my_model="raise ValueError('broken')\n")
    with pytest.raises(ModelError, match=r"found ValueError: broken \(.*my_model.py:1\)"):
        artifacts.load_model(lake, own, spec)
    assert artifacts.load_model(lake, built_in, spec)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("return self", "return self.nothing", "'Nearest' object has no attribute 'nothing'"),
        (
            "def fit(self, rows, actual)",
            "def fit(self, rows)",
            "takes 2 positional arguments but 3 were given",
        ),
    ],
)
def test_what_a_fit_raises_is_an_error_of_the_declaration(
    lake: Lake, declare: Declare, old: str, new: str, problem: str
) -> None:
    """It names the recipe, the rows and the message."""
    spec = declare(OWN, my_model=MY_MODEL.replace(old, new))
    with pytest.raises(
        SpecError, match=r"missed_visits: training\.nearest: expected an estimator that can be"
    ) as caught:
        fitted(lake, spec)
    assert problem in caught.value.found
    assert f"{spec.folder}/my_model.py" in caught.value.where


@pytest.mark.parametrize("error", ["ValueError", "SystemExit"])
def test_what_a_prediction_raises_names_the_line(lake: Lake, declare: Declare, error: str) -> None:
    """Scoring's error has the file and the line of the estimator, and no exit goes by unseen."""
    spec = declare(
        OWN, my_model=MY_MODEL.replace("share = self", f"raise {error}('no')\n        share = self")
    )
    line = MY_MODEL.splitlines().index("        share = self.actual_[near].mean(axis=1)") + 1
    with pytest.raises(ModelError, match=rf"{error}: no \(.*my_model.py:{line}\)"):
        fitted(lake, spec)


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ('{name: nearest, estimator: "my_model:Nearest", params: {neighbor: 5}}',
         "expected params of neighbors (my_model:Nearest), but found neighbor"),
        ('{name: nearest, estimator: "my_model:np"}',
         "found a module without fit, predict, predict_proba"),
        ('{name: nearest, estimator: "my_model:Nearest", params: {neighbors: 1}, window: 2}', "window"),
        ("{name: nearest, estimator: nearest}", "one of prior, logistic_regression"),
    ],
)  # fmt: skip
def test_validate_refuses_what_cannot_be_fitted(declare: Declare, recipe: str, problem: str) -> None:
    """An unknown parameter, something that isn't an estimator, or a name that nobody registered."""
    try:
        (found,) = errors(declare({BOOSTING: recipe}, my_model=MY_MODEL))
    except SpecError as error:
        found = str(error)
    assert problem in found


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("return self\n", "self.link_ = lambda value: value\n        return self\n", "lambda"),
        ("return np.column_stack([1 - share, share])", "return np.full((len(share), 2), 'often')", "often"),
    ],
)
def test_validate_refuses_a_model_that_could_not_serve(
    declare: Declare, old: str, new: str, problem: str
) -> None:
    """One with a function among its attributes can't be loaded again; a text isn't a probability."""
    spec = declare(OWN, my_model=MY_MODEL.replace(old, new))
    (only,) = errors(spec)
    assert problem in only


@pytest.mark.full
def test_it_serves_until_its_module_breaks(lake: Lake, declare: Declare, registry: Registry) -> None:
    """Trained, registered, judged, promoted, it scores; when its module fails, the baseline does."""
    forest = (
        "    - {name: forest, estimator: random_forest, params: {n_estimators: 10, min_samples_leaf: 5}}\n"
    )
    linear = "    - {name: linear, estimator: logistic_regression}\n"
    spec = declare({BOOSTING: NEAREST.replace("5", "25"), forest: "", linear: ""}, my_model=MY_MODEL)
    after = spec.clock.keys(spec.clock.shift(visits.LAST, 1), spec.clock.shift(visits.LAST, 2))
    visits.fill(lake, spec, *after)
    run = train(lake, spec, visits.LAST, registry=registry)
    assert TrainingRecord.from_json(registry.get(run.id, PATH)).challenger.name == "nearest"
    assert train(lake, spec, visits.LAST, registry=registry) == run
    ref = evaluate(lake, spec, visits.LAST, run.id, registry=registry)
    evidence = Evidence.from_json(lake.get(ref.id) or b"")
    assert evidence.facts.serving
    assert evidence.facts.serving.identical
    judge_and_record(lake, spec, ref.id)
    force(lake, spec, evidence.key, "tests", "a champion is needed", registry=registry)
    assert served_by(lake, spec, after[0]) == {("champion", "")}
    (spec.folder / "my_model.py").write_text("raise ValueError('broken')\n")
    ((step, reason),) = served_by(lake, read(spec.folder / "usecase.yaml"), after[1])
    assert step == "baseline"
    assert "found ValueError: broken" in reason


def served_by(lake: Lake, spec: UseCase, partition: str) -> set[tuple[str, str]]:
    """Score a partition, and return which steps served its rows and why."""
    score(lake, spec, partition)
    return {(row["served_by"], row["reason"]) for row in lake.rows("predictions", {"partition": partition})}


@pytest.mark.full
def test_every_model_is_loaded_with_its_use_case() -> None:
    """Whoever loads a model says whose it is, or the use case's own estimators could not be loaded there."""
    without = []
    for file in python_files("include", "plugins"):
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in {"artifacts.load_model", "artifacts.deserialize"} and len(node.args) != 3:  # type: ignore[attr-defined]
                without.append(f"{file}:{node.lineno}")  # type: ignore[attr-defined]
    assert without == []
