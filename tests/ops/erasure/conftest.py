"""A clinic whose patients come again and again: files, a champion, and three partitions that it served."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from include.environment import Endpoint
from include.errors import SettingError
from include.features.labels import training_set
from include.ingest.pipeline import Outcome, ingest
from include.models import artifacts
from include.monitor.pipeline import monitor
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.stats import profiles
from include.storage.lake import Lake
from include.train.monitoring_baselines import publish_alarm_limits, publish_reference_profiles
from tests.ops.champion import record_champion

FIRST, LAST = "2024-03-01", "2024-03-14"
SERVED = ("2024-03-15", "2024-03-16", "2024-03-17")
NEXT = "2024-03-18"
NOW = datetime(2024, 4, 3, tzinfo=UTC)
HASH_KEY = "of these tests"
PATIENT = "patient-0007"  # comes on each even day, and phones on each
SPEC = """
name: clinic
problem: {kind: binary, statement: s, target: missed}
schedule: {batch: "0 18 * * *", training: "0 20 * * 0", timezone: UTC, start: "2024-03-01"}
sources:
  visits:
    kind: objects
    connection: clinic
    path: visits/{day}.csv
    available_at: "12:00"
    key: [visit]
    columns:
      visit: {type: string, required: true}
      patient: {type: string, required: true, from: Patient}
      minute: {type: integer}
      distance: {type: number}
      place: {type: string}
    contract: {min_rows: 12, max_rows: 13}
  calls:
    kind: objects
    connection: clinic
    path: calls/{day}.json
    format: json
    available_at: "12:00"
    key: [call]
    columns:
      call: {type: string, required: true}
      patient: {type: string, required: true}
      seconds: {type: number}
    contract: {min_rows: 4}
  outcomes:
    kind: objects
    connection: clinic
    path: outcomes/{day}.csv
    available_at: "06:00"
    key: [visit]
    columns:
      visit: {type: string, required: true}
      late: {type: number}
    contract: {min_rows: 0}
features: {spine: visits, lookback: 1, numeric: [distance], categorical: [place]}
labels: {source: outcomes, sql: "late > 15", delay: 1}
training:
  test: 4
  seed: 7
  baselines:
    - {name: prior, estimator: prior}
  candidates:
    - {name: linear, estimator: logistic_regression}
gate: {objective: log_loss, min_partitions: 3, block_partitions: 1}
scoring: {constant: 0.2}
"""
SQL = "SELECT visit, partition, distance, place FROM spine"


def visits(day: int) -> list[str]:
    """Return the lines of a day's file: thirteen visits, of which one is quarantined on some days."""
    bad = 3 if day % 6 == 0 else 12 if day % 4 == 0 else None  # the patient's own, or another
    rows = [
        (
            f"d{day}v{i}",
            f"patient-{(day + i) % 2 + 2 * i:04}",
            (i * 5 + day) % 60,
            "far" if i == bad else 1.5 * i + day,
            "north" if (i + day) % 3 else "south",
        )
        for i in range(13)
    ]
    return ["visit,Patient,minute,distance,place", *(",".join(map(str, row)) for row in rows)]


