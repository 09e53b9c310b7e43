"""A boosted model that loses to "departure delay minus 5" is refused, however good else; on real flights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from include.evaluate.pipeline import evaluate
from include.judge.evidence import Evidence
from include.models.registry import Registry
from include.promote.verdicts import judge_and_record
from include.spec.load import read
from include.storage.lake import Lake
from include.train.pipeline import train
from tests.usecases.flight_minutes import world

pytestmark = pytest.mark.full
HOME = Path(world.__file__).parent
FIRST, PARTITION = "2013-01-01", "2013-03-31"


def test_a_rule_of_thumb_serves_where_no_candidate_beats_it(tmp_path: Path) -> None:
    """On real departures the model beats the mean and loses to the rule, so the rule is the champion."""
    spec = read(HOME / "usecase.yaml")
    lake = Lake(spec.name, str(tmp_path / "lake"))
    world.fill(lake, spec, FIRST, PARTITION)
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", f"file://{tmp_path}/artifacts")
    run = train(lake, spec, PARTITION, registry=registry).id
    ref = evaluate(lake, spec, PARTITION, run, registry=registry)
    evidence = Evidence.from_json(lake.get(ref.id) or b"")
    rmse = {name: np.sqrt(sum(sums) / ref.rows) for name, sums in evidence.losses.sums.items()}
    assert rmse["baseline:rule"] == pytest.approx(17.0, abs=0.2)
    assert evidence.recipe == "rule"
    losses = evidence.selection["losses"]
    assert losses["rule"] < losses["boosting"] < losses["prior"] / 2

    verdict = judge_and_record(lake, spec, ref.id)
    assert verdict.promotes, verdict.sentence
    assert verdict.sentence.startswith("rubber-stamped: no champion to compare with: rule ")
