"""A declaration that is changed and validated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from tests.usecases.weekly_sales import world

ROOT = Path(__file__).parents[2]


SHOP, FLIGHTS = ROOT / "tests" / "usecases" / "weekly_sales", ROOT / "include" / "usecases" / "flight_delay"


WEEKS = 10

# a recipe is as right or wrong with few trees as with many
SMALL = {
    SHOP: {"max_iter: 60,": "max_iter: 2,", "n_estimators: 30,": "n_estimators: 2,"},
    FLIGHTS: {"max_iter: 80,": "max_iter: 2,"},
}


# the shop as a binary problem: will more than 60 units be sold?
RARE = {
    "kind: regression": "kind: binary",
    "sql: units\n": "sql: units > 100\n",
    "    - {name: ridge, estimator: ridge, params: {alpha: 1.0}}\n": "",
    "    - {name: last, estimator: rule, params: {column: units_last_week}}\n": "",
    "objective: squared_error": "objective: log_loss",
    "{metric: r2, at_least: 0.3}": "{metric: roc_auc, at_least: 0.6}",
    "{metric: r2, at_least: 0.2}": "{metric: roc_auc, at_least: 0.55}",
    "constant: 30": "constant: 0.1",
}


def change(file: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text, which must be there."""
    text = file.read_text()
    assert old in text, f"{file} lacks {old!r}"
    file.write_text(text.replace(old, new, 1))


def write_usecase(parent: Path, base: str) -> Path:
    """Write a sound use case below a folder and return its own folder."""
    source = FLIGHTS if base == "two" else SHOP
    folder = parent / source.name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "usecase.yaml"
    for old, new in SMALL[source].items():
        change(file, old, new)
    if base != "two":
        prior = "    - {name: prior, estimator: prior}\n"
        change(
            file,
            prior,
            f"{prior}    - {{name: last, estimator: rule, params: {{column: units_last_week}}}}\n",
        )
    for old, new in RARE.items() if base == "rare" else ():
        change(file, old, new)
    return folder


def validate(folder: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command and return its exit code and its JSON."""
    done = CliRunner().invoke(app, ["validate", str(folder), *options, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake with ten weeks of the shop, of which the third has a row that can't be read."""
    folder = tmp_path_factory.mktemp("stored")
    weeks = world.write(folder / "shop", WEEKS)
    change(folder / "shop" / "sales" / f"{weeks[2]}.csv", ",false,", ",perhaps,")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(SHOP.parent))
        patch.setenv("EVERGREEN_LAKE", str(folder / "lake"))
        patch.setenv("AIRFLOW_CONN_SHOP", world.connection(folder / "shop"))
        arguments = ["run", "ingest", "weekly_sales", "--from", weeks[0], "--until", weeks[-1]]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return folder / "lake"
