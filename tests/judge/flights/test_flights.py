"""On real flights what shouldn't serve is refused, each kind in its sentence; what is better serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.evaluate.pipeline import evaluate
from include.features import build as features
from include.judge.judge import BLESSED, NOT_BLESSED
from include.models import artifacts
from include.spec import UseCase
from include.stats.metrics import row_losses
from include.train.fit import target
from tests.judge.flights.conftest import BEFORE, PARTITION, Gate, forest

pytestmark = pytest.mark.full
WEAK = {"n_estimators": 3, "max_depth": 1}


def test_a_truly_better_one_serves(gate: Gate) -> None:
    """The shipped recipe replaces one that has hardly learnt: blessed, and the live champion."""
    gate.champion(gate.fitted(**WEAK))
    verdict = gate.judge(forest())
    assert verdict.verdict == BLESSED, verdict.sentence
    assert gate.live() == "1"


def test_a_worse_one_is_refused(gate: Gate) -> None:
    """One that has hardly learnt doesn't replace the shipped recipe."""
    gate.champion(gate.fitted())
    _refused(gate, gate.judge(forest(**WEAK)), "log_loss gain over champion")


def test_an_equal_one_is_refused(gate: Gate) -> None:
    """The same recipe on the same rows with another seed is no gain."""
    gate.champion(gate.fitted())
    _refused(gate, gate.judge(forest(seed=8, until=BEFORE)), "log_loss gain over champion")


def test_a_lucky_one_is_refused(gate: Gate) -> None:
    """Of four seeds the one that looks best on the window is refused, where "new >= old" promotes it."""
    champion = gate.fitted()
    rows = gate.rows(PARTITION)
    test = rows.filter(pa.array([partition >= "2013-02-01" for partition in rows["partition"].to_pylist()]))
    means = {seed: _mean(gate.spec, gate.fitted(seed=seed), test) for seed in range(20, 24)}
    seed = min(means, key=lambda seed: means[seed])
    assert means[seed] < _mean(gate.spec, champion, test), "the plain gate would promote it"
    gate.champion(champion)
    _refused(gate, gate.judge(forest(seed=seed, until=BEFORE)), "log_loss gain over champion")


def test_one_that_is_worse_for_a_group_is_refused(gate: Gate) -> None:
    """Better on average, but it has learnt nonsense of one carrier: that slice stands in its way."""
    gate.spec = gate.declare(slices={"columns": ["carrier"], "automatic": False})
    gate.champion(gate.fitted(**WEAK))

    def unfair(spec: UseCase, rows: pa.Table) -> Pipeline:
        late = target(spec, rows)
        envoy = np.array([carrier == "MQ" for carrier in rows["carrier"].to_pylist()])
        some = np.random.default_rng(5).random(len(late)) < 0.7
        place = rows.column_names.index("late")
        harmed = np.where(envoy & some, 1 - late, late)
        return forest(max_features=1.0)(spec, rows.set_column(place, "late", pa.array(harmed)))

    verdict = gate.judge(unfair)
    _refused(gate, verdict, "carrier = MQ loses")
    (average,) = [c for c in verdict.checks if "gain over champion" in c.name]
    assert float(average.observed.split()[0]) > 0, "it is better on average"


def test_one_that_is_too_slow_is_refused(gate: Gate) -> None:
    """A requirement of latency is measured in a fresh process, a row at a time."""
    gate.spec = gate.declare(serving=[{"metric": "p95_ms", "at_most": 1}])
    gate.champion(gate.fitted(**WEAK))
    _refused(gate, gate.judge(forest()), "required at most 1")


def test_one_that_cannot_be_loaded_is_refused(gate: Gate) -> None:
    """Its stored bytes differ from those that were trained: evaluation ends, and nothing is judged."""
    gate.champion(gate.fitted(**WEAK))
    run = gate.train(forest())
    for file in Path(gate.folder, "artifacts").rglob("*.skops"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="required SHA-256"):
        evaluate(gate.lake, gate.spec, PARTITION, run, registry=gate.registry)
    assert gate.live() == "0"


def test_a_leaking_one_is_refused(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that holds the outcome makes a model too good: the sentinel names it."""
    honest = features.training_set

    def leaky(*given: object, **more: object) -> pa.Table:
        rows = honest(*given, **more)  # type: ignore[arg-type]
        return rows.set_column(rows.column_names.index("humid"), "humid", rows["late"])

    for page in ("include.train.pipeline", "include.evaluate.pipeline"):
        monkeypatch.setattr(f"{page}.training_set", leaky)
    gate.champion(gate.fitted(**WEAK))
    _refused(gate, gate.judge(forest()), "strongest single feature 1, required below 0.98 (humid")


def _refused(gate: Gate, verdict: object, text: str) -> None:
    assert getattr(verdict, "verdict", "") == NOT_BLESSED
    assert text in getattr(verdict, "sentence", "")
    assert gate.live() == "0"


def _mean(spec: UseCase, pipeline: Pipeline, rows: pa.Table) -> float:
    return float(row_losses("log_loss", target(spec, rows), artifacts.predict(pipeline, rows, spec)).mean())
