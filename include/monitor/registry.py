"""The registry of monitoring checks: one entry each, read by the pipeline, the policy, notes and pages.

To add a check, write a function of a `PartitionContext` in `include/monitor/checks/` and add one line here.
The order of the entries is the order in which notes, alerts and pages show them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from include.monitor.checks import concept, constant, data, drift, labels, live_performance, sudden_changes
from include.monitor.context import Finding, PartitionContext
from include.spec import UseCase


@dataclass(frozen=True)
class MonitoringCheck:
    """One kind of check.

    Parameters
    ----------
    name : the check's name in `findings`, `decisions` and the metrics.
    run : returns the check's findings of one partition; each has this name.
    alerts : whether an alarm notifies anyone.
    cause : the name under ``retraining.when`` by which a lasting alarm requests a training; empty if it never
        does. A broken feed isn't a cause: a model that learned from it would be as broken.
    quiet : partitions after an alert in which the same alarm isn't sent again.
    quiets_all_subjects : whether one alert quiets every subject of the check, not only its own.
    """

    name: str
    run: Callable[[PartitionContext], list[Finding]]
    alerts: bool = True
    cause: str = ""
    quiet: Callable[[UseCase], int] = lambda spec: spec.alerts.quiet
    quiets_all_subjects: bool = False


CHECKS = (
    MonitoringCheck("data", data.check_availability),
    MonitoringCheck("labels", labels.check_labels),
    MonitoringCheck("fallback", data.check_fallback),
    MonitoringCheck("missing", drift.check_missing_values),
    MonitoringCheck("unseen", drift.check_unseen_values),
    MonitoringCheck("constant", constant.check_constant_features),
    # the declared false alarms of a year are counted over all columns
    MonitoringCheck(
        "sudden_change",
        sudden_changes.check_sudden_changes,
        quiet=lambda spec: spec.monitoring.sudden_changes.quiet,
        quiets_all_subjects=True,
    ),
    MonitoringCheck("concept", concept.check_concept, cause="concept"),
    MonitoringCheck("leakage", labels.check_leakage),
    MonitoringCheck("performance", live_performance.check_performance, cause="degraded"),
    # each season moves the features, so drift alone notifies nobody
    MonitoringCheck("drift", drift.check_drift, alerts=False, cause="drifted"),
)


def run_checks(context: PartitionContext) -> list[Finding]:
    """Return the findings of every check, in the registry's order."""
    return [finding for check in CHECKS for finding in check.run(context)]
