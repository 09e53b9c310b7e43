"""Hints at the rules of thumb that a forecast should beat, with the lines that add them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from include.spec import UseCase
from include.spec.clock import day_of
from include.validate.problems import Problem, problem
from include.validate.query import nodes, parse

WEEK = timedelta(days=7)


def baseline_hints(spec: UseCase) -> Iterator[Problem]:
    """Yield a hint if a regression lacks the last known value, or that of a week before, as a baseline."""
    if spec.problem.kind != "regression" or any(one.estimator == "rule" for one in spec.training.baselines):
        return
    names = {f"{spec.problem.target}_last": 0, **_same_day_last_week(spec)}
    sql = " and ".join(f"`{value_line(spec, name, ago)}`" for name, ago in names.items())
    recipes = " and ".join(
        f"`- {{name: {recipe}, estimator: rule, params: {{column: {name}}}}}`"
        for recipe, name in zip(("last_value", "last_week"), names, strict=False)
    )
    yield problem(
        spec,
        "training.baselines",
        "a rule of thumb that a forecast should beat: the last known value"
        + (", and that of the same day a week before" if len(names) > 1 else ""),
        ", ".join(f"{one.name} ({one.estimator})" for one in spec.training.baselines),
        f"add to the SELECT of {spec.features.sql} {sql}, to features.numeric {' and '.join(names)}, and to "
        f"training.baselines {recipes}",
        severity="hint",
    )


def _same_day_last_week(spec: UseCase) -> dict[str, int]:
    """Return the feature of the value a week before and its age in partitions, if the lookback reaches it."""
    first = day_of(spec.schedule.start)
    week = len(spec.clock.keys(first.isoformat(), (first + WEEK - timedelta(days=1)).isoformat()))
    # rows of the labels' source that came `delay` partitions after the partition that they are about
    ago = week - spec.labels.delay
    fits = week > 1 and 0 < ago <= spec.features.back(spec.labels.source)
    return {f"{spec.problem.target}_week_ago": ago} if fits else {}


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
