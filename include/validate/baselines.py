"""Hints at the rules of thumb that a forecast should beat, with the lines that add them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from include.spec import UseCase
from include.spec.clock import day_of
from include.validate.problems import ReportedProblem, problem
from include.validate.query import nodes, parse


def baseline_hints(spec: UseCase) -> Iterator[ReportedProblem]:
    """Yield a hint if a regression lacks the last known value, or that of a season before, as a baseline."""
    if spec.problem.kind != "regression" or any(one.estimator == "rule" for one in spec.training.baselines):
        return
    target, hour_or_day = spec.problem.target, "hour" if spec.clock.sub_daily else "day"
    values = {"last": (0, "the last known value")}
    for name, days, before in (("day_ago", 1, "a day"), ("week_ago", 7, "a week")):
        if (ago := _age_of_season(spec, days)) is not None:
            values[name] = (ago, f"that of the same {hour_or_day} {before} before")
    words = [what for _, what in values.values()]
    features = [f"{target}_{name}" for name in values]
    lines = [f"`{value_line(spec, f'{target}_{name}', ago)}`" for name, (ago, _) in values.items()]
    recipes = [
        f"`- {{name: {name}, estimator: rule, params: {{column: {target}_{name}}}}}`" for name in values
    ]
    yield problem(
        spec,
        "training.baselines",
        f"a rule of thumb that a forecast should beat: {', and '.join(words)}",
        ", ".join(f"{one.name} ({one.estimator})" for one in spec.training.baselines),
        f"add to the SELECT of {spec.features.sql} {' and '.join(lines)}, to features.numeric "
        f"{' and '.join(features)}, and to training.baselines {' and '.join(recipes)}",
        severity="hint",
    )


def _age_of_season(spec: UseCase, days: int) -> int | None:
    """Return how many partitions old the value of some days before is; None if the lookback ends before.

    A schedule with one partition in that time has no season of it: the last known value is the same.
    """
    first = day_of(spec.schedule.start)
    count = len(spec.clock.keys(first.isoformat(), (first + timedelta(days=days - 1)).isoformat()))
    # rows of the labels' source come `delay` partitions after the partition that they are about
    ago = count - spec.labels.delay
    return ago if count > 1 and 0 < ago <= spec.features.lookback_of(spec.labels.source) else None


def value_line(spec: UseCase, name: str, ago: int) -> str:
    """Return the line of a SELECT with a label that is ``ago`` partitions old, as a feature."""
    tree = parse(spec.sql)
    spine = next(
        (
            node["alias"] or node["table_name"]
            for node in nodes((tree or {}).get("from_table"))
            if node.get("table_name") == "spine"
        ),
        "spine",
    )
    same = " AND ".join(f'past."{column}" = {spine}."{column}"' for column in spec.key)
    return (
        f"(SELECT max({spec.labels.sql}) FROM known_{spec.labels.source} AS past "  # noqa: S608 - shown, not run
        f"WHERE past.for_partition = {spine}.partition AND past.ago = {ago} AND {same}) AS {name},"
    )
