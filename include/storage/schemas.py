"""The schemas of all tables in the lake; those of validated tables are derived from their source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from include.environment import code_version
from include.spec.source import Column, Source
from include.storage.digests import digest_table

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
    """Return the type in which a column is stored."""
    return pa.string() if column.hashed else _TYPES[column.type]


def validated_schema(source: Source) -> pa.Schema:
    """Return the schema of a source's validated table: its own columns, then Evergreen's."""
    declared = [pa.field(name, column_type(column)) for name, column in source.columns.items()]
    return pa.schema([*declared, ("partition", pa.string()), ("revision", pa.int32()), ("known_at", TIME)])


def align_to_schema(rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Return rows in a declared schema, with nulls for missing columns; None becomes an empty table."""
    if rows is None:
        return schema.empty_table()
    names = set(rows.column_names)
    columns = [
        rows[field.name].cast(field.type) if field.name in names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _schema(**fields: pa.DataType) -> pa.Schema:
    return pa.schema(list(fields.items()))


_S, _I, _F = pa.string(), pa.int64(), pa.float64()

# the status and lineage of each partition of each product
PARTITIONS = _schema(
    product=_S,  # a source's name, or "predictions", "performance", …
    partition=_S,
    outcome=_S,  # published | refused | unavailable
    revision=pa.int32(),  # the newest one that wasn't refused, from 0
    rows=_I,  # that are published
    quarantined=_I,  # rows that broke a rule of the contract
    duplicates=_I,  # rows that were dropped because they equal another one
    digest=_S,  # of the partition's rows
    inputs=_S,  # JSON: product or snapshot -> digest
    spec=_S,  # the declaration's digest
    code=_S,  # the version of the code
    note=_S,  # one sentence for people
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
    """Return the row in `partitions` of a product that Evergreen computes, without quarantined rows."""
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


def completion_row(
    product: str, partition: str, table: pa.Table, *, inputs: Mapping[str, Any], spec: str, note: str
) -> dict[str, Any]:
    """Return the row in `partitions` that marks a product's published table as complete.

    Parameters
    ----------
    inputs : the digests of what the table was computed from.
    spec : the declaration's digest.
    """
    digest = digest_table(table)
    code = code_version()
    return partition_row(
        product, partition, table.num_rows, digest, inputs=inputs, spec=spec, code=code, note=note
    )


# a quarantined row and the rule that it breaks
QUARANTINE = _schema(
    source=_S,  # its name
    partition=_S,
    revision=pa.int32(),  # of the partition, from 0
    part=_S,  # the file, page or query that it came from
    row=_I,  # its number in the part, from 1
    rule=_S,  # its name, such as required
    column=_S,  # or columns, that the rule is about
    value=_S,  # their text; JSON if there are several
    record=_S,  # JSON: the whole row, as text
)
# one profile per column and partition, with mergeable sketches
PROFILES = _schema(
    product=_S,  # a source, features, predictions, labels, or model:reference, what a model was fitted on
    partition=_S,
    model=_S,  # of a reference: the model's digest; null otherwise
    column=_S,  # its name
    kind=_S,  # numeric | categorical
    count=_I,  # rows
    missing=_I,  # rows without a value
    low=_F,  # the smallest value
    high=_F,  # the largest
    total=_F,  # the sum
    squares=_F,  # sum of squared distances from the mean
    quantiles=pa.binary(),  # of numeric columns: order statistics, float64, see include.stats.quantile_sketch
    items=pa.binary(),  # of categorical columns: frequent-strings sketch
    distinct=pa.binary(),  # of categorical columns: HLL sketch
)
# The use case's key columns follow these. A multiclass problem also has `label`, the most likely class whose
# probability is `prediction`, and a column prediction_<class> for each class. With problem.costs there is an
# `action`, the one with the lowest expected cost by the costs of the day.
PREDICTIONS = _schema(
    partition=_S,
    prediction=_F,  # a probability, or a number in the target's unit
    served_by=_S,  # champion | canary | previous | baseline | constant
    reason=_S,  # why not an earlier step of the fallback chain; empty for the champion
    version=_S,  # the model's version in the registry, empty for a constant
    model=_S,  # its digest
    row_digest=_S,  # of the row's features
)
# realized performance of a scored partition, as known on the partition that brought its labels and on each
# later one that changed them
PERFORMANCE = _schema(
    partition=_S,  # that was scored
    as_of=_S,  # the partition as of which the labels are known
    metric=_S,
    value=_F,  # null where it is undefined for these rows
    rows=_I,  # with a label
    unlabeled=_I,  # rows without one
    served_by=_S,  # JSON: step of the fallback chain -> rows
    versions=_S,  # JSON: version -> rows
)
# limits beyond which a column raises an alarm, from the partitions before a training
LIMITS = _schema(
    partition=_S,  # of the training
    column=_S,  # a feature, or "prediction"
    model=_S,  # of that training
    binning=_S,  # JSON: how values are binned, see include.stats.drift_measures.Binning
    median_log_score=_F,  # see include.stats.alarms.AlarmLimits; null if there were too few partitions
    log_score_spread=_F,  # likewise
    spreads=_F,  # likewise
    partitions=_S,  # JSON: keys
    counts=_S,  # JSON: number of values by partition and bin
)
# the loss of each model that served a partition, as sums over its labeled rows
LOSSES = _schema(
    partition=_S,
    as_of=_S,  # as in performance
    model=_S,
    version=_S,
    rows=_I,
    loss=_F,  # of the model
    baseline=_F,  # of the baseline on the same rows
    constant=_F,  # of the training labels' constant on the same rows
    against=_S,  # which baseline: the deployed one, or the constant
    expected=_F,  # the loss that the model's own probabilities imply; null for a regression
    observed=_F,  # sum of the target; null for a multiclass problem
    predicted=_F,  # sum of the predictions; null for a multiclass problem
    by_class=_S,  # JSON: rows of each class, and the sum of its probabilities, for a multiclass problem
)
# estimates of a partition's metrics before its labels are available: one row per metric of the champion
ESTIMATES = _schema(
    partition=_S,
    model=_S,
    version=_S,
    metric=_S,
    value=_F,  # null where it can't be estimated; `reason` explains why
    error=_F,  # root mean square of estimated minus realized values, over the newest labeled partitions
    low=_F,  # lower bound of the 90 % interval, from that error
    high=_F,  # its upper bound
    naive=_F,  # the error of the gate's own value over the same partitions
    partitions=_I,  # on which both errors were measured
    rows=_I,
    unchecked=_F,  # the estimate, also where `value` is null; the error is measured on it
    reason=_S,
)
# the results of the monitoring checks
FINDINGS = _schema(
    partition=_S,
    check=_S,  # its name in the registry, such as sudden_change
    subject=_S,  # what was checked: a column, metric, source or model
    value=_F,  # what was measured; null if it can't be
    threshold=_F,  # beyond which it is an alarm
    outcome=_S,  # ok | alarm | not enough
    note=_S,
)
# the distance of each column's window from the champion's training data, by each measure
DRIFT = _schema(
    partition=_S,
    column=_S,  # a feature, "prediction", or the target with its matured labels
    measure=_S,  # psi | js | ks | wasserstein | new | vanished | missing
    value=_F,  # null where it can't be measured
    rows=_I,
    partitions=_I,  # in the window
)
# what a partition's findings lead to
DECISIONS = _schema(
    partition=_S,
    decision=_S,  # nothing | alert | retrain | roll back | replace
    cause=_S,  # of the requested training, whatever the decision; or empty
    reason=_S,
    alerts=_S,  # JSON: see include.monitor.policy.AlertItem
    quiet=_S,  # JSON, likewise: the alarms that an earlier partition alerted
)
# all verdicts, keyed so that a rerun is not a new attempt
ATTEMPTS = _schema(
    key=_S,  # digest of what was judged, and `+forced` where a person forced the model
    partition=_S,  # of the training
    verdict=_S,  # blessed | not blessed | not enough evidence | rubber-stamped | forced
    sentence=_S,  # the verdict and its reasons, for people
    checks=_S,  # JSON: see include.judge.context.Check
    evidence=_S,  # JSON: see include.judge.evidence.Evidence
    version=_S,
    model=_S,
    spec=_S,
    data=_S,  # digest of the training rows
    code=_S,
    recorded=_I,  # its number in the order of recording, from 1
)
# every recipe's fits, one for each training; the models are in the lake
FITS = _schema(
    partition=_S,  # of the training
    recipe=_S,
    recipe_key=_S,  # digest of the recipe's declaration, except its name
    model=_S,  # digest
    data=_S,  # digest of the rows that it was fitted on
    rows=_I,
    last_fitted=_S,  # the newest partition among those rows
    moved=_F,  # root mean square distance from the recipe's previous fit, on rows that neither was fitted on
)
# what each recipe's newest fit before a partition lost on that partition, as known on the partition that
# brought its labels and on each later one that changed them
WALKS = _schema(
    partition=_S,
    as_of=_S,  # the partition as of which the labels are known
    recipe=_S,
    recipe_key=_S,  # as in fits
    fitted_on=_S,  # the partition of the fit
    model=_S,
    rows=_I,  # labeled rows that were predicted
    loss=_F,  # sum of the objective's loss; infinite if the fit can't predict one of the rows
    metrics=_S,  # JSON: metric -> value
)
# people's answers to verdicts: one row per attempt, the first answer counts
APPROVALS = _schema(
    attempt=_S,  # key of the verdict
    answer=_S,  # approved | rejected | expired
    by=_S,
    at=TIME,  # when the person answered
    reason=_S,
    recorded=_I,
)
# people's acknowledgements and mutes of alerts; the newest row of an alert counts
SILENCES = _schema(
    check=_S,  # of the alert, as in findings
    subject=_S,  # of the alert, as in findings
    action=_S,  # acknowledged | muted
    partition=_S,  # the newest monitored partition when it was recorded, from which it applies
    until=_S,  # the last partition of a mute; empty for an acknowledgement, which lasts while the alarm does
    by=_S,
    at=TIME,
    reason=_S,
    request=_S,  # idempotency key: a run's id, or empty
    recorded=_I,
)
# all switches of models; the newest row of each role is live
SWITCHES = _schema(
    switch=_I,  # numbered from 1
    role=_S,  # champion | baseline | challenger
    version=_S,
    model=_S,
    constant=_F,  # the label's mean or quantile in training; null for a multiclass problem
    class_shares=_S,  # JSON: each class's share in training, for a multiclass problem
    effective_from=_S,  # the first partition it may serve
    judged_on=_S,  # the partition of its verdict
    # promoted | refreshed | replaced | baseline only | rolled back | forced | shadow | canary | withdrawn
    kind=_S,
    by=_S,
    reason=_S,
    attempt=_S,  # key of its verdict
    request=_S,  # idempotency key: the verdict's key, a run's id, or empty
    recipe=_S,  # the recipe of the model
)
# all partitions that a person withdrew; see include.ops.withdrawal
WITHDRAWALS = _schema(
    partition=_S,
    by=_S,
    at=TIME,
    reason=_S,
    contents=_S,  # JSON: table -> the object with the removed rows
    dependents=_S,  # JSON: the scored partitions whose realized performance depended on it
    recorded=_I,
)
# all erasures of people's rows; see include.ops.erase
ERASURES = _schema(
    columns=_S,  # JSON: the names of the key's columns; their values are in no column
    salt=_S,  # the same for all erasures of a use case
    hashes=_S,  # JSON: source -> keyed hash of the key as the source writes it; "" -> that of nothing
    links=_S,  # JSON: keyed hashes of the partition and the prediction key of rows without these columns
    by=_S,
    at=TIME,
    reason=_S,
    contents=_S,  # JSON: table -> partition -> number of erased rows
    recorded=_I,
)

# of each product with a table of fixed columns: the table, its columns, and the order of a partition's rows
PRODUCT_TABLES: dict[str, tuple[str, pa.Schema, tuple[str, ...]]] = {
    "performance": ("performance", PERFORMANCE, ("as_of", "metric")),
    "losses": ("losses", LOSSES, ("as_of", "model")),
    "limits": ("limits", LIMITS, ("model", "column")),
    "estimates": ("estimates", ESTIMATES, ("metric",)),
    "drift": ("drift", DRIFT, ("column", "measure")),
    "monitor": ("findings", FINDINGS, ("check", "subject")),
}
