"""Somebody else decides just before a commit, or a kill comes around one: nothing is half done."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.errors import StaleDecision
from include.judge.judge import BLESSED
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger, verdicts
from include.promote.promotion import promote
from include.promote.rollback import rollback
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.promote.conftest import WEEKLY, model

FIRST, SECOND, THIRD = "2024-03-04", "2024-03-11", "2024-03-18"
Attempt = Callable[..., str]


class Overtaken(Lake):
    """A lake in which somebody else acts once, after a decision is taken and before it is written."""

    def __init__(self, lake: Lake, meanwhile: Callable[[], object]) -> None:
        super().__init__("", lake.uri)
        self.uri, self.meanwhile = lake.uri, [meanwhile]

    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Let the other be faster, then try."""
        if self.meanwhile:
            self.meanwhile.pop()()
        return super().append_at(table, rows, version)


def _key(evaluation: str) -> str:
    return evaluation.removeprefix("evaluations/").removesuffix(".json")


@pytest.fixture
def two(lake: Lake, weekly: UseCase, attempt: Attempt, gone: Registry) -> tuple[str, str]:
    """Version 1 serves; versions 2 and 3 are both blessed against it. Returns their keys."""
    for number in range(4):
        artifacts.store_model(lake, model(number))
    first, *better = attempt(1, FIRST), attempt(2, SECOND, champion=1), attempt(3, SECOND, champion=1)
    judge_and_record(lake, weekly, first)
    promote(lake, weekly, _key(first), registry=gone)
    assert [judge_and_record(lake, weekly, where).verdict for where in better] == [BLESSED, BLESSED]
    return _key(better[0]), _key(better[1])


def _versions(lake: Lake) -> list[str]:
    return [row["version"] for row in ledger.champions(ledger.switches(lake))]


def test_a_promotion_that_is_overtaken_judges_its_verdict_again(
    lake: Lake, weekly: UseCase, two: tuple[str, str], gone: Registry
) -> None:
    """The slower promotion finds that its verdict was about a champion who is gone, and switches nothing."""
    slow = Overtaken(lake, lambda: promote(lake, weekly, two[0], registry=gone))
    promotion = promote(slow, weekly, two[1], registry=gone)
    assert promotion.switch is None
    assert promotion.blocker.startswith("superseded: judged against ")
    assert _versions(lake) == ["1", "2"]


def test_a_rollback_that_is_overtaken_asks_again(
    lake: Lake, weekly: UseCase, attempt: Attempt, two: tuple[str, str], gone: Registry
) -> None:
    """The one before is another one now, so a person must look; a version that was named is gone back to."""
    promote(lake, weekly, two[0], registry=gone)
    third = attempt(3, THIRD, champion=2)
    judge_and_record(lake, weekly, third)
    slow = Overtaken(lake, lambda: promote(lake, weekly, _key(third), registry=gone))
    with pytest.raises(StaleDecision, match="expected champion v2, but found v3"):
        rollback(slow, weekly, None, "ann", "slow")
    assert _versions(lake) == ["1", "2", "3"]
    slow = Overtaken(lake, lambda: rollback(lake, weekly, "2", "bob", "slower"))
    assert rollback(slow, weekly, "1", "ann", "slow").note.startswith("rolled back to v1 by ann")
    assert _versions(lake) == ["1", "2", "3", "2", "1"]
    slow = Overtaken(lake, lambda: rollback(lake, weekly, "2", "bob", "first"))
    assert rollback(slow, weekly, "2", "ann", "second").note.startswith("rolled back to v2 by bob")
    assert _versions(lake) == ["1", "2", "3", "2", "1", "2"]


def test_an_attempt_that_is_overtaken_is_recorded_after_the_other(
    lake: Lake, weekly: UseCase, attempt: Attempt, two: tuple[str, str]
) -> None:
    """Of two at once both are recorded, the slower one later, and neither row is lost."""
    one, other = attempt(3, THIRD, champion=1), attempt(2, THIRD, champion=1, refused=True)
    slow = Overtaken(lake, lambda: judge_and_record(lake, weekly, other))
    assert judge_and_record(slow, weekly, one).verdict == BLESSED
    rows = verdicts.attempts(lake)
    assert [row["recorded"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["key"] for row in rows[3:]] == [_key(other), _key(one)]


class Mortal(Lake):
    """A lake whose process is killed before its n-th write, or right after it."""

    def __init__(self, uri: str, writes: int, after: bool) -> None:
        super().__init__("weekly_sales", uri)
        self.left, self.after = writes, after

    def _write(self, write: Callable[..., Any], *args: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = write(*args)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def create(self, key: str, data: bytes) -> bool:
        """Write, or die."""
        return bool(self._write(super().create, key, data))

    def replace(self, key: str, data: bytes) -> None:
        """Write, or die."""
        self._write(super().replace, key, data)

    def append_at(self, table: str, rows: pa.Table, version: int) -> int:
        """Write, or die."""
        return int(self._write(super().append_at, table, rows, version))


def judge_and_promote(uri: str, registry: str, evaluation: str, writes: int, after: bool) -> None:
    """Do what two tasks do, in a process that doesn't outlive it."""
    lake, spec = Mortal(uri, writes, after), read(WEEKLY)
    judge_and_record(lake, spec, evaluation)
    promote(lake, spec, _key(evaluation), registry=Registry(registry))


def _state(lake: Lake, registry: Registry) -> list[Any]:
    objects = {key: lake.get(key) for key in lake.keys("models")}
    return [verdicts.attempts(lake), ledger.switches(lake), objects, registry.aliases("weekly_sales")]


# attempts, two models with their facts, switches: six writes; the aliases come after the last. Killed
# after a write is killed before the next.
@pytest.mark.full
@pytest.mark.parametrize(
    ("writes", "after"),
    [
        *(pytest.param(n, False, marks=[] if n == 3 else pytest.mark.full) for n in range(1, 7)),
        (6, True),
    ],
)
def test_a_kill_between_any_two_writes(
    writes: int,
    after: bool,
    lake: Lake,
    weekly: UseCase,
    attempt: Attempt,
    registry: Registry,
    tmp_path: Path,
) -> None:
    """Killed around any write and run again: ledgers, models and aliases are those of one quiet run."""
    where = attempt(1, FIRST)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.promote.test_interrupt"])
    args = (str(tmp_path / "lake"), registry.uri, where, writes, after)
    process = context.Process(target=judge_and_promote, args=args)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(ledger.switches(lake)) == (2 if (writes, after) == (6, True) else 0)
    for _ in range(2):
        judge_and_record(lake, weekly, where)
        promote(lake, weekly, _key(where), registry=registry)
    quiet = Lake("weekly_sales", str(tmp_path / "quiet"))
    quiet.create(where, lake.get(where) or b"")
    judge_and_record(quiet, weekly, where)
    promote(quiet, weekly, _key(where), registry=registry)
    assert _state(lake, registry) == _state(quiet, registry)
