"""Parcels to score, and real models that differ, promoted by real switches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from include.features.labels import training_set
from include.models import artifacts
from include.promote import ledger
from include.references import digest_bytes
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import SWITCHES
from tests.features import parcels
from tests.kept import fill_folder

FIRST, LAST = "2024-03-01", "2024-03-10"
Deploy = Callable[..., None]


@pytest.fixture(scope="session")
def use(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case: the champion needs orders and roads, the one before it roads, the baseline nothing."""
    return parcels.spec(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="session")
def stored(use: UseCase, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of models by version: "1", "2", "0" (the baseline) and "nan", which gives no numbers."""
    lake = Lake("parcels", str(tmp_path_factory.mktemp("history")))
    parcels.fill(lake, use, FIRST, LAST)
    rows = training_set(lake, use, LAST)
    made = {version: _fit(use, rows, c) for version, c in (("0", 1e-6), ("1", 0.1), ("2", 1.0), ("nan", 2.0))}
    made["nan"][-1].coef_ *= np.nan
    return {version: artifacts.serialize(pipeline) for version, pipeline in made.items()}


def _fit(use: UseCase, rows: Any, c: float) -> Pipeline:
    numeric = make_pipeline(SimpleImputer(keep_empty_features=True))
    both = ColumnTransformer(
        [
            ("numeric", numeric, list(use.features.numeric)),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), list(use.features.categorical)),
        ]
    )
    made = Pipeline([("columns", both), ("model", LogisticRegression(C=c, max_iter=2000))])
    return made.fit(artifacts.model_input(rows, use), np.asarray(rows["late"].to_numpy()))


@pytest.fixture
def lake(use: UseCase, tmp_path: Path) -> Lake:
    """Every source published from the first partition to the last; nobody promoted."""
    fill_folder(
        "parcels", tmp_path / "lake", lambda made: parcels.fill(Lake("parcels", str(made)), use, FIRST, LAST)
    )
    return Lake("parcels", str(tmp_path / "lake"))


@pytest.fixture
def deploy(stored: dict[str, bytes]) -> Deploy:
    """Promotes a version, with the baseline, from a partition on: ``deploy(lake, "1", "2024-03-04")``."""

    def switch(lake: Lake, version: str, effective_from: str) -> None:
        def row(role: str, which: str) -> dict[str, Any]:
            artifacts.store_model(lake, stored[which])
            texts: dict[str, Any] = dict.fromkeys(SWITCHES.names, "")
            texts |= {"role": role, "version": which, "model": digest_bytes(stored[which]), "constant": 0.4}
            return texts | {
                "effective_from": effective_from,
                "judged_on": FIRST,
                "kind": "promoted",
                "by": "a test",
            }

        ledger.record_switch(lake, lambda rows: [row("champion", version), row("baseline", "0")])

    return switch
