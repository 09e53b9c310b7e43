"""Check what reading a declaration can't: schedule, SQL, estimators, expectations, labels and stored data.

The SQL runs on an empty lake and on generated rows, through the functions that a partition uses. So without a
lake, a valid declaration says nothing about the data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.spec.clock import day_of
from include.validate.problems import ReportedProblem, problem, problems_of

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake


def validate(spec: UseCase, lake: Lake | None = None, partition: str = "") -> list[ReportedProblem]:
    """Return the errors, warnings and hints of a readable declaration.

    Parameters
    ----------
    lake : also check the rows that it stores; not if the declaration has an error, which they would repeat.
    partition : of the lake; its newest ones by default.
    """
    problems = _problems(spec)
    if lake is not None and not any(one.severity == "error" for one in problems):
        from include.validate.stored import data_problems

        problems += data_problems(lake, spec, partition)
    return problems


def errors(spec: UseCase) -> list[str]:
    """Return a sentence for each problem that makes a declaration invalid."""
    return [problem.sentence for problem in validate(spec) if problem.severity == "error"]


def _problems(spec: UseCase) -> list[ReportedProblem]:
    """Return what is wrong with a declaration, without looking at stored data."""
    from include.validate.baselines import baseline_hints
    from include.validate.declaration import declaration_problems
    from include.validate.generated import (
        empty_features,
        generated_problems,
        label_features,
        label_problems,
        recipe_problems,
    )
    from include.validate.query import query_problems

    problems = list(_schedule_problems(spec))
    if problems:
        return problems
    partitions = _year(spec)
    problems += declaration_problems(spec, partitions)
    checks = (
        _path_problems,
        _expectation_problems,
        _limit_problems,
        _onnx_problems,
        _python_problems,
        query_problems,
    )
    for check in checks:
        problems += check(spec)
    estimators, sql = list(_estimator_problems(spec)), list(_sql_problems(spec))
    problems += [*sql, *(estimators or recipe_problems(spec))]
    if not any(one.severity == "error" for one in problems):
        partition = _generated_partition(spec, partitions[0])
        of_generated = list(generated_problems(spec, partition))
        problems += of_generated
        if not of_generated:
            starts = (spec.clock.around(one.start)[1] for one in spec.sources.values() if one.start)
            problems += empty_features(spec, _generated_partition(spec, partitions[0], *starts))
            problems += label_features(spec, partition)
        problems += label_problems(spec, partition)
        problems += baseline_hints(spec)
    return problems


def _generated_partition(spec: UseCase, first: str, *starts: str) -> str:
    """Return a partition with a whole lookback since all starts, if there is one before the end."""
    last = spec.clock.shift(max([first, *starts]), spec.features.lookback + 1)
    return spec.clock.keys(first, min(last, spec.end or last))[-1]


def _schedule_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield an end before the start, sources available after scoring, and trainings without a partition."""
    schedule = spec.schedule
    if schedule.end and schedule.end < schedule.start:
        required = f"a day from {schedule.start} on"
        yield problem(spec, "schedule.end", required, schedule.end, "correct schedule.end or schedule.start")
    partitions = _year(spec)
    if not partitions:
        required = f"a partition in the year from {schedule.start} on"
        yield problem(spec, "schedule.batch", required, "none", "correct the cron in schedule.batch")
    for partition in partitions[:1]:
        for name, source in spec.sources.items():
            if spec.clock.local(partition, source.available_at) > spec.clock.decision_time(partition):
                earlier = "partition" if spec.clock.sub_daily else "day"
                yield problem(
                    spec,
                    f"sources.{name}.available_at",
                    f"the time of {schedule.batch!r} or earlier, because the partition's run ingests the "
                    "source then",
                    source.available_at,
                    f"move schedule.batch, or declare an earlier {earlier}'s data by sources.{name}.offset",
                )
    trainings = spec.trainings(schedule.start, partitions[-1]) if partitions else []
    for stray in sorted(set(trainings) - set(partitions))[:1]:
        required = f"days that have a partition of {schedule.batch!r}"
        yield problem(spec, "schedule.training", required, stray, "use the same days in both crons")


def _year(spec: UseCase) -> list[str]:
    start = day_of(spec.schedule.start)
    return spec.clock.keys(start.isoformat(), (start + timedelta(days=365)).isoformat())


