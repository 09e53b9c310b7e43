"""A partition larger than memory is scored batch by batch, with the same published result."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from include.errors import ModelError, NotPublished
from include.models import artifacts
from include.references import Ref
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.stages import Recipe
from include.storage import spill
from include.storage.lake import Lake
from include.train.estimators import ESTIMATORS, build_estimator
from tests.features import parcels

Deploy = Callable[..., None]
ROOT = Path(__file__).parents[2]
PARTITION = "2024-03-08"
TABLES = ("predictions", "profiles", "partitions")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes memory hold nothing and a batch so many rows: ``small(8)``."""

    def shrink(batch: int) -> None:
        monkeypatch.setattr(spill, "MEMORY_LIMIT", 0)
        monkeypatch.setattr(spill, "BATCH", batch)

    return shrink


def _scored(folder: Path, use: UseCase, deploy: Deploy) -> tuple[Ref, dict[str, list[str]], Lake]:
    lake = Lake("parcels", str(folder))
    parcels.fill(lake, use, "2024-03-01", PARTITION)
    deploy(lake, "1", "2024-03-04")
    ref = score(lake, use, PARTITION)
    return ref, {name: sorted(map(repr, lake.rows(name))) for name in TABLES}, lake


@pytest.mark.full
@pytest.mark.parametrize("batch", [8, 16])
def test_a_partition_larger_than_a_batch_is_the_same_partition(
    use: UseCase, deploy: Deploy, tmp_path: Path, small: Callable[[int], None], batch: int
) -> None:
    """Rows, digests, profiles and lineage are those of a partition in memory, and scored again they stay."""
    whole, tables, there = _scored(tmp_path / "whole", use, deploy)
    small(batch)
    ref, found, lake = _scored(tmp_path / "cut", use, deploy)
    assert (ref.digest, ref.rows, ref.note) == (whole.digest, whole.rows, whole.note)
    assert found == tables
    for one in (lake, there):
        assert score(one, use, PARTITION).digest == whole.digest
        assert {name: sorted(map(repr, one.rows(name))) for name in TABLES} == tables


def test_a_partition_without_rows_is_refused_in_batches_too(
    use: UseCase, lake: Lake, small: Callable[[int], None]
) -> None:
    """No rows give no predictions and the sentence that says so."""
    small(8)
    lake.publish("validated_orders", parcels.rows(use, "orders", PARTITION)[:0], {"partition": PARTITION})
    with pytest.raises(NotPublished, match="rows to score"):
        score(lake, use, PARTITION)


@pytest.mark.full
@pytest.mark.parametrize("name", sorted(ESTIMATORS["binary"]))
def test_a_model_says_the_same_to_the_bit_whichever_the_batch(
    use: UseCase, name: str, small: Callable[[int], None]
) -> None:
    """A row's prediction doesn't depend on the other rows of its batch."""
    chance, rows = np.random.default_rng(7), 1003
    given: dict[str, Any] = {c: chance.normal(size=rows) for c in use.features.numeric}
    given |= {c: chance.choice(["a", "b", None], rows) for c in use.features.categorical}
    table = pa.table({name: pa.array(values) for name, values in given.items()})
    small_params = {"random_forest": {"n_estimators": 10}, "mlp": {"max_iter": 20}}.get(name, {})
    estimator = build_estimator(use, Recipe(name=name, estimator=name, params=small_params))
    estimator.fit(artifacts.model_input(table, use), chance.integers(0, 2, rows))
    whole = artifacts.predict(estimator, table, use)
    for batch in (8, 64, 512):
        small(batch)
        assert artifacts.predict(estimator, table, use).tobytes() == whole.tobytes()


class Breaks:
    """A model that fails on the batch with row 24, and knows who asked."""

    def __init__(self) -> None:
        self.classes_, self.threads = np.array([0.0, 1.0]), set[int]()

    def predict_proba(self, given: pd.DataFrame) -> np.ndarray[Any, Any]:
        """Return a half for each class."""
        self.threads.add(threading.get_ident())
        if 24.0 in given.iloc[:, 0].to_numpy():
            raise ValueError("row 24")
        return np.full((len(given), 2), 0.5)


def test_what_fails_in_one_part_fails_whole_and_leaves_no_thread(
    use: UseCase, small: Callable[[int], None]
) -> None:
    """The error is a ModelError, no worker outlives the call, and the warning filters are restored."""
    small(8)
    rows = {c: pa.array(np.arange(40, dtype=float)) for c in use.features.numeric}
    rows |= {c: pa.array(["a"] * 40) for c in use.features.categorical}
    model, before, filters = Breaks(), threading.active_count(), list(warnings.filters)
    with pytest.raises(ModelError, match="row 24"):
        artifacts.predict(cast("Any", model), pa.table(rows), use)
    assert threading.active_count() == before
    assert list(warnings.filters) == filters
    assert model.threads - {threading.get_ident()}
    assert (artifacts.predict(cast("Any", model), pa.table(rows).slice(0, 24), use) == 0.5).all()


@pytest.mark.full
@pytest.mark.timeout(300)
def test_memory_hardly_grows_with_the_rows(tmp_path: Path) -> None:
    """Twelve times the rows take at most 350 MB more, where all in memory took 780 (230 and 1,000 MB)."""
    peaks = []
    for rows in (100_000, 1_200_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        command = [sys.executable, "-m", "tests.score.large", str(rows), str(folder)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 350, peaks
