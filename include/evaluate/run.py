"""The evidence for a verdict: every model on the same unseen rows, read back the way it would serve.

The models come from the registry by their digests, and each must predict what it predicted when it was
fitted, to the bit: a difference between fit and serve is an error here and not a surprise in the night.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include import models
from include.errors import ModelError, StaleDecision
from include.evaluate.metrics import loss, measured
from include.features.build import training_set
from include.lake import Lake
from include.promote import ledger
from include.promote.evidence import BASELINE, CHALLENGER, CHAMPION, Evidence, Losses, place
from include.refs import Ref, digest_bytes, digest_table
from include.registry import Registry
from include.spec import UseCase
from include.spec.metrics import METRICS
from include.train.fit import target
from include.train.record import PATH, Fitted, Record, attempt_key
from include.train.split import nights_of, split

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Champion:
    """Who is to be beaten; without a digest nobody, or one that can't be compared with, for a reason."""

    digest: str = ""
    last_fitted: str = ""
    note: str = ""
    predictions: Array | None = None


def evaluate(lake: Lake, spec: UseCase, night: str, run_id: str, *, registry: Registry) -> Ref:
    """Measure challenger, baselines and champion on the test nights that none was fitted or tuned on.

    Parameters
    ----------
    night : of the training.
    run_id : what `include.train.run.train` returned.

    Returns
    -------
    Ref
        ``uri`` is the key of the evidence in the lake; the same data again gives the same bytes.

    Raises
    ------
    StaleDecision
        when the declaration or the data isn't any more what the training saw.
    ModelError
        when a model is damaged, or the challenger predicts something else than in training.
    """
    record = Record.from_json(registry.get(run_id, PATH))
    rows = training_set(lake, spec, night)
    _same(spec, night, record, digest_table(rows))
    test = split(rows, spec, night).test
    found = {CHALLENGER: _again(registry, run_id, record.challenger, test, spec)}
    for fitted in record.baselines:
        found[f"{BASELINE}{fitted.name}"] = _again(registry, run_id, fitted, test, spec)
    champion = _champion(lake, spec, night, attempt_key(spec, night, record.data), test)
    if champion.predictions is not None:
        found[CHAMPION] = champion.predictions
    last = max(record.last_fitted, champion.last_fitted)
    evidence = _evidence(spec, record, champion, last, test, found)
    key, data = place(evidence.key), evidence.to_json().encode()
    lake.replace(key, data)
    figures = {
        f"test.{n}.{m}".replace(":", "."): v for n, ms in evidence.metrics.items() for m, v in ms.items()
    }
    registry.log(run_id, at=int(spec.clock.moment(night).timestamp() * 1000), metrics=figures)
    return Ref(key, night, digest_bytes(data), sum(evidence.losses.rows), _sentence(spec, evidence))


def _same(spec: UseCase, night: str, record: Record, data: str) -> None:
    """Refuse to judge a training by a declaration or by rows that it didn't have."""
    for what, then, now in (("declaration", record.spec, spec.digest), ("training data", record.data, data)):
        if then != now:
            raise StaleDecision(
                f"{spec.name}/{night}: evaluation",
                required=f"the {what} that the training saw, {then[:12]}",
                found=now[:12],
                remedy="it was changed since: clear the train task too, so that it trains again",
            )


def _again(registry: Registry, run_id: str, fitted: Fitted, test: pa.Table, spec: UseCase) -> Array:
    """Return the stored model's predictions of the test rows, once they are those of the fitted one."""
    estimator = models.load(registry.get(run_id, fitted.path, fitted.digest), fitted.digest)
    predictions = models.predict(estimator, test, spec)
    if (now := digest_bytes(predictions.tobytes())) != fitted.predictions:
        raise ModelError(
            f"{spec.name}: {fitted.name} of run {run_id}",
            required=f"the predictions that it gave in training, {fitted.predictions[:12]}",
            found=now[:12],
            remedy="another version of scikit-learn or NumPy reads it: evaluate where it was trained",
        )
    return predictions


def _champion(lake: Lake, spec: UseCase, night: str, key: str, test: pa.Table) -> Champion:
    """Return who this training has to beat, with its predictions where it gives any."""
    row = ledger.rival(lake, night, key)
    if row is None:
        return Champion()
    judged = Evidence.from_json(ledger.attempt(lake, row["attempt"])["evidence"])
    try:
        predictions = models.predict(models.fetch(lake, row["model"]), test, spec)
    except ModelError as error:
        return Champion(note=f"champion v{row['version']} can't be compared with: {error}")
    return Champion(row["model"], judged.last_fitted, "", predictions)


def _evidence(
    spec: UseCase, record: Record, champion: Champion, last: str, test: pa.Table, found: dict[str, Array]
) -> Evidence:
    """Return the record for the rows of the nights after ``last``, those that no model has seen."""
    of = np.asarray(test["night"].to_pylist(), dtype=object)
    nights = [night for night in nights_of(test) if night > last]
    unseen = np.isin(of, nights)
    actual = target(spec, test)
    losses = {name: loss(spec.gate.objective, actual, values) for name, values in found.items()}
    places = [np.flatnonzero(of == night) for night in nights]
    return Evidence(
        usecase=spec.name,
        night=record.night,
        spec=record.spec,
        data=record.data,
        code=record.code,
        version=record.version,
        model=record.challenger.digest,
        prior=record.prior,
        baseline_model=record.baseline.digest,
        metrics={
            name: measured(METRICS[spec.problem.kind], actual[unseen], values[unseen])
            for name, values in found.items()
        },
        losses=Losses(
            nights=tuple(nights),
            rows=tuple(len(place) for place in places),
            sums={name: tuple(float(v[place].sum()) for place in places) for name, v in losses.items()},
        ),
        champion=champion.digest,
        last_fitted=last,
        note=champion.note,
    )


def _sentence(spec: UseCase, evidence: Evidence) -> str:
    rows = sum(evidence.losses.rows)
    if not rows:
        return f"no labelled test night after {evidence.last_fitted}"
    means = {name: sum(sums) / rows for name, sums in evidence.losses.sums.items()}
    text = ", ".join(f"{name} {mean:.4f}" for name, mean in sorted(means.items(), key=lambda item: item[1]))
    text = f"{spec.gate.objective} on {len(evidence.losses.nights)} nights, {rows} rows: {text}"
    return f"{text}; {evidence.note}" if evidence.note else text
