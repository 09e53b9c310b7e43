"""A clinic with three months of partitions."""

from __future__ import annotations

from pathlib import Path

import pytest

from include.spec import UseCase
from include.storage.lake import Lake
from tests.train import visits

SMALL = {"n_estimators: 10": "n_estimators: 3", "max_iter: 15": "max_iter: 3"}
LAST = "2024-05-22"  # 81 labeled partitions, where 75 are needed


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the use case and its filled lake."""
    folder = tmp_path_factory.mktemp("calibrate")
    spec = visits.usecase(folder / "usecases", **SMALL)
    visits.fill(Lake(spec.name, str(folder / "lake")), spec, last=LAST)
    return folder


@pytest.fixture(scope="session")
def spec(home: Path) -> UseCase:
    """Asks which visits will be missed; boosting doesn't depend on the seed, the forest does."""
    return visits.usecase(home / "usecases", **SMALL)
