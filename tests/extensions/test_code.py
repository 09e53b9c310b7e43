"""A declaration names Python of its own folder or of a package; its bytes are part of the digest."""

from __future__ import annotations

import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from include import extensions
from include.errors import SpecError
from include.extensions import CodeReference
from include.spec import UseCase
from include.spec.load import read, read_all
from include.train.recipes import recipe_key
from include.validate.pipeline import errors
from tests.architecture.tree import ROOT
from tests.extensions.conftest import BOOSTING, MY_MODEL, NEAREST, Declare

OWN = {BOOSTING: NEAREST}


def code(folder: Path, name: str) -> CodeReference:
    """Name code in a folder."""
    return CodeReference(folder, "features.python", name)


def refusal(folder: Path, name: str) -> SpecError:
    """Return the error of loading code."""
    with pytest.raises(SpecError) as caught:
        code(folder, name).load()
    return caught.value


def keys(spec: UseCase) -> dict[str, str]:
    """Return each recipe's key by its name."""
    return {
        recipe.name: recipe_key(spec, recipe)
        for recipe in (*spec.training.baselines, *spec.training.candidates)
    }


def test_two_folders_may_have_a_module_of_the_same_name(tmp_path: Path) -> None:
    """Each gets its own, a module imports its neighbor, and neither the path nor the folder changes."""
    before = list(sys.path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "features.py").write_text("from .shared import NAME\n\ndef build(): return NAME\n")
        (tmp_path / name / "shared.py").write_text(f"NAME = {name!r}\n")
    built = [code(tmp_path / name, "features:build").load() for name in ("one", "two", "one")]
    assert [build() for build in built] == ["one", "two", "one"]
    assert sys.path == before
    assert "features" not in sys.modules
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["features.py", "shared.py"]


def test_a_neighbor_that_is_imported_as_if_it_were_installed_is_explained(tmp_path: Path) -> None:
    """The folder is on no path, so the remedy says how to import from it."""
    (tmp_path / "features.py").write_text("from helper import NAME\n")
    (tmp_path / "helper.py").write_text("NAME = 1\n")
    assert refusal(tmp_path, "features:NAME").remedy.startswith("write `from . import helper`")


def test_what_is_loaded_is_what_the_files_hold_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit counts at once, also of a neighbor, in the same second and of the same length."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    home = tmp_path / "one"
    (home / "parts").mkdir(parents=True)
    (home / "features.py").write_text("from .parts.shared import VALUE\n")
    for value in (1, 2):
        (home / "parts" / "shared.py").write_text(f"VALUE = {value}\n")
        assert code(home, "features:VALUE").load() == value
        assert code(home, "parts.shared:VALUE").load() == value
    assert not list(home.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("text", "name", "required", "problem", "line"),
    [
        (
            "x = 1\nimport nothing_of_this_name\n",
            "features:build",
            "can be imported",
            "ModuleNotFoundError",
            2,
        ),
        ("x = 1\n\nx = (\n", "features:build", "can be imported", "SyntaxError", 3),
        ("raise SystemExit(1)\n", "features:build", "can be imported", "SystemExit: 1", 1),
        ("def built(): ...\n", "features:build", "the name build in the module", "only built", None),
    ],
)
def test_a_module_that_cannot_be_loaded_is_named_with_its_line(
    tmp_path: Path, text: str, name: str, required: str, problem: str, line: int | None
) -> None:
    """The error has the use case, the key, what is required and what was raised, the file and the line."""
    home = tmp_path / "one"
    home.mkdir()
    (home / "features.py").write_text(text)
    error = refusal(home, name)
    assert error.subject == "one: features.python"
    assert required in error.required
    assert problem in error.found
    assert error.where == f"{home / 'features.py'}" + (f":{line}" if line else "")
    assert "correct the code" in error.remedy


def test_a_secret_of_the_environment_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module raises may contain an account's key."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    home = tmp_path / "one"
    home.mkdir()
    (home / "features.py").write_text("raise ValueError('hunter2hunter2')\n")
    assert refusal(home, "features:build").found == "ValueError: ***"


def test_reading_a_declaration_imports_nothing(declare: Declare) -> None:
    """A DAG file reads and digests a module that raises; `validate` imports it and reports the place."""
    spec = declare(OWN, my_model="import sys\nsys.imported_by_mistake = True\nraise ValueError('broken')\n")
    assert spec.digest
    assert not hasattr(sys, "imported_by_mistake")
    (problem,) = errors(spec)
    assert "missed_visits: training.nearest: expected a module my_model that can be imported" in problem
    assert f"({spec.folder}/my_model.py:3)" in problem
    del sys.imported_by_mistake  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "dags").glob("*.py")))
