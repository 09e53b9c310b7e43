"""When the evidence asks for a training beside the schedule: a pure function of what the last nights found.

One bad night is weather; the same finding several nights in a row is a cause. A cause is named by its kind
and the champion, so that however many nights find it, it is acted on once, and again only after another
model serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from include.monitor.findings import Check, Finding
from include.spec.stages import Retraining

# A broken feed (missing, unseen, rung, data) is no cause: what is learnt from it would be as broken.
CAUSES: dict[str, Check] = {"degraded": "performance", "drifted": "drift"}


@dataclass(frozen=True)
class Decision:
    """What a night decided, why, and under which name it is acted on once (empty for nothing)."""

    decision: Literal["nothing", "retrain"]
    cause: str
    reason: str


def decide(history: Sequence[Sequence[Finding]], retraining: Retraining, champion: str) -> Decision:
    """Decide whether to ask for a training.

    Parameters
    ----------
    history : each night's findings about the champion, the newest night last; none for a night that nobody
        monitored, or that another model served.
    champion : its digest, empty before the first promotion.
    """
    if not champion:
        return Decision("nothing", "", "no model was promoted yet")
    streaks = []
    for kind in retraining.when:
        found = _streaks(history, CAUSES[kind])
        lasting = sorted(subject for subject, nights in found.items() if nights >= retraining.persist)
        if lasting:
            nights = f"{retraining.persist} nights in a row" if retraining.persist > 1 else "this night"
            reason = f"{kind}: {', '.join(lasting)} {nights}"
            return Decision("retrain", f"{kind}-{champion[:12]}", reason)
        streaks += [f"{subject} {kind} for {nights}" for subject, nights in sorted(found.items())]
    if streaks:
        return Decision("nothing", "", f"{', '.join(streaks)} of {retraining.persist} nights in a row")
    return Decision("nothing", "", f"nothing is {' or '.join(retraining.when) or 'watched'}")


def _streaks(history: Sequence[Sequence[Finding]], check: Check) -> dict[str, int]:
    """Return for each subject in alarm on the newest night how many nights it has been, without a gap."""
    nights = [{f.subject for f in found if f.check == check and f.outcome == "alarm"} for found in history]
    streaks: dict[str, int] = {}
    for subject in nights[-1] if nights else ():
        count = 0
        for alarmed in reversed(nights):
            if subject not in alarmed:
                break
            count += 1
        streaks[subject] = count
    return streaks
