"""The metric registry: which metrics a declaration may name, what each means, and what computes it.

It names the functions and doesn't import them, because a DAG file reads it when it is parsed;
`include.stats.metrics` calls them.

A use case's own metric or objective is a name as ``module:name`` or one that a package registers. It isn't
imported here.

To add a metric, write a function of the labels and the predictions (and of the parameter, if the metric has
one), or of each row's loss, and add its line to `METRICS`. The declaration's validation, training, the gate,
monitoring, estimates without labels and the reports all read that line.

A metric's parameter follows an @, as in ``precision@0.5``. It is a number above 0 and below 1 or, for a
metric of one class, the name of the class, as in ``recall@late``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from include.extensions import CodeReference, is_reference, registered

if TYPE_CHECKING:
    from include.spec.usecase import UseCase

BINARY, REGRESSION, MULTICLASS = ("binary",), ("regression",), ("multiclass",)
CLASSIFICATION = (*BINARY, *MULTICLASS)
ALL = (*CLASSIFICATION, *REGRESSION)
CLASS = "class"  # the parameter of a metric that is measured for each class
COST = "cost"  # the metric and the objective that ``problem.costs`` declares
Costs = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Metric:
    """One metric of one or more kinds of problem.

    Parameters
    ----------
    name : without its parameter.
    function : the name of its function in `include.stats.metrics`; by default the metric's.
    parameter : what its parameter is: a threshold, precision, share, quantile or class; empty without one.
    default : the parameter with which every model is measured, declared or not; a metric without a parameter
        is always measured, and one of a class for each class.
    needs : what the rows must contain for it to have a value, as the error message states it.
    compares_labels : whether it has no value where all labels are equal.
    can_be_estimated : whether predictions without labels allow an estimate. Calibration can't be estimated,
        because the estimate assumes it; nor can a metric that depends on how the target will vary.
    highest : the largest possible value.
    row_loss : in place of ``function``, the name of the function of each row's loss; the metric is its mean.
        Each regression metric that can be estimated has one.
    root : whether it is the square root of that mean.
    only_declared : whether it is measured only where the declaration names it, or has what it takes.
    takes_costs : whether its function also takes the matrix of ``problem.costs``.
    """

    name: str
    kinds: tuple[str, ...]
    greater_is_better: bool
    function: str = ""
    parameter: str = ""
    default: str = ""
    needs: str = "rows and a finite value"
    compares_labels: bool = False
    can_be_estimated: bool = True
    highest: float = 1.0
    row_loss: str = ""
    root: bool = False
    only_declared: bool = False
    takes_costs: bool = False


@dataclass(frozen=True)
class Objective:
    """A per-row loss by which candidates are chosen and challengers are judged; less is better.

    Parameters
    ----------
    function : the name of its function in `include.stats.metrics`, which returns one loss for each row.
    unit : what it is measured in, where ``{target}`` stands for the target's name; empty if it has no unit.
    parameter : what follows an @ in its name, as in ``quantile_loss@0.9``; empty without one.
    code : the use case's own function in place of that one.
    takes_costs : whether its function also takes ``costs``.
    costs : the matrix of ``problem.costs``, shape (k, d).
    """

    name: str
    kinds: tuple[str, ...]
    function: str
    unit: str = ""
    parameter: str = ""
    code: CodeReference | None = None
    takes_costs: bool = False
    costs: Costs = ()


@dataclass(frozen=True)
class ServingMetric:
    """A figure of how fast and how large a model is, which `include.evaluate.fresh_process` measures."""

    name: str
    description: str
    greater_is_better: bool = False


TWO_LABELS = "two different actual values"
METRICS: tuple[Metric, ...] = (
    Metric("roc_auc", BINARY, True, needs=TWO_LABELS, compares_labels=True),
    Metric("average_precision", BINARY, True, needs=TWO_LABELS, compares_labels=True),
    Metric("accuracy", MULTICLASS, True),
    Metric("balanced_accuracy", MULTICLASS, True),
    Metric("macro_precision", MULTICLASS, True, needs="rows that are predicted as each class"),
    Metric("macro_recall", MULTICLASS, True, needs="rows of each class"),
    Metric("macro_f1", MULTICLASS, True, needs="of each class rows that are it or are predicted as it"),
    Metric("macro_roc_auc", MULTICLASS, True, needs="rows of each class"),
    Metric("log_loss", CLASSIFICATION, False, highest=math.inf, row_loss="log_losses"),
    Metric("brier", CLASSIFICATION, False, highest=math.inf, row_loss="brier_scores"),
    Metric("calibration_error", BINARY, False, can_be_estimated=False),
    Metric(
        "calibration_error", MULTICLASS, False, function="top_class_calibration_error", can_be_estimated=False
    ),
    Metric("calibration_gap", BINARY, False, can_be_estimated=False),
    Metric(
        "precision",
        BINARY,
        True,
        parameter="threshold",
        default="0.5",
        needs="a row that is predicted at the threshold or above",
    ),
    Metric("recall", BINARY, True, parameter="threshold", default="0.5", needs="a row that is 1"),
    Metric(
        "f1",
        BINARY,
        True,
        parameter="threshold",
        default="0.5",
        needs="a row that is 1 or is predicted at the threshold or above",
    ),
    Metric(
        "recall_at_precision", BINARY, True, parameter="precision", default="0.5", needs="a row that is 1"
    ),
    Metric("precision_top", BINARY, True, parameter="share", default="0.1"),
    Metric(
        "precision",
        MULTICLASS,
        True,
        function="class_precision",
        parameter=CLASS,
        needs="a row that is predicted as the class",
    ),
    Metric("recall", MULTICLASS, True, function="class_recall", parameter=CLASS, needs="a row of the class"),
    Metric(
        "f1",
        MULTICLASS,
        True,
        function="class_f1",
        parameter=CLASS,
        needs="a row that is of the class or is predicted as it",
    ),
    Metric(
        COST,
        CLASSIFICATION,
        False,
        highest=math.inf,
        row_loss="action_costs",
        only_declared=True,
        takes_costs=True,
    ),
    Metric("rmse", REGRESSION, False, highest=math.inf, row_loss="squared_errors", root=True),
    Metric("mae", REGRESSION, False, highest=math.inf, row_loss="absolute_errors"),
    Metric("r2", REGRESSION, True, needs=TWO_LABELS, compares_labels=True, can_be_estimated=False),
    Metric(
        "quantile_loss",
        REGRESSION,
        False,
        parameter="quantile",
        default="0.9",
        highest=math.inf,
        row_loss="pinball_losses",
    ),
    Metric("coverage", REGRESSION, True, row_loss="covered_rows", only_declared=True),
    Metric(
        "poisson_deviance",
        REGRESSION,
        False,
        needs="labels of at least 0",
        highest=math.inf,
        row_loss="poisson_deviances",
        only_declared=True,
    ),
)
OBJECTIVES: tuple[Objective, ...] = (
    Objective("log_loss", CLASSIFICATION, "log_losses"),
    Objective("brier", CLASSIFICATION, "brier_scores"),
    Objective(COST, CLASSIFICATION, "action_costs", "units of cost", takes_costs=True),
    Objective("squared_error", REGRESSION, "squared_errors", "squared units of {target}"),
    Objective("absolute_error", REGRESSION, "absolute_errors", "units of {target}"),
    Objective("quantile_loss", REGRESSION, "pinball_losses", "units of {target}", parameter="quantile"),
    Objective("poisson_deviance", REGRESSION, "poisson_deviances"),
)
SERVING_METRICS: tuple[ServingMetric, ...] = (
    ServingMetric("p50_ms", "milliseconds for one row, half of the calls are faster"),
    ServingMetric("p95_ms", "milliseconds for one row, 95 of 100 calls are faster"),
    ServingMetric("p99_ms", "milliseconds for one row, 99 of 100 calls are faster"),
    ServingMetric("rows_per_second", "rows per second of a whole partition", greater_is_better=True),
    ServingMetric("size_mb", "megabytes of the stored model"),
    ServingMetric("memory_mb", "megabytes that loading and predicting took"),
)
_NUMBER = re.compile(r"0\.[0-9]*[1-9]")  # one spelling for each number, so that a metric has one name


def metrics_of_kind(kind: str) -> dict[str, Metric]:
    """Return the metrics of a kind of problem by name, in the registry's order."""
    return {metric.name: metric for metric in METRICS if kind in metric.kinds}


