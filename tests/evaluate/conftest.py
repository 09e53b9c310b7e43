"""The clinic after its first training, made once and copied for each test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from include.evaluate.run import evaluate
from include.lake import Lake
from include.registry import Registry
from include.spec import UseCase
from include.spec.load import read
from include.train.run import train
from tests.train import visits


@dataclass(frozen=True)
class Clinic:
    """A use case, its lake, a registry, and the run of its first training."""

    spec: UseCase
    lake: Lake
    registry: Registry
    run: str


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which the last night was trained, and the run; a test may ask for the other kind."""
    folder = tmp_path_factory.mktemp("trained")
    spec = visits.usecase(folder, getattr(request, "param", "binary"))
    lake = Lake(spec.name, str(folder / "lake"))
    visits.fill(lake, spec)
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    run = train(lake, spec, visits.LAST, registry=registry).uri
    evaluate(lake, spec, visits.LAST, run, registry=registry)
    # only how it serves is kept, which takes a fresh process to measure
    for key in lake.keys("evaluations"):
        if "/serving/" not in key:
            (folder / "lake" / spec.name / key).unlink()
    return folder, run


@pytest.fixture
def clinic(trained: tuple[Path, str], tmp_path: Path) -> Clinic:
    """That state, copied; the artifacts, whose address the runs hold, are shared and only read."""
    folder, run = trained
    home = next(folder.glob("*/usecase.yaml")).parent
    for name in (home.name, "lake"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copy(folder / "mlflow.db", tmp_path / "mlflow.db")
    spec = read(tmp_path / home.name / "usecase.yaml")
    return Clinic(
        spec, Lake(spec.name, str(tmp_path / "lake")), Registry(f"sqlite:///{tmp_path}/mlflow.db"), run
    )
