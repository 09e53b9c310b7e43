"""A plant with a history and a champion, made once; each test works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.hook import Hook, serving


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case."""
    return machines.spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook."""
    yield from serving(Hook())


@pytest.fixture(scope="session")
def base(use: UseCase, week: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the history, a champion from the first partition after it.

    And a week of partitions to score.
    """
    folder = tmp_path_factory.mktemp("base")
    machines.many_partitions(machines.plant(folder, use), use, week)
    return folder


@pytest.fixture(scope="session")
def bare(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the rows that the model learned from: no own windows, no charts, fast."""
    folder = tmp_path_factory.mktemp("bare") / "lake"
    shutil.copytree(base, folder)
    machines.forget_history(Lake("machines", str(folder)))
    return folder


@pytest.fixture
def quick(bare: Path, tmp_path: Path) -> Lake:
    """A copy of the bare lake."""
    return Lake("machines", str(shutil.copytree(bare, tmp_path / "quick")))


@pytest.fixture
def lake(base: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    return Lake("machines", str(shutil.copytree(base, tmp_path / "lake")))


@pytest.fixture(scope="session")
def week(use: UseCase) -> list[str]:
    """The eight partitions after the history."""
    return use.clock.keys(use.clock.shift(machines.TRAINED, 1), use.clock.shift(machines.TRAINED, 8))
