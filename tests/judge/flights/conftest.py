"""Two months of real flights in a lake, ingested once as the partitions would, and copied for each test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from sklearn.pipeline import Pipeline

from demo.weather import WeatherServer
from demo.world import landing_objects, weather_by_day, write_planes
from include.environment import Connect, Endpoint
from include.evaluate import leakage
from include.evaluate.pipeline import evaluate
from include.features.build import training_set
from include.ingest.pipeline import ingest
from include.judge.evidence import attempt_key_of
from include.judge.judge import RUBBER_STAMPED, Verdict
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger
from include.promote.promotion import judge_and_record, promote
from include.spec import UseCase, load
from include.spec.load import read
from include.spec.stages import Candidate
from include.storage.lake import Lake
from include.train import fit as fitting
from include.train.pipeline import train
from include.train.recipes import build_estimator
from tests.deployments import newest_by_role
from tests.promote.conftest import evidence, losses

FIRST, PARTITION = "2012-12-31", "2013-02-28"
# the last partition that a champion may be fitted on: the test partitions begin a week later
BEFORE = "2013-01-24"


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
    """A lake of flights with a champion, and a way to plant any challenger into a real training."""

    def __init__(
        self, lake: Lake, folder: Path, plant: Callable[[Make], None], cache: dict[str, Any]
    ) -> None:
        self.lake, self.folder, self.plant, self.cache = lake, folder, plant, cache
        self.registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
        self.spec = self.declare()

    def declare(self, **gate: Any) -> UseCase:
        """Declare the shipped use case with one candidate, which is planted."""
        shipped = load("flight_delay")
        raw = yaml.safe_load((shipped.folder / "usecase.yaml").read_text())
        raw["training"]["candidates"] = [{"name": "planted", "estimator": "hist_gradient_boosting"}]
        raw["gate"] |= {"evidence": "held_out", "approval": "none", "rollout": {"kind": "immediate"}} | gate
        home = self.folder / shipped.name
        home.mkdir(exist_ok=True)
        (home / "usecase.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
        (home / "features.sql").write_text(shipped.sql)
        return read(home / "usecase.yaml")

    def rows(self, until: str = BEFORE) -> pa.Table:
        """Return the labelled rows up to a partition."""
        if "rows" not in self.cache:  # those of each test: it changes no source
            self.cache["rows"] = training_set(self.lake, self.spec, PARTITION)
        return self.cache["rows"].filter(pc.less_equal(self.cache["rows"]["partition"], until))

    def fitted(self, **params: Any) -> Pipeline:
        """Return a forest that was fitted until the partition before the test partitions.

        Once for all tests.
        """
        key = repr(params)
        if key not in self.cache:
            self.cache[key] = forest(**params)(self.spec, self.rows())
        pipeline: Pipeline = self.cache[key]
        return pipeline

    def champion(self, pipeline: Pipeline) -> None:
        """Let a model that was fitted until the partition before the test partitions serve."""
        data = artifacts.serialize(pipeline)
        digest = artifacts.store_model(self.lake, data)
        record = evidence(
            losses([1.0]), usecase=self.spec.name, partition=BEFORE, spec=self.spec.digest, version="0"
        )
        record = replace(record, model=digest, baseline_model=digest, champion="", fitted=BEFORE)
        stamp = Verdict(RUBBER_STAMPED, RUBBER_STAMPED, ())
        key = ledger.record_attempt(self.lake, record, lambda number: stamp)["key"]
        assert promote(self.lake, self.spec, key, registry=self.registry).switch is not None

    def train(self, make: Make) -> str:
        """Train, with the planted challenger, and return the run."""
        self.plant(make)
        return train(self.lake, self.spec, PARTITION, registry=self.registry).uri

    def judge(self, make: Make) -> Verdict:
        """Train, evaluate, judge and promote as far as the verdict allows."""
        ref = evaluate(self.lake, self.spec, PARTITION, self.train(make), registry=self.registry)
        verdict = judge_and_record(self.lake, self.spec, ref.uri)
        promote(self.lake, self.spec, attempt_key_of(ref.uri), registry=self.registry)
        return verdict

    def live(self) -> str:
        """Return the version that serves."""
        return str(newest_by_role(self.lake)["champion"]["version"])


@pytest.fixture(scope="session")
def cache() -> dict[str, Any]:
    """What tests need alike and only read."""
    return {}


@pytest.fixture
def gate(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: dict[str, Any]) -> Gate:
    """The gate before its first attempt."""
    shutil.copytree(ingested / "flight_delay", tmp_path / "lake" / "flight_delay")
    honest = fitting.fit_recipe

    def plant(make: Make) -> None:
        def planted(spec: UseCase, candidate: Candidate, rows: pa.Table) -> Pipeline:
            return make(spec, rows) if candidate.name == "planted" else honest(spec, candidate, rows)

        monkeypatch.setattr(fitting, "fit_recipe", planted)
        monkeypatch.setattr(leakage, "fit_recipe", planted)

    return Gate(Lake("flight_delay", str(tmp_path / "lake")), tmp_path, plant, cache)


def forest(seed: int = 7, until: str = "9999", **params: Any) -> Make:
    """Return a maker of the shipped forest, on rows up to a partition, with other parameters where given."""

    def make(spec: UseCase, rows: pa.Table) -> Pipeline:
        (shipped,) = (c for c in load(spec.name).training.candidates if c.name == "forest")
        candidate = shipped.model_copy(update={"params": {**shipped.params, **params}})
        seeded = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": seed})})
        pipeline = build_estimator(seeded, candidate)
        rows = rows.filter(pc.less_equal(rows["partition"], until))
        return pipeline.fit(artifacts.model_input(rows, spec), rows[spec.problem.target].to_numpy())

    return make
