"""A lake of ten partitions of parcels, made once and only read."""

from __future__ import annotations

import pytest

from include.spec import UseCase
from include.storage.lake import Lake
from tests.features import parcels

FIRST, LAST = "2024-03-01", "2024-03-10"


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case with the sound SQL."""
    return parcels.spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="session")
def lake(use: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Every source published from the first partition to the last."""
    made = Lake("parcels", str(tmp_path_factory.mktemp("lake")))
    parcels.fill(made, use, FIRST, LAST)
    return made
