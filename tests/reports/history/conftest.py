"""The machines use case with monitored partitions; built once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from include.monitor.pipeline import monitor
from include.score.pipeline import score
from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.conftest import use

__all__ = ["use"]

PARTITIONS = 10  # watched ones: labels take two, and the alarm is on the last


@pytest.fixture(scope="session")
def watched(use: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with monitored partitions; on the last one all temperatures are missing."""
    folder = tmp_path_factory.mktemp("watched")
    lake = machines.plant(folder, use)
    machines.forget_history(lake)
    for partition in partitions(use):
        broken = partition == partitions(use)[-1]
        machines.readings(lake, use, partition, lambda row, b=broken: {**row, "temp": None} if b else row)
        machines.stops(lake, use, partition)
        score(lake, use, partition)
        monitor(lake, use, partition)
    return folder


def partitions(use: UseCase) -> list[str]:
    """Return the monitored partitions."""
    shift = use.clock.shift
    return use.clock.keys(shift(machines.TRAINED, 1), shift(machines.TRAINED, PARTITIONS))


@pytest.fixture
def lake(watched: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    shutil.copytree(watched, tmp_path / "lake")
    return Lake("machines", str(tmp_path / "lake"))
