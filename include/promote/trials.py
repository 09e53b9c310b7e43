"""Who is being tried at the moment, read from the ledger's switches alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from include.judge.judge import FORCED
from include.promote import ledger
from include.promote.ledger import Row
from include.promote.promotion import WITHDRAWN
from include.spec import UseCase

SHADOW, CANARY_ROLE, WATCH_ROLE = "shadow", "canary", "watch"
CHALLENGER_ROLE = "challenger"  # the role of a model that isn't champion yet


@dataclass(frozen=True)
class Trial:
    """Two models that score the same rows, one of which may have to go.

    Parameters
    ----------
    kind : ``shadow``: the candidate serves nobody; ``canary``: a share of the entities; ``watch``: all, with
        the champion it replaced beside it.
    candidate, incumbent : rows of `deployments`; in a watch the incumbent is the previous champion.
    """

    kind: str
    candidate: Row
    incumbent: Row

    @property
    def since(self) -> str:
        """The first partition of the trial."""
        return str(self.candidate["effective"])

    def __str__(self) -> str:
        of = "after" if self.kind == WATCH_ROLE else "beside"
        new, old = self.candidate["version"], self.incumbent["version"]
        return f"{self.kind} of v{new} {of} v{old} since {self.since}"


def trials_on(rows: Sequence[Row], spec: UseCase, partition: str) -> list[Trial]:
    """Return what is being tried on a partition: at most one watch, and one challenger.

    A switch of the champion ends whatever was tried before it. A watch is over after its partitions, a
    challenger's trial ends in the ledger.

    Parameters
    ----------
    rows : `ledger.switches`, oldest first.
    """
    seen = [row for row in rows if row["effective"] <= partition]
    line = ledger.succession(seen)
    if not line:
        return []
    live, found = line[-1], []
    # only a person goes back to one that stepped down
    replaced = [row for row in line[-2:-1] if row["kind"] != ledger.STEPPED_DOWN]
    if replaced and live["kind"] in (ledger.PROMOTED, FORCED):
        found.append(Trial(WATCH_ROLE, live, line[-2]))
    tried = [row for row in seen if row["role"] == CHALLENGER_ROLE and row["switch"] > live["switch"]]
    if tried and tried[-1]["kind"] != WITHDRAWN:
        found.append(Trial(tried[-1]["kind"], tried[-1], live))
    partitions = spec.gate.rollout.patience + spec.labels.delay
    return [
        t for t in found if t.kind != WATCH_ROLE or len(spec.clock.keys(t.since, partition)) <= partitions
    ]
