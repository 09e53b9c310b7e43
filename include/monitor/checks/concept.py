"""Concept drift: whether the champion's loss exceeds the loss that its own predictions imply.

A probability implies an expected loss, so rows that are merely harder raise no alarm, but labels that follow
another rule do. A regression is expected to lose what it lost on the test partitions. What is ordinary
follows from the test rows of the training by which the recipe came into service: its walk's predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from include.judge.evidence import CHALLENGER
from include.models import outputs
from include.monitor.checks.live_performance import judge_excess, promotion_test_rows
from include.monitor.context import Finding, PartitionContext
from include.monitor.losses import LossSeries, self_expected_loss
from include.spec import UseCase
from include.stats.cusum import PairedSums
from include.stats.metrics import row_losses
from include.storage.lake import Lake

Array = NDArray[np.float64]
NO_TEST_ROWS = "the rows of the training's test partitions are gone or too few"
MIN_RATE_ROWS = 50  # of a class in the test partitions, from which its rate is judged


@dataclass(frozen=True)
class EvidenceSums:
    """The test partitions of a recipe's training.

    Parameters
    ----------
    losses : sums of the loss, and of the loss that was expected.
    rates : sums of the target and of the predictions, for several classes those of each; empty for a
        regression.
    """

    losses: PairedSums
    rates: tuple[PairedSums, ...]


def check_concept(context: PartitionContext) -> list[Finding]:
    """Check the losses of the champion's recipe, as known on the partition, against its own expectation."""
    live, spec = context.losses, context.spec
    if context.champion is None or live is None:
        return []
    past = evidence_sums(context.lake, spec, context.state.recipe_switches(context.partition))
    lasting = check_lasting_loss(spec, live, past.losses if past else None)
    if spec.problem.kind == "regression":
        return [lasting]
    return [lasting, *check_calibration(spec, live, past.rates if past else ())]


def check_lasting_loss(spec: UseCase, live: LossSeries, past: PairedSums | None) -> Finding:
    """Judge whether the loss exceeds its expectation by more than it did on the test partitions."""
    finding = ("concept", f"{spec.gate.objective} against its expectation")
    if past is None:
        return Finding(*finding, None, None, "not enough", NO_TEST_ROWS)
    expected = live.expected
    if spec.problem.kind == "regression":
        expected = live.rows * past.sums.sum() / past.rows.sum()
    sums = PairedSums(live.loss, expected, live.rows)
    return judge_excess(spec, finding, live.partitions, sums, past, past_ratio=True)


def check_calibration(spec: UseCase, live: LossSeries, past: Sequence[PairedSums]) -> list[Finding]:
    """Judge whether observed rates, in relation to the predicted ones, left those of the test partitions.

    Of several classes, each with `MIN_RATE_ROWS` rows there is judged.

    Parameters
    ----------
    past : as in `EvidenceSums`; empty if the rows are gone.
    """
    if not past:
        return [Finding("concept", "calibration", None, None, "not enough", NO_TEST_ROWS)]
    classes = spec.problem.classes
    observed, predicted = (np.atleast_2d(sums.T).T for sums in (live.observed, live.predicted))
    if observed.shape[1] != len(past):  # nothing has matured, or earlier code stored no sums by class
        return []
    subjects = [f"calibration of {name}" for name in classes] or ["calibration"]
    rates = {
        subjects[index]: (PairedSums(observed[:, index], predicted[:, index], live.rows), sums)
        for index, sums in enumerate(past)
        if not classes or sums.sums.sum() >= MIN_RATE_ROWS
    }
    return [_check_rate(spec, subject, live.partitions, *rate, len(rates)) for subject, rate in rates.items()]


def _check_rate(
    spec: UseCase, subject: str, partitions: Sequence[str], live: PairedSums, past: PairedSums, tests: int
) -> Finding:
    """Judge one rate: by a test of whether it is higher, and one of whether it is lower.

    The finding is that of the larger statistic.

    Parameters
    ----------
    tests : how many rates share the declared rate of false alarms.
    """
    findings = []
    for side, sign in (("above", 1), ("below", -1)):
        sums, before = (PairedSums(sign * of.sums, sign * of.reference, of.rows) for of in (live, past))
        finding = judge_excess(
            spec, ("concept", subject), partitions, sums, before, past_ratio=True, sides=2 * tests
        )
        note = f"observed {side} predicted rates: {finding.note}" if finding.value else finding.note
        findings.append(replace(finding, note=note))
    return max(findings, key=lambda finding: (finding.outcome == "alarm", finding.value or 0.0))


def evidence_sums(lake: Lake, spec: UseCase, champions: Sequence[Mapping[str, Any]]) -> EvidenceSums | None:
    """Return the sums of the test rows of the first training whose rows are there, None if all are gone.

    Parameters
    ----------
    champions : switches by which a recipe serves, oldest first.
    """
    rows = next((rows for row in champions if (rows := promotion_test_rows(lake, row)) is not None), None)
    if rows is None:
        return None
    predicted, actual = outputs.from_single_column(rows[CHALLENGER]), rows["actual"].to_numpy()
    losses = row_losses(spec.objective, actual, predicted)
    keys = np.array(rows["partition"].to_pylist())
    positions = [np.flatnonzero(keys == key) for key in sorted(set(keys))]
    if len(positions) < 2:
        return None
    sizes = np.array([len(index) for index in positions], dtype=float)

    def sums(values: Array) -> Array:
        return np.array([values[index].sum() for index in positions])

    if spec.problem.kind == "regression":
        return EvidenceSums(PairedSums(sums(losses), sizes * losses.mean(), sizes), ())
    expected = np.array([self_expected_loss(spec, predicted[index]) or 0.0 for index in positions])
    labels = actual[:, None] == spec.problem.codes if spec.problem.classes else actual[:, None]
    columns = predicted.reshape(len(labels), -1)
    rates = (
        PairedSums(sums(label), sums(column), sizes)
        for label, column in zip(labels.T, columns.T, strict=True)
    )
    return EvidenceSums(PairedSums(sums(losses), expected, sizes), tuple(rates))
