"""The metrics that fit a kind of problem, by name only: a DAG page reads this, so nothing heavy here."""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {
    "binary": (
        "roc_auc",
        "average_precision",
        "log_loss",
        "brier",
        "precision_top_decile",
        "calibration_gap",
    ),
    "regression": ("rmse", "mae", "r2"),
}
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "binary": ("log_loss", "brier"),
    "regression": ("squared_error", "absolute_error"),
}
