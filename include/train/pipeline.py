"""The training pipeline: turns the data known by a partition into one registered challenger, repeatably.

1. Baselines and candidates are fitted on the training partitions and measured by the gate's objective on the
   validation partitions. The best candidate becomes the challenger.
2. The challenger and every baseline are fitted again to serve. For a gate on held-out evidence they are
   fitted on the training and validation partitions, never on the test partitions, so that the model that was
   judged is the model that serves. For a gate on walk-forward evidence the recipe is judged on the test
   partitions first, and the models are then fitted on all partitions.
3. The models, the monitoring baselines and the training record are stored with one run.

Training is idempotent: the same declaration, partition and data return the run that is already finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from include.environment import code_version
from include.errors import EvergreenError, InsufficientData
from include.features.build import join_labels, known_too_late, matured, remedy_too_late, training_set
from include.judge.evidence import CHALLENGER
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.references import Ref
from include.spec import UseCase
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import monitoring_baselines, walk_forward
from include.train.fit import (
    FinalFit,
    ValidationFit,
    fit_and_validate,
    fit_final,
    require_learnable_labels,
    target,
)
from include.train.recipes import flat_parameters
from include.train.record import PATH, TrainingRecord, attempt_key
from include.train.split import Split, partitions_of, split


def train(lake: Lake, spec: UseCase, partition: str, *, registry: Registry) -> Ref:
    """Fit what the spec declares on the data known by ``partition``, and register the challenger.

    The same declaration, partition and data are the same attempt. If the registry has a finished run of it,
    that run is returned. Runs that a killed training left are deleted, and of two concurrent runs the first
    to finish stays.

    Returns
    -------
    Ref
        ``uri`` is the MLflow run, ``digest`` the challenger's.

    Raises
    ------
    InsufficientData
        when partitions, labels or classes are missing.
    EvergreenError
        when the registry doesn't answer.
    SpecError
        when an estimator doesn't exist, or its parameters don't fit.
    """
    table_versions = {name: lake.version(f"validated_{name}") for name in spec.sources}
    rows = training_set(lake, spec, partition)
    attempt = TrainingAttempt(lake, spec, partition, registry, digest_table(rows), table_versions)
    run = registry.settle(spec.name, attempt.key)
    if not run:
        parts = _split_rows(lake, spec, partition, rows)
        require_learnable_labels(spec, partition, parts.train)
        try:
            with registry.recording(spec.name, attempt.key, f"{spec.name} {partition}") as own_run:
                attempt.fill(own_run, parts)
        except EvergreenError:
            # a concurrent run of the same attempt finished first and deleted this one, or this one failed
            if not (run := registry.settle(spec.name, attempt.key)):
                raise
        run = run or registry.settle(spec.name, attempt.key)
    return _to_ref(run, TrainingRecord.from_json(registry.get(run, PATH)), spec)


def _split_rows(lake: Lake, spec: UseCase, partition: str, rows: pa.Table) -> Split:
    """Split the rows; if partitions are missing because the spine arrived too late, raise that instead."""
    try:
        return split(rows, spec, partition)
    except InsufficientData as too_few:
        window = spec.training.window
        first = spec.clock.shift(partition, -window) if window else ""
        partitions = [key for key in matured(lake, spec, partition) if key >= first]
        late = known_too_late(lake, spec, partitions)
        try:
            split(pa.table({"partition": pa.array(partitions, pa.string())}), spec, partition)
        except InsufficientData:
            raise too_few from None  # even with all of them in time there would be too few
        if not late:
            raise
    last = max(late)
    raise InsufficientData(
        f"{spec.name}: training on {partition}",
        required=f"labelled partitions on which the spine {spec.features.spine} is known by the decision",
        found=f"{len(late)} of {len(partitions)} on which its rows were known only later, as on {last} from "
        f"{late[last]:%H:%M} UTC on",
        where=f"schedule.batch = {spec.schedule.batch!r}",
        remedy=remedy_too_late(spec, last),
    )


@dataclass(frozen=True)
class TrainingAttempt:
    """One attempt to train a use case on a partition.

    Parameters
    ----------
    data : digest of the training set.
    table_versions : version in the lake of each source's table.
    """

    lake: Lake
    spec: UseCase
    partition: str
    registry: Registry
    data: str
    table_versions: Mapping[str, int]

    @property
    def key(self) -> str:
        """The key under which the registry has the attempt's runs."""
        return attempt_key(self.spec, self.partition, self.data)

    def fill(self, run: str, parts: Split) -> None:
        """Train, and store everything with the run. All is published before the run is finished."""
        spec, training = self.spec, self.spec.training
        baselines = [fit_and_validate(spec, candidate, parts) for candidate in training.baselines]
        candidates = [fit_and_validate(spec, candidate, parts) for candidate in training.candidates]
        best = min(candidates, key=lambda fit: fit.loss)
        fitted_rows = pa.concat_tables([parts.train, parts.validation])
        all_rows = pa.concat_tables([fitted_rows, parts.test])
        walk = None
        if spec.gate.evidence == "walk_forward":
            rows_known_at = partial(self._rows_known_at, all_rows)
            walk = walk_forward.walk_forward(spec, self.partition, best.candidate, parts, rows_known_at)
            fitted_rows = all_rows
        final_baselines = [fit_final(spec, fit, fitted_rows, parts.test) for fit in baselines]
        challenger = fit_final(spec, best, fitted_rows, parts.test)
        files = {fit.fitted.path: fit.data for fit in (challenger, *final_baselines)}
        self.registry.put(run, files | ({walk_forward.PATH: walk.data} if walk else {}))
        version = self.registry.register(run, spec.name, challenger.estimator)
        walk_digest = walk.digest if walk else ""
        record = self._record(parts, fitted_rows, challenger, final_baselines, version, walk_digest)
        test_predictions = walk.predictions[CHALLENGER] if walk else challenger.predictions
        profiles = monitoring_baselines.publish_reference(
            self.lake, spec, record, fitted_rows, np.concatenate([best.predictions, test_predictions])
        )
        predictions = artifacts.predict(challenger.estimator, all_rows, spec)
        monitoring_baselines.publish_alarm_limits(self.lake, spec, record, profiles, all_rows, predictions)
        self.registry.put(run, {PATH: record.to_json()})
        self._log(run, record, [*baselines, *candidates])

    def _rows_known_at(self, all_rows: pa.Table, origin: str) -> pa.Table:
        """Return the rows that a training on an earlier partition would have been fitted on."""
        if self.spec.training.window:  # it reached further back than this training's
            return training_set(self.lake, self.spec, origin)
        return join_labels(self.lake, self.spec, all_rows, origin)

    def _record(
        self,
        parts: Split,
        fitted_rows: pa.Table,
        challenger: FinalFit,
        baselines: list[FinalFit],
        version: str,
        walk_digest: str,
    ) -> TrainingRecord:
        partitions = parts.partitions()
        return TrainingRecord(
            usecase=self.spec.name,
            partition=self.partition,
            spec=self.spec.digest,
            data=self.data,
            code=code_version(),
            version=version,
            prior=outputs.label_prior(self.spec, target(self.spec, fitted_rows)),
            last_fitted=partitions_of(fitted_rows)[-1],
            partitions=partitions,
            rows={name: getattr(parts, name).num_rows for name in partitions},
            challenger=challenger.fitted,
            baselines=tuple(fit.fitted for fit in baselines),
            walk_forward=walk_digest,
        )

    def _log(self, run: str, record: TrainingRecord, fits: list[ValidationFit]) -> None:
        """Log the parameters, metrics and tags by which a person compares runs."""
        params: dict[str, Any] = {
            "partition": self.partition,
            "seed": self.spec.training.seed,
            "challenger": record.challenger.name,
        }
        metrics: dict[str, float] = {}
        for fit in fits:
            name = fit.candidate.name
            params |= flat_parameters(fit.candidate)
            metrics |= {f"validation.{name}.{metric}": value for metric, value in fit.metrics.items()}
            metrics |= {f"validation.{name}.objective": fit.loss, f"seconds.{name}": fit.seconds}
        params |= {f"partitions.{name}": _describe_range(keys) for name, keys in record.partitions.items()}
        params |= {f"rows.{name}": rows for name, rows in record.rows.items()}
        params |= {f"lake.{name}": version for name, version in self.table_versions.items()}
        tags = {
            "evergreen.spec": record.spec,
            "evergreen.code": record.code,
            "evergreen.data": record.data,
            "evergreen.model": record.challenger.digest,
        }
        at = int(self.spec.clock.moment(self.partition).timestamp() * 1000)
        self.registry.log(run, at=at, params=params, metrics=metrics, tags=tags)


def _describe_range(partitions: list[str]) -> str:
    return f"{partitions[0]}..{partitions[-1]}" if partitions else "none"


def _to_ref(run: str, record: TrainingRecord, spec: UseCase) -> Ref:
    challenger, rows = record.challenger, record.fitted_rows
    note = f"{spec.name} v{record.version}: {challenger.name}, "
    note += f"{spec.gate.objective} {challenger.validation:.4f} on the validation partitions; "
    note += f"fitted on {rows} rows until {record.last_fitted}"
    return Ref(uri=run, partition=record.partition, digest=challenger.digest, rows=rows, note=note)
