"""A clinic whose partitions came from files, a champion that served two of them, and its run in MLflow."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import csv
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from include.environment import Endpoint
from include.errors import SettingError
from include.features.labels import training_set
from include.ingest.pipeline import ingest
from include.models import artifacts
from include.models.registry import Registry
from include.monitor.pipeline import monitor
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.stats import profiles
from include.storage.lake import Lake
from include.train.monitoring_baselines import publish_reference_profiles
from tests.ops.champion import record_champion
from tests.train import visits

FIRST, LAST = "2024-03-19", "2024-03-30"
SERVED = ("2024-03-31", "2024-04-01")
NEXT = "2024-04-02"
NOW = datetime(2024, 4, 3, tzinfo=UTC)


def _files(folder: Path, spec: UseCase, first: str, last: str) -> None:
    """Write what the clinic sends on each partition."""
    for partition in spec.clock.keys(first, last):
        day = spec.clock.shift(partition, -2)
        for name, rows in (("visits", visits._visits(partition, NOW)), ("outcomes", visits._outcomes(day))):
            file = folder / name / f"{partition}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            columns = list(spec.sources[name].columns)
            table = pa.table(
                {c: pa.array([row[c] for row in rows], pa.string() if not rows else None) for c in columns}
            )
            csv.write_csv(table, file)


@dataclass(frozen=True)
class Clinic:
    """A use case, where its lake is, and the files that it gets."""

    spec: UseCase
    folder: Path

    @property
    def lake(self) -> Lake:
        """The lake, opened anew: no table is remembered."""
        return Lake(self.spec.name, str(self.folder / "lake"))

    def connect(self, name: str) -> Endpoint:
        """Return the way to the clinic's files, and to no database but MLflow's."""
        if name == "evergreen_mlflow_db":
            return Endpoint(name, f"sqlite:///{self.folder}/mlflow.db")
        if name != "clinic":
            raise SettingError(f"connection {name}")
        return Endpoint(name, (self.folder / "files").as_uri())

    def ingest(self, *partitions: str) -> None:
        """Take in each source's files of some partitions."""
        for source in self.spec.sources:
            list(ingest(self.lake, self.spec, source, list(partitions), self.connect, now=NOW))

    def partition(self, partition: str) -> None:
        """Take in, score and watch a partition."""
        self.ingest(partition)
        score(self.lake, self.spec, partition)
        monitor(self.lake, self.spec, partition)

    def learn(self) -> None:
        """Fit a champion on the history, keep a run of it in MLflow, and promote it."""
        rows = training_set(self.lake, self.spec, LAST)
        columns = [
            ("numeric", make_pipeline(SimpleImputer()), list(self.spec.features.numeric)),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), list(self.spec.features.categorical)),
        ]
        model = Pipeline([("columns", ColumnTransformer(columns)), ("model", LogisticRegression())])
        model.fit(artifacts.model_input(rows, self.spec), rows[self.spec.problem.target].to_numpy())
        digest = artifacts.store_model(self.lake, artifacts.serialize(model))
        output = pa.table({"prediction": artifacts.predict(model, rows, self.spec)})
        parts = [
            profiles.build_profile(
                "", LAST, rows, self.spec.features.numeric, self.spec.features.categorical
            ),
            profiles.build_profile("", LAST, rows, [self.spec.problem.target], []),
            profiles.build_profile("", LAST, output, ["prediction"], []),
        ]
        publish_reference_profiles(self.lake, digest, LAST, parts)
        registry = Registry(f"sqlite:///{self.folder}/mlflow.db")
        with registry.recording(self.spec.name, "key", "champion") as run:
            registry.put(run, {artifacts.model_key(digest): artifacts.serialize(model)})
        record_champion(self.lake, digest, SERVED[0], LAST, run)


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clinic's declaration, files, lake and MLflow's database."""
    folder = tmp_path_factory.mktemp("lived")
    clinic = Clinic(visits.usecase(folder / "usecases"), folder)
    _files(folder / "files", clinic.spec, FIRST, NEXT)
    clinic.ingest(*clinic.spec.clock.keys(FIRST, LAST))
    clinic.learn()
    for partition in SERVED:
        clinic.partition(partition)
    return folder


@pytest.fixture
def clinic(lived: Path, tmp_path: Path) -> Clinic:
    """That state, copied."""
    shutil.copytree(lived, tmp_path / "clinic")
    home = next((tmp_path / "clinic").glob("usecases/*/usecase.yaml"))
    return Clinic(read(home), tmp_path / "clinic")


@pytest.fixture
def home(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """The clinic, whose lake the settings name."""
    monkeypatch.setenv("EVERGREEN_LAKE", str(clinic.folder / "lake"))
    return clinic


def content(lake: Lake) -> dict[str, object]:
    """Return each table's version and rows, and every object's bytes."""
    found: dict[str, object] = {
        name: (lake.version(name), sorted(map(repr, lake.rows(name)))) for name in lake.tables()
    }
    keys = lake.keys("")
    return found | {key: lake.get(key) for key in keys if not key.startswith("tables/")}


def flip(file: Path) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_short(file: Path) -> None:
    """Lose the end."""
    file.write_bytes(file.read_bytes()[:-1])
