"""What the processes of a race around a trial do: each waits for the others, acts once, says how it ended."""

from __future__ import annotations

from multiprocessing.synchronize import Barrier
from pathlib import Path

from include.errors import EvergreenError
from include.rollout.pipeline import advance
from include.spec.load import read
from include.storage.lake import Lake
from tests.promote.racing import switched


def act(barrier: Barrier, folder: str, what: str, subject: str) -> str:
    """Do one thing to the ledger of the depot in a folder."""
    lake, spec = Lake("parcels", f"{folder}/lake"), read(Path(folder, "parcels", "usecase.yaml"))
    lake.version("switches")  # open what is opened once, so that all leave the barrier at the same time
    barrier.wait(60)
    try:
        if what == "advance":
            return f"{advance(lake, spec, subject).rows} steps"
        return switched(lake, spec, what, subject)
    except EvergreenError as error:
        return f"{type(error).__name__}: {error}"
