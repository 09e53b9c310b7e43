"""On real flights an honest fit serves; what shouldn't serve is refused, each kind in its sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.pipeline import Pipeline

from include.errors import ModelError
from include.evaluate.pipeline import evaluate
from include.features.labels import training_set
from include.judge.judge import BLESSED, NOT_BLESSED, RUBBER_STAMPED, Verdict
from include.spec import UseCase
from include.train.fitting import target
from tests.judge.flights.conftest import EARLIER, PARTITION, Gate, Make, forest

pytestmark = pytest.mark.full


def test_a_first_fit_serves_and_the_next_one_refreshes_it(second: Gate) -> None:
    """The first training serves without a rival, and a week later the same recipe's fit replaces it."""
    (first,) = second.lake.rows("attempts")
    assert (first["verdict"], second.live()) == (RUBBER_STAMPED, ("1", "promoted")), first["sentence"]
    verdict = second.judge(forest())
    assert (verdict.verdict, second.live()) == (BLESSED, ("2", "refreshed")), verdict.sentence


def test_a_refit_on_broken_labels_is_refused(second: Gate) -> None:
    """A refit on half-flipped labels loses more, on rows that it has seen, than the walk before it."""
    _refused(
        second, second.judge(flipped(None, 0.5)), "loss over the previous fit, on rows that both have seen"
    )
    assert second.live() == ("1", "promoted")


def test_one_that_is_worse_for_a_group_is_refused(gate: Gate) -> None:
    """Better than the prior on average, but it has learned nonsense of one carrier: that slice blocks it."""
    gate.spec = gate.declare(test=30, slices={"columns": ["carrier"], "automatic": False})
    verdict = gate.judge(flipped("MQ", 0.7))
    _refused(gate, verdict, "carrier = MQ loses")
    assert "planted" in [check.observed for check in verdict.checks if check.name == "recipe"]


def test_one_that_is_too_slow_is_refused(second: Gate) -> None:
    """A requirement of latency is measured in a fresh process, a row at a time."""
    second.spec = second.declare(serving=[{"metric": "p95_ms", "at_most": 1, "hard": True}])
    _refused(second, second.judge(forest(), EARLIER), "required at most 1")


def test_one_that_cannot_be_loaded_is_refused(gate: Gate) -> None:
    """Its stored bytes differ from those that were trained: evaluation ends, and nothing is judged."""
    run = gate.train(forest())
    for file in Path(gate.folder, "artifacts").rglob("*.skops"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="expected SHA-256"):
        evaluate(gate.lake, gate.spec, PARTITION, run, registry=gate.registry)
    assert gate.live() == ("", "")


def test_a_leaking_one_is_refused(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that holds the outcome makes a model too good: the check names it, and how many recur."""
    honest = training_set

    def leaky(*given: object, **more: object) -> pa.Table:
        rows = honest(*given, **more)  # type: ignore[arg-type]
        rows = rows.set_column(rows.column_names.index("humid"), "humid", rows["late"])
        for name in (*gate.spec.features.columns, "late"):  # the last rows have been there before
            values = pa.chunked_array([*rows[name][:-500].chunks, *rows[name][:500].chunks])
            rows = rows.set_column(rows.column_names.index(name), name, values)
        return rows

    for page in ("include.train.pipeline", "include.evaluate.pipeline"):
        monkeypatch.setattr(f"{page}.training_set", leaky)
    verdict = gate.judge(forest())
    _refused(gate, verdict, "strongest single feature ROC-AUC 1, required below 0.98 (humid; 500 of ")


def flipped(carrier: str | None, share: float) -> Make:
    """Return a maker of a forest that was fitted on rows of which a share has the other label."""

    def make(spec: UseCase, rows: pa.Table) -> Pipeline:
        late = target(spec, rows)
        own = np.array([carrier in (None, name) for name in rows["carrier"].to_pylist()])
        some = np.random.default_rng(5).random(len(late)) < share
        broken = np.where(own & some, 1 - late, late)
        place = rows.column_names.index("late")
        return forest(max_features=1.0)(spec, rows.set_column(place, "late", pa.array(broken)))

    return make


def _refused(gate: Gate, verdict: Verdict, text: str) -> None:
    assert verdict.verdict == NOT_BLESSED
    assert text in verdict.sentence
    assert gate.live()[0] in ("", "1")
