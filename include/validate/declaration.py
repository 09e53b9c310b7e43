"""Checks of a readable declaration that need neither its SQL nor data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from include.spec import UseCase
from include.spec.clock import day_of, time_of_day
from include.spec.metrics import SERVING_METRICS, find_metric, greater_is_better, is_custom_metric
from include.validate.problems import ReportedProblem, problem

PARTITIONS = 60  # on which the days of features and labels are compared
# kinds of sources that read a path for each partition; another kind may find the partition within one file
PATH_PER_PARTITION = ("objects", "http")
MAX_DELAY = 60  # partitions among which the fitting one is looked for
BOUNDED_ABOVE = "coverage"  # more is better up to the quantile, so that any bound may be meant


def declaration_problems(spec: UseCase, partitions: Sequence[str]) -> Iterator[ReportedProblem]:
    """Yield problems of paths, keys, labels, bounds and the constant.

    Parameters
    ----------
    partitions : of the first year.
    """
    yield from _fixed_paths(spec)
    yield from _inexact_keys(spec)
    yield from _unknown_never_features(spec)
    yield from _early_training(spec)
    yield from _early_labels(spec)
    yield from _never_labels(spec, partitions)
    yield from _other_days(spec, partitions)
    yield from _unreachable_bounds(spec)
    yield from _reversed_bounds(spec)
    yield from _unreachable_test(spec)
    yield from _fallback(spec)


def _fixed_paths(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield paths that are the same for each partition."""
    for name, source in spec.sources.items():
        has_rows_of_partition = name in (spec.features.spine, spec.labels.source)
        for path in source.path_templates if source.kind in PATH_PER_PARTITION else ():
            if "{" not in path:
                yield problem(
                    spec,
                    f"sources.{name}.path",
                    "{day} or {partition} in the path, or each partition reads the same file",
                    path,
                    "write the path as each partition's file is named, such as items/{day}.csv; `python -m "
                    "include init NAME --sample FILE --split` splits a file with the rows of many days",
                    severity="error" if has_rows_of_partition else "warning",
                )


