"""What the processes of a race do: each waits for the others, acts once, and says how it ended."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.managers import SyncManager
from multiprocessing.synchronize import Barrier
from typing import Any
from unittest.mock import patch

from include.errors import EvergreenError
from include.models.registry import Registry
from include.promote import approval
from include.promote.promotion import force, promote
from include.promote.rollback import rollback
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.promote.conftest import WEEKLY, asking

# a port on which no registry answers: the aliases aren't part of a race
NOWHERE = "http://127.0.0.1:9"


AT = datetime(2024, 3, 12, tzinfo=UTC)


@contextmanager
def processes(act: Callable[..., str]) -> Iterator[Callable[[Sequence[tuple[Any, ...]]], list[str]]]:
    """Let up to four processes ``act`` at the same moment, each on its arguments; say how each ended.

    They are forked from a server that has imported everything and opened nothing, as Airflow's tasks are.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([act.__module__])
    manager: SyncManager
    with (
        patch.dict(os.environ, {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}),
        context.Manager() as manager,
        ProcessPoolExecutor(4, mp_context=context) as pool,
    ):

        def run(moves: Sequence[tuple[Any, ...]]) -> list[str]:
            barrier = manager.Barrier(len(moves))
            return [future.result(120) for future in [pool.submit(act, barrier, *move) for move in moves]]

        yield run


def act(barrier: Barrier, lake_uri: str, what: str, subject: str, human: bool = False) -> str:
    """Do one thing to the ledgers of ``weekly_sales`` and return the sentence of how it ended."""
    lake, spec = Lake("weekly_sales", lake_uri), read(WEEKLY)
    spec = asking(spec) if human else spec
    lake.version("switches")  # open what is opened once, so that all leave the barrier at the same time
    barrier.wait(60)
    try:
        if what == "decide":
            return judge_and_record(lake, spec, subject).sentence
        if what in (approval.APPROVED, approval.REJECTED):
            return approval.answer_text(approval.record_answer(lake, spec, subject, what, "ann", "race", AT))
        return switched(lake, spec, what, subject)
    except EvergreenError as error:
        return f"{type(error).__name__}: {error}"


def switched(lake: Lake, spec: UseCase, what: str, subject: str) -> str:
    """Roll back, force or promote, and return the sentence of how it ended."""
    registry = Registry(NOWHERE)
    if what == "rollback":
        return rollback(lake, spec, subject or None, "ann", "slow").note
    if what == "force":
        return force(lake, spec, subject, "ann", "race", registry=registry).note
    switch = promote(lake, spec, subject, registry=registry).switch
    return switch.note if switch else "nothing switched"
