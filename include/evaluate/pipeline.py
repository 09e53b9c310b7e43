"""The evaluate stage: measure challenger, baselines and champion on the same test rows.

Each recipe predicts a test partition by the fit that it had before it: its walk. The challenger is the
recipe's newest fit. It was fitted on the test rows too, so its own predictions of them don't judge its
accuracy. It is loaded from the registry by digest, and must reproduce the predictions that it gave when it
was fitted, bit by bit. So a training-serving difference is an error here and not a surprise in production.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from include.errors import ModelError, TrainingOutdated
from include.evaluate.measure import EvaluationRows, gather_facts
from include.evaluate.refit import measure_refit
from include.features.labels import training_set
from include.judge.evidence import (
    BASELINE_PREFIX,
    CHALLENGER,
    CHAMPION,
    Evidence,
    Facts,
    Losses,
    evidence_key,
    evidence_rows_key,
)
from include.models import artifacts, outputs
from include.models.registry import Registry
from include.promote import ledger
from include.references import Ref, digest_bytes
from include.spec import UseCase
from include.stats.metrics import all_metric_values
from include.storage.digests import digest_table
from include.storage.lake import Lake
from include.train import dask_engine, walks
from include.train.fits import KnownRows, accepted_fits, newest_fits, read_fits
from include.train.fitting import target
from include.train.recipes import recipe_names, recipes_by_name
from include.train.record import PATH, FittedModel, TrainingRecord, training_key
from include.train.split import partitions_of, split

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChampionToBeat:
    """The champion that the challenger is compared with.

    Parameters
    ----------
    digest : of the model; empty if there is no champion.
    last_fitted : the last partition that it was fitted on; empty if unknown.
    """

    digest: str = ""
    last_fitted: str = ""


@dataclass(frozen=True)
class LoadedModel:
    """A model that was loaded from its stored bytes, and its predictions of the test rows."""

    estimator: Pipeline
    data: bytes
    predictions: Array


@dask_engine.keep_started()
def evaluate(lake: Lake, spec: UseCase, partition: str, run_id: str, *, registry: Registry) -> Ref:
    """Measure all recipes on the test partitions, by fits that were made before them.

    Parameters
    ----------
    partition : of the training.
    run_id : the run that `include.train.pipeline.train` returned.

    Returns
    -------
    Ref
        ``id`` is the key of the evidence in the lake. The stage is idempotent: the same data and ledger give
        the same bytes.

    Raises
    ------
    TrainingOutdated, ModelError
        if the declaration or the data changed since the training; if a model is damaged, or its predictions
        differ from those in training.
    """
    record = TrainingRecord.from_json(registry.get(run_id, PATH))
    training_rows = training_set(lake, spec, partition)
    _check_inputs_unchanged(spec, partition, record, digest_table(training_rows))
    test = walks.sample(split(training_rows, spec, partition).test, spec)
    challenger = _load_model(registry, run_id, record.challenger, test, spec)
    _load_model(registry, run_id, record.baseline, test, spec)
    walk_predictions = _walk_predictions(lake, spec, record, test)
    champion = _load_champion(lake, spec, record)
    rows = _evaluation_rows(spec, record, challenger, training_rows, test, walk_predictions, champion)
    facts = replace(gather_facts(lake, spec, rows), labeled=len(partitions_of(training_rows)))
    if champion.digest and rows.rows.num_rows:
        known_rows = KnownRows(lake, spec, partition, training_rows)
        facts = replace(facts, refit=measure_refit(known_rows, record, champion.digest, champion.last_fitted))
    evidence = _evidence(lake, spec, record, champion, rows, facts)
    lake.replace(evidence_rows_key(evidence.key), rows.parquet())
    _log_metrics(registry, run_id, spec, evidence)
    data = evidence.to_json().encode()
    lake.replace(key := evidence_key(evidence.key), data)
    return Ref(key, partition, digest_bytes(data), sum(evidence.losses.rows), _sentence(spec, evidence))


def _check_inputs_unchanged(spec: UseCase, partition: str, record: TrainingRecord, data: str) -> None:
    """Raise `TrainingOutdated` if the declaration or the training data changed since the training."""
    for subject, before, now in (
        ("declaration", record.spec, spec.digest),
        ("training data", record.data, data),
    ):
        if before != now:
            raise TrainingOutdated(
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
    estimator = artifacts.deserialize(data, fitted.digest, spec)
    predictions = artifacts.predict(estimator, test, spec)
    if (digest := digest_bytes(predictions.tobytes())) != fitted.predictions:
        raise ModelError(
            f"{spec.name}: {fitted.name} of run {run_id}",
            required=f"the predictions from training, {fitted.predictions[:12]}",
            found=digest[:12],
            remedy="evaluate with the scikit-learn and NumPy versions that the model was trained with",
        )
    return LoadedModel(estimator, data, predictions)


def _load_champion(lake: Lake, spec: UseCase, record: TrainingRecord) -> ChampionToBeat:
    """Return the champion that the recipe was chosen against; after another switch it isn't promoted."""
    model = record.selection.champion
    if model is None:  # earlier code didn't record it
        row = ledger.champion_to_beat(
            lake, record.partition, training_key(spec, record.partition, record.data)
        )
        model = row["model"] if row else ""
    last_fitted = [fit.last_fitted for fit in read_fits(lake) if fit.model == model]
    champions = [row for row in ledger.champions(ledger.switches(lake)) if row["model"] == model]
    if champions and not last_fitted:  # its partition was trained again on other data
        attempts = lake.rows("attempts", {"key": str(champions[-1]["attempt"])}, ["evidence"])
        last_fitted = [str(json.loads(row["evidence"])["fitted"]) for row in attempts]
    return ChampionToBeat(model, last_fitted[-1] if last_fitted else "")


