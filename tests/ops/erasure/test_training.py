"""A training that runs while a person is erased leaves no model that nothing lists."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient

from include.errors import StaleDecision
from include.features.labels import training_set
from include.models.registry import Registry
from include.ops.erase import plan_erasure
from include.promote import ledger
from include.train import fits, pipeline
from include.train.pipeline import train
from include.train.record import PATH, TrainingRecord
from tests.ops.erasure.conftest import LAST, PATIENT, Clinic
from tests.ops.erasure.test_erase import erased


@pytest.mark.full
@pytest.mark.parametrize("late", [False, True], ids=["before the fits", "after the fits"])
def test_a_training_during_an_erasure_fails_and_the_next_one_is_fitted_without_the_rows(
    late: bool, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It registers no version. Fits that it stored before the erasure are listed; after it there are none."""
    name = "choose_recipe" if late else "require_learnable_labels"
    real = getattr(pipeline, name)

    def meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(pipeline, name, real)
        results.append(erased(clinic))
        return real(*args)

    results: list[Any] = []
    monkeypatch.setattr(pipeline, name, meanwhile)
    registry = Registry(f"sqlite:///{clinic.folder}/mlflow.db", f"file://{clinic.folder}/artifacts")
    champion = {row["model"] for row in ledger.switches(clinic.lake)}

    with pytest.raises(StaleDecision, match=r"found an erasure since it began.*train again"):
        train(clinic.lake, clinic.spec, LAST, registry=registry)

    stored = {key.removeprefix("models/").removesuffix(".skops") for key in clinic.lake.keys("models")}
    assert {model.model for model in results[0].models} == stored
    assert (stored == champion) is not late
    client = MlflowClient(registry.uri, registry.uri)
    assert list(client.search_model_versions(f"name = '{clinic.spec.name}'")) == []

    run = train(clinic.lake, clinic.spec, LAST, registry=registry).id
    rows = training_set(clinic.lake, clinic.spec, LAST)
    assert TrainingRecord.from_json(registry.get(run, PATH)).fitted_rows == rows.num_rows
    newest = {fit.model for fit in fits.read_fits(clinic.lake) if fit.partition == LAST}
    assert newest.isdisjoint(stored)
    assert plan_erasure(clinic.lake, clinic.spec, {"patient": PATIENT}).search.is_empty
