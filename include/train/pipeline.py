"""A training partition turns what was known into one challenger, the same one however often it is asked for.

Baselines and candidates are fitted on the training partitions and scored by the gate's objective on the
validation partitions; the best candidate is the challenger. It and every baseline are then fitted again, for
a gate on held-out evidence on training and validation partitions together, never on test partitions: what is
judged there is what would serve. For a walk forward the recipe is judged there first, then fitted on all
partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from include.environment import code_version
from include.errors import EvergreenError
from include.features.build import join_labels, known_too_late, matured, remedy_too_late, training_set
from include.judge.evidence import CHALLENGER
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.references import Ref
from include.spec import UseCase
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import monitoring_baselines
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
from include.train.walk_forward import PATH as WALKED
from include.train.walk_forward import walk_forward


@dataclass(frozen=True)
class TrainingInputs:
    """What a training starts from.

    The declaration, the partition, the rows' digest, and the tables' versions.
    """

    spec: UseCase
    partition: str
    data: str
    tables: Mapping[str, int]


def train(lake: Lake, spec: UseCase, partition: str, *, registry: Registry) -> Ref:
    """Fit what the spec declares on what ``partition`` could know, and register the challenger.

    The same declaration, partition and data are the same attempt: when the registry has its finished run,
    that one is returned, and what a killed training left is deleted. Of two at once the first to finish
    stays.

    Returns
    -------
    Ref
        ``uri`` is the MLflow run, ``digest`` the challenger's.

    Raises
    ------
    EvergreenError
        when partitions are missing, a class is, or the registry doesn't answer.
    SpecError
        when a recipe is named that there isn't, or its parameters don't fit.
    """
    tables = {name: lake.version(f"validated_{name}") for name in spec.sources}
    rows = training_set(lake, spec, partition)
    given = TrainingInputs(spec, partition, digest_table(rows), tables)
    key = attempt_key(spec, partition, given.data)
    run = registry.settle(spec.name, key)
    if not run:
        parts = _split(lake, spec, partition, rows)
        require_learnable_labels(spec, partition, parts.train)
        try:
            with registry.recording(spec.name, key, f"{spec.name} {partition}") as own:
                _fill(lake, given, parts, registry, own)
        except EvergreenError:
            # another of the same attempt was faster and deleted this one, or it failed
            if not (run := registry.settle(spec.name, key)):
                raise
        run = run or registry.settle(spec.name, key)
    return _ref(run, TrainingRecord.from_json(registry.get(run, PATH)), spec)


def _split(lake: Lake, spec: UseCase, partition: str, rows: pa.Table) -> Split:
    """Cut the rows; where partitions are missing because the spine came too late for them, say that."""
    try:
        return split(rows, spec, partition)
    except EvergreenError as too_few:
        window = spec.training.window
        first = spec.clock.shift(partition, -window) if window else ""
        partitions = [key for key in matured(lake, spec, partition) if key >= first]
        late = known_too_late(lake, spec, partitions)
        try:
            split(pa.table({"partition": pa.array(partitions, pa.string())}), spec, partition)
        except EvergreenError:
            raise too_few from None  # had all come in time there would still be too few
        if not late:
            raise
    last = max(late)
    raise EvergreenError(
        f"{spec.name}: training on {partition}",
        required=f"labelled partitions on which the spine {spec.features.spine} is known by the decision",
        found=f"{len(late)} of {len(partitions)} on which its rows were known only later, as on {last} from "
        f"{late[last]:%H:%M} UTC on",
        where=f"schedule.batch = {spec.schedule.batch!r}",
        remedy=remedy_too_late(spec, last),
    )


def _fill(lake: Lake, given: TrainingInputs, parts: Split, registry: Registry, run: str) -> None:
    """Do the training of one run; all that it publishes is there before the run is finished."""
    spec = given.spec
    trials = [fit_and_validate(spec, c, parts) for c in (*spec.training.baselines, *spec.training.candidates)]
    first = len(spec.training.baselines)
    best = min(trials[first:], key=lambda trial: trial.loss)
    walked = None
    seen = pa.concat_tables([parts.train, parts.validation])
    every = pa.concat_tables([seen, parts.test])
    if spec.gate.evidence == "walk_forward":
        walked = walk_forward(
            spec, given.partition, best.candidate, parts, partial(_known, lake, spec, every)
        )
        seen = every
    baselines = [fit_final(spec, trial, seen, parts.test) for trial in trials[:first]]
    final = fit_final(spec, best, seen, parts.test)
    files = {fit.fitted.path: fit.data for fit in (final, *baselines)}
    registry.put(run, files | ({WALKED: walked.data} if walked else {}))
    version = registry.register(run, spec.name, final.estimator)
    record = _record(given, parts, seen, final, baselines, version)
    record = replace(record, walked=walked.digest) if walked else record
    unseen = walked.predictions[CHALLENGER] if walked else final.predictions
    learnt = monitoring_baselines.publish_reference(
        lake, spec, record, seen, np.concatenate([best.predictions, unseen])
    )
    monitoring_baselines.publish_alarm_limits(
        lake, spec, record, learnt, every, artifacts.predict(final.estimator, every, spec)
    )
    registry.put(run, {PATH: record.to_json()})
    _note(given, record, trials, registry, run)


def _known(lake: Lake, spec: UseCase, every: pa.Table, origin: str) -> pa.Table:
    """Return what a training on an earlier partition would have been fitted on."""
    if spec.training.window:  # it reached further back than today's
        return training_set(lake, spec, origin)
    return join_labels(lake, spec, every, origin)


def _record(
    given: TrainingInputs,
    parts: Split,
    seen: pa.Table,
    final: FinalFit,
    baselines: list[FinalFit],
    version: str,
) -> TrainingRecord:
    partitions = parts.partitions()
    return TrainingRecord(
        usecase=given.spec.name,
        partition=given.partition,
        spec=given.spec.digest,
        data=given.data,
        code=code_version(),
        version=version,
        prior=outputs.label_prior(given.spec, target(given.spec, seen)),
        last_fitted=partitions_of(seen)[-1],
        partitions=partitions,
        rows={name: getattr(parts, name).num_rows for name in partitions},
        challenger=final.fitted,
        baselines=tuple(fit.fitted for fit in baselines),
    )


def _note(
    given: TrainingInputs, record: TrainingRecord, trials: list[ValidationFit], registry: Registry, run: str
) -> None:
    """Write into the run what a person compares runs by."""
    training = given.spec.training
    params: dict[str, Any] = {
        "partition": given.partition,
        "seed": training.seed,
        "challenger": record.challenger.name,
    }
    for trial in trials:
        params |= flat_parameters(trial.candidate)
    params |= {f"partitions.{name}": _range(partitions) for name, partitions in record.partitions.items()}
    params |= {f"rows.{name}": rows for name, rows in record.rows.items()}
    params |= {f"lake.{name}": version for name, version in given.tables.items()}
    metrics = {f"validation.{t.candidate.name}.{m}": value for t in trials for m, value in t.metrics.items()}
    metrics |= {f"validation.{t.candidate.name}.objective": t.loss for t in trials}
    metrics |= {f"seconds.{t.candidate.name}": t.seconds for t in trials}
    tags = {"spec": record.spec, "code": record.code, "data": record.data, "model": record.challenger.digest}
    at = int(given.spec.clock.moment(given.partition).timestamp() * 1000)
    registry.log(
        run, at=at, params=params, metrics=metrics, tags={f"evergreen.{k}": v for k, v in tags.items()}
    )


def _range(partitions: list[str]) -> str:
    return f"{partitions[0]}..{partitions[-1]}" if partitions else "none"


def _ref(run: str, record: TrainingRecord, spec: UseCase) -> Ref:
    won, rows = record.challenger, record.fitted_rows
    note = f"{spec.name} v{record.version}: {won.name}, {spec.gate.objective} {won.validation:.4f} on the "
    note += f"validation partitions; fitted on {rows} rows until {record.last_fitted}"
    return Ref(uri=run, partition=record.partition, digest=won.digest, rows=rows, note=note)
