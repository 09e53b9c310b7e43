"""A recipe that can't be fitted, or can't predict some rows, doesn't stop the training of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from include.errors import SpecError
from include.evaluate.pipeline import evaluate
from include.judge.evidence import Evidence
from include.judge.judge import judge
from include.models.registry import Registry
from include.promote.promotion import force
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.storage import schemas
from include.storage.lake import Lake
from include.train import walks
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from tests.extensions.conftest import BOOSTING, MY_MODEL, NEAREST, Declare
from tests.train import visits

FAILS = MY_MODEL.replace("return self\n", "raise ValueError('no memory of its own')\n", 1)
FAILS_IF_TOLD = MY_MODEL.replace(
    "        self.rows_,",
    "        assert not Path(__file__).with_name('fails').exists()\n        self.rows_,",
).replace("import numpy as np", "from pathlib import Path\n\nimport numpy as np")
NOT_STORABLE = MY_MODEL.replace("return self\n", "self.link_ = lambda value: value\n        return self\n", 1)
TEXTS = MY_MODEL.replace("np.column_stack([1 - share, share])", "np.full((len(share), 2), 'often')")
NOT_FINITE = MY_MODEL.replace("return np.column_stack", "share[0] = np.nan\n        return np.column_stack")
# knows the places that it was fitted on, and no other
BY_PLACE = """
import pandas as pd


class ByPlace:
    takes_raw = True

    def fit(self, rows, actual):
        self.means_ = pd.Series(actual).groupby(rows["place"].fillna("none")).mean().to_dict()
        return self

    def predict(self, rows):
        return (self.predict_proba(rows)[:, 1] > 0.5).astype(float)

    def predict_proba(self, rows):
        share = pd.Series([self.means_[place] for place in rows["place"].fillna("none")])
        return pd.DataFrame({"no": 1 - share, "yes": share}).to_numpy()
"""
PLACE = '{name: place, estimator: "by_place:ByPlace"}'


@pytest.fixture
def lake(tmp_path: Path, declare: Declare) -> Lake:
    """The clinic's lake."""
    lake = Lake("missed_visits", str(tmp_path / "lake"))
    visits.fill(lake, declare())
    return lake


def train_and_judge(lake: Lake, spec: UseCase, registry: Registry) -> tuple[TrainingRecord, Evidence]:
    """Return the record of a training and its evidence, which is judged."""
    run = train(lake, spec, visits.LAST, registry=registry).id
    ref = evaluate(lake, spec, visits.LAST, run, registry=registry)
    judge_and_record(lake, spec, ref.id)
    return TrainingRecord.from_json(registry.get(run, PATH)), Evidence.from_json(lake.get(ref.id) or b"")


BROKEN = {
    "raises": (FAILS, "ValueError: no memory of its own"),
    "not_finite": (NOT_FINITE, "with 1 that are not finite"),
    "not_storable": (NOT_STORABLE, "lambda"),
    "texts": (TEXTS, "often"),
}


@pytest.mark.full
def test_the_others_are_trained_and_the_verdict_says_so(
    lake: Lake, declare: Declare, registry: Registry
) -> None:
    """The verdict names each recipe and its error, which doesn't keep another recipe from serving."""
    entries = [NEAREST.replace("nearest", name, 1).replace("my_model", name) for name in BROKEN]
    modules = {name: module for name, (module, _) in BROKEN.items()}
    spec = declare({BOOSTING: "\n    - ".join(entries)}, **modules)
    record, evidence = train_and_judge(lake, spec, registry)
    verdict = judge(evidence, spec.gate, champion=False)
    assert "; not met: recipe " in verdict.sentence
    for name, (_, problem) in BROKEN.items():
        assert problem in record.selection.failed[name]
        assert f"missed_visits: training.{name}" in record.selection.failed[name]
        assert name not in record.selection.weights
        assert f"recipe {name} none, so it can't be chosen, required a fit" in verdict.sentence
        assert problem in verdict.sentence


@pytest.mark.full
def test_a_baseline_that_fails_is_not_compared_with(lake: Lake, declare: Declare, registry: Registry) -> None:
    """The test rows are those that the other recipes predicted, and the fallback is another baseline."""
    linear = "{name: linear, estimator: logistic_regression}"
    _, expected = train_and_judge(lake, declare(), registry)
    spec = declare({linear: NEAREST}, my_model=FAILS)
    record, evidence = train_and_judge(lake, spec, registry)
    assert evidence.losses.rows == expected.losses.rows
    assert "baseline:nearest" not in evidence.metrics
    assert record.selection.baseline == "prior"


@pytest.mark.full
def test_the_serving_recipe_keeps_its_place_when_it_fails(
    lake: Lake, declare: Declare, registry: Registry
) -> None:
    """No worse recipe takes over because the best one can't be fitted today: the training fails."""
    forest = (
        "    - {name: forest, estimator: random_forest, params: {n_estimators: 10, min_samples_leaf: 5}}\n"
    )
    linear = "    - {name: linear, estimator: logistic_regression}\n"
    changes = {BOOSTING: NEAREST.replace("5", "25"), forest: "", linear: ""}
    spec = declare(changes, my_model=FAILS_IF_TOLD)
    _, evidence = train_and_judge(lake, spec, registry)
    assert evidence.recipe == "nearest"
    force(lake, spec, evidence.key, "tests", "a champion is needed", registry=registry)
    later = spec.clock.shift(visits.LAST, 7)
    visits.fill(lake, spec, spec.clock.shift(visits.LAST, 1), later)
    # the code is the same, so it is the same recipe
    flag = spec.folder / "fails"
    flag.touch()
    with pytest.raises(SpecError, match=r"missed_visits: training\.nearest: expected an estimator"):
        train(lake, spec, later, registry=registry)
    flag.unlink()
    assert train(lake, spec, later, registry=registry).note.startswith("missed_visits v")


def in_order(lake: Lake) -> list[dict[str, Any]]:
    """Return the rows of the walks."""
    return sorted(lake.rows(walks.TABLE), key=lambda row: (row["partition"], row["as_of"], row["recipe_key"]))


@pytest.mark.full
def test_a_partition_that_a_fit_cannot_predict_counts_as_its_worst(
    lake: Lake, declare: Declare, registry: Registry
) -> None:
    """Its loss there is infinite, in whatever order the walks are extended; elsewhere it is what it lost."""
    spec = declare({BOOSTING: PLACE}, by_place=BY_PLACE)
    record, _ = train_and_judge(lake, spec, registry)
    rows = {row["partition"]: row["loss"] for row in lake.rows(walks.TABLE, {"recipe": "place"})}
    unseen = {key for key, loss in rows.items() if np.isinf(loss)}
    assert unseen
    assert unseen < set(rows)
    assert "place" in record.selection.weights
    assert "place" not in record.selection.losses
    stored = in_order(lake)
    partitions = sorted({row["partition"] for row in stored})
    lake.publish(walks.TABLE, schemas.WALKS.empty_table(), {"partition": partitions})
    for until in reversed(spec.clock.keys(partitions[0], visits.LAST)):
        walks.extend(lake, spec, until)
    walks.extend(lake, spec, visits.LAST)
    assert in_order(lake) == stored
    version = lake.version(walks.TABLE)
    walks.extend(lake, spec, visits.LAST)
    assert lake.version(walks.TABLE) == version  # and it isn't tried again
