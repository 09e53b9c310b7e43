"""The metrics that fit a kind of problem, by name only: a DAG page reads this, so nothing heavy here.

A metric may take a parameter after an @, as ``precision@0.5``: a number above 0 and below 1, or of a
multiclass problem one of its classes, as ``recall@late``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.spec.usecase import UseCase

# what each family's parameter is; empty where it takes none
FAMILIES: dict[str, dict[str, str]] = {
    "binary": {
        "roc_auc": "",
        "average_precision": "",
        "log_loss": "",
        "brier": "",
        "calibration_error": "",
        "calibration_gap": "",
        "precision": "threshold",
        "recall": "threshold",
        "f1": "threshold",
        "recall_at_precision": "precision",
        "precision_top": "share",
    },
    "regression": {"rmse": "", "mae": "", "r2": "", "quantile_loss": "quantile"},
    "multiclass": {
        "accuracy": "",
        "balanced_accuracy": "",
        "macro_precision": "",
        "macro_recall": "",
        "macro_f1": "",
        "macro_roc_auc": "",
        "log_loss": "",
        "brier": "",
        "calibration_error": "",
        "precision": "class",
        "recall": "class",
        "f1": "class",
    },
}
# measured of every model, declared or not
METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        "roc_auc",
        "average_precision",
        "log_loss",
        "brier",
        "calibration_error",
        "calibration_gap",
        "precision@0.5",
        "recall@0.5",
        "f1@0.5",
        "recall_at_precision@0.5",
        "precision_top@0.1",
    ),
    "regression": ("rmse", "mae", "r2", "quantile_loss@0.9"),
    "multiclass": tuple(name for name, of in FAMILIES["multiclass"].items() if not of),  # and by class
}
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "binary": ("log_loss", "brier"),
    "regression": ("squared_error", "absolute_error"),
    "multiclass": ("log_loss", "brier"),
}
_PARAMETER = re.compile(r"0\.[0-9]*[1-9]")  # one spelling for each number, so that a metric has one name


def parse(metric: str) -> tuple[str, float | None]:
    """Return a metric's family and its parameter, None where it has none."""
    family, at, parameter = metric.partition("@")
    return family, float(parameter) if at else None


def check(kind: str, metric: str, classes: tuple[str, ...] = ()) -> None:
    """Refuse what is no metric of a kind of problem.

    Raises
    ------
    ValueError
        with what there is, when the family is unknown, or its parameter is missing, out of range or too many.
    """
    family, at, parameter = metric.partition("@")
    takes = FAMILIES[kind].get(family)
    fits = parameter in classes if takes == "class" else bool(_PARAMETER.fullmatch(parameter))
    if takes is None or bool(takes) != bool(at) or (at and not fits):
        there = ", ".join(f"{name}@<{of}>" if of else name for name, of in FAMILIES[kind].items())
        what = f"is one of {', '.join(classes)}" if classes else "is as 0.25, in (0, 1)"
        raise ValueError(f"{metric!r} is no metric of {kind}; use {there}; what follows an @ {what}")


def names(spec: UseCase) -> tuple[str, ...]:
    """Return the metrics to measure: those of the problem's kind, then what the declaration requires."""
    rules = (*spec.gate.requirements, *spec.monitoring.requirements)
    takes = [family for family, of in FAMILIES[spec.problem.kind].items() if of == "class"]
    by_class = [f"{family}@{name}" for name in spec.problem.classes for family in takes]
    return tuple(dict.fromkeys([*METRICS[spec.problem.kind], *by_class, *(rule.metric for rule in rules)]))
