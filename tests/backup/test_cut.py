"""The versions that a backup takes are those that all tables had at one moment, whoever writes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest

from include.backup import write
from include.backup.write import cut
from include.errors import StoreUnavailable
from include.lake import Lake


def rows(number: int) -> pa.Table:
    """Return one row."""
    return pa.table({"n": pa.array([number])})


def test_no_row_is_ahead_of_what_it_speaks_of(tmp_path: Path) -> None:
    """A writer fills table after table for each number: at the moment that is taken, none is two ahead."""
    tables = [f"t{number}" for number in range(5)]
    lake = Lake("usecase", str(tmp_path))
    for table in tables:
        lake.publish(table, rows(0), {"n": 0})
    child = os.fork()
    if child == 0:
        own = Lake("usecase", str(tmp_path))
        for number in range(1, 10_000):
            for table in tables:
                own.publish(table, rows(number), {"n": number})
            time.sleep(0.05)  # as a night's tasks leave gaps
    try:
        taken = [cut(lake) for _ in range(12)]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len({tuple(one.values()) for one in taken}) > 3
    for one in taken:
        versions = [one[table] for table in tables]
        assert versions == sorted(versions, reverse=True)
        assert versions[0] - versions[-1] <= 1


def test_tables_that_never_stand_still_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each look finds another commit there is no moment, and the sentence says when to come again."""
    lake = Lake("usecase", str(tmp_path))
    lake.publish("t", rows(0), {"n": 0})
    seen = iter(range(1000))
    monkeypatch.setattr(Lake, "version", lambda self, table: next(seen))
    monkeypatch.setattr(write, "PAUSE", 0)
    with pytest.raises(StoreUnavailable, match="required a moment without a commit"):
        cut(lake)
