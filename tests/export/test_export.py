"""A champion is exported from the command line, with a card, after the gate has compared file and model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import ExtraTreesClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline
from typer.testing import CliRunner

from include.cli.app import app
from include.errors import PYTHON, EvergreenError, ModelError, NotPublished
from include.evaluate import measure
from include.export import convert, models
from include.features.build import features
from include.judge.evidence import Evidence
from include.models import artifacts
from include.models.encoding import MISSING
from include.promote import ledger, verdicts
from include.references import digest_bytes
from include.reports.onnx_card import SCORE
from include.spec import UseCase, load
from include.spec.load import read
from include.spec.stages import Recipe
from include.storage.lake import Lake
from include.train.estimators import coded_columns
from include.train.fits import read_fits
from include.train.fitting import fit_recipe
from include.validate.pipeline import errors
from tests.export.models import case, declare, fitted, labeled_rows
from tests.train import visits
from tests.usecases.weekly_sales import world
from tests.warm import stand_in

WEEKLY = Path(world.__file__).parent
SECRET = "hunter2-not-to-be-seen"
ONE_TYPE = {"numeric": "distance, earlier", "categorical": "place, ward"}


def call(*arguments: str) -> Any:
    """Run a command with --json and return what it printed."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with sixteen weeks and a champion, under a gate that requires an ONNX file."""
    folder = tmp_path_factory.mktemp("export")
    usecase = shutil.copytree(WEEKLY, folder / "usecases" / "weekly_sales") / "usecase.yaml"
    usecase.write_text(usecase.read_text().replace("gate:\n", "gate:\n  onnx: true\n"))
    *partitions, last = world.write(folder / "shop", 16)
    with pytest.MonkeyPatch.context() as patch:
        _settings(patch, folder)
        patch.setenv("AIRFLOW_CONN_SHOP", world.connection(folder / "shop"))
        call("run", "ingest", "weekly_sales", "--from", partitions[0], "--until", last)
        call("run", "train", "weekly_sales", "--partition", partitions[-1])
    return folder


def _settings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    patch.setenv("EVERGREEN_USECASES", str(folder / "usecases"))
    patch.setenv("EVERGREEN_LAKE", str(folder / "lake"))
    patch.setenv("EVERGREEN_HASH_KEY", SECRET)