def default_metrics(kind: str) -> tuple[str, ...]:
    """Return the metrics that are measured of every model of a kind, those of one class left out."""
    return tuple(
        f"{metric.name}@{metric.default}" if metric.parameter else metric.name
        for metric in metrics_of_kind(kind).values()
        if metric.parameter != CLASS and not metric.only_declared
    )


def class_metrics() -> tuple[str, ...]:
    """Return the names of the metrics that are measured for each class."""
    return tuple(metric.name for metric in METRICS if metric.parameter == CLASS)


def find_metric(metric: str, *, multiclass: bool = False) -> Metric:
    """Return the entry of a metric, given with or without its parameter.

    Parameters
    ----------
    multiclass : whether the problem has several classes, for which some metrics are defined otherwise.

    Raises
    ------
    KeyError
        when there is no such metric.
    """
    name = metric.partition("@")[0]
    entries = [entry for entry in METRICS if entry.name == name]
    if not entries and is_custom_metric(metric):
        return Metric(metric, ALL, greater_is_better=True, can_be_estimated=False, highest=math.inf)
    if not entries:
        raise KeyError(metric)
    return next((entry for entry in entries if ("multiclass" in entry.kinds) == multiclass), entries[0])


def is_custom_metric(metric: str) -> bool:
    """Return whether a name is one of a use case's own metric, or of a package's."""
    return _is_user_defined(metric, METRICS, "metrics")


