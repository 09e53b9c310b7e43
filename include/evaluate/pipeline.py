"""The evidence for a verdict: every model on the same unseen rows, read back the way it would serve.

The models come from the registry by their digests, and each must predict what it predicted when it was
fitted, to the bit: a difference between fit and serve is an error here and not a surprise in the partition.
Where a recipe is judged by walking forward, the predictions that count are those that the training kept of
it.
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
    """Who is to be beaten; without a digest nobody, or one that can't be compared with, for a reason."""

    digest: str = ""
    last_fitted: str = ""
    note: str = ""
    predictions: Array | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A stored model, read back, its bytes, and what it predicts of the test rows."""

    estimator: Pipeline
    data: bytes
    predictions: Array


def evaluate(lake: Lake, spec: UseCase, partition: str, run_id: str, *, registry: Registry) -> Ref:
    """Measure challenger, baselines and champion on the test partitions that none was fitted or tuned on.

    Parameters
    ----------
    partition : of the training.
    run_id : what `include.train.pipeline.train` returned.

    Returns
    -------
    Ref
        ``uri`` is the key of the evidence in the lake; the same data and ledger again give the same bytes.

    Raises
    ------
    StaleDecision, ModelError
        when the declaration or the data isn't any more what the training saw; when a model is damaged, or
        predicts something else than in training.
    """
    record = TrainingRecord.from_json(registry.get(run_id, PATH))
    rows = training_set(lake, spec, partition)
    _same(spec, partition, record, digest_table(rows))
    test = split(rows, spec, partition).test
    copy = _again(registry, run_id, record.challenger, test, spec)
    copies = {f"{BASELINE}{b.name}": _again(registry, run_id, b, test, spec) for b in record.baselines}
    found = {name: one.predictions for name, one in {CHALLENGER: copy, **copies}.items()}
    if record.walk_forward:
        found = walk_forward.read_walk(registry.get(run_id, walk_forward.PATH, record.walk_forward))
    champion = _champion(lake, spec, partition, attempt_key(spec, partition, record.data), test)
    if champion.predictions is not None:
        found[CHAMPION] = champion.predictions
    last = _last(spec, record, champion)
    tested = _tested(spec, record, copy, rows, test, found, last)
    evidence = _evidence(spec, record, champion, last, tested, gather_facts(lake, spec, tested))
    lake.replace(evidence_rows_key(evidence.key), tested.parquet())
    _log(registry, run_id, spec, evidence)
    data = evidence.to_json().encode()
    lake.replace(key := evidence_key(evidence.key), data)
    return Ref(key, partition, digest_bytes(data), sum(evidence.losses.rows), _sentence(spec, evidence))


def _last(spec: UseCase, record: TrainingRecord, champion: Incumbent) -> str:
    """Return the last partition that may not judge.

    The labels of the last fitted partitions came later by the delay, and may tell of the partitions until
    then.
    """
    return spec.clock.shift(max(record.last_validation, champion.last_fitted), spec.labels.delay)


def _log(registry: Registry, run_id: str, spec: UseCase, evidence: Evidence) -> None:
    """Note the metrics in the run."""
    figures = {
        f"test.{n}.{m}".replace(":", "."): v for n, ms in evidence.metrics.items() for m, v in ms.items()
    }
    registry.log(run_id, at=int(spec.clock.moment(evidence.partition).timestamp() * 1000), metrics=figures)


def _same(spec: UseCase, partition: str, record: TrainingRecord, data: str) -> None:
    """Refuse to judge a training by a declaration or by rows that it didn't have."""
    for what, then, now in (("declaration", record.spec, spec.digest), ("training data", record.data, data)):
        if then != now:
            raise StaleDecision(
                f"{spec.name}/{partition}: evaluation",
                required=f"the {what} that the training saw, {then[:12]}",
                found=now[:12],
                remedy="it was changed since: clear the train task too, so that it trains again",
            )