@pytest.fixture
def lake(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """That lake, with the settings that lead to it, and an empty working folder."""
    _settings(monkeypatch, shop)
    monkeypatch.chdir(tmp_path)
    return Lake("weekly_sales", str(shop / "lake"))


@pytest.fixture
def spec(lake: Lake) -> UseCase:
    """Its declaration."""
    return load("weekly_sales")


@pytest.mark.full
def test_the_champion_becomes_a_file_with_a_card(lake: Lake, spec: UseCase, tmp_path: Path) -> None:
    """The file predicts the champion's predictions of every partition, and the card says what it is."""
    printed = call("export", "weekly_sales", "--to", "onnx")
    champion = ledger.live_champion(ledger.switches(lake))
    assert champion is not None
    assert (printed["onnx"], printed["card"]) == ("weekly_sales-v1.onnx", "weekly_sales-v1.md")
    assert (printed["model"], printed["version"]) == (champion["model"], "1")
    data, card = (tmp_path / printed["onnx"]).read_bytes(), (tmp_path / printed["card"]).read_text()
    rows = features(lake, spec, world.partitions(16))
    own = artifacts.predict(artifacts.load_model(lake, champion["model"]), rows, spec)
    assert convert.largest_difference(convert.predict_onnx(data, rows, spec), own) <= 1e-9
    assert printed["compared"] == {
        "partition": world.partitions(16)[-1], "rows": 40, "difference": printed["compared"]["difference"],
    }  # fmt: skip
    (fit,) = [fit for fit in read_fits(lake) if fit.model == champion["model"]]
    (verdict,) = verdicts.attempts(lake)
    for line in (
        f"| Use case | {spec.name} |",
        "| Version | 1 |",
        f"| Recipe | {fit.recipe} |",
        f"| Fitted until | {fit.last_fitted} |",
        f"| Verdict | {verdict['sentence']} |",
        f"| Model, SHA-256 | {champion['model']} |",
        f"| This file, SHA-256 | {digest_bytes(data)} |",
        "| price | float64 | NaN |",
        "| store | string | &lt;missing&gt; |",
        "float64 of shape (rows,): units_sold, in its unit.",
        f'("{MISSING}", object)',
        SCORE,
    ):
        assert line in card
    for metric in ("r2", "rmse"):
        assert re.search(rf"\| {metric} \((more|less)\) \| [\d.]+ \|", card), metric
    properties = {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}
    assert properties["model"] == champion["model"]
    assert properties["fitted_until"] == fit.last_fitted
    assert properties["missing_text"] == MISSING


@pytest.mark.full
def test_the_file_is_the_same_twice_and_says_nothing_of_this_machine(
    lake: Lake, shop: Path, tmp_path: Path
) -> None:
    """No absolute path, setting or secret is in file or card, and no clock changes their bytes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        call("export", "weekly_sales", "--to", "onnx", "--out", str(tmp_path / name / "model.onnx"))
    for ending in ("onnx", "md"):
        first, second = ((tmp_path / name / f"model.{ending}").read_bytes() for name in ("one", "two"))
        assert first == second
        for text in (
            SECRET,
            str(shop),
            str(tmp_path),
            str(Path.cwd()),
            str(Path.home()),
            sys.prefix,
            "sqlite:",
        ):
            assert text.encode() not in first
        assert not re.search(rb"(?<![\w.])(/[\w.-]{2,}){2,}", first)


def test_each_fit_can_be_exported_by_its_digest(lake: Lake) -> None:
    """``--model`` takes the beginning of a digest; a model without a verdict has a card that says so."""
    champion = ledger.live_champion(ledger.switches(lake))
    assert champion is not None
    newest = {fit.recipe: fit for fit in read_fits(lake)}
    assert {"prior", "ridge", "boosting", "forest"} <= set(newest)
    for recipe, fit in newest.items():
        printed = call("export", "weekly_sales", "--to", "onnx", "--model", fit.model[:16], "--out", "x.onnx")
        assert (printed["recipe"], printed["fitted_until"]) == (recipe, fit.last_fitted)
        if fit.model != champion["model"]:
            assert "| Verdict | not judged |" in Path("x.md").read_text()


def test_the_gate_compared_file_and_model(lake: Lake) -> None:
    """The evidence has the largest difference on the test rows, and the check passed."""
    (row,) = verdicts.attempts(lake)
    stored = Evidence.from_json(row["evidence"]).facts.onnx
    assert stored is not None
    assert stored.difference is not None
    assert 0 <= stored.difference <= 1e-9
    (check,) = [check for check in json.loads(row["checks"]) if "ONNX" in check["name"]]
    assert check["passed"]


def _evaluation(spec: UseCase, of: Any) -> Any:
    rows = labeled_rows(spec)
    deployed = artifacts.predict(fitted(of), rows, spec)
    return type("Evaluation", (), {"estimator": fitted(of), "rows": rows, "deployed_predictions": deployed})


def test_the_evidence_tells_what_is_wrong_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that differs, one with NaN, and a model that can't be one, are three different facts."""
    of, spec = case("binary", "hist_gradient_boosting", max_iter=12, min_samples_leaf=5), declare("binary")
    evaluation = _evaluation(spec, of)
    assert measure._onnx(spec, evaluation).difference < 1e-9
    tree = models._boosted_tree
    for factor, difference, note in ((1.001, True, ""), (np.nan, False, "600 of 600 predictions")):
        with monkeypatch.context() as patch:
            patch.setattr(
                models,
                "_boosted_tree",
                lambda *args, factor=factor: models.Tree(
                    **{**vars(tree(*args)), "value": tree(*args).value * factor}
                ),
            )
            measured = measure._onnx(spec, evaluation)
        assert (measured.difference is not None and measured.difference > 1e-6) == difference
        assert measured.note.startswith(note)
    monkeypatch.delitem(models.MODELS, type(fitted(of)[-1]))
    measured = measure._onnx(spec, evaluation)
    assert measured.difference is None
    assert "expected an estimator with a converter" in measured.note


def test_a_file_that_differs_is_not_written(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the converter gets wrong, export compares before it writes."""
    monkeypatch.setattr(convert, "predict_onnx", lambda data, rows, spec: np.full(rows.num_rows, np.nan))
    monkeypatch.setattr("include.export.pipeline.predict_onnx", convert.predict_onnx)
    with pytest.raises(ModelError, match="within 1e-09, but found 40 that are not finite"):
        call("export", "weekly_sales", "--to", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown format, digest or folder, and a lake without a champion, each by its own message."""
    export = ("export", "weekly_sales", "--to")
    with pytest.raises(EvergreenError, match="expected onnx, but found pmml"):
        call(*export, "pmml")
    with pytest.raises(
        NotPublished, match="model zz: expected the beginning of one model's digest, but found 0 of"
    ):
        call(*export, "onnx", "--model", "zz")
    with pytest.raises(EvergreenError, match=r"--out x\.md: expected a name that ends with \.onnx"):
        call(*export, "onnx", "--out", "x.md")
    with pytest.raises(EvergreenError, match=r"--out nowhere/x\.onnx: expected an existing folder"):
        call(*export, "onnx", "--out", "nowhere/x.onnx")
    monkeypatch.setenv("EVERGREEN_LAKE", str(Path.cwd() / "empty"))
    with pytest.raises(
        NotPublished, match="weekly_sales: an export: expected a champion, but found none; train first"
    ):
        call(*export, "onnx")


def test_without_the_extra_the_command_to_run_is_named(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The core doesn't need the packages; where they are missing, the error says how to get them."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    command = f"{re.escape(PYTHON)} -m pip .* -r requirements-onnx.txt"
    message = f"extra `onnx`, but found no onnxruntime; run `{command}`"
    with pytest.raises(EvergreenError, match=message):
        call("export", "weekly_sales", "--to", "onnx")
    code = "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None\n"
    code += (
        "import include.cli.app, include.validate.pipeline, include.evaluate.pipeline, include.export.convert"
    )
    subprocess.run([stand_in(), "-c", code], cwd=WEEKLY.parents[2], check=True)


def test_an_estimator_without_a_converter_names_those_that_have_one() -> None:
    """Also where its preprocessing has one."""
    spec, rows = declare("binary"), labeled_rows(declare("binary"))
    columns: ColumnTransformer = coded_columns(spec.features.numeric, spec.features.categorical)
    pipeline = Pipeline([("columns", columns), ("model", ExtraTreesClassifier(n_estimators=2))])
    pipeline.fit(artifacts.model_input(rows, spec), rows[spec.problem.target].to_numpy())
    with pytest.raises(ModelError, match=r"converter: .*, but found ExtraTreesClassifier; serve") as refused:
        convert.to_onnx(pipeline, spec)
    for name in ("prior", "logistic_regression", "hist_gradient_boosting", "random_forest"):
        assert name in refused.value.required
    boosting = Pipeline(fitted(case("binary", "hist_gradient_boosting")).steps[1:])
    with pytest.raises(ModelError, match="found HistGradientBoostingClassifier without its columns"):
        convert.to_onnx(boosting, spec)


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_all_features_may_be_of_one_type(kind: str, tmp_path: Path) -> None:
    """A model of numbers alone, or of texts alone, has no input of the other type."""
    features = {"numeric: [distance, earlier], categorical: [place]": f"{kind}: [{ONE_TYPE[kind]}]"}
    spec, rows = visits.usecase(tmp_path, "binary", **features), labeled_rows(declare("binary"))
    for estimator in ("prior", "logistic_regression", "hist_gradient_boosting", "random_forest"):
        pipeline = fit_recipe(spec, Recipe(name="tried", estimator=estimator), rows)
        values = convert.predict_onnx(convert.to_onnx(pipeline, spec), rows, spec)
        assert convert.largest_difference(values, artifacts.predict(pipeline, rows, spec)) <= 1e-9


def test_a_feature_may_have_the_outputs_name(tmp_path: Path) -> None:
    """The output then has another one, since an ONNX file can't have two tensors of one name."""
    features = {"numeric: [distance, earlier]": "numeric: [prediction, earlier]"}
    spec = visits.usecase(tmp_path, "binary", **features)
    rows = labeled_rows(declare("binary")).rename_columns({"distance": "prediction"})
    estimator = fit_recipe(spec, Recipe(name="tried", estimator="logistic_regression"), rows)
    values = convert.predict_onnx(convert.to_onnx(estimator, spec), rows, spec)
    assert convert.largest_difference(values, artifacts.predict(estimator, rows, spec)) <= 1e-9


def test_a_category_that_is_the_missing_text_is_refused() -> None:
    """Nothing could tell it from a missing value."""
    spec, rows = declare("binary"), labeled_rows(declare("binary"))
    texts = [MISSING if text == "p1" else text for text in rows["place"].to_pylist()]
    rows = rows.set_column(rows.column_names.index("place"), "place", [texts])
    pipeline = clone(fitted(case("binary", "logistic_regression"))).fit(
        artifacts.model_input(rows, spec), rows[spec.problem.target].to_numpy()
    )
    with pytest.raises(ModelError, match="feature place: expected categories other than <missing>"):
        convert.to_onnx(pipeline, spec)


@pytest.mark.full
def test_validate_reports_a_recipe_that_the_gate_could_never_bless(
    spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gate.onnx a recipe without a converter is an error of the declaration, before it is trained."""
    assert errors(spec) == []
    monkeypatch.delitem(models.MODELS, RandomForestRegressor)
    (problem,) = errors(spec)
    assert (
        "training.forest: expected an estimator that can be exported to ONNX, because of gate.onnx" in problem
    )
    assert errors(read(WEEKLY / "usecase.yaml")) == []
