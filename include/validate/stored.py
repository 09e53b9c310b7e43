"""Checks of `validate --data`: the declaration and its SQL beside stored partitions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import log
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from include.errors import PYTHON, NotPublished, PartitionRefused, SpecError
from include.features import point_in_time
from include.features.build import features, known_too_late, remedy_too_late
from include.features.checks import point_in_time_violations, require_independent
from include.features.labels import labels, matured
from include.ingest.pipeline import read_snapshots
from include.ingest.validation.contract import CLASS_RULE, check_contract
from include.spec import UseCase
from include.spec.gate import MetricBound
from include.storage.lake import Lake
from include.storage.schedule import changed_schedule
from include.storage.snapshots import snapshots
from include.storage.windows import partitions_with_rows
from include.validate.problems import ReportedProblem, problem, problems_of
from include.validate.query import compared_texts

CHECKED = 3  # newest partitions on whose data the features are checked
WINDOW = 28  # newest partitions over which columns and labels are looked at
ENOUGH_PARTITIONS, ENOUGH_ROWS = 8, 100  # for statements about a column
ENOUGH_IDS = 30  # rows of two partitions or more, in which a category that never repeats is an id
MAX_CATEGORIES = 254  # that `include.train.estimators.coded_columns` tells apart
MIN_LABELED = 0.5  # share of rows that have a label
QUARANTINED = 3  # rules of the quarantine that a message shows


def data_problems(lake: Lake, spec: UseCase, partition: str = "") -> list[ReportedProblem]:
    """Return the problems of stored partitions.

    Parameters
    ----------
    partition : the one to check. Default: the newest three.
    """
    if changed := changed_schedule(lake, spec):
        return [ReportedProblem(changed)]
    published = partitions_with_rows(lake, spec)
    checked = [key for key in published if key == partition] if partition else published[-CHECKED:]
    problems = list(_contract_problems(lake, spec, [partition] if partition else _newest_stored(lake, spec)))
    if not checked:
        spine = spec.features.spine
        error = NotPublished(
            f"{spec.name}/{spine}" + (f"/{partition}" if partition else ""),
            required="a published partition with rows to check the features on",
            found="none",
            where=f"{lake.uri}/tables/partitions",
            remedy=f"run `{PYTHON} -m include run ingest {spec.name} --partition "
            f"{partition or spec.schedule.start}` first",
        )
        return [*problems, ReportedProblem(error)]
    window = [key for key in published if key <= checked[-1]][-WINDOW:]
    problems += _late_spine(lake, spec, checked)
    # of rows that aren't seen in time, or aren't as declared, nothing else can be said
    if any(one.severity == "error" for one in problems):
        return problems
    problems += _feature_problems(lake, spec, published, checked)
    if not any(one.severity == "error" for one in problems):
        problems += _column_problems(lake, spec, window)
    return [*problems, *_label_problems(lake, spec, window)]


def _newest_stored(lake: Lake, spec: UseCase) -> list[str]:
    rows = lake.rows("partitions", {"product": list(spec.sources)})
    return sorted({row["partition"] for row in rows})[-CHECKED:]


# the stored bytes, under the contract as it is declared now


def _contract_problems(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> Iterator[ReportedProblem]:
    for source in spec.sources:
        stored = snapshots(lake, source, partitions) if partitions else {}
        newest = [revisions[-1] for _, revisions in sorted(stored.items())]
        if not newest:
            continue
        rows, unreadable = read_snapshots(lake, spec, source, newest)
        result = check_contract(rows, spec, source)
        for number, error in sorted({**result.refused, **unreadable}.items()):
            yield _refused(source, error, number in unreadable)
        broken = result.quarantine
        if not result.refused and not unreadable and broken.num_rows:
            yield _quarantined(spec, source, broken, len(rows), newest[0].partition, newest[-1].partition)


def _refused(source: str, error: PartitionRefused, unreadable: bool) -> ReportedProblem:
    part = "columns" if unreadable else "contract"
    bounds = f"the bound under sources.{source}.contract" + _or_classes(error.found)
    remedy = (
        f"declare the columns as they are delivered, under sources.{source}.columns"
        if unreadable
        else f"set {bounds} to what is delivered"
    )
    return ReportedProblem(
        SpecError(
            f"{error.subject}: stored rows under the declared {part}",
            required=error.required,
            found=error.found,
            where=error.where,
            remedy=f"{remedy}; or have the source corrected",
        )
    )


def _quarantined(
    spec: UseCase, source: str, broken: pa.Table, rows: int, first: str, last: str
) -> ReportedProblem:
    counts = broken.group_by(["rule", "column"]).aggregate([([], "count_all")]).to_pylist()
    counts.sort(key=lambda row: (-row["count_all"], row["rule"]))
    shown = "; ".join(
        f"{row['count_all']} break {row['rule']} of {row['column']}" for row in counts[:QUARANTINED]
    )
    return problem(
        spec,
        f"sources.{source}.contract",
        "bounds that the stored rows meet",
        f"of {rows} rows of {first} to {last} {shown}",
        f"widen the bound{_or_classes(shown)} if these rows are right; they are in the table quarantine",
        severity="warning",
    )


def _or_classes(broken: str) -> str:
    """Return that the classes may be what to change, if the description of broken rules names theirs."""
    return f" or {CLASS_RULE}" if CLASS_RULE in broken else ""


# knowledge time, and the features


def _late_spine(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> Iterator[ReportedProblem]:
    for key, moment in known_too_late(lake, spec, partitions).items():
        yield problem(
            spec,
            f"{spec.features.spine}/{key}",
            f"rows that were known at the decision, {spec.clock.decision_time(key):%Y-%m-%d %H:%M} UTC",
            f"none: the first became known at {moment:%Y-%m-%d %H:%M} UTC",
            remedy_too_late(spec, key),
        )


def _feature_problems(
    lake: Lake, spec: UseCase, published: Sequence[str], checked: Sequence[str]
) -> list[ReportedProblem]:
    sql = str(spec.features_file)
    required, remedy = "features of the stored rows", f"correct {sql}"
    problems = [
        problem
        for key in checked
        for problem in problems_of(spec, required, remedy, _refuse_leakage, lake, spec, key)
    ]
    if spec.features.entity and not problems:
        rows = point_in_time.read_sources(lake, spec, checked[-1:])
        problems += problems_of(spec, required, remedy, require_independent, spec, rows, checked[-1])
    # where there is no past to join with, as in training's first partition
    if published[0] not in checked:
        problems += problems_of(spec, required, remedy, features, lake, spec, published[:1])
    # before the whole lookback is ingested, a feature of the past may have no value yet
    if not problems and published[0] <= spec.clock.shift(checked[0], -spec.features.lookback):
        problems += problems_of(spec, required, remedy, _refuse_empty_features, lake, spec, checked)
    return problems


def _refuse_leakage(lake: Lake, spec: UseCase, partition: str) -> None:
    if columns := point_in_time_violations(lake, spec, partition):
        raise SpecError(
            f"{spec.name}/{partition}: {spec.features_file.name}",
            required="features of rows that were known at the decision, within the lookback",
            found=f"other values of {', '.join(columns)} once later or older rows are added",
            where=str(spec.features_file),
            remedy="limit the rows by known_at, known_until and partition, or read the views known_<source>",
        )


def _refuse_empty_features(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> None:
    rows = features(lake, spec, partitions)
    if empty := [name for name in spec.features.columns if rows[name].null_count == rows.num_rows]:
        found = f"no value of {', '.join(empty)} in {rows.num_rows} rows"
        if columns := _empty_columns(lake, spec, partitions):
            found += f"; neither has {', '.join(columns)}, which the SQL names"
        if absent := _absent_texts(lake, spec, partitions):
            found += f"; no row has {', '.join(absent)}, with which the SQL compares"
        raise SpecError(
            f"{spec.name}/{partitions[0]} to {partitions[-1]}: {spec.features_file.name}",
            required="a value of each feature in some of the rows",
            found=found,
            where=str(spec.features_file),
            remedy="remove the feature, or ingest again if its column was declared since"
            if columns
            else "correct the join that matches no row (`ago` counts partitions back, from 0), ingest the "
            "source that is missing, or remove the feature",
        )


def _empty_columns(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> list[str]:
    """Return the declared columns whose names the SQL has and that no row has a value of."""
    sources = point_in_time.read_sources(lake, spec, partitions)
    words = {word.lower() for word in re.findall(r"\w+", spec.sql)}
    return [
        f"{source}.{name}"
        for source, rows in sources.items()
        for name in spec.sources[source].columns
        if name.lower() in words and rows.num_rows and rows[name].null_count == rows.num_rows
    ]


def _column_problems(lake: Lake, spec: UseCase, window: Sequence[str]) -> Iterator[ReportedProblem]:
    """Yield features that never vary, and categories that hardly repeat.

    One that lacks some values, or a category, varies often enough in rows to come; unless the SQL looks for a
    text that no row has, as a misspelt one.
    """
    rows = features(lake, spec, window)
    if len(window) < 2 or rows.num_rows < ENOUGH_IDS:
        return
    is_enough = len(window) >= ENOUGH_PARTITIONS and rows.num_rows >= ENOUGH_ROWS
    most = min(MAX_CATEGORIES, rows.num_rows // 2) if is_enough else rows.num_rows - 1
    basis = f"{rows.num_rows} rows of {window[0]} to {window[-1]}"
    distinct = {name: pc.count_distinct(rows[name]).as_py() for name in spec.features.columns}
    absent = _absent_texts(lake, spec, window) if is_enough and 1 in distinct.values() else []
    for name, values in distinct.items():
        is_category = name in spec.features.categorical
        subject = f"features.{'categorical' if is_category else 'numeric'}: {name}"
        if is_category and values > most:
            yield problem(
                spec,
                subject,
                f"at most {MAX_CATEGORIES} categories, beyond which the rare ones count as one, and of which "
                "each has some rows",
                f"{values} in {basis}",
                f"group its values in {spec.features_file.name}, or remove it there and under "
                "features.categorical",
                severity="warning",
            )
        elif is_enough and values == 1 and (absent or not (is_category or rows[name].null_count)):
            value = pc.min(rows[name]).as_py()
            of_rows = f"where it has a value, of {basis}" if rows[name].null_count else f"in all of {basis}"
            texts = f"; no row has {', '.join(absent)}, with which the SQL compares" if absent else ""
            yield problem(
                spec,
                subject,
                "a category that varies" if is_category else "a number that varies",
                f"{value if is_category else format(value, 'g')} {of_rows}{texts}",
                f"correct it in {spec.features_file.name}, or remove it from "
                f"{subject.partition(':')[0]} and the SELECT",
                severity="warning",
            )


def _absent_texts(lake: Lake, spec: UseCase, window: Sequence[str]) -> list[str]:
    """Return what the SQL compares columns with and no row has, as ``queue = 'billling'``."""
    texts, stored = compared_texts(spec.sql), defaultdict[str, set[str]](set)
    for rows in point_in_time.read_sources(lake, spec, window).values() if texts else ():
        for name in rows.column_names:
            if name.lower() in texts:
                stored[name.lower()].update(pc.unique(rows[name].cast(pa.string()).drop_null()).to_pylist())
    return [
        f"{name} = {text!r}"
        for name, values in stored.items()
        for text in dict.fromkeys(texts[name])
        if values and text not in values
    ]


# labels


def _label_problems(lake: Lake, spec: UseCase, window: Sequence[str]) -> Iterator[ReportedProblem]:
    clock, delay = spec.clock, spec.labels.delay
    due = [key for key in window if clock.shift(key, delay) <= window[-1]]
    if not due:
        return
    source, target = spec.labels.source, spec.problem.target
    available = [key for key in matured(lake, spec, None) if key in due]
    required = f"labels of partitions from {due[0]} on, {delay} partitions later"
    if not available:
        yield problem(
            spec,
            "labels",
            required,
            f"no published partition of {source} from {clock.shift(due[0], delay)} to {window[-1]}",
            f"run `{PYTHON} -m include run ingest {spec.name} --from {clock.shift(due[0], delay)} --until "
            f"{window[-1]}`, or correct labels.delay",
        )
        return
    try:
        labeled = labels(lake, spec, available, as_of=None)
    except SpecError as error:  # a label that isn't declared
        yield ReportedProblem(error)
        return
    rows = features(lake, spec, available)
    keys = [*spec.key, "partition"]
    matching = rows.select(keys).join(labeled.filter(labeled[target].is_valid()), keys, join_type="inner")
    share = matching.num_rows / max(rows.num_rows, 1)
    if share < MIN_LABELED:
        yield problem(
            spec,
            "labels",
            required,
            f"{matching.num_rows} labels of {rows.num_rows} rows of {available[0]} to {available[-1]}; "
            f"{source} has {labeled.num_rows} rows, {labeled[target].null_count} of them without a label",
            f"correct labels.sql, labels.delay or the key {', '.join(spec.key)} of {source}: it must be that "
            "of the rows to score",
            severity="warning" if matching.num_rows else "error",
        )
    if matching.num_rows >= ENOUGH_ROWS:
        yield from _target_problems(spec, matching[target], f"{available[0]} to {available[-1]}")


def _target_problems(spec: UseCase, values: Any, span: str) -> Iterator[ReportedProblem]:
    """Yield labels that no model can learn, and bounds that their shares decide."""
    basis, subject = f"{len(values)} labels of {span}", f"labels.sql: {spec.problem.target}"
    distinct = set(pc.unique(values).to_pylist())
    names = spec.problem.classes or tuple(f"{code:g}" for code in spec.problem.codes)
    codes = spec.problem.codes
    if missing := [names[index] for index, code in enumerate(codes) if code not in distinct]:
        yield problem(
            spec,
            subject,
            f"labels of each class, {', '.join(names)}",
            f"none of {', '.join(missing)} among {basis}",
            "correct labels.sql, or ingest a longer history; the classes that a model never saw share the "
            "probability 0.001 of each row",
            severity="warning" if len(distinct) > 1 else "error",
        )
    elif not codes and len(distinct) == 1:
        yield problem(
            spec, subject, "values that differ", f"{distinct.pop():g} in all {basis}", "correct labels.sql"
        )
    elif not codes:
        yield from _distant_constant(spec, values, basis)
    elif spec.problem.kind == "binary":
        yield from _rate_problems(spec, float(pc.mean(values).as_py()), basis)


def _distant_constant(spec: UseCase, values: Any, basis: str) -> Iterator[ReportedProblem]:
    """Yield a warning if the constant is further from all labels than these are from one another."""
    low, high = pc.min_max(values).as_py().values()
    if not 2 * low - high <= spec.scoring.constant <= 2 * high - low:
        yield problem(
            spec,
            "scoring.constant",
            f"a prediction among the labels, {low:g} to {high:g} in {basis}",
            f"{spec.scoring.constant:g}",
            f"write one in the unit of labels.sql, such as `constant: {pc.mean(values).as_py():.4g}`",
            severity="warning",
        )


def _rate_problems(spec: UseCase, rate: float, basis: str) -> Iterator[ReportedProblem]:
    """Yield requirements of a binary problem that its positive rate makes unreachable, or void."""
    for path, rule in spec.requirements:
        name, _, parameter = rule.metric.partition("@")
        subject = f"{path}: {rule.metric}"
        found = f"{rule.side} {rule.limit:g}, with {rate:.2%} positive in {basis}"
        best = min(rate / float(parameter), 1.0) if name == "precision_top" else 1.0
        if rule.at_least is not None and rule.at_least > best:
            yield problem(
                spec,
                subject,
                f"at most {best:.3g}, the value of a perfect model at this positive rate",
                found,
                f"set `at_least` below {best:.3g}, or choose a smaller share than {parameter}",
            )
        elif (naive := _without_knowledge(rule, rate)) is not None and rule.is_met(naive):
            yield problem(
                spec,
                subject,
                f"a bound that the positive rate as the only prediction misses; it has {naive:.3g}",
                found,
                f"set the bound beyond {naive:.3g}",
                severity="warning",
            )


def _without_knowledge(rule: MetricBound, rate: float) -> float | None:
    """Return a metric of a model that predicts the positive rate for each row; None where it is unknown."""
    entropy = -rate * log(rate) - (1 - rate) * log(1 - rate)
    values = {"average_precision": rate, "brier": rate * (1 - rate), "log_loss": entropy, "roc_auc": 0.5}
    return values.get(rule.metric)
