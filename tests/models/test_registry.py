"""Over a file and over a real server: an attempt has one run, and a stored file is what was stored."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient
from sklearn.dummy import DummyRegressor
from sklearn.pipeline import Pipeline

from include.errors import EvergreenError, ModelError, SpecError
from include.models import artifacts
from include.models.registry import Registry
from include.references import digest_bytes

EXAMPLE = pd.DataFrame({"x": [1.5], "kind": pd.Series(["pump"], dtype=object)})
USER, PASSWORD = "someone", "not-to-be-printed"


def model() -> Pipeline:
    """Return a small fitted model."""
    return Pipeline([("model", DummyRegressor())]).fit(np.zeros((2, 1)), np.zeros(2))


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the server answers."""
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            requests.get(f"{url}/health", timeout=1).raise_for_status()
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a registry without a server."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    Registry(uri).keep_first_finished_run("none", "none")
    return uri


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the demo's MLflow: behind a password, with artifacts through the server."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder}/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }
    where = ["--app-dir", "deploy/mlflow", "--port", str(port)]
    command = [sys.executable, "-m", "uvicorn", "--factory", "mlflow_app:create", *where]
    with (folder / "log").open("wb") as log:
        home = Path(__file__).parents[2]
        process = subprocess.Popen(command, cwd=home, env={**os.environ, **settings}, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(params=["file", pytest.param("served", marks=pytest.mark.full)])
def registry(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Registry]:
    """A registry of either kind."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)
    yield Registry(request.getfixturevalue(request.param))
    assert list(tmp_path.iterdir()) == [], "MLflow left something in the working folder"


def client(registry: Registry) -> MlflowClient:
    """Return MLflow's own client of the same server."""
    return MlflowClient(registry.uri, registry.uri)


@pytest.mark.full
def test_run_model_and_file_come_back(registry: Registry) -> None:
    """What a training stores is found by its key, version and path, and MLflow shows the model as ready."""
    data = artifacts.serialize(model())
    path = artifacts.model_key(digest_bytes(data))
    with registry.recording("stores", "key", "a run") as run:
        assert registry.keep_first_finished_run("stores", "key") == ""
        registry.put(run, {path: data, "evergreen/training.json": b"{}"})
        registry.log(run, at=1000, params={"seed": 7}, metrics={"recall@0.5": 0.5}, tags={"code": "abc"})
        version = registry.register(run, "stores", model(), EXAMPLE, {"recipe": "mean"})
    assert registry.keep_first_finished_run("stores", "key") == run
    assert registry.run_of("stores", version) == run
    assert registry.get(run, path, digest_bytes(data)) == data
    assert client(registry).get_run(run).data.metrics == {"recall.at.0.5": 0.5}
    logged = client(registry).get_logged_model(
        client(registry).get_run(run).outputs.model_outputs[0].model_id
    )
    assert logged.status == "READY"
    assert "model.skops" in {f.path for f in client(registry).list_logged_model_artifacts(logged.model_id)}


@pytest.mark.full
def test_a_version_shows_its_form_its_data_and_what_became_of_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow has signature and example, the tables that the run read, description and tags."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    with registry.recording("shows", "key", "a run") as run:
        version = registry.register(run, "shows", model(), EXAMPLE, {"recipe": "mean"})
        registry.log_datasets(run, [("s3://lake/shows/tables/validated_visits", 7, "d" * 64)])
    registry.describe("shows", version, "blessed: *better*", {"verdict": "blessed"})
    shown = client(registry).get_model_version("shows", version)
    assert (shown.description, shown.tags) == ("blessed: *better*", {"recipe": "mean", "verdict": "blessed"})
    (used,) = client(registry).get_run(run).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("validated_visits", "d" * 32)
    source = {"path": "s3://lake/shows/tables/validated_visits", "delta_table_version": 7}
    assert json.loads(used.dataset.source) == source
    loaded = mlflow.pyfunc.load_model(f"models:/shows/{version}")
    columns = loaded.metadata.signature.inputs
    assert loaded.input_example.to_dict("list") == EXAMPLE.to_dict("list")
    assert loaded.predict(pd.DataFrame({"x": [None], "kind": [None]})).tolist() == [0]
    assert [(column.name, column.type.name, column.required) for column in columns] == [
        ("x", "double", False),
        ("kind", "string", False),
    ]


def test_a_booster_is_loaded_by_mlflow_with_its_library_as_a_requirement(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that XGBoost predicts lists its package, and one of scikit-learn alone doesn't."""
    from include.models.xgboost_models import XGBoostRegressor

    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    example = pd.DataFrame({"x": [1.5]})
    boosted = Pipeline([("model", XGBoostRegressor(n_estimators=2, n_jobs=1))])
    boosted.fit(np.arange(20.0).reshape(-1, 1), np.arange(20.0))
    with registry.recording("boosted", "key", "a run") as run:
        versions = [registry.register(run, "boosted", one, example, {}) for one in (boosted, model())]
    loaded = mlflow.pyfunc.load_model(f"models:/boosted/{versions[0]}")
    assert loaded.predict(pd.DataFrame({"x": [3.0]})).tolist() == boosted.predict(np.array([[3.0]])).tolist()
    listed = [
        Path(mlflow.pyfunc.get_model_dependencies(f"models:/boosted/{number}")).read_text()
        for number in versions
    ]
    assert ["xgboost-cpu==" in text for text in listed] == [True, False]


def test_only_the_version_that_serves_says_since_when(registry: Registry) -> None:
    """The tag moves with the champion, and also when the version before is gone."""
    with registry.recording("since", "key", "a run") as run:
        versions = [registry.register(run, "since", model(), EXAMPLE, {}) for _ in range(3)]
    registry.mark_serving("since", versions[0], "2024-01-01", "")
    registry.mark_serving("since", versions[1], "2024-02-01", versions[0])
    shown = [client(registry).get_model_version("since", version).tags for version in versions]
    assert shown == [{}, {"serving_since": "2024-02-01"}, {}]
    client(registry).delete_model_version("since", versions[1])
    registry.mark_serving("since", versions[2], "2024-03-01", versions[1])
    registry.mark_serving("since", "", "", versions[2])
    assert client(registry).get_model_version("since", versions[2]).tags == {}


def test_failed_run_leaves_no_version(registry: Registry) -> None:
    """An error within a run fails it, and the model version that it made is gone."""

    def fail() -> None:
        with registry.recording("fails", "key", "a run") as run:
            registry.register(run, "fails", model(), EXAMPLE, {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert registry.keep_first_finished_run("fails", "key") == ""
    assert client(registry).search_model_versions("name = 'fails'") == []


def test_settling_keeps_the_first_to_finish(registry: Registry) -> None:
    """Of an attempt's runs the first to finish stays, and those of another attempt are left alone."""
    with registry.recording("settles", "other", "of another attempt") as other:
        pass
    with registry.recording("settles", "key", "the slower") as slower:
        with registry.recording("settles", "key", "the faster") as faster:
            time.sleep(0.002)  # MLflow tells times apart by the millisecond
        time.sleep(0.01)
        registry.register(slower, "settles", model(), EXAMPLE, {})
    assert registry.keep_first_finished_run("settles", "key") == faster
    experiment = client(registry).get_experiment_by_name("settles")
    left = {run.info.run_id for run in client(registry).search_runs([experiment.experiment_id])}
    assert left == {other, faster}
    assert client(registry).search_model_versions("name = 'settles'") == []


def test_alias_is_set_moved_and_taken_away(registry: Registry) -> None:
    """The aliases say what the ledger says, also that there is none."""
    assert registry.aliases("aliased") == {}
    with registry.recording("aliased", "key", "a run") as run:
        versions = [registry.register(run, "aliased", model(), EXAMPLE, {}) for _ in range(2)]
    for version in versions:
        registry.set_alias("aliased", "champion", version)
        assert registry.aliases("aliased") == {"champion": version}
    registry.set_alias("aliased", "champion", "")
    assert registry.aliases("aliased") == {}


def test_file_that_is_another_is_refused(registry: Registry) -> None:
    """A stored file whose digest isn't the one asked for is refused with both."""
    with registry.recording("damaged", "key", "a run") as run:
        registry.put(run, {"models/a.skops": b"as stored"})
    expected = digest_bytes(b"as it should be")
    with pytest.raises(
        ModelError, match=f"expected SHA-256 {expected}, but found {digest_bytes(b'as stored')}"
    ):
        registry.get(run, "models/a.skops", expected)


def test_absent_file_is_named(registry: Registry) -> None:
    """A run without the file is answered by run and path."""
    with registry.recording("absent", "key", "a run") as run:
        pass
    with pytest.raises(EvergreenError, match=f"run {run}, models/none"):
        registry.get(run, "models/none")


@pytest.mark.full
def test_wrong_password_is_a_sentence(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses the password is named, and the password isn't."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-and-secret")
    with pytest.raises(EvergreenError, match=r"401.*127\.0\.0\.1.*password") as caught:
        Registry(served).keep_first_finished_run("any", "key")
    assert "wrong-and-secret" not in str(caught.value)


@pytest.mark.full
def test_server_that_is_down_is_found_out_in_seconds() -> None:
    """Nobody listens: the sentence says just that, also after another error, and tells no password."""
    started = time.monotonic()
    sentence = (
        r"MLflow server .*, but found Connection refused \(http://127\.0\.0\.1:9\); check that MLflow is up"
    )
    try:
        raise SpecError("training", found="no memory")
    except SpecError:
        with pytest.raises(EvergreenError, match=sentence) as caught:
            Registry(f"http://{USER}:{PASSWORD}@127.0.0.1:9").keep_first_finished_run("any", "key")
    assert time.monotonic() - started < 20
    assert PASSWORD not in str(caught.value)


@pytest.mark.full
def test_import_is_quiet_and_starts_no_thread() -> None:
    """Importing the registry leaves one thread, says nothing, and switches telemetry off."""
    code = (
        "import os, threading, include.models.registry; "
        "assert os.environ['MLFLOW_DISABLE_TELEMETRY'] == 'true'; print(threading.active_count())"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    ran = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("1\n", "")
