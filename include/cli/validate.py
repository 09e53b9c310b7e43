"""Check what reading a declaration can't: that its SQL runs, and that its estimators and expectations exist.

The SQL runs on an empty lake through the functions that a partition uses. So a valid declaration says nothing
about the data. `data_problems` runs it on the lake's newest partitions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError, NotPublished, SpecError
from include.spec.clock import day_of

if TYPE_CHECKING:
    from include.spec import UseCase
    from include.storage.lake import Lake

CHECKED = 3  # newest partitions on whose data the features are checked


def validate(spec: UseCase) -> list[str]:
    """Return a sentence for each problem of a readable declaration; none if it is valid."""
    problems = list(_schedule_problems(spec))
    if not problems:
        checks = (
            _path_problems,
            _sql_problems,
            _estimator_problems,
            _expectation_problems,
            _limit_problems,
        )
        problems += [problem for check in checks for problem in check(spec)]
    return problems


def data_problems(lake: Lake, spec: UseCase) -> list[str]:
    """Return a sentence for each problem of the features of the newest partitions.

    Features that depend on rows that a partition may not see (see `include.features.point_in_time_check`),
    rows that aren't exactly the spine's, also of the first partition, and features without any value once the
    whole lookback is ingested. That there is no partition to check is a problem too.
    """
    from include.features.build import features

    spine = spec.features.spine
    rows = lake.rows("partitions", {"product": spine, "outcome": "published"})
    published = sorted(row["partition"] for row in rows if row["rows"])
    partitions = published[-CHECKED:]
    if not partitions:
        error = NotPublished(
            f"{spec.name}/{spine}",
            required="a published partition with rows to check the features on",
            found="none",
            where=f"{lake.uri}/tables/partitions",
            remedy=f"run ingest for {spec.name} first",
        )
        return [str(error)]
    problems = [problem for key in partitions for problem in _error_of(_refuse_leakage, lake, spec, key)]
    # where there is no past to join with, as in training's first partition
    problems += _error_of(features, lake, spec, published[: -len(partitions)][:1])
    # before the whole lookback is ingested, a feature of the past may have no value yet
    if not problems and published[0] <= spec.clock.shift(partitions[0], -spec.features.lookback):
        problems += _error_of(_refuse_empty_features, lake, spec, partitions)
    return problems


def _refuse_leakage(lake: Lake, spec: UseCase, partition: str) -> None:
    from include.features.point_in_time_check import point_in_time_violations

    if columns := point_in_time_violations(lake, spec, partition):
        raise SpecError(
            f"{spec.name}/{partition}: features.sql",
            required="features of rows that were known at the decision, within the lookback",
            found=f"other values of {', '.join(columns)} once later or older rows are added",
            where=str(spec.folder / "features.sql"),
            remedy="limit the rows by known_at, known_until and partition, or read the views known_<source>",
        )


def _refuse_empty_features(lake: Lake, spec: UseCase, partitions: Sequence[str]) -> None:
    from include.features.build import features

    rows = features(lake, spec, partitions)
    if empty := [name for name in spec.features.columns if rows[name].null_count == rows.num_rows]:
        raise SpecError(
            f"{spec.name}/{partitions[0]} to {partitions[-1]}: features.sql",
            required="a value of each feature in some of the rows",
            found=f"no value of {', '.join(empty)} in {rows.num_rows} rows",
            where=str(spec.folder / "features.sql"),
            remedy="correct the join that matches no row (`ago` counts partitions back, from 0), ingest the "
            "source that is missing, or remove the feature",
        )


def _schedule_problems(spec: UseCase) -> Iterator[str]:
    """Yield invalid dates, sources available after scoring, and trainings on days without a partition."""
    schedule, subject = spec.schedule, f"{spec.name}: schedule"
    dates = [schedule.start, schedule.end, *(source.start for source in spec.sources.values())]
    invalid = [sentence for date in dates if date for sentence in _error_of(day_of, date)]
    yield from invalid
    if invalid:
        return
    if schedule.end and schedule.end < schedule.start:
        yield f"{subject}.end: required a day from {schedule.start} on, found {schedule.end}"
    partitions = _year(spec)
    if not partitions:
        yield f"{subject}.batch: required a partition in the year from {schedule.start} on, found none"
    for partition in partitions[:1]:
        for name, source in spec.sources.items():
            if spec.clock.local(partition, source.available_at) > spec.clock.moment(partition):
                earlier = "partition" if spec.clock.frequent else "day"
                yield (
                    f"{spec.name}: sources.{name}.available_at: required the time of {schedule.batch!r} or "
                    "earlier, because the partition's run ingests the source then, found "
                    f"{source.available_at}; move schedule.batch, or declare an earlier {earlier}'s data by "
                    f"sources.{name}.offset"
                )
    trainings = spec.trainings(schedule.start, partitions[-1]) if partitions else []
    for stray in sorted(set(trainings) - set(partitions))[:1]:
        yield (
            f"{subject}.training: required days that have a partition of {schedule.batch!r}, found {stray}; "
            "use the same days in both crons"
        )


def _year(spec: UseCase) -> list[str]:
    start = day_of(spec.schedule.start)
    return spec.clock.keys(start.isoformat(), (start + timedelta(days=365)).isoformat())


def _path_problems(spec: UseCase) -> Iterator[str]:
    """Yield each path with an unknown placeholder, or one of hours that is the same for two partitions."""
    from include.ingest.connectors.request import request

    partitions = _year(spec)
    for name, source in spec.sources.items():
        for path in source.path_templates:
            invalid = list(_error_of(request(spec, name, partitions[0]).fill_path, path))
            yield from invalid
            if "{hour}" not in path or invalid:
                continue
            paths: dict[str, str] = {}
            for key in partitions:
                other = paths.setdefault(request(spec, name, key).fill_path(path), key)
                if other != key:
                    yield (
                        f"{spec.name}/{name}: path: required a path for each partition, found the same for "
                        f"{other} and {key}; add {{minute}}, or use {{partition}}, which is in UTC and "
                        "doesn't repeat when the clocks go back"
                    )
                    break


def _sql_problems(spec: UseCase) -> Iterator[str]:
    """Yield the errors of the SQL of features and labels, from DuckDB or against the declaration."""
    from include.features.build import features, labels
    from include.storage.lake import Lake

    partition = _year(spec)[0]
    with tempfile.TemporaryDirectory() as empty:
        lake = Lake(spec.name, empty)
        yield from _error_of(features, lake, spec, [partition])
        yield from _error_of(labels, lake, spec, [partition], known=partition)


def _estimator_problems(spec: UseCase) -> Iterator[str]:
    """Yield each unknown estimator or parameter."""
    from include.train.recipes import build_estimator

    for candidate in (*spec.training.baselines, *spec.training.candidates):
        yield from _error_of(build_estimator, spec, candidate)


def _expectation_problems(spec: UseCase) -> Iterator[str]:
    """Yield each expectation that Great Expectations doesn't know, or not with these arguments."""
    from include.ingest.validation.expectations import validate_expectations

    for name, source in spec.sources.items():
        for expectation in source.contract.expectations:
            yield from _error_of(validate_expectations, f"{spec.name}/{name}", [expectation], source.columns)


def _limit_problems(spec: UseCase) -> Iterator[str]:
    """Yield each pair of limits between which there is nothing."""
    for name, source in spec.sources.items():
        contract, path = source.contract, f"{spec.name}: sources.{name}.contract"
        pairs: dict[str, tuple[Any, Any]] = {
            f"{path}: required min_rows up to max_rows": (contract.min_rows, contract.max_rows)
        }
        for number, expectation in enumerate(contract.expectations):
            required = f"{path}.expectations.{number}.kwargs: required min_value up to max_value"
            pairs[required] = (expectation.kwargs.get("min_value"), expectation.kwargs.get("max_value"))
        for required, limits in pairs.items():
            # other types are compared by Great Expectations alone
            numbers = all(isinstance(limit, int | float) for limit in limits)
            comparable = numbers or {type(limit) for limit in limits} == {date}
            if comparable and limits[0] > limits[1]:
                yield f"{required}, found {limits[0]} and {limits[1]}; exchange or correct them"


def _error_of(function: Callable[..., object], *args: Any, **kwargs: Any) -> Iterator[str]:
    """Call a function and yield the message of the error that it raises, if any."""
    try:
        function(*args, **kwargs)
    except EvergreenError as error:
        yield str(error)
