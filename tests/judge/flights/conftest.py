"""Two months of real flights in a lake, ingested once as the partitions would, and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest
import yaml
from sklearn.pipeline import Pipeline

from demo.weather import WeatherServer
from demo.world import landing_objects, weather_by_day, write_planes
from include.environment import Connect, Endpoint
from include.evaluate import leakage, refit
from include.evaluate.pipeline import evaluate
from include.ingest.pipeline import ingest
from include.judge.evidence import attempt_key_of
from include.judge.judge import Verdict
from include.models import artifacts
from include.models.registry import Registry
from include.promote.promotion import promote
from include.promote.verdicts import judge_and_record
from include.spec import UseCase, load
from include.spec.load import read
from include.spec.stages import Recipe
from include.storage.lake import Lake
from include.train import fits, fitting
from include.train.estimators import build_estimator
from include.train.pipeline import train
from tests.switches import newest_by_role

FIRST, EARLIER, PARTITION = "2012-12-31", "2013-02-21", "2013-02-28"


@pytest.fixture(scope="session")
def connect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """The demo's own world: files, the weather's API, and the fleet's database."""
    folder = tmp_path_factory.mktemp("world")
    for key, data in landing_objects().items():
        if key[-17:-7] <= "2013-03-01":
            path = folder / "landing" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    write_planes(folder / "planes.sqlite")
    server = WeatherServer(weather_by_day(), 0, "token")
    server.RequestHandlerClass.log_message = lambda *args: None  # type: ignore[method-assign]
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    there = {
        "landing": Endpoint("landing", (folder / "landing").as_uri()),
        "weather": Endpoint("weather", f"http://127.0.0.1:{server.server_address[1]}", password="token"),
        "fleet": Endpoint("fleet", f"sqlite:///{folder}/planes.sqlite"),
    }
    yield lambda name: there[name]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def ingested(connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with every source of every partition."""
    folder, spec = tmp_path_factory.mktemp("flights"), load("flight_delay")
    lake = Lake(spec.name, str(folder))
    for source in spec.sources:
        outcomes = list(ingest(lake, spec, source, spec.partitions(source, FIRST, PARTITION), connect))
        assert {one.outcome for one in outcomes} == {"published"}
    return folder


Make = Callable[[UseCase, pa.Table], Pipeline]


class Gate:
    """A lake of flights, and a way to plant any recipe into real trainings."""

    def __init__(self, lake: Lake, folder: Path, plant: Callable[[Make], None]) -> None:
        self.lake, self.folder, self.plant = lake, folder, plant
        self.registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
        self.spec = self.declare()

    def declare(self, *, test: int = 14, **gate: Any) -> UseCase:
        """Declare the shipped use case with the prior and one candidate, which is planted.

        A fortnight of test partitions tells most of what is planted, in half the time of the shipped month.
        """
        shipped = load("flight_delay")
        raw = yaml.safe_load((shipped.folder / "usecase.yaml").read_text())
        raw["training"]["baselines"] = [{"name": "prior", "estimator": "prior"}]
        raw["training"]["candidates"] = [{"name": "planted", "estimator": "hist_gradient_boosting"}]
        raw["training"]["test"] = test
        immediate = {"approval": "none", "rollout": {"kind": "immediate"}}
        raw["gate"] |= {"min_partitions": test - 6} | immediate | gate
        home = self.folder / shipped.name
        home.mkdir(exist_ok=True)
        (home / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        (home / "features.sql").write_text(shipped.sql)
        return read(home / "usecase.yaml")

    def train(self, make: Make, partition: str = PARTITION) -> str:
        """Train, with the planted recipe, and return the run."""
        self.plant(make)
        return train(self.lake, self.spec, partition, registry=self.registry).id

    def judge(self, make: Make, partition: str = PARTITION) -> Verdict:
        """Train, evaluate, judge and promote as far as the verdict allows."""
        run = self.train(make, partition)
        ref = evaluate(self.lake, self.spec, partition, run, registry=self.registry)
        verdict = judge_and_record(self.lake, self.spec, ref.id)
        promote(self.lake, self.spec, attempt_key_of(ref.id), registry=self.registry)
        return verdict

    def live(self) -> tuple[str, str]:
        """Return the version that serves as champion and how it came there; both are empty if none does."""
        row = newest_by_role(self.lake).get("champion")
        return (str(row["version"]), str(row["kind"])) if row else ("", "")


@contextmanager
def opened(folder: Path) -> Iterator[Gate]:
    """Open the gate of the lake in a folder; what is planted into it ends with it."""
    honest = fitting.fit_recipe
    with pytest.MonkeyPatch.context() as patch:

        def plant(make: Make) -> None:
            def planted(spec: UseCase, recipe: Recipe, rows: pa.Table, *fitted: Any) -> Pipeline:
                if recipe.name == "planted":
                    return make(spec, rows)
                return honest(spec, recipe, rows, *fitted)

            for module in (fits, leakage, refit):
                patch.setattr(module, "fit_recipe", planted)

        yield Gate(Lake("flight_delay", str(folder / "lake")), folder, plant)


@pytest.fixture
def gate(ingested: Path, tmp_path: Path) -> Iterator[Gate]:
    """The gate before its first attempt."""
    shutil.copytree(ingested / "flight_delay", tmp_path / "lake" / "flight_delay")
    with opened(tmp_path) as before:
        yield before


@pytest.fixture(scope="session")
def first(ingested: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in which an honest fit was the first attempt."""
    folder = tmp_path_factory.mktemp("first")
    shutil.copytree(ingested / "flight_delay", folder / "lake" / "flight_delay")
    with opened(folder) as before:
        before.judge(forest(), EARLIER)
    return folder


@pytest.fixture
def second(first: Path, tmp_path: Path) -> Iterator[Gate]:
    """The gate before its second attempt; the files of the first one's run stay where they are."""
    shutil.copytree(first / "lake", tmp_path / "lake")
    shutil.copyfile(first / "mlflow.db", tmp_path / "mlflow.db")
    with opened(tmp_path) as before:
        yield before


def forest(**params: Any) -> Make:
    """Return a maker of a small forest, with other parameters where given."""
    small = {"n_estimators": 20, "min_samples_leaf": 50, "max_features": 0.2, "max_samples": 0.3, **params}
    recipe = Recipe(name="planted", estimator="random_forest", params=small)

    def make(spec: UseCase, rows: pa.Table) -> Pipeline:
        pipeline = build_estimator(spec, recipe)
        return pipeline.fit(artifacts.model_input(rows, spec), rows[spec.problem.target].to_numpy())

    return make
