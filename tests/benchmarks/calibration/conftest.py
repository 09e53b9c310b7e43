"""A clinic with three months of partitions, and what the command line measured of its gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.calibration.__main__ import app
from include.spec import UseCase
from include.storage.lake import Lake
from tests.train import visits

SEQUENCES = 40
SMALL = {"n_estimators: 10": "n_estimators: 3", "max_iter: 15": "max_iter: 3"}
LAST = "2024-05-22"  # 81 labelled partitions, where 75 are needed


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


@pytest.fixture(scope="session")
def measured(home: Path, spec: UseCase) -> dict[str, Any]:
    """What `python -m benchmarks.calibration gate` prints as JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_USECASES", str(home / "usecases"))
        patch.setenv("EVERGREEN_LAKE", str(home / "lake"))
        asked = ["gate", spec.name, "--sequences", str(SEQUENCES), "--page", str(home / "page.html")]
        done = CliRunner().invoke(app, [*asked, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found
