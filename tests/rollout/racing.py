"""What the processes of a race around a trial do: each waits for the others, acts once, says how it ended."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

from include.errors import EvergreenError
from include.lake import Lake
from include.promote.back import rollback
from include.promote.run import force, promote
from include.registry import Registry
from include.rollout.run import advance
from include.spec.load import read
from tests.promote.racing import NOWHERE


def act(barrier: Barrier, folder: str, what: str, subject: str) -> str:
    """Do one thing to the ledger of the depot in a folder."""
    lake, spec = Lake("parcels", f"{folder}/lake"), read(Path(folder, "parcels", "usecase.yaml"))
    registry = Registry(NOWHERE)
    lake.version("deployments")  # open what is opened once, so that all leave the barrier at the same time
    barrier.wait(60)
    try:
        if what == "advance":
            return f"{advance(lake, spec, subject).rows} steps"
        if what == "rollback":
            return rollback(lake, spec, None, "ann", "slow").note
        if what == "force":
            return force(lake, spec, subject, "ann", "race", registry=registry).note
        ref = promote(lake, spec, subject, registry=registry)
        return ref.note if ref else "nothing switched"
    except EvergreenError as error:
        return f"{type(error).__name__}: {error}"