def test_a_dag_file_is_parsed_without_the_code(
    page: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the DAG of a use case with Python of every kind, none of which was imported."""
    for module in written.glob("*.py"):
        module.write_text("raise ValueError('imported when a DAG file is parsed')\n")
    monkeypatch.setenv("EVERGREEN_USECASES", str(written.parent))
    dags = runpy.run_path(str(ROOT / "dags" / page))
    assert (
        page in ("specs.py", "upkeep.py", "events.py") or f"coffee_sales__{page.removesuffix('.py')}" in dags
    )
    assert errors(read(written / "usecase.yaml"))


def test_a_module_that_is_missing_takes_down_its_own_use_case_only(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are read, and its error names the key and the module."""
    (written / "rules.py").unlink()
    monkeypatch.setenv("EVERGREEN_USECASES", str(written.parent))
    good, bad = read_all()
    assert "flight_delay" in {spec.name for spec in good}
    (error,) = bad
    assert "sources.items.contract.row_checks: a module rules beside it" in str(error)


def test_a_spec_can_be_sent_to_another_process(written: Path) -> None:
    """A replay fits in several, each of which imports the code itself."""
    spec = read(written / "usecase.yaml")
    assert spec.sources["items"].path_templates == ("items.zip", "{day}.csv")  # its class is imported here
    file = written / "spec.pickle"
    file.write_bytes(pickle.dumps(spec))
    code = f"""
import pickle
from pathlib import Path

copy = pickle.loads(Path({str(file)!r}).read_bytes())
print(copy.digest, *copy.sources["items"].path_templates)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [spec.digest, "items.zip", "{day}.csv"]


def test_a_module_that_is_nowhere_is_refused_by_reading(declare: Declare, tmp_path: Path) -> None:
    """Neither a file of the folder nor an installed package: the declaration is invalid."""
    with pytest.raises(SpecError, match=r"training\.nearest: a module my_model beside it, or in an"):
        declare(OWN)
    with pytest.raises(SpecError, match="estimator: String should match pattern"):
        declare({BOOSTING: '{name: nearest, estimator: "my model:Nearest"}'})


def test_the_digest_is_of_the_code_but_not_of_tests(declare: Declare) -> None:
    """Any module of the folder counts, a test doesn't; and without Python no module counts at all."""
    plain = declare()
    (plain.folder / "world.py").write_text("x = 1\n")
    assert read(plain.folder / "usecase.yaml").digest == plain.digest
    spec = declare(OWN, my_model=MY_MODEL, shared="x = 1\n")
    before = spec.digest
    assert declare(OWN, test_my_model="assert True\n").digest == before
    assert declare(OWN, shared="x = 2\n").digest != before
    assert declare(OWN, shared="x = 1\n").digest == before
    assert declare(OWN, my_model=MY_MODEL + "\n").digest != before
    assert spec.digest_of("visits") == plain.digest_of("visits")


def test_a_recipes_key_has_the_code_of_its_own_estimator(declare: Declare) -> None:
    """An edit makes another recipe of it; the built-in ones keep their fits, as if there were no Python."""
    plain, before = keys(declare()), keys(declare(OWN, my_model=MY_MODEL))
    after = keys(declare(OWN, my_model=MY_MODEL + "\n"))
    assert before["nearest"] != after["nearest"]
    assert {name for name in before if before[name] == after[name] == plain.get(name)} == {
        "prior",
        "linear",
        "forest",
    }


@pytest.mark.full
def test_a_package_registers_estimators_by_name(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry point makes a plain name of its code, whose version and bytes are part of the digest."""
    site = tmp_path / "site"
    (site / "near_models-1.0.dist-info").mkdir(parents=True)
    about = site / "near_models-1.0.dist-info"
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: near-models\nVersion: 1.0\n")
    (about / "top_level.txt").write_text("near_models\n")
    (about / "entry_points.txt").write_text("[evergreen.estimators]\nnearest = near_models.models:Nearest\n")
    (site / "near_models").mkdir()
    (site / "near_models" / "__init__.py").write_text("raise ValueError('imported too early')\n")
    (site / "near_models" / "models.py").write_text(MY_MODEL)
    monkeypatch.syspath_prepend(str(site))
    extensions.registered.cache_clear()
    spec = declare({BOOSTING: "{name: nearest, estimator: nearest, params: {neighbors: 5}}"})
    before = spec.digest
    assert [one.name for one in spec.python] == ["near_models.models:Nearest"]
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: near-models\nVersion: 1.1\n")
    assert read(spec.folder / "usecase.yaml").digest != before
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: near-models\nVersion: 1.0\n")
    assert read(spec.folder / "usecase.yaml").digest == before
    (site / "near_models" / "__init__.py").write_text("")
    assert errors(read(spec.folder / "usecase.yaml")) == []
    (site / "near_models" / "models.py").write_text(MY_MODEL + "\n")
    assert read(spec.folder / "usecase.yaml").digest != before
    for name in [name for name in sys.modules if name.partition(".")[0] == "near_models"]:
        del sys.modules[name]
    extensions.registered.cache_clear()
