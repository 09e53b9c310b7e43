"""The versions that a backup takes are those that all tables had at one moment, whoever writes."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from include.errors import StoreUnavailable
from include.ops import backup
from include.ops.backup import consistent_versions
from include.storage.lake import Lake


def rows(number: int) -> pa.Table:
    """Return one row."""
    return pa.table({"n": pa.array([number])})


def test_no_row_is_ahead_of_what_it_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer fills table after table for each number: at the moment that is taken, none is two ahead."""
    monkeypatch.setattr(backup, "PAUSE", 0.01)
    tables = [f"t{number}" for number in range(5)]
    lake = Lake("usecase", str(tmp_path))
    for table in tables:
        lake.publish(table, rows(0), {"n": 0})
    stop = threading.Event()

    def write_on() -> None:
        own = Lake("usecase", str(tmp_path))
        for number in itertools.count(1):
            for table in tables:
                if not stop.is_set():
                    own.publish(table, rows(number), {"n": number})
            if stop.wait(0.03):  # as a partition leaves gaps
                return

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write_on)
        taken: list[dict[str, int]] = []
        while len({tuple(one.values()) for one in taken}) < 6 and not writer.done():
            taken.append(consistent_versions(lake))
        stop.set()
        writer.result()
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
    monkeypatch.setattr(backup, "PAUSE", 0)
    with pytest.raises(StoreUnavailable, match="expected table versions that stay the same"):
        consistent_versions(lake)