def greater_is_better(metric: str, spec: UseCase) -> bool:
    """Return whether a higher value of a metric or objective is better.

    Of a use case's own metric it is, if its first bound is ``at_least``.
    """
    names = {objective.name for objective in OBJECTIVES}
    if metric == spec.gate.objective or metric.partition("@")[0] in names:
        return False
    bounds = [rule for _, rule in spec.requirements if rule.metric == metric and is_custom_metric(metric)]
    return bounds[0].at_least is not None if bounds else find_metric(metric).greater_is_better


def find_objective(objective: str) -> Objective:
    """Return the entry of an objective, under its name with its parameter, if it has one."""
    entry = next(entry for entry in OBJECTIVES if entry.name == objective.partition("@")[0])
    return replace(entry, name=objective)


def is_custom_objective(objective: str) -> bool:
    """Return whether a name is one of a use case's own objective, or of a package's."""
    return _is_user_defined(objective, OBJECTIVES, "objectives")


def _is_user_defined(name: str, built_in: Sequence[Metric | Objective], kind: str) -> bool:
    names = {entry.name for entry in built_in}
    return is_reference(name) or (name.partition("@")[0] not in names and name in registered(kind))


def validate_objective(kind: str, objective: str) -> None:
    """Refuse a name that isn't an objective of a kind of problem.

    Raises
    ------
    ValueError
        with the valid names, when it is unknown, or its parameter is missing, out of range or one too many.
    """
    name, at, parameter = objective.partition("@")
    entries = {entry.name: entry for entry in OBJECTIVES if kind in entry.kinds}
    is_complete = name in entries and bool(entries[name].parameter) == bool(at)
    if is_complete and (not at or _NUMBER.fullmatch(parameter)):
        return
    valid = ", ".join(f"{e.name}@<{e.parameter}>" if e.parameter else e.name for e in entries.values())
    form = "; after an @ comes a number between 0 and 1, such as 0.25" if "@" in valid else ""
    raise ValueError(f"{objective!r} doesn't fit {kind}; use {valid}{form}")


def validate_metric(kind: str, metric: str, classes: tuple[str, ...] = ()) -> None:
    """Refuse a name that isn't a metric of a kind of problem.

    Raises
    ------
    ValueError
        with the valid names, when the metric is unknown, or its parameter is missing, out of range or one too
        many.
    """
    name, at, parameter = metric.partition("@")
    metrics = metrics_of_kind(kind)
    entry = metrics.get(name)
    if entry is not None and bool(entry.parameter) == bool(at):
        fits = parameter in classes if entry.parameter == CLASS else bool(_NUMBER.fullmatch(parameter))
        if not at or fits:
            return
    valid = ", ".join(f"{m.name}@<{m.parameter}>" if m.parameter else m.name for m in metrics.values())
    form = f"one of {', '.join(classes)}" if classes else "a number between 0 and 1, such as 0.25"
    raise ValueError(f"{metric!r} isn't a {kind} metric; use {valid}; after an @ comes {form}")


def metric_names(spec: UseCase) -> tuple[str, ...]:
    """Return the metrics to measure: the defaults for the kind of problem, then those the spec names."""
    by_class = [f"{name}@{label}" for label in spec.problem.classes for name in class_metrics()]
    required = [COST] if spec.problem.costs else []
    required += [rule.metric for _, rule in spec.requirements]
    objective = spec.gate.objective
    required += [objective] if objective.partition("@")[0] in metrics_of_kind(spec.problem.kind) else []
    return tuple(dict.fromkeys([*default_metrics(spec.problem.kind), *by_class, *required]))
