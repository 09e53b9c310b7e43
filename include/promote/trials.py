"""The trials of two models on the same rows: shadow, canary and watch. The ledger tells which are on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.judge import FORCED
from include.promote.ledger import PROMOTED, WITHDRAWN, champion_history, in_effect
from include.spec import UseCase
from include.storage.lake import Row

WATCH = "watch"  # the kind of trial after a promotion; the others are the ledger's `SHADOW` and `CANARY`


@dataclass(frozen=True)
class Trial:
    """Two models that score the same rows, one of which may be withdrawn or rolled back from.

    Parameters
    ----------
    kind : ``shadow``: the candidate serves no rows. ``canary``: it serves a share of the entities. ``watch``:
        it serves all rows, and the champion that it replaced scores them in parallel.
    candidate, incumbent : rows of `switches`; in a watch the incumbent is the previous champion.
    """

    kind: str
    candidate: Row
    incumbent: Row

    @property
    def since(self) -> str:
        """The first partition of the trial."""
        return str(self.candidate["effective_from"])

    def __str__(self) -> str:
        relation = "after" if self.kind == WATCH else "against"
        candidate, incumbent = self.candidate["version"], self.incumbent["version"]
        return f"{self.kind} of v{candidate} {relation} v{incumbent} since {self.since}"


def trials_on(rows: Sequence[Row], spec: UseCase, partition: str) -> list[Trial]:
    """Return the trials on a partition: at most one watch, and at most one challenger's.

    A switch of the champion ends the trials before it. A watch ends after its partitions, and a challenger's
    trial by a switch in the ledger.

    Parameters
    ----------
    rows : `switches`, oldest first.
    """
    rows = in_effect(rows, partition)
    history = champion_history(rows)
    if not history:
        return []
    champion, trials = history[-1], []
    if len(history) > 1 and champion["kind"] in (PROMOTED, FORCED):
        replaced = history[-2]
        watch = Trial(WATCH, champion, replaced)
        watched = len(spec.clock.keys(watch.since, partition))
        # of a sparse spine the next switch ends it, since few of the partitions have rows
        if spec.sparse or watched <= spec.gate.rollout.patience + spec.labels.delay:
            trials.append(watch)
    challenger = challenger_on_trial(rows, champion)
    if challenger is not None:
        trials.append(Trial(challenger["kind"], challenger, champion))
    return trials


def challenger_on_trial(rows: Sequence[Row], champion: Row) -> Row | None:
    """Return the switch of the challenger that is on trial against a champion, None if there is none.

    Parameters
    ----------
    rows : `switches`, oldest first.
    """
    newest = [row for row in rows if row["role"] == "challenger" and row["switch"] > champion["switch"]][-1:]
    return newest[0] if newest and newest[0]["kind"] != WITHDRAWN else None