def _inexact_keys(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a warning for each key column that is a float, in which different ids may be the same number."""
    for name, source in spec.sources.items():
        for column in source.key:
            if source.columns[column].type == "number" and not source.columns[column].hashed:
                yield problem(
                    spec,
                    f"sources.{name}.key: {column}",
                    "a type that holds ids exactly",
                    "number, in which different ids of more than 15 digits become equal",
                    f"write `type: integer` for {column} if it has whole numbers of up to 18 digits, or "
                    "`type: string`",
                    severity="warning",
                )


def _unknown_never_features(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a warning for each name that forbids nothing, since no source has such a column."""
    columns = [name for source in spec.sources.values() for name in source.columns]
    names = {name.lower() for name in columns}
    for name in spec.problem.never_features:
        if name.lower() not in names:
            yield problem(
                spec,
                "problem.never_features",
                f"columns of the sources, {', '.join(dict.fromkeys(columns))}",
                f"{name}, which none of them has",
                "correct the name, or remove it",
                severity="warning",
            )


def _early_training(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a warning if a training begins before its partition's rows and labels are ingested."""
    batch, training = spec.schedule.batch, spec.schedule.training
    if not spec.clock.sub_daily and time_of_day(training) <= time_of_day(batch):
        yield problem(
            spec,
            "schedule.training",
            f"a time after {time_of_day(batch)}, when schedule.batch begins to ingest the day's partition",
            f"{time_of_day(training)}, so that a training lacks the labels that come with it",
            "write a later hour, by which the partition is done",
            severity="warning",
        )


def _early_labels(spec: UseCase) -> Iterator[ReportedProblem]:
    if spec.labels.delay == 0:
        yield problem(
            spec,
            "labels.delay",
            "1 or more, so that a label isn't known before it is predicted",
            f"0: {spec.labels.source} of the same partition is known at the decision",
            "write how many partitions later the label is known, as `delay: 1` under labels",
        )


def _never_labels(spec: UseCase, partitions: Sequence[str]) -> Iterator[ReportedProblem]:
    """Yield a problem if no label ever comes before the end, or a warning if none does in the first year."""
    source, first = spec.labels.source, spec.clock.shift(partitions[0], spec.labels.delay)
    last = spec.schedule.end or spec.clock.shift(first, len(partitions))
    if not spec.partitions(source, first, last):
        yield problem(
            spec,
            "labels.source",
            f"a partition of {source} with labels, from {first} to {last}",
            f"none: sources.{source}.start is {spec.sources[source].start or spec.schedule.start}",
            f"correct sources.{source}.start, schedule.end or labels.delay",
            severity="error" if spec.schedule.end else "warning",
        )


def _other_days(spec: UseCase, partitions: Sequence[str]) -> Iterator[ReportedProblem]:
    """Yield a warning if the labels are about another day than the features, by the days of both sources.

    If a day has several partitions, about another partition.
    """
    spine, labels = spec.sources[spec.features.spine], spec.sources[spec.labels.source]
    if spec.features.spine == spec.labels.source or not (spine.day and labels.day):
        return
    delay = spec.labels.delay
    if spec.clock.sub_daily:
        moved, aligned = delay + labels.offset - spine.offset, spine.offset - labels.offset
        number = f"{abs(moved)} partition{'s' * (abs(moved) != 1)}"
        remedy = f"write `delay: {aligned}` under labels, or " if aligned > 0 else "write "
        remedy += f"`offset: {spine.offset - delay}` under sources.{spec.labels.source}"
        if moved < 0 or (moved and not spec.horizon):
            yield problem(
                spec,
                "labels.delay",
                f"labels about the partition of the features, which `offset` of {spec.features.spine} and "
                f"{spec.labels.source} and `delay` declare in partitions, not in hours",
                f"labels of {number} {'after' if moved > 0 else 'before'} it",
                f"{remedy}; leave it if the label is about another time",
                severity="warning",
            )
        return
    for key, late in list(zip(partitions, partitions[delay:], strict=False))[:PARTITIONS]:
        features_day = day_of(key) + timedelta(days=spine.offset)
        labels_day = day_of(late) + timedelta(days=labels.offset)
        if features_day == labels_day or (spec.horizon and features_day < labels_day):
            continue
        later = partitions[partitions.index(key) :][:MAX_DELAY]
        labels_partition = (features_day - timedelta(days=labels.offset)).isoformat()
        fitting = [index for index, one in enumerate(later) if one == labels_partition]
        offset = (features_day - day_of(late)).days
        remedy = f"write `offset: {offset}` under sources.{spec.labels.source}"
        if fitting and fitting[0] > 0:
            remedy = f"write `delay: {fitting[0]}` under labels, or {remedy[6:]}"
        yield problem(
            spec,
            "labels.delay",
            f"labels about the day of the features, which {spec.features.spine} and {spec.labels.source} "
            "declare by `day` and `offset`",
            f"for partition {key} features about {features_day}, and from partition {late} labels about "
            f"{labels_day}",
            remedy,
            severity="warning",
        )
        return


def _unreachable_bounds(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield bounds beyond what any model can have."""
    for path, rule in spec.requirements:
        if is_custom_metric(rule.metric):
            continue
        metric = find_metric(rule.metric, multiclass=spec.problem.kind == "multiclass")
        if metric.greater_is_better and rule.limit > metric.highest and rule.at_least is not None:
            required, remedy = f"at most {metric.highest:g}, the best value", "set `at_least` lower"
        elif not metric.greater_is_better and rule.at_most is not None and rule.at_most < 0:
            required, remedy = "0 or more, because 0 is the best value", "set `at_most` higher"
        else:
            continue
        yield problem(spec, f"{path}: {rule.metric}", required, f"{rule.side} {rule.limit:g}", remedy)


def _reversed_bounds(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a warning for each bound that a better model misses, unless it is one end of a band."""
    rising = {metric.name for metric in SERVING_METRICS if metric.greater_is_better}
    serving = [("gate.serving", rule) for rule in spec.gate.serving]
    bounds = [
        *((path, rule, greater_is_better(rule.metric, spec)) for path, rule in spec.requirements),
        *((path, rule, rule.metric in rising) for path, rule in serving),
    ]
    sides = {(path, rule.metric, rule.side) for path, rule, _ in bounds}
    for path, rule, is_rising in bounds:
        side, better = ("at least", "more") if is_rising else ("at most", "less")
        if rule.metric != BOUNDED_ABOVE and (path, rule.metric, side) not in sides:
            yield problem(
                spec,
                f"{path}: {rule.metric}",
                f"{side} a value, because {better} is better",
                f"{rule.side} {rule.limit:g}, which a better model misses",
                f"write `{side.replace(' ', '_')}: {rule.limit:g}`, or add that bound if a band is meant",
                severity="warning",
            )


def _unreachable_test(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a warning if half of the labeled partitions are never as many as the declared test ones."""
    training, delay = spec.training, spec.labels.delay
    spans = {"a longer training.window": training.window + 1} if training.window else {}  # and its own
    if spec.schedule.end:
        spans["a later schedule.end"] = len(spec.clock.keys(spec.schedule.start, spec.schedule.end))
    hidden = 0 if spec.sparse else delay  # of a sparse spine, only partitions with rows count
    for remedy, span in spans.items():
        most = max((span - hidden) // 2, spec.gate.needed_partitions) + delay
        if training.test > most:
            yield problem(
                spec,
                "training.test",
                f"at most {most}: half of the labeled ones of {span} partitions, and {delay} without labels",
                str(training.test),
                f"write `test: {most}`, or {remedy}",
                severity="warning",
            )


def _fallback(spec: UseCase) -> Iterator[ReportedProblem]:
    value = spec.scoring.constant
    if spec.problem.kind == "binary" and isinstance(value, float) and not 0 <= value <= 1:
        yield problem(
            spec,
            "scoring.constant",
            "a probability from 0 to 1, for a binary problem",
            f"{value:g}",
            "write the share of rows that are 1, such as `constant: 0.1`",
        )
