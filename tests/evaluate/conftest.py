"""The clinic after its first training, made once for all workers and copied for each test."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from include.evaluate.pipeline import evaluate
from include.models.registry import Registry
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.kept import shared
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
    """A folder in which the last partition was trained, and the run; a test may ask for the other kind."""
    kind = getattr(request, "param", "binary")
    folder = shared(tmp_path_factory, f"trained-{kind}", lambda folder: _train(folder, kind))
    return folder, (folder / "run").read_text()


def _train(folder: Path, kind: str) -> None:
    spec = visits.usecase(folder, kind)
    lake = Lake(spec.name, str(folder / "lake"))
    visits.fill(lake, spec)
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    run = train(lake, spec, visits.LAST, registry=registry).id
    evaluate(lake, spec, visits.LAST, run, registry=registry)
    # only how it serves is kept, which takes a fresh process to measure
    for key in lake.keys("evaluations"):
        if "/serving/" not in key:
            (folder / "lake" / spec.name / key).unlink()
    (folder / "run").write_text(run)


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
