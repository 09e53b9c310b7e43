"""The clinic of tests.train.visits, whose folder gets Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.models.registry import Registry
from include.spec import UseCase
from tests.kept import fill_folder
from tests.train import visits

BOOSTING = "{name: boosting, estimator: hist_gradient_boosting, params: {max_iter: 15, min_samples_leaf: 10}}"
NEAREST = '{name: nearest, estimator: "my_model:Nearest", params: {neighbors: 5}}'
# derived from nothing: the average label of the nearest rows
MY_MODEL = """
import numpy as np


class Nearest:
    def __init__(self, neighbors=3):
        self.neighbors = neighbors

    def fit(self, rows, actual):
        self.rows_, self.actual_ = np.asarray(rows), np.asarray(actual)
        return self

    def predict(self, rows):
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(float)

    def predict_proba(self, rows):
        distances = np.square(np.asarray(rows)[:, None] - self.rows_[None]).sum(axis=2)
        near = np.argsort(distances, axis=1, kind="stable")[:, : self.neighbors]
        share = self.actual_[near].mean(axis=1)
        return np.column_stack([1 - share, share])
"""
Declare = Callable[..., UseCase]


@pytest.fixture
def declare(tmp_path: Path) -> Declare:
    """Write the modules of the clinic's folder and read its declaration, changed where told."""

    def act(changes: dict[str, str] | None = None, kind: str = "binary", **modules: str) -> UseCase:
        home = tmp_path / visits.KINDS[kind]["name"]
        home.mkdir(exist_ok=True)
        for name, text in modules.items():
            (home / f"{name}.py").write_text(text)
        return visits.usecase(tmp_path, kind, **(changes or {}))

    return act


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry without a server; its tables take a second, so they are made once."""
    fill_folder("registry", tmp_path, _make_tables)
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", f"file://{tmp_path}/artifacts")


def _make_tables(folder: Path) -> None:
    Registry(f"sqlite:///{folder}/mlflow.db").keep_first_finished_run("none", "none")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of `init --python`, with Python of every kind."""
    result = CliRunner().invoke(app, ["init", "coffee_sales", "--python", "--into", str(tmp_path)])
    assert result.exit_code == 0, result.output
    return tmp_path / "coffee_sales"
