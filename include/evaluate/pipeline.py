"""The evaluate stage: measure challenger, baselines and champion on the same unseen rows.

Models are loaded from the registry by digest. Each must reproduce, bit by bit, the predictions that it gave
when it was fitted, so a training-serving difference is an error here and not a surprise in production. For a
recipe that is evaluated by walk-forward, the predictions that count are those that the training stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError, StaleDecision
from include.evaluate.measure import EvaluationRows, gather_facts
from include.features.build import training_set
from include.judge.evidence import (
    BASELINE,
    CHALLENGER,
    CHAMPION,
    Evidence,
    Facts,
    Losses,
    evidence_key,
    evidence_rows_key,
)
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger
from include.references import Ref, digest_bytes
from include.spec import UseCase
from include.spec.metrics import metric_names
from include.stats.metrics import metric_values
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import walk_forward
from include.train.fit import target
from include.train.record import PATH, FittedModel, TrainingRecord, attempt_key
from include.train.split import partitions_of, split

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Incumbent:
    """The champion to beat.

    Parameters
    ----------
    digest : of the model; empty if there is no champion, or if it can't be compared with.
    last_fitted : the last partition that it was fitted on.
    note : why it can't be compared with.
    predictions : of the test rows.
    """

    digest: str = ""
    last_fitted: str = ""
    note: str = ""
    predictions: Array | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model that was loaded from its stored bytes, and its predictions of the test rows."""

    estimator: Pipeline
    data: bytes
    predictions: Array


def evaluate(lake: Lake, spec: UseCase, partition: str, run_id: str, *, registry: Registry) -> Ref:
    """Measure all models on the test partitions, which none of them was fitted or tuned on.

    Parameters
    ----------
    partition : of the training.
    run_id : the run that `include.train.pipeline.train` returned.

    Returns
    -------
    Ref
        ``uri`` is the key of the evidence in the lake. The stage is idempotent: the same data and ledger give
        the same bytes.

    Raises
    ------
    StaleDecision, ModelError
        if the declaration or the data changed since the training; if a model is damaged, or its predictions
        differ from those in training.
    """
    record = TrainingRecord.from_json(registry.get(run_id, PATH))
    training_rows = training_set(lake, spec, partition)
    _check_inputs_unchanged(spec, partition, record, digest_table(training_rows))
    test = split(training_rows, spec, partition).test
    challenger = _load_model(registry, run_id, record.challenger, test, spec)
    baselines = {
        f"{BASELINE}{baseline.name}": _load_model(registry, run_id, baseline, test, spec)
        for baseline in record.baselines
    }
    if record.walk_forward:
        predictions = walk_forward.read_walk(registry.get(run_id, walk_forward.PATH, record.walk_forward))
    else:
        predictions = {
            name: model.predictions for name, model in {CHALLENGER: challenger, **baselines}.items()
        }
    champion = _load_champion(lake, spec, partition, attempt_key(spec, partition, record.data), test)
    if champion.predictions is not None:
        predictions[CHAMPION] = champion.predictions
    last_fitted = _last_fitted(spec, record, champion)
    rows = _evaluation_rows(spec, record, challenger, training_rows, test, predictions, last_fitted, champion)
    evidence = _evidence(spec, record, champion, last_fitted, rows, gather_facts(lake, spec, rows))
    lake.replace(evidence_rows_key(evidence.key), rows.parquet())
    _log_metrics(registry, run_id, spec, evidence)
    data = evidence.to_json().encode()
    lake.replace(key := evidence_key(evidence.key), data)
    return Ref(key, partition, digest_bytes(data), sum(evidence.losses.rows), _sentence(spec, evidence))


def _check_inputs_unchanged(spec: UseCase, partition: str, record: TrainingRecord, data: str) -> None:
    """Raise `StaleDecision` if the declaration or the training data changed since the training."""
    for subject, before, now in (
        ("declaration", record.spec, spec.digest),
        ("training data", record.data, data),
    ):
        if before != now:
            raise StaleDecision(
                f"{spec.name}/{partition}: evaluation",
                required=f"the {subject} of the training, {before[:12]}",
                found=now[:12],
                remedy=f"the {subject} changed since the training: clear the train task too, to train again",
            )


def _load_model(
    registry: Registry, run_id: str, fitted: FittedModel, test: pa.Table, spec: UseCase
) -> LoadedModel:
    """Return the stored model, after checking that it reproduces its predictions of the test rows."""
    data = registry.get(run_id, fitted.path, fitted.digest)
    estimator = artifacts.deserialize(data, fitted.digest)
    predictions = artifacts.predict(estimator, test, spec)
    if (digest := digest_bytes(predictions.tobytes())) != fitted.predictions:
        raise ModelError(
            f"{spec.name}: {fitted.name} of run {run_id}",
            required=f"the predictions from training, {fitted.predictions[:12]}",
            found=digest[:12],
            remedy="evaluate with the scikit-learn and NumPy versions that the model was trained with",
        )
    return LoadedModel(estimator, data, predictions)


