"""The names of the metrics that fit a kind of problem, without importing anything heavy (a DAG page reads this)."""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("roc_auc", "average_precision", "log_loss", "brier", "precision_top_decile", "calibration_gap"),
    "regression": ("rmse", "mae", "r2"),
}
OBJECTIVES: dict[str, tuple[str, ...]] = {
    "binary": ("log_loss", "brier"),
    "regression": ("squared_error", "absolute_error"),
}