def _walk_predictions(lake: Lake, spec: UseCase, record: TrainingRecord, test: pa.Table) -> dict[str, Array]:
    """Return the walks' predictions of the test rows by the names that the evidence has for the recipes.

    A baseline that couldn't be fitted is left out, and so is each of the challenger's rivals that can't
    predict some of the rows.
    """
    walk, selection = walks.predict_walk(lake, spec, test), record.selection
    missing = np.full(outputs.predictions_shape(spec, test.num_rows), np.nan)
    predictions = {CHALLENGER: walk.get(selection.recipe, missing)}
    others = {
        f"{BASELINE_PREFIX}{baseline.name}": walk.get(baseline.name, missing)
        for baseline in spec.training.baselines
        if baseline.name not in selection.failed
    }
    if selection.serving in walk and selection.serving != selection.recipe:
        others[CHAMPION] = walk[selection.serving]
    return predictions | {name: values for name, values in others.items() if not np.isinf(values).any()}


def _evaluation_rows(
    spec: UseCase,
    record: TrainingRecord,
    challenger: LoadedModel,
    training_rows: pa.Table,
    test: pa.Table,
    walk_predictions: Mapping[str, Array],
    champion: ChampionToBeat,
) -> EvaluationRows:
    """Return the test rows that every walk has predicted, with all predictions of them.

    Parameters
    ----------
    training_rows : the whole training set, whose last rows are ``test``.
    """
    unseen = np.ones(test.num_rows, dtype=bool)
    for values in walk_predictions.values():
        unseen &= outputs.finite_rows(values)
    rows = test.filter(pa.array(unseen, pa.bool_()))
    partition, last = training_rows["partition"], champion.last_fitted
    return EvaluationRows(
        partition=record.partition,
        recipe=recipes_by_name(spec)[record.challenger.name],
        estimator=challenger.estimator,
        data=challenger.data,
        digest=record.challenger.digest,
        fitted=training_rows.filter(pc.is_in(partition, pa.array(record.partitions["train"], pa.string()))),
        deployed_fit=training_rows.filter(pc.less_equal(partition, record.last_fitted)),
        champion_fit=training_rows.filter(pc.less_equal(partition, last)) if last else None,
        rows=rows,
        actual=target(spec, rows),
        partitions=tuple(partitions_of(rows)),
        walk_predictions={name: values[unseen] for name, values in walk_predictions.items()},
        deployed_predictions=challenger.predictions[unseen],
    )


def _evidence(
    lake: Lake,
    spec: UseCase,
    record: TrainingRecord,
    champion: ChampionToBeat,
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
        constant=record.constant,
        baseline_model=record.baseline.digest,
        metrics={
            name: all_metric_values(spec, rows.actual, values)
            for name, values in rows.walk_predictions.items()
        },
        losses=Losses(
            partitions=tuple(rows.partitions),
            rows=tuple(len(index) for index in indices),
            sums={name: tuple(float(v[index].sum()) for index in indices) for name, v in losses.items()},
        ),
        champion=champion.digest,
        last_fitted=_last_fitted(lake, spec, record, rows),
        fitted=record.last_fitted,
        recipe=record.challenger.name,
        facts=facts,
        selection=asdict(record.selection),
    )


def _last_fitted(lake: Lake, spec: UseCase, record: TrainingRecord, rows: EvaluationRows) -> str:
    """Return the last partition that the fit behind the first test partition's predictions was fitted on."""
    if not rows.partitions:
        return record.last_fitted
    newest = newest_fits(accepted_fits(lake), recipe_names(spec), rows.partitions[0])
    return newest[record.challenger.name].last_fitted


def _log_metrics(registry: Registry, run_id: str, spec: UseCase, evidence: Evidence) -> None:
    """Log every model's metrics to the training's run."""
    metrics = {
        f"test.{model}.{metric}".replace(":", "."): value
        for model, values in evidence.metrics.items()
        for metric, value in values.items()
    }
    registry.log(
        run_id, at=int(spec.clock.decision_time(evidence.partition).timestamp() * 1000), metrics=metrics
    )


def _sentence(spec: UseCase, evidence: Evidence) -> str:
    rows = sum(evidence.losses.rows)
    if not rows:
        return f"no labeled test partition after {evidence.last_fitted}"
    means = {name: sum(sums) / rows for name, sums in evidence.losses.sums.items()}
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in sorted(means.items(), key=lambda item: item[1]))
    return f"{spec.gate.objective} on {len(evidence.losses.partitions)} partitions, {rows:,} rows: {text}"
