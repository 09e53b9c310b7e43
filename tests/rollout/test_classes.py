"""Live losses of several classes are paired like any other: the same rows, by partition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include.features.build import features
from include.features.labels import labels
from include.models import artifacts
from include.promote.ledger import SHADOW, Trial
from include.rollout.pipeline import live_losses
from include.score import predictions
from include.score.fallback import FallbackStep, StepPredictions
from include.stats.metrics import row_losses
from include.storage.lake import Lake
from tests.train import visits

PARTITIONS = ("2024-03-20", "2024-03-21", "2024-03-22")


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_both_models_lose_on_the_same_rows(tmp_path: Path, kind: str) -> None:
    """Served and shadow predictions are read class by class, and only labeled rows of both count.

    A label below 0 has no Poisson deviance, and counts as none.
    """
    objective = "log_loss" if kind == "multiclass" else "poisson_deviance"
    spec = visits.usecase(tmp_path, kind, squared_error=objective)
    lake = Lake(spec.name, str(tmp_path / "lake"))
    visits.fill(lake, spec)
    random, said = np.random.default_rng(1), {}
    for table, model in (("predictions", "old"), ("shadows", "new")):
        for partition in PARTITIONS:
            rows = features(lake, spec, [partition])
            assert artifacts.model_input(rows, spec).shape == (40, 3)
            said[model, partition] = random.dirichlet([2, 3, 4], rows.num_rows)
            if kind == "regression":
                said[model, partition] = said[model, partition].sum(axis=1) * random.exponential(9, 40)
            served = StepPredictions(FallbackStep("champion", model, model), "", said[model, partition])
            made = predictions.build_predictions(spec, rows, served)
            made = made.slice(10) if model == "new" and partition == PARTITIONS[0] else made
            lake.publish(table, made, {"partition": partition, "model": model})
    sides = [{"model": name, "version": name, "effective_from": PARTITIONS[0]} for name in ("new", "old")]
    found = live_losses(lake, spec, Trial(SHADOW, *sides), visits.LAST)
    came = labels(lake, spec, PARTITIONS, as_of=visits.LAST)
    assert found.partitions == PARTITIONS
    for place, partition in enumerate(PARTITIONS):
        actual = came.filter(np.array(came["partition"].to_pylist()) == partition)[spec.problem.target]
        actual = actual.to_numpy()
        there = (actual >= 0) & (np.arange(40) >= (10 if not place else 0))
        assert found.rows[place] == there.sum()
        for sums, model in ((found.candidate, "new"), (found.incumbent, "old")):
            each = row_losses(objective, actual[there], said[model, partition][there])
            assert sums[place] == pytest.approx(each.sum())
