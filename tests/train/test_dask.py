"""XGBoost is fitted on Dask's worker processes as it is in the task's own, and a lost worker ends the fit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import xgboost.dask

from evergreen.operators.train import TrainOperator
from include import environment
from include.errors import ClusterUnavailable, SettingError, SpecError
from include.evaluate.pipeline import evaluate
from include.features.labels import training_set
from include.models import artifacts
from include.models.registry import Registry
from include.spec import UseCase
from include.spec.stages import Recipe
from include.storage.lake import Lake
from include.train import dask_engine
from include.train.fits import read_fits
from include.train.fitting import fit_recipe
from include.train.pipeline import train
from tests.train import visits
from tests.train.dying import DyingWorker

TOLERANCE = 0.02  # root mean square of the difference, as a share of the predictions' standard deviation
ENDED = 60  # seconds in which processes end on a busy machine


def recipe(**options: Any) -> Recipe:
    """Return a recipe of XGBoost that is quickly fitted."""
    return Recipe(name="tried", estimator="xgboost", **{"params": {"n_estimators": 30}, **options})


def labeled(folder: Path, kind: str) -> tuple[UseCase, pa.Table]:
    """Return the declaration and the training set of a kind of problem."""
    spec = visits.usecase(folder / "usecases", kind)
    return spec, training_set(Lake(spec.name, str(folder / "lake")), spec, visits.LAST)


def distance(spec: UseCase, rows: pa.Table, one: Any, other: Any) -> float:
    """Return how far two models' predictions are apart, as a share of their spread."""
    values, others = (artifacts.predict(model, rows, spec) for model in (one, other))
    return float(np.sqrt(np.square(values - others).mean()) / values.std())


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster that the first fit starts and the next ones use, as in a task."""
    with dask_engine.keep_started():
        yield


def address_of_the_started() -> dict[str, Any]:
    """Return a connection of the cluster that this process has started."""
    running, _ = dask_engine._started._clusters[2]
    extra = {name: getattr(running.security, name) for name in dask_engine.TLS}
    return {"conn_type": "generic", "host": running.scheduler_address, "extra": extra}


FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("binary", {"half_life": 5}),
    "a calibration": ("binary", {"calibration": "sigmoid"}),
    "searched parameters": ("binary", {"search": {"max_depth": (1, 4)}}),
    "monotone constraints": ("regression", {"monotone": {"distance": 1}}),
    "classes": ("multiclass", {}),
    "three workers": ("regression", {"workers": 3}),
}


@pytest.mark.full
@pytest.mark.parametrize("case", FITS)
def test_workers_fit_the_model_of_the_process_and_the_same_again(
    case: str, made: Path, cluster: None
) -> None:
    """Categories, missing numbers and the option included; on few rows the bytes are equal."""
    kind, options = FITS[case]
    spec, rows = labeled(made, kind)
    local = {name: value for name, value in options.items() if name != "workers"}
    whole = fit_recipe(spec, recipe(**local), rows)
    spread, again = (fit_recipe(spec, recipe(engine="dask", **options), rows) for _ in range(2))
    assert distance(spec, rows, whole, spread) <= TOLERANCE
    assert artifacts.serialize(spread) == artifacts.serialize(again)


@pytest.mark.full
def test_rows_of_several_batches_and_a_worker_without_any_are_all_fitted(
    made: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share ends in the middle of a batch, and fewer rows than workers need fewer workers."""
    spec, rows = labeled(made, "regression")
    whole = fit_recipe(spec, recipe(engine="dask"), rows)
    monkeypatch.setattr("include.storage.spill.BATCH", 100)
    batches = fit_recipe(spec, recipe(engine="dask"), rows)
    assert distance(spec, rows, whole, batches) <= TOLERANCE
    single = rows.slice(0, 1)
    assert np.isfinite(artifacts.predict(fit_recipe(spec, recipe(engine="dask"), single), single, spec)).all()


@pytest.mark.full
def test_a_parameter_that_xgboost_refuses_is_an_error_of_the_declaration(made: Path, cluster: None) -> None:
    """The workers are alive, so a retry wouldn't help."""
    spec, rows = labeled(made, "binary")
    wrong = recipe(params={"max_depth": -3}, engine="dask")
    with pytest.raises(SpecError, match=r"training\.tried: expected parameters .* found .*max_depth"):
        fit_recipe(spec, wrong, rows)


