"""A boosted model that loses to "departure delay minus 5" is refused, however good else; on real flights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include.evaluate.pipeline import evaluate
from include.judge.evidence import Evidence
from include.judge.judge import NOT_BLESSED
from include.models.registry import Registry
from include.promote.promotion import judge_and_record
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.usecases.flight_minutes import world

pytestmark = pytest.mark.full
HOME = Path(world.__file__).parent
FIRST, PARTITION = "2013-01-01", "2013-03-31"


def test_model_that_does_not_beat_a_rule_of_thumb_is_refused_by_it(tmp_path: Path) -> None:
    """Trained on real departures the model beats the mean, loses to the rule, and the verdict says so."""
    spec = read(HOME / "usecase.yaml")
    lake = Lake(spec.name, str(tmp_path / "lake"))
    world.fill(lake, spec, FIRST, PARTITION)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", f"file://{tmp_path}/artifacts")
    run = train(lake, spec, PARTITION, registry=registry).uri
    ref = evaluate(lake, spec, PARTITION, run, registry=registry)
    evidence = Evidence.from_json(lake.get(ref.uri) or b"")
    rmse = {name: np.sqrt(sum(sums) / ref.rows) for name, sums in evidence.losses.sums.items()}
    assert rmse["baseline:rule"] == pytest.approx(17.0, abs=0.2)
    assert rmse["baseline:rule"] + 0.5 < rmse["challenger"] < rmse["baseline:prior"] / 2

    verdict = judge_and_record(lake, spec, ref.uri)
    checks = {check.name: check for check in verdict.checks}
    refused = checks["squared_error gain over baseline rule"]
    assert refused.passed is False
    assert refused.observed.startswith("-")
    assert checks["squared_error gain over baseline prior"].passed
    assert verdict.verdict == NOT_BLESSED
    assert refused.sentence() in verdict.sentence