def _path_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each path with an unknown placeholder, or one of hours that is the same for two partitions."""
    from include.ingest.connectors.request import request

    partitions = _year(spec)
    for name, source in spec.sources.items():
        remedy = f"correct sources.{name} in usecase.yaml, or its connector's code"
        problems = list(problems_of(spec, "paths", remedy, lambda source=source: source.path_templates))
        yield from problems  # of a connector of the use case's own
        for path in source.path_templates if not problems else ():
            fill_path = request(spec, name, partitions[0]).fill_path
            invalid = list(problems_of(spec, "a path", "correct the path", fill_path, path))
            yield from invalid
            if spec.clock.sub_daily and source.offset and "{partition}" in path and not invalid:
                yield problem(
                    spec,
                    f"sources.{name}.offset",
                    "a path with {day}, {hour} and {minute}: an offset doesn't move {partition}",
                    f"{source.offset}, and {path}",
                    "write the path with {day}, {hour} and {minute}; or remove the offset, unless a "
                    "partition's file has rows about another one",
                    severity="warning",
                )
            if not spec.clock.sub_daily or "{" not in path or "{partition}" in path or invalid:
                continue
            decides = name in (spec.features.spine, spec.labels.source)
            paths: dict[str, str] = {}
            for key in partitions:
                other = paths.setdefault(request(spec, name, key).fill_path(path), key)
                if other != key:
                    yield problem(
                        spec,
                        f"sources.{name}.path",
                        "a path for each partition",
                        f"the same for {other} and {key}",
                        "add {hour} and {minute}, or use {partition}, which is in UTC and doesn't repeat "
                        "when the clocks go back",
                        severity="error" if decides else "warning",
                    )
                    break


def _sql_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield the errors of the SQL of features and labels, from DuckDB or against the declaration."""
    from include.features.build import features
    from include.features.labels import labels
    from include.storage.lake import Lake

    partition = _year(spec)[0]
    with tempfile.TemporaryDirectory() as empty:
        lake = Lake(spec.name, empty)
        required, remedy = "SQL that runs", "correct the SQL"
        yield from problems_of(spec, required, remedy, features, lake, spec, [partition])
        remedy = "correct labels.sql in usecase.yaml, or declare the column under the source"
        yield from problems_of(spec, required, remedy, labels, lake, spec, [partition], as_of=partition)


def _estimator_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each unknown estimator or parameter."""
    from include.train.estimators import build_estimator

    for recipe in (*spec.training.baselines, *spec.training.candidates):
        remedy = f"correct {recipe.name} under training in usecase.yaml"
        yield from problems_of(spec, "an estimator", remedy, build_estimator, spec, recipe)


def _onnx_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each recipe that can't be an ONNX file, where the gate requires that it can."""
    if spec.gate.onnx:
        from include.export.convert import require_convertible

        for recipe in (*spec.training.baselines, *spec.training.candidates):
            remedy = f"use another estimator for {recipe.name}, or remove gate.onnx in usecase.yaml"
            yield from problems_of(
                spec, "a recipe that ONNX can express", remedy, require_convertible, spec, recipe
            )


def _expectation_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each expectation that Great Expectations doesn't know, or not with these arguments."""
    from include.ingest.validation.expectations import validate_expectations

    for name, source in spec.sources.items():
        for expectation in source.contract.expectations:
            yield from problems_of(
                spec,
                "an expectation of Great Expectations",
                f"correct it under sources.{name}.contract.expectations",
                validate_expectations,
                f"{spec.name}/{name}",
                [expectation],
                source.columns,
            )


def _limit_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield each pair of limits between which there is nothing."""
    for name, source in spec.sources.items():
        contract, path = source.contract, f"sources.{name}.contract"
        pairs: dict[tuple[str, str], tuple[Any, Any]] = {
            (path, "min_rows up to max_rows"): (contract.min_rows, contract.max_rows)
        }
        for number, expectation in enumerate(contract.expectations):
            subject = (f"{path}.expectations.{number}.kwargs", "min_value up to max_value")
            pairs[subject] = (expectation.kwargs.get("min_value"), expectation.kwargs.get("max_value"))
        for (location, required), limits in pairs.items():
            # other types are compared by Great Expectations alone
            numbers = all(isinstance(limit, int | float) for limit in limits)
            comparable = numbers or {type(limit) for limit in limits} == {date}
            if comparable and limits[0] > limits[1]:
                found = f"{limits[0]} and {limits[1]}"
                yield problem(spec, location, required, found, "exchange or correct them")


def _python_problems(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield the errors of Python that isn't called for what is checked above, on the least that it takes."""
    import numpy as np

    from include.ingest.validation.custom_checks import refusals
    from include.models.outputs import repeat_constant
    from include.stats.metrics import metric_values, row_losses
    from include.storage.schemas import validated_schema

    def problems(function: Callable[..., object], *args: Any) -> Iterator[ReportedProblem]:
        required, remedy = "Python that can be called", "correct the code, or what usecase.yaml declares"
        return problems_of(spec, required, remedy, function, *args)

    actual = np.array(spec.problem.codes or (0.0, 1.0))
    predicted = repeat_constant(spec.constant, len(actual))
    if spec.objective.code:
        yield from problems(row_losses, spec.objective, actual, predicted)
    names = list(spec.custom_metrics)
    yield from problems(metric_values, names, actual, predicted, spec.problem.classes, spec.custom_metrics)
    for code in (*spec.python_of("gate.checks"), *spec.python_of("alerts")):
        yield from problems(code.load)
    for name, source in spec.sources.items():
        rows = validated_schema(source).empty_table().select(list(source.columns))
        for code in spec.python_of(f"sources.{name}.contract"):
            yield from problems(refusals, code, rows)