def _again(
    registry: Registry, run_id: str, fitted: FittedModel, test: pa.Table, spec: UseCase
) -> LoadedModel:
    """Return the stored model and what it predicts, once that is what the fitted one predicted."""
    data = registry.get(run_id, fitted.path, fitted.digest)
    estimator = artifacts.deserialize(data, fitted.digest)
    predictions = artifacts.predict(estimator, test, spec)
    if (now := digest_bytes(predictions.tobytes())) != fitted.predictions:
        raise ModelError(
            f"{spec.name}: {fitted.name} of run {run_id}",
            required=f"the predictions that it gave in training, {fitted.predictions[:12]}",
            found=now[:12],
            remedy="another version of scikit-learn or NumPy reads it: evaluate where it was trained",
        )
    return LoadedModel(estimator, data, predictions)


def _champion(lake: Lake, spec: UseCase, partition: str, key: str, test: pa.Table) -> Incumbent:
    """Return who this training has to beat, with its predictions where it gives any."""
    row = ledger.champion_to_beat(lake, partition, key)
    if row is None:
        return Incumbent()
    judged = json.loads(ledger.attempt(lake, row["attempt"])["evidence"])
    try:
        predictions = artifacts.predict(artifacts.load_model(lake, row["model"]), test, spec)
    except ModelError as error:
        return Incumbent(note=f"champion v{row['version']} can't be compared with: {error}")
    # one that was promoted by earlier code has no partition of its own fit
    return Incumbent(row["model"], judged.get("fitted") or judged["last_fitted"], "", predictions)


def _tested(
    spec: UseCase,
    record: TrainingRecord,
    copy: LoadedModel,
    training: pa.Table,
    test: pa.Table,
    found: Mapping[str, Array],
    last: str,
) -> EvaluationRows:
    """Return the challenger with the rows of the partitions after ``last``, those that no model has seen.

    Parameters
    ----------
    training : the whole training set, of which ``test`` is the end.
    """
    unseen = np.asarray(test["partition"].to_pylist(), dtype=object) > last
    rows = test.filter(pa.array(unseen, pa.bool_()))
    return EvaluationRows(
        partition=record.partition,
        recipe=next(c for c in spec.training.candidates if c.name == record.challenger.name),
        estimator=copy.estimator,
        data=copy.data,
        digest=record.challenger.digest,
        fitted=training.filter(pc.less_equal(training["partition"], record.last_validation)),
        deployed_fit=training.filter(pc.less_equal(training["partition"], record.last_fitted)),
        rows=rows,
        actual=target(spec, rows),
        partitions=tuple(partitions_of(rows)),
        predictions={name: values[unseen] for name, values in found.items()},
        deployed=copy.predictions[unseen],
    )


def _evidence(
    spec: UseCase,
    record: TrainingRecord,
    champion: Incumbent,
    last: str,
    tested: EvaluationRows,
    facts: Facts,
) -> Evidence:
    """Return the record for the tested rows."""
    places = tested.places()
    losses = tested.losses(spec)
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
            name: metric_values(metric_names(spec), tested.actual, values, spec.problem.classes)
            for name, values in tested.predictions.items()
        },
        losses=Losses(
            partitions=tuple(tested.partitions),
            rows=tuple(len(place) for place in places),
            sums={name: tuple(float(v[place].sum()) for place in places) for name, v in losses.items()},
        ),
        champion=champion.digest,
        last_fitted=last,
        fitted=record.last_fitted,
        recipe=record.challenger.name,
        facts=facts,
        note=champion.note,
    )


def _sentence(spec: UseCase, evidence: Evidence) -> str:
    rows = sum(evidence.losses.rows)
    if not rows:
        return f"no labelled test partition after {evidence.last_fitted}"
    means = {name: sum(sums) / rows for name, sums in evidence.losses.sums.items()}
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in sorted(means.items(), key=lambda item: item[1]))
    text = f"{spec.gate.objective} on {len(evidence.losses.partitions)} partitions, {rows} rows: {text}"
    return f"{text}; {evidence.note}" if evidence.note else text
