"""What the processes of a race do: each waits for the others, acts once, and says how it ended."""

from __future__ import annotations

from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier

from include.errors import EvergreenError
from include.lake import Lake
from include.promote import approval
from include.promote.back import rollback
from include.promote.run import decide, force, promote
from include.registry import Registry
from include.spec.load import read
from tests.promote.conftest import WEEKLY, asking

# nobody listens there: the aliases are no part of a race
NOWHERE = "http://127.0.0.1:9"


AT = datetime(2024, 3, 12, tzinfo=UTC)


def act(barrier: Barrier, lake_uri: str, what: str, subject: str, human: bool = False) -> str:
    """Do one thing to the ledgers of ``weekly_sales`` and return the sentence of how it ended."""
    lake, spec, registry = Lake("weekly_sales", lake_uri), read(WEEKLY), Registry(NOWHERE)
    spec = asking(spec) if human else spec
    lake.version("deployments")  # open what is opened once, so that all leave the barrier at the same time
    barrier.wait(60)
    try:
        if what == "decide":
            return decide(lake, spec, subject).sentence
        if what == "rollback":
            return rollback(lake, spec, subject or None, "ann", "slow").note
        if what in (approval.APPROVED, approval.REJECTED):
            return approval.told(approval.answer(lake, spec, subject, what, "ann", "race", AT))
        if what == "force":
            return force(lake, spec, subject, "ann", "race", registry=registry).note
        ref = promote(lake, spec, subject, registry=registry)
        return ref.note if ref else "nothing switched"
    except EvergreenError as error:
        return f"{type(error).__name__}: {error}"