def write_files(folder: Path, first: int, last: int) -> None:
    """Write what the clinic sends on some days of March."""
    for name in ("visits", "calls", "outcomes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for day in range(first, last + 1):
        date = f"2024-03-{day:02}"
        text = "\n".join(visits(day)) + "\n"
        data = text.encode() if day % 2 else gzip.compress(text.encode())
        (folder / "visits" / f"{date}.csv").write_bytes(data)
        rows = [
            f'{{"call": "c{day}-{i}", "patient": "patient-{(i + 5):04}", "seconds": {i}.50}}'
            for i in range(5)
        ]
        (folder / "calls" / f"{date}.json").write_text(f"[{', '.join(rows)}]")
        lines = [f"d{day - 1}v{i},{(i * 7 + day) % 31}" for i in range(13)]
        (folder / "outcomes" / f"{date}.csv").write_text("\n".join(["visit,late", *lines]) + "\n")


class Clinic:
    """A use case, where its lake is (by default in its folder), and the files that it gets."""

    def __init__(self, folder: Path, address: str | None = None) -> None:
        self.folder, self.address = folder, address or str(folder / "lake")
        self.spec: UseCase = read(folder / "usecases" / "clinic" / "usecase.yaml")

    @property
    def lake(self) -> Lake:
        """The lake, opened anew: no table is remembered."""
        return Lake("clinic", self.address)

    def move(self, address: str) -> Clinic:
        """Return the clinic with the same lake in another store, in place of what is there."""
        moved = Clinic(self.folder, address)
        moved.lake.remove(moved.lake.keys(""))
        for key in self.lake.keys(""):
            moved.lake.create(key, self.lake.get(key) or b"")
        return moved

    def connect(self, name: str) -> Endpoint:
        """Return the way to the clinic's files."""
        if name != "clinic":
            raise SettingError(f"connection {name}")
        return Endpoint(name, (self.folder / "files").as_uri())

    def ingest(self, *partitions: str, lake: Lake | None = None, **options: Any) -> list[Outcome]:
        """Take in each source's files of some partitions."""
        return [
            outcome
            for source in self.spec.sources
            for outcome in ingest(
                lake or self.lake, self.spec, source, list(partitions), self.connect, now=NOW, **options
            )
        ]

    def run(self, partition: str, lake: Lake | None = None) -> None:
        """Take in, score and watch a partition."""
        lake = lake or self.lake
        self.ingest(partition, lake=lake)
        score(lake, self.spec, partition)
        monitor(lake, self.spec, partition)

    def learn(self, lake: Lake | None = None) -> str:
        """Fit a champion on the history, publish its reference, promote it, and return its digest."""
        lake = lake or self.lake
        features = self.spec.features
        rows = training_set(lake, self.spec, LAST)
        columns = [
            ("numeric", make_pipeline(SimpleImputer()), list(features.numeric)),
            ("categorical", OneHotEncoder(handle_unknown="ignore"), list(features.categorical)),
        ]
        model = Pipeline([("columns", ColumnTransformer(columns)), ("model", LogisticRegression())])
        model.fit(artifacts.model_input(rows, self.spec), rows[self.spec.problem.target].to_numpy())
        digest = artifacts.store_model(lake, artifacts.serialize(model))
        profile = profiles.build_profile("", LAST, rows, features.numeric, features.categorical)
        publish_reference_profiles(lake, digest, LAST, [profile])
        record: Any = SimpleNamespace(
            partition=LAST,
            data="d",
            spec=self.spec.digest,
            code="c",
            challenger=SimpleNamespace(digest=digest),
        )
        publish_alarm_limits(
            lake,
            self.spec,
            record,
            profiles.merge_profiles(profile.to_pylist()),
            rows,
            artifacts.predict(model, rows, self.spec),
        )
        record_champion(lake, digest, SERVED[0], LAST, "a")
        return digest


def declare(folder: Path, changes: Sequence[tuple[str, str]] = ()) -> None:
    """Write the declaration, of which some texts are replaced."""
    text, sql = SPEC, SQL
    for old, new in changes:
        assert old in text + sql
        text, sql = text.replace(old, new), sql.replace(old, new)
    home = folder / "usecases" / "clinic"
    home.mkdir(parents=True, exist_ok=True)
    (home / "usecase.yaml").write_text(text)
    (home / "features.sql").write_text(sql)


@pytest.fixture(autouse=True)
def _hash_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the key under which erased keys are hashed."""
    monkeypatch.setenv("EVERGREEN_HASH_KEY", HASH_KEY)


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the clinic's declaration, files and lake."""
    folder = tmp_path_factory.mktemp("lived")
    declare(folder)
    write_files(folder / "files", 1, 18)
    clinic = Clinic(folder)
    clinic.ingest(*clinic.spec.clock.keys(FIRST, LAST))
    clinic.learn()
    for partition in SERVED:
        clinic.run(partition)
    return folder


@pytest.fixture
def copy(lived: Path, tmp_path: Path) -> Callable[[str], Clinic]:
    """Return a function that copies that state to a folder of a name."""

    def copied(name: str) -> Clinic:
        shutil.copytree(lived, tmp_path / name)
        return Clinic(tmp_path / name)

    return copied


@pytest.fixture
def clinic(copy: Callable[[str], Clinic]) -> Clinic:
    """That state, copied."""
    return copy("clinic")
