"""The shape of every table in the lake, in one place; a validated table's columns come from its source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from include.spec.source import Column, Source

TIME = pa.timestamp("us", tz="UTC")
_TYPES = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": TIME,
    "hhmm": pa.int32(),  # minutes after local midnight, 0 to 1440
}


def column_type(column: Column) -> pa.DataType:
    """Return the type in which a column is kept."""
    return pa.string() if column.hashed else _TYPES[column.type]


def validated_schema(source: Source) -> pa.Schema:
    """Return the schema of a source's validated table: its own columns, then Evergreen's."""
    own = [pa.field(name, column_type(column)) for name, column in source.columns.items()]
    return pa.schema([*own, ("partition", pa.string()), ("revision", pa.int32()), ("known_at", TIME)])


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema(list(fields.items()))


_S, _I, _F = pa.string(), pa.int64(), pa.float64()

# what each partition of each product is, and what it was made from: status and lineage in one row
PARTITIONS = _schema(
    product=_S,  # a source's name, or "predictions", "performance", …
    partition=_S,
    outcome=_S,  # published | refused | unavailable
    revision=pa.int32(),
    rows=_I,
    quarantined=_I,
    duplicates=_I,
    digest=_S,  # of the partition's rows
    inputs=_S,  # JSON: product or snapshot -> digest
    spec=_S,  # the declaration's digest
    code=_S,
    note=_S,  # the sentence a person reads
)


def partition_row(
    product: str,
    partition: str,
    rows: int,
    digest: str,
    *,
    inputs: Mapping[str, Any],
    spec: str,
    code: str,
    note: str,
) -> dict[str, Any]:
    """Return the row of `partitions` of a product that Evergreen makes: no row of it is set aside."""
    return {
        "product": product,
        "partition": partition,
        "outcome": "published",
        "revision": 0,
        "rows": rows,
        "quarantined": 0,
        "duplicates": 0,
        "digest": digest,
        "inputs": json.dumps(inputs, sort_keys=True),
        "spec": spec,
        "code": code,
        "note": note,
    }


# a row that was set aside: where it came from, which rule, which value, and the row itself
QUARANTINE = _schema(
    source=_S, partition=_S, revision=pa.int32(), part=_S, row=_I, rule=_S, column=_S, value=_S, record=_S
)
# one profile a column a partition; what is mergeable is kept as sketches
PROFILES = _schema(
    product=_S,
    partition=_S,
    column=_S,
    kind=_S,  # numeric | categorical
    count=_I,
    missing=_I,
    low=_F,
    high=_F,
    total=_F,
    squares=_F,  # of the distances from the mean
    quantiles=pa.binary(),  # of numbers: order statistics, float64, see include.stats.quantile_sketch
    items=pa.binary(),  # of categories: frequent-strings sketch
    distinct=pa.binary(),  # of categories: HLL sketch
)
# the key columns of the use case follow these, and of a multiclass problem, whose `prediction` is that of
# the likeliest class, `label` and a column prediction_<class> each
PREDICTIONS = _schema(
    partition=_S,
    prediction=_F,
    served_by=_S,
    reason=_S,  # why not a higher rung; empty for the champion
    version=_S,  # the model's version in the registry, empty for a constant
    model=_S,  # its digest
    row_digest=_S,  # of the features that were seen
)
# realised performance of a scored partition, as known on the partition its labels came and on each that
# changed them
PERFORMANCE = _schema(
    partition=_S, known=_S, metric=_S, value=_F, rows=_I, unlabelled=_I, served_by=_S, versions=_S
)
# from where on a column alarms, by the partitions that a training knew, and the newest of those partitions
LIMITS = _schema(
    partition=_S,  # of the training
    column=_S,  # a feature, or "prediction"
    model=_S,  # of that training
    cut=_S,  # JSON: how values are counted, see include.stats.drift_measures.Binning
    middle=_F,  # see include.stats.alarms.AlarmLimits; null where there were too few partitions
    spread=_F,
    height=_F,
    partitions=_S,  # JSON: keys
    counts=_S,  # JSON: values by partition and bin
)
# the objective's loss of each model that served a partition, as sums over its labelled rows
LOSSES = _schema(
    partition=_S,
    known=_S,  # as in performance
    model=_S,
    version=_S,
    rows=_I,
    loss=_F,
    baseline=_F,  # of the baseline on the same rows
    against=_S,  # who that is: the deployed one, or the training prior
    expected=_F,  # what the model's own probabilities expect; null of a regression
    observed=_F,  # of the target
    predicted=_F,
)
# what a partition's predictions are expected to be worth before labels come: a row a metric, by the champion
ESTIMATES = _schema(
    partition=_S,
    model=_S,
    version=_S,
    metric=_S,
    value=_F,  # null where it can't be told, and the reason says why
    error=_F,  # root mean square of estimate less realised, over the newest partitions with labels
    low=_F,  # at 90 %, by that error
    high=_F,
    naive=_F,  # the error of the gate's own figure over the same partitions
    partitions=_I,  # that both were measured on
    rows=_I,
    unchecked=_F,  # the estimate before it was asked whether it can be told: its error is measured on it
    reason=_S,
)
FINDINGS = _schema(
    partition=_S,
    check=_S,
    subject=_S,
    value=_F,
    threshold=_F,
    outcome=_S,
    note=_S,  # outcome: ok | alarm | not enough
)
# how far each column's window is from what the champion learnt, by every measure of its kind
DRIFT = _schema(
    partition=_S,
    column=_S,  # a feature, "prediction", or the target: of its matured labels
    measure=_S,  # psi | js | ks | wasserstein | new | vanished | missing
    value=_F,  # null where it can't be told
    rows=_I,
    partitions=_I,  # in the window
)
DECISIONS = _schema(
    partition=_S,
    decision=_S,  # nothing | alert | retrain | roll back | stop serving
    cause=_S,  # of the training that is asked for, whatever the decision; or empty
    reason=_S,
    alerts=_S,  # JSON: what a person is told, see include.monitor.policy.AlertItem
)
# every verdict, keyed so that a rerun is no new attempt
ATTEMPTS = _schema(
    key=_S,
    partition=_S,
    verdict=_S,  # blessed | not blessed | not enough evidence | rubber-stamped | forced
    sentence=_S,
    checks=_S,  # JSON
    evidence=_S,  # JSON
    version=_S,
    model=_S,
    spec=_S,
    data=_S,
    code=_S,
    attempt=_I,  # its number since the last promotion
    recorded=_I,  # numbered from 1 in the order in which they were recorded
)
# what a person said to a verdict; one row an attempt, the first answer stays
APPROVALS = _schema(
    attempt=_S,  # key of the verdict
    answer=_S,  # approved | rejected | expired
    by=_S,
    at=TIME,  # when it was given
    reason=_S,
    recorded=_I,
)
# every switch; the newest row of each role is live
DEPLOYMENTS = _schema(
    switch=_I,  # numbered from 1
    role=_S,  # champion | baseline | challenger
    version=_S,
    model=_S,
    prior=_F,  # the label's mean in training; null where the next is given
    priors=_S,  # JSON: of a multiclass problem each class's share in training
    effective=_S,  # the first partition it may serve
    evidence=_S,  # the partition of its verdict
    kind=_S,  # promoted | rolled back | forced | demoted | shadow | canary | withdrawn
    by=_S,
    reason=_S,
    attempt=_S,  # key of its verdict
    request=_S,  # what asked for it, so that the same asks once: the verdict's key, a run's id, or nothing
)
# every partition that a person withdrew; see include.ops.withdrawal
WITHDRAWALS = _schema(
    partition=_S,
    by=_S,
    at=TIME,
    reason=_S,
    contents=_S,  # JSON: table -> the object with the rows that it had
    resting=_S,  # JSON: the scored partitions whose realised figures rested on it, which were made anew
    recorded=_I,
)
