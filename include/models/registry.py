"""The model registry, and the only module that uses MLflow: runs, their files, model versions and aliases.

A run belongs to an attempt's key and counts once it is finished. The models that serve are in the lake, so
scoring never waits for MLflow. A server that is down is reported within seconds.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import urlsplit

import mlflow.sklearn
import pandas as pd
from mlflow import MlflowClient
from mlflow.data.delta_dataset_source import DeltaDatasetSource
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema
from requests import RequestException
from sklearn.pipeline import Pipeline

from include.environment import redact, setting
from include.errors import EvergreenError, ModelError
from include.models.artifacts import TRUSTED
from include.references import digest_bytes

# a caller's own values take precedence
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}.items():
    os.environ.setdefault(_name, _value)

logging.getLogger("mlflow").setLevel(logging.ERROR)

KEY = "evergreen.key"
SERVING_SINCE = "serving_since"  # tag of the version that serves: the first partition that it may serve
DIGEST_LENGTH = 32  # characters of a dataset's digest; MLflow takes at most 36
REQUIREMENTS = ("scikit-learn", "skops", "numpy", "pandas")  # besides the model's own library


class Registry:
    """One tracking server with its model registry.

    Parameters
    ----------
    uri : a server's address, or ``sqlite:///…`` without a server; by default ``MLFLOW_TRACKING_URI``.
    artifacts : where a new experiment stores its files. A server decides that itself; for a database file the
        default is the folder ``artifacts`` next to it.
    """

    def __init__(self, uri: str | None = None, artifacts: str | None = None) -> None:
        self.uri = uri or setting("MLFLOW_TRACKING_URI")
        default = Path(self.uri.removeprefix("sqlite:///")).absolute().with_name("artifacts").as_uri()
        self.artifacts = artifacts or (default if self.uri.startswith("sqlite:") else None)

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    # runs

    @contextmanager
    def recording(self, usecase: str, key: str, name: str) -> Iterator[str]:
        """Start a run of an attempt and yield its id; an error fails it and deletes its model versions."""
        with self._translate_errors():
            tags = {KEY: key}
            run_id = str(
                self._client.create_run(self._experiment(usecase), run_name=name, tags=tags).info.run_id
            )
        try:
            yield run_id
        except BaseException:
            with suppress(EvergreenError), self._translate_errors():
                self._delete_versions(run_id)
                self._client.set_terminated(run_id, "FAILED")
            raise
        with self._translate_errors():
            self._client.set_terminated(run_id, "FINISHED")

    def keep_first_finished_run(self, usecase: str, key: str) -> str:
        """Return an attempt's finished run, if any, and then delete the attempt's other runs; else return ''.

        Of two concurrent runs the first to finish stays. Unfinished runs are deleted only once another has
        finished, because a killed run can't be told from a running one.
        """
        with self._translate_errors():
            runs = self._runs(usecase, key)
            finished = [str(run.info.run_id) for run in runs if run.info.status == "FINISHED"]
            for run_id in (str(run.info.run_id) for run in runs):
                if finished and run_id != finished[0]:
                    self._delete_versions(run_id)
                    self._client.delete_run(run_id)
        return finished[0] if finished else ""

    def run_parameters(self, usecase: str) -> list[dict[str, str]]:
        """Return the parameters of each run of a use case."""
        with self._translate_errors():
            return [dict(run.data.params) for run in self._runs(usecase, "")]

    def log(
        self,
        run_id: str,
        *,
        at: int,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log parameters, metrics and tags; ``at`` (ms) is the partition's time, so a rerun adds nothing."""
        with self._translate_errors():
            self._client.log_batch(
                run_id,
                # MLflow allows no @ in a name
                [Metric(name.replace("@", ".at."), value, at, 0) for name, value in (metrics or {}).items()],
                [Param(name, str(value)) for name, value in (params or {}).items()],
                [RunTag(name, value) for name, value in (tags or {}).items()],
            )

    def log_datasets(self, run_id: str, tables: Sequence[tuple[str, int, str]]) -> None:
        """Log the tables that a run was trained on.

        Parameters
        ----------
        tables : address, version and digest of each.
        """
        inputs = []
        for uri, number, digest in tables:
            source = DeltaDatasetSource(path=uri, delta_table_version=number)
            table = uri.rpartition("/")[2]
            dataset = Dataset(table, digest[:DIGEST_LENGTH], "delta_table", source.to_json())
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", "training")]))
        with self._translate_errors():
            self._client.log_inputs(run_id, inputs)

    def put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store files with a run, by their path below it."""
        with self._translate_errors(), tempfile.TemporaryDirectory() as folder:
            for path, data in files.items():
                file = Path(folder, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            self._client.log_artifacts(run_id, folder)

    def get(self, run_id: str, path: str, digest: str = "") -> bytes:
        """Return a run's file.

        Raises
        ------
        ModelError
            when its SHA-256 isn't ``digest``.
        EvergreenError
            when there is no such run or file, or the server doesn't answer.
        """
        with self._translate_errors(f"run {run_id}, {path}"), tempfile.TemporaryDirectory() as folder:
            data = Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()
        if digest and (found := digest_bytes(data)) != digest:
            raise ModelError(
                f"{path} of run {run_id}",
                required=f"SHA-256 {digest}",
                found=found,
                where=self.address(),
                remedy="the stored copy is damaged: restore it, or train again",
            )
        return data

    # models

    def register(
        self,
        run_id: str,
        name: str,
        estimator: Pipeline,
        example: pd.DataFrame,
        tags: Mapping[str, str],
        custom_types: Collection[str] = (),
    ) -> str:
        """Make a run's pipeline a version of the registered model ``name``, in the skops format.

        Parameters
        ----------
        custom_types : what it contains of the use case's own estimators, from `artifacts.custom_types`.
        example : rows as the pipeline takes them, which show the form.
        tags : of the version.
        """
        with self._translate_errors(), tempfile.TemporaryDirectory() as folder:
            logged = self._client.create_logged_model(self._experiment(name), "challenger", run_id)
            mlflow.sklearn.save_model(
                estimator,
                f"{folder}/model",
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id),
                serialization_format="skops",
                skops_trusted_types=[*TRUSTED, *custom_types],
                signature=_signature(estimator, example),
                input_example=example,
                # listed, because MLflow would otherwise start a process that infers them
                pip_requirements=[f"{package}=={version(package)}" for package in _packages(estimator)],
            )
            self._client.log_model_artifacts(logged.model_id, f"{folder}/model")
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
            _ignore_code("RESOURCE_ALREADY_EXISTS", lambda: self._client.create_registered_model(name))
            # a server resolves models:/… itself; without one the process would look at its own MLflow address
            source = logged.model_uri if self.uri.startswith("http") else logged.artifact_location
            model_version = self._client.create_model_version(
                name, source, run_id, dict(tags), await_creation_for=20, model_id=logged.model_id
            )
        return str(model_version.version)

    def run_of(self, name: str, number: str) -> str:
        """Return the run that registered a model version."""
        with self._translate_errors(f"{name} v{number}"):
            return str(self._client.get_model_version(name, number).run_id)

    def describe(self, name: str, number: str, description: str, tags: Mapping[str, str]) -> None:
        """Set a version's description, as Markdown, and some of its tags."""
        with self._translate_errors(f"{name} v{number}"):
            self._client.update_model_version(name, number, description)
            for tag, value in tags.items():
                self._client.set_model_version_tag(name, number, tag, value)

    def mark_serving(self, name: str, number: str, since: str, instead_of: str) -> None:
        """Tag the version that serves with the first partition that it may serve.

        Parameters
        ----------
        number, instead_of : versions; empty for none.
        """
        with self._translate_errors(f"{name} v{number}"):
            if instead_of:
                clear = partial(self._client.delete_model_version_tag, name, instead_of, SERVING_SINCE)
                _ignore_code("RESOURCE_DOES_NOT_EXIST", clear)
            if number:
                self._client.set_model_version_tag(name, number, SERVING_SINCE, since)

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias -> version of a registered model; none where there is no such model."""
        with self._translate_errors():
            models = self._client.search_registered_models(f"name = '{name}'")
            return {alias: str(number) for model in models for alias, number in model.aliases.items()}

    def set_alias(self, name: str, alias: str, number: str) -> None:
        """Point an alias at a version, or delete it where ``number`` is empty."""
        with self._translate_errors(f"{name} v{number}"):
            if number:
                self._client.set_registered_model_alias(name, alias, number)
            else:
                self._client.delete_registered_model_alias(name, alias)

    # private

    def _runs(self, usecase: str, key: str) -> Sequence[Run]:
        """Return an attempt's runs, or without a key those of all attempts, the first to finish first."""
        if (experiment := self._client.get_experiment_by_name(usecase)) is None:
            return []
        where = [experiment.experiment_id], f"tags.`{KEY}` = '{key}'" if key else ""
        runs = self._client.search_runs(*where, ViewType.ACTIVE_ONLY, max_results=50_000)
        return sorted(runs, key=lambda run: (run.info.end_time or 1 << 62, run.info.run_id))

    def _delete_versions(self, run_id: str) -> None:
        """Delete the model versions that a run registered."""
        for model_version in self._client.search_model_versions(f"run_id = '{run_id}'"):
            delete = partial(self._client.delete_model_version, model_version.name, model_version.version)
            _ignore_code("RESOURCE_DOES_NOT_EXIST", delete)

    def _experiment(self, usecase: str) -> str:
        if (experiment := self._client.get_experiment_by_name(usecase)) is not None:
            return str(experiment.experiment_id)
        _ignore_code(
            "RESOURCE_ALREADY_EXISTS", partial(self._client.create_experiment, usecase, self.artifacts)
        )
        return self._experiment(usecase)

    def address(self) -> str:
        """Return the registry's address without a password."""
        netloc = urlsplit(self.uri).netloc
        return self.uri.replace(netloc, netloc.rpartition("@")[2]) if "@" in netloc else self.uri

    @contextmanager
    def _translate_errors(self, subject: str = "") -> Iterator[None]:
        """Turn MLflow's errors into one that names the server."""
        try:
            yield
        except (MlflowException, RequestException, OSError) as error:
            cause: BaseException = error  # in the end the innermost, such as a refused connection
            while (inner := cause.__context__) and not isinstance(inner, EvergreenError):
                cause = inner
            text = re.sub(r"^\[Errno -?\d+\] ", "", str(cause)).replace(self.uri, self.address())
            raise EvergreenError(
                f"registry: {subject}" if subject else "registry",
                required="an MLflow server that carries out the request",
                found=shorten(redact(text), 300, placeholder=" …"),
                where=self.address(),
                remedy="check that MLflow is up, check MLFLOW_TRACKING_URI and the password, then rerun",
            ) from None  # the original message may contain the password


def _packages(estimator: Pipeline) -> tuple[str, ...]:
    """Return the packages that loading a pipeline takes."""
    calibrations = getattr(estimator[-1], "calibrated_classifiers_", ())
    parts = [*estimator.get_params().values(), *(mapping.estimator for mapping in calibrations)]
    modules = {type(part).__module__ for part in parts}
    return (*REQUIREMENTS, *(["xgboost-cpu"] if "include.models.xgboost_models" in modules else []))


def _signature(estimator: Pipeline, example: pd.DataFrame) -> ModelSignature:
    """Return the columns that a pipeline takes, all of which may be missing, and what it predicts."""
    columns: list[Any] = [
        ColSpec("double" if column.dtype.kind == "f" else "string", str(name), required=False)
        for name, column in example.items()
    ]
    return ModelSignature(Schema(columns), infer_signature(example, estimator.predict(example)).outputs)


def _ignore_code(code: str, act: Callable[[], object]) -> None:
    """Call a function, and ignore the MLflow error that a concurrent process has done the same."""
    try:
        act()
    except MlflowException as error:
        if error.error_code != code:
            raise