def declare(folder: Path, engine: str, **changes: str) -> UseCase:
    """Declare the clinic with a recipe of XGBoost that is fitted by an engine."""
    forest = "{name: forest, estimator: random_forest, params: {n_estimators: 10, min_samples_leaf: 5}}"
    spread = f"{{name: spread, estimator: xgboost, params: {{n_estimators: 30}}, engine: {engine}}}"
    return visits.usecase(folder / "usecases", **{forest: spread}, **changes)


def evidence(folder: Path, spec: UseCase) -> tuple[dict[str, str], pa.Table, dict[str, Any]]:
    """Train and evaluate; return the recipe's fits by partition, the walks and the evidence."""
    registry = Registry(f"sqlite:///{folder}/mlflow.db", f"file://{folder}/artifacts")
    lake = Lake(spec.name, str(folder / "lake"))
    run = train(lake, spec, visits.LAST, registry=registry)
    assert train(lake, spec, visits.LAST, registry=registry) == run
    found = evaluate(lake, spec, visits.LAST, run.id, registry=registry)
    fits = {fit.partition: fit.model for fit in read_fits(lake) if fit.recipe == "spread"}
    walks = lake.read("walks", order=("partition", "as_of", "recipe"))
    assert walks is not None
    return fits, walks, json.loads(lake.get(found.id) or b"")


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_training_whose_worker_is_killed_fails_and_its_retry_is_that_of_one_process(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No half model is stored; the retry has the fits, walks and evidence of a training without workers."""
    local, spread = (Path(shutil.copytree(made, tmp_path / name)) for name in ("local", "spread"))
    spec = declare(spread, "dask")
    lake = Lake(spec.name, str(spread / "lake"))
    with monkeypatch.context() as patch:
        patch.setattr("xgboost.dask.train", partial(xgboost.dask.train, callbacks=[DyingWorker()]))
        with pytest.raises(ClusterUnavailable, match=r"spread: expected 2 workers .* lost .*retries by"):
            evidence(spread, spec)
    assert read_fits(lake) == []
    results = [evidence(folder, of) for folder, of in ((local, declare(local, "local")), (spread, spec))]
    assert len(results[0][0]) > 1  # those of the walk too
    assert results[0][0] == results[1][0]
    drop = ["recipe_key"]  # which has the engine
    assert results[0][1].drop_columns(drop).equals(results[1][1].drop_columns(drop))
    assert set(results[0][2]) == set(results[1][2])


@pytest.mark.full
def test_a_given_cluster_fits_from_the_lake_with_its_certificates_and_leaves_no_rows(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    """The address and the certificates are a connection's; the model is that of a started cluster."""
    spec, rows = labeled(made, "binary")
    started = fit_recipe(spec, recipe(engine="dask"), rows)
    training = spec.training.model_copy(update={"dask_connection": "workers"})
    declared = spec.model_copy(update={"training": training})
    monkeypatch.setenv("EVERGREEN_LAKE", str(tmp_path))
    monkeypatch.setattr(environment, "_connect", environment.endpoint)
    value = address_of_the_started()
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps(value))
    fitted = fit_recipe(declared, recipe(engine="dask"), rows)
    assert artifacts.serialize(fitted) == artifacts.serialize(started)
    assert Lake(spec.name).keys("") == []
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps({**value, "extra": {}}))
    with pytest.raises(
        SettingError, match=r"connection workers: expected tls_ca_file.*, but found no tls_ca_file"
    ):
        fit_recipe(declared, recipe(engine="dask"), rows)
    monkeypatch.setattr(dask_engine, "CONNECT_SECONDS", 2)
    host = value["host"].rpartition(":")[0]
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps({**value, "host": f"{host}:9"}))
    with pytest.raises(ClusterUnavailable, match=r"tried: expected a Dask cluster of 2 workers"):
        fit_recipe(declared, recipe(engine="dask"), rows)
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps(value))
    monkeypatch.setattr(dask_engine, "WORKERS_SECONDS", 1)
    with pytest.raises(ClusterUnavailable, match=r"a Dask cluster of 5 workers, within 1 seconds"):
        fit_recipe(declared, recipe(engine="dask", workers=5), rows)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_task_of_a_training_asks_airflow_for_the_address_of_its_workers(
    clinic: Path, monkeypatch: pytest.MonkeyPatch, cluster: None
) -> None:
    """The operator trains on two workers of a cluster whose address is one of Airflow's connections."""
    plain, rows = labeled(clinic, "binary")
    fit_recipe(plain, recipe(engine="dask"), rows)  # starts the cluster
    spec = declare(clinic, "dask", **{"  seed: 7": "  seed: 7\n  dask_connection: workers"})
    monkeypatch.setattr(environment, "_connect", environment.endpoint)
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps(address_of_the_started()))
    monkeypatch.setenv("EVERGREEN_USECASES", str(clinic / "usecases"))
    monkeypatch.setenv("EVERGREEN_LAKE", str(clinic / "lake"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{clinic}/mlflow.db")
    run = SimpleNamespace(partition_key=visits.LAST, run_type="scheduled")
    task = TrainOperator(task_id="fit", usecase=spec.name)
    reference = task.execute({"dag_run": run, "params": {}})  # type: ignore[typeddict-item]  # all that it reads
    assert "missed_visits v1: " in reference["note"]
    assert environment.connection("workers").kind == "generic"  # which only Airflow's own says
    fits = [fit for fit in read_fits(Lake(spec.name)) if fit.recipe == "spread"]
    assert max(fit.partition for fit in fits) == visits.LAST


@pytest.mark.full
def test_workers_end_with_a_process_that_is_terminated(tmp_path: Path) -> None:
    """SIGTERM and SIGKILL leave no process behind, and only loopback listens for Dask."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        code = (
            "from include.train import dask_engine\n"
            "if __name__ == '__main__':\n"
            " with dask_engine.keep_started(), dask_engine._started.use('tried', 2):\n"
            "  print('up', flush=True); input()\n"
        )
        script = tmp_path / "starts.py"
        script.write_text(code)
        env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        with subprocess.Popen(
            [sys.executable, script], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            own = psutil.Process(process.pid)
            children = own.children(recursive=True)
            assert len(children) >= 2
            listening = [
                c.laddr.ip for one in (own, *children) for c in one.net_connections() if c.status == "LISTEN"
            ]
            assert {*listening} == {"127.0.0.1"}
            process.send_signal(sent)
            process.wait(ENDED)
        _, alive = psutil.wait_procs(children, timeout=ENDED)
        assert alive == []


CONNECTIONS = {
    "not encrypted": ("tcp://10.0.0.7:8786", "s3://lake", r"expected tls:// .*found tcp://10\.0\.0\.7"),
    "a lake of this machine": ("tls://10.0.0.7:8786", "/lake", r"expected a lake that .*s3://.* found 10\.0"),
    "another scheme": (
        "http://10.0.0.7:8787",
        "s3://lake",
        r"expected the scheduler's address as host, tls:",
    ),
}


@pytest.mark.parametrize("case", CONNECTIONS)
def test_a_scheduler_that_workers_of_other_machines_cant_be_reached_by_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent to it."""
    address, lake, message = CONNECTIONS[case]
    monkeypatch.setenv("EVERGREEN_LAKE", lake)
    monkeypatch.setattr(environment, "_connect", environment.endpoint)
    monkeypatch.setenv("AIRFLOW_CONN_WORKERS", json.dumps({"conn_type": "generic", "host": address}))
    spec = visits.usecase(tmp_path)
    training = spec.training.model_copy(update={"dask_connection": "workers"})
    declared = spec.model_copy(update={"training": training})
    with (
        pytest.raises(SettingError, match=rf"connection workers: {message}"),
        dask_engine.connect(declared, recipe(engine="dask")),
    ):
        pass


def test_without_the_extra_the_error_has_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry wouldn't help, so the task fails at once."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    message = r"training\.tried: expected .* extra `dask`, but found no distributed; run .*-dask\.txt`"
    with (
        pytest.raises(SettingError, match=message),
        dask_engine.connect(visits.usecase(tmp_path), recipe(engine="dask")),
    ):
        pass