def _load_champion(lake: Lake, spec: UseCase, partition: str, key: str, test: pa.Table) -> Incumbent:
    """Return the champion that this attempt must beat, with its predictions if it can be loaded."""
    row = ledger.champion_to_beat(lake, partition, key)
    if row is None:
        return Incumbent()
    evidence = json.loads(ledger.attempt(lake, row["attempt"])["evidence"])
    try:
        predictions = artifacts.predict(artifacts.load_model(lake, row["model"]), test, spec)
    except ModelError as error:
        return Incumbent(note=f"champion v{row['version']} can't be compared: {error}")
    # evidence of earlier code has no `fitted`
    return Incumbent(row["model"], evidence.get("fitted") or evidence["last_fitted"], "", predictions)


def _last_fitted(spec: UseCase, record: TrainingRecord, champion: Incumbent) -> str:
    """Return the last partition that can't be used for testing.

    The labels of the last fitted partitions arrived later by the label delay, so they may contain information
    on the partitions until then.
    """
    return spec.clock.shift(max(record.last_validation, champion.last_fitted), spec.labels.delay)


def _evaluation_rows(
    spec: UseCase,
    record: TrainingRecord,
    challenger: LoadedModel,
    training_rows: pa.Table,
    test: pa.Table,
    predictions: Mapping[str, Array],
    last_fitted: str,
    champion: Incumbent,
) -> EvaluationRows:
    """Return the test rows of the partitions after ``last_fitted``, with all predictions of them.

    Parameters
    ----------
    training_rows : the whole training set, whose last rows are ``test``.
    """
    unseen = np.asarray(test["partition"].to_pylist(), dtype=object) > last_fitted
    rows = test.filter(pa.array(unseen, pa.bool_()))
    partition = training_rows["partition"]
    return EvaluationRows(
        partition=record.partition,
        recipe=next(c for c in spec.training.candidates if c.name == record.challenger.name),
        estimator=challenger.estimator,
        data=challenger.data,
        digest=record.challenger.digest,
        fitted=training_rows.filter(pc.less_equal(partition, record.last_validation)),
        deployed_fit=training_rows.filter(pc.less_equal(partition, record.last_fitted)),
        champion_fit=(
            training_rows.filter(pc.less_equal(partition, champion.last_fitted)) if champion.digest else None
        ),
        rows=rows,
        actual=target(spec, rows),
        partitions=tuple(partitions_of(rows)),
        predictions={name: values[unseen] for name, values in predictions.items()},
        deployed=challenger.predictions[unseen],
    )


def _evidence(
    spec: UseCase,
    record: TrainingRecord,
    champion: Incumbent,
    last_fitted: str,
    rows: EvaluationRows,
    facts: Facts,
) -> Evidence:
    indices = rows.partition_indices()
    losses = rows.losses(spec)
    return Evidence(
        usecase=spec.name,
        partition=record.partition,
        spec=record.spec,
        data=record.data,
        code=record.code,
        version=record.version,
        model=record.challenger.digest,
        prior=record.prior,
        baseline_model=record.baseline.digest,
        metrics={
            name: metric_values(metric_names(spec), rows.actual, values, spec.problem.classes)
            for name, values in rows.predictions.items()
        },
        losses=Losses(
            partitions=tuple(rows.partitions),
            rows=tuple(len(index) for index in indices),
            sums={name: tuple(float(v[index].sum()) for index in indices) for name, v in losses.items()},
        ),
        champion=champion.digest,
        last_fitted=last_fitted,
        fitted=record.last_fitted,
        recipe=record.challenger.name,
        facts=facts,
        note=champion.note,
    )


def _log_metrics(registry: Registry, run_id: str, spec: UseCase, evidence: Evidence) -> None:
    """Log every model's metrics to the training's run."""
    metrics = {
        f"test.{model}.{metric}".replace(":", "."): value
        for model, values in evidence.metrics.items()
        for metric, value in values.items()
    }
    registry.log(run_id, at=int(spec.clock.moment(evidence.partition).timestamp() * 1000), metrics=metrics)


def _sentence(spec: UseCase, evidence: Evidence) -> str:
    rows = sum(evidence.losses.rows)
    if not rows:
        return f"no labelled test partition after {evidence.last_fitted}"
    means = {name: sum(sums) / rows for name, sums in evidence.losses.sums.items()}
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in sorted(means.items(), key=lambda item: item[1]))
    text = f"{spec.gate.objective} on {len(evidence.losses.partitions)} partitions, {rows} rows: {text}"
    return f"{text}; {evidence.note}" if evidence.note else text
