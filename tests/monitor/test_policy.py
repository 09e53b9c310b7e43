"""What asks for a training, and under which name."""

from __future__ import annotations

import pytest

from include.monitor.findings import Check, Finding, Outcome
from include.monitor.policy import decide
from include.spec.stages import Retraining

CHAMPION = "0123456789abcdef"


def found(check: Check, subject: str = "roc_auc", outcome: Outcome = "alarm") -> list[Finding]:
    """Return a night with one finding."""
    return [Finding(check, subject, 0.5, 0.6, outcome, "a sentence")]


def test_a_lasting_degradation_asks_once_for_its_cause() -> None:
    """Three nights in a row name one cause, and so does the fourth; another champion has its own."""
    bad = found("performance")
    asked = decide([bad] * 3, Retraining(persist=3), CHAMPION)
    assert (asked.decision, asked.cause) == ("retrain", "degraded-0123456789ab")
    assert asked.reason == "degraded: roc_auc 3 nights in a row"
    assert decide([bad] * 4, Retraining(persist=3), CHAMPION) == asked
    assert decide([bad] * 3, Retraining(persist=3), "fedcba").cause == "degraded-fedcba"


@pytest.mark.parametrize(
    "history",
    [
        [],
        [found("performance")] * 2,
        [found("performance"), [], found("performance")],
        [found("performance"), found("performance", outcome="not enough"), found("performance")],
        [found("performance"), found("performance"), found("performance", outcome="ok")],
        [found("performance", "a"), found("performance", "b"), found("performance", "a")],
    ],
)
def test_what_does_not_last_asks_for_nothing(history: list[list[Finding]]) -> None:
    """Too few nights, a gap, a night that can't be judged, another metric: no training."""
    assert decide(history, Retraining(persist=3), CHAMPION).decision == "nothing"


def test_drift_alone_never_asks_unless_it_is_told_to() -> None:
    """Covariate drift is no degradation."""
    history = [found("drift", "temp")] * 5
    assert decide(history, Retraining(persist=2), CHAMPION).decision == "nothing"
    asked = decide(history, Retraining(when=("degraded", "drifted"), persist=2), CHAMPION)
    assert (asked.decision, asked.cause) == ("retrain", "drifted-0123456789ab")


@pytest.mark.parametrize("check", ["missing", "unseen", "rung", "data"])
def test_a_broken_feed_never_asks(check: Check) -> None:
    """What is learnt from a broken feed is as broken."""
    both = Retraining(when=("degraded", "drifted"), persist=1)
    assert decide([found(check)] * 3, both, CHAMPION).decision == "nothing"


def test_without_a_champion_there_is_nothing_to_retrain() -> None:
    """Before the first promotion the schedule trains."""
    assert decide([found("performance")] * 9, Retraining(persist=1), "").decision == "nothing"


def test_a_reason_counts_the_nights_so_far() -> None:
    """The row says how far a streak has come."""
    said = decide([[], found("performance")], Retraining(persist=3), CHAMPION).reason
    assert said == "roc_auc degraded for 1 of 3 nights in a row"
