"""The clinic's lake and a registry on a file of its own, both copied from ones that are made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from include.models.registry import Registry
from include.spec import UseCase
from include.storage.lake import Lake
from tests.train import visits


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a filled lake for each kind of problem, and an empty registry."""
    folder = tmp_path_factory.mktemp("clinic")
    for kind in visits.KINDS:
        spec = visits.usecase(folder / "usecases", kind)
        visits.fill(Lake(spec.name, str(folder / "lake")), spec)
    Registry(f"sqlite:///{folder}/mlflow.db").keep_first_finished_run("none", "none")
    return folder


@pytest.fixture
def clinic(made: Path, tmp_path: Path) -> Path:
    """That folder, copied, so that a test's writes are its own."""
    shutil.copytree(made, tmp_path / "clinic")
    return tmp_path / "clinic"


@pytest.fixture
def spec(clinic: Path) -> UseCase:
    """Asks which visits will be missed."""
    return visits.usecase(clinic / "usecases")


@pytest.fixture
def lake(clinic: Path, spec: UseCase) -> Lake:
    """The clinic's lake."""
    return Lake(spec.name, str(clinic / "lake"))


@pytest.fixture
def registry(clinic: Path) -> Registry:
    """A registry without a server."""
    return Registry(f"sqlite:///{clinic}/mlflow.db", f"file://{clinic}/artifacts")
