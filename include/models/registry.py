"""MLflow, behind one door: runs, their artifacts, model versions and aliases, and no MLflow anywhere else.

A run belongs to an attempt's key and counts once it is finished. What serves lies in the lake, so the
partition never waits for MLflow; one that is down is found in seconds.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow.sklearn
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from requests import RequestException
from sklearn.pipeline import Pipeline

from include.environment import redact, setting
from include.errors import EvergreenError, ModelError
from include.models.artifacts import TRUSTED
from include.references import digest_bytes

# MLflow reads some of its settings when it is imported, so they come before it


# a caller's own values stand
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
NEEDED = ("scikit-learn", "skops", "numpy", "pandas")  # what loading a model takes


class Registry:
    """One tracking server with its model registry.

    Parameters
    ----------
    uri : ``MLFLOW_TRACKING_URI`` unless given; a server's address, or ``sqlite:///…`` without one.
    artifacts : where those of a new experiment go: a server knows by itself, a file has them beside it.
    """

    def __init__(self, uri: str | None = None, artifacts: str | None = None) -> None:
        self.uri = uri or setting("MLFLOW_TRACKING_URI")
        beside = Path(self.uri.removeprefix("sqlite:///")).absolute().with_name("artifacts").as_uri()
        self.artifacts = artifacts or (beside if self.uri.startswith("sqlite:") else None)

    @cached_property
    def _client(self) -> MlflowClient:
        return MlflowClient(self.uri, self.uri)

    # runs

    @contextmanager
    def recording(self, usecase: str, key: str, name: str) -> Iterator[str]:
        """Start an attempt's run and give its id; an error in the block fails it and deletes its version."""
        with self._speaking():
            tags = {KEY: key}
            run_id = str(
                self._client.create_run(self._experiment(usecase), run_name=name, tags=tags).info.run_id
            )
        try:
            yield run_id
        except BaseException:
            with suppress(EvergreenError), self._speaking():
                self._forget(run_id)
                self._client.set_terminated(run_id, "FAILED")
            raise
        with self._speaking():
            self._client.set_terminated(run_id, "FINISHED")

    def settle(self, usecase: str, key: str) -> str:
        """Return an attempt's finished run, or an empty string; what other runs left of it is deleted.

        Of two runs at once the first to finish stays. An unfinished one goes once another is finished,
        and not before: whether it was killed or is at work can't be told.
        """
        with self._speaking():
            runs = self._runs(usecase, key)
            done = [str(run.info.run_id) for run in runs if run.info.status == "FINISHED"]
            for run_id in (str(run.info.run_id) for run in runs):
                if done and run_id != done[0]:
                    self._forget(run_id)
                    self._client.delete_run(run_id)
        return done[0] if done else ""

    def noted(self, usecase: str) -> list[dict[str, str]]:
        """Return the parameters of each run of a use case."""
        with self._speaking():
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
        """Note parameters, metrics and tags; ``at`` (ms) is the partition's, so that a rerun adds nothing."""
        with self._speaking():
            # MLflow admits no @ in a name
            figures = [Metric(n.replace("@", ".at."), v, at, 0) for n, v in (metrics or {}).items()]
            given = [Param(name, str(value)) for name, value in (params or {}).items()]
            self._client.log_batch(run_id, figures, given, [RunTag(*tag) for tag in (tags or {}).items()])

    def put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Keep files with a run, by their path below it."""
        with self._speaking(), tempfile.TemporaryDirectory() as folder:
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
        with self._speaking(f"run {run_id}, {path}"), tempfile.TemporaryDirectory() as folder:
            data = Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()
        if digest and (found := digest_bytes(data)) != digest:
            raise ModelError(
                f"{path} of run {run_id}",
                required=f"SHA-256 {digest}",
                found=found,
                where=self.named(),
                remedy="the stored copy is damaged: restore it, or train again",
            )
        return data

    # models

    def register(self, run_id: str, name: str, estimator: Pipeline) -> str:
        """Make a run's pipeline a version of the registered model ``name``, in the skops format."""
        with self._speaking(), tempfile.TemporaryDirectory() as folder:
            logged = self._client.create_logged_model(self._experiment(name), "challenger", run_id)
            mlflow.sklearn.save_model(
                estimator,
                f"{folder}/model",
                mlflow_model=Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id),
                serialization_format="skops",
                skops_trusted_types=list(TRUSTED),
                # named, or MLflow starts a process that guesses them
                pip_requirements=[f"{package}=={version(package)}" for package in NEEDED],
            )
            self._client.log_model_artifacts(logged.model_id, f"{folder}/model")
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
            _unless("RESOURCE_ALREADY_EXISTS", lambda: self._client.create_registered_model(name))
            # a server looks models:/… up in itself, a database at the address that the process has for MLflow
            source = logged.model_uri if self.uri.startswith("http") else logged.artifact_location
            made = self._client.create_model_version(
                name, source, run_id, await_creation_for=20, model_id=logged.model_id
            )
        return str(made.version)

    def run_of(self, name: str, number: str) -> str:
        """Return the run that made a model version."""
        with self._speaking(f"{name} v{number}"):
            return str(self._client.get_model_version(name, number).run_id)

    def aliases(self, name: str) -> dict[str, str]:
        """Return alias -> version of a registered model; none where there is no such model."""
        with self._speaking():
            found = self._client.search_registered_models(f"name = '{name}'")
            return {alias: str(number) for model in found for alias, number in model.aliases.items()}

    def set_alias(self, name: str, alias: str, number: str) -> None:
        """Point an alias at a version, or at none where ``number`` is empty."""
        with self._speaking(f"{name} v{number}"):
            if number:
                self._client.set_registered_model_alias(name, alias, number)
            else:
                self._client.delete_registered_model_alias(name, alias)

    # within

    def _runs(self, usecase: str, key: str) -> Sequence[Run]:
        """Return an attempt's runs, the first to finish first; of all attempts without a key."""
        if (experiment := self._client.get_experiment_by_name(usecase)) is None:
            return []
        where = [experiment.experiment_id], f"tags.`{KEY}` = '{key}'" if key else ""
        found = self._client.search_runs(*where, ViewType.ACTIVE_ONLY, max_results=50_000)
        return sorted(found, key=lambda run: (run.info.end_time or 1 << 62, run.info.run_id))

    def _forget(self, run_id: str) -> None:
        """Delete the model versions that a run made."""
        for found in self._client.search_model_versions(f"run_id = '{run_id}'"):
            delete = partial(self._client.delete_model_version, found.name, found.version)
            _unless("RESOURCE_DOES_NOT_EXIST", delete)

    def _experiment(self, usecase: str) -> str:
        if (found := self._client.get_experiment_by_name(usecase)) is not None:
            return str(found.experiment_id)
        _unless("RESOURCE_ALREADY_EXISTS", partial(self._client.create_experiment, usecase, self.artifacts))
        return self._experiment(usecase)

    def named(self) -> str:
        """Return the registry's address without a password."""
        place = urlsplit(self.uri).netloc
        return self.uri.replace(place, place.rpartition("@")[2]) if "@" in place else self.uri

    @contextmanager
    def _speaking(self, subject: str = "") -> Iterator[None]:
        """Turn MLflow's errors into a sentence that names the server."""
        try:
            yield
        except (MlflowException, RequestException, OSError) as error:
            raise EvergreenError(
                f"registry: {subject}" if subject else "registry",
                found=redact(" ".join(str(error).replace(self.uri, self.named()).split()))[:300],
                where=self.named(),
                remedy="see that MLflow is up and MLFLOW_TRACKING_URI and the password are right; then rerun",
            ) from None  # its own text may hold the password


def _unless(code: str, act: Callable[[], object]) -> None:
    """Do what another process may have done just before."""
    try:
        act()
    except MlflowException as error:
        if error.error_code != code:
            raise
