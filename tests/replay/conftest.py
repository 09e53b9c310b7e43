"""A clinic whose visits depend on distance and place until a day on which the relation reverses."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from include.replay import fits
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from tests.kept import fill_folder
from tests.train import visits

FIRST, BREAK, LAST = "2024-03-17", "2024-03-26", "2024-04-21"
UNTIL = "2024-03-30"  # the last partition that production serves in tests
SMALL = {"max_iter: 15": "max_iter: 8", "n_estimators: 10": "n_estimators: 4", "  validation: 4\n": ""}


def declare(folder: Path) -> UseCase:
    """Declare the clinic; its forest and its boosting have fewer trees, since many are fitted."""
    return visits.usecase(folder, **SMALL)


def fill(folder: Path, spec: UseCase) -> Lake:
    """Fill a lake up to `LAST`; from `BREAK` on who came late comes early."""

    def make(made: Path) -> None:
        lake = Lake(spec.name, str(made))
        visits.fill(lake, spec, visits.FIRST, LAST)
        rows = lake.rows("validated_outcomes")
        for row in rows:
            if row["partition"] >= spec.clock.shift(BREAK, spec.labels.delay) and row["minutes"] is not None:
                row["minutes"] = 20.0 - row["minutes"]
        order = sorted(rows, key=lambda row: (row["partition"], row["visit"]))
        table = pa.Table.from_pylist(order, schema=schemas.validated_schema(spec.sources["outcomes"]))
        lake.publish("validated_outcomes", table, {"partition": sorted({row["partition"] for row in rows})})
        status = [{**row, "rows": 40, "quarantined": 0} for row in lake.rows("partitions")]
        table = pa.Table.from_pylist(status, schema=schemas.PARTITIONS)
        lake.publish("partitions", table, {"product": list(spec.sources)})

    fill_folder(f"replay {spec.digest}", folder, make)
    return Lake(spec.name, str(folder))


@pytest.fixture(scope="module", autouse=True)
def _forked_workers() -> Iterator[None]:
    """Workers are forks of a process that has the libraries, but for those of a command that is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["include.replay.fits"])
    own = SimpleNamespace(get_context=lambda _: context, parent_process=multiprocessing.parent_process)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "multiprocessing", own)
        yield


@pytest.fixture
def spec(tmp_path: Path) -> UseCase:
    """The clinic's declaration."""
    return declare(tmp_path / "usecases")


@pytest.fixture
def lake(tmp_path: Path, spec: UseCase) -> Lake:
    """The clinic's lake."""
    return fill(tmp_path / "lake", spec)
