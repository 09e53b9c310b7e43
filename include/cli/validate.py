"""What reading a declaration can't see: that its SQL runs, its estimators and its expectations exist.

The SQL is run on an empty lake through the very functions that a partition uses, so a passed check is a
promise about the declaration, and none about the data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from include.errors import EvergreenError
from include.spec.clock import Clock, day_of

if TYPE_CHECKING:
    from include.spec import UseCase


def validate(spec: UseCase) -> list[str]:
    """Return a sentence for each thing that is wrong with a readable declaration, none for a sound one."""
    wrong = list(_partitions(spec))
    if not wrong:
        wrong += [sentence for part in (_paths, _sql, _estimators, _expectations) for sentence in part(spec)]
    return wrong


def _partitions(spec: UseCase) -> Iterator[str]:
    """Yield each date that is none, a spine known too late, and a training on a day without a partition."""
    schedule, subject = spec.schedule, f"{spec.name}: schedule"
    dates = [schedule.start, schedule.end, *(source.start for source in spec.sources.values())]
    bad = [sentence for date in dates if date for sentence in _said(day_of, date)]
    yield from bad
    if bad:
        return
    if schedule.end and schedule.end < schedule.start:
        yield f"{subject}.end: required a day from {schedule.start} on, found {schedule.end}"
    partitions, trainings = _year(spec, spec.clock), _year(spec, Clock(schedule.training, schedule.timezone))
    if not partitions:
        yield f"{subject}.batch: required a partition in the year from {schedule.start} on, found none"
    spine = spec.features.spine
    for partition in partitions[:1]:
        known, decided = (
            spec.clock.local(partition, spec.sources[spine].available_at),
            spec.clock.moment(partition),
        )
        if known > decided:
            yield (
                f"{spec.name}: sources.{spine}.available_at: required the hour of {schedule.batch!r} or "
                f"earlier, since the spine's rows are scored then, found {spec.sources[spine].available_at}"
            )
    for stray in sorted(set(trainings) - set(partitions))[:1]:
        yield (
            f"{subject}.training: required days that have a partition of {schedule.batch!r}, found {stray}; "
            "let both crons name the same days"
        )


def _year(spec: UseCase, clock: Clock) -> list[str]:
    return clock.keys(spec.schedule.start, (day_of(spec.schedule.start) + timedelta(days=365)).isoformat())


def _paths(spec: UseCase) -> Iterator[str]:
    """Yield each path with a placeholder that nothing fills in."""
    from include.ingest.connectors.request import request

    for name, source in spec.sources.items():
        if source.kind != "sql":
            yield from _said(request(spec, name, _year(spec, spec.clock)[0]).filled, source.path)


def _sql(spec: UseCase) -> Iterator[str]:
    """Yield what DuckDB, or the declaration, has against the SQL of the features and of the labels."""
    from include.features.build import features, labels
    from include.storage.lake import Lake

    partition = _year(spec, spec.clock)[0]
    with tempfile.TemporaryDirectory() as empty:
        lake = Lake(spec.name, empty)
        yield from _said(features, lake, spec, [partition])
        yield from _said(labels, lake, spec, [partition], known=partition)


def _estimators(spec: UseCase) -> Iterator[str]:
    """Yield each estimator, or parameter of one, that there isn't."""
    from include.train.recipes import build_estimator

    for candidate in (*spec.training.baselines, *spec.training.candidates):
        yield from _said(build_estimator, spec, candidate)


def _expectations(spec: UseCase) -> Iterator[str]:
    """Yield each expectation that Great Expectations doesn't know, or not with these arguments."""
    from include.ingest.validation.expectations import validate_expectation

    for name, source in spec.sources.items():
        for expectation in source.contract.expectations:
            yield from _said(validate_expectation, f"{spec.name}/{name}", [expectation], source.columns)


def _said(call: Callable[..., object], *args: Any, **kwargs: Any) -> Iterator[str]:
    """Call, and yield the sentence of the error if there is one."""
    try:
        call(*args, **kwargs)
    except EvergreenError as error:
        yield str(error)
