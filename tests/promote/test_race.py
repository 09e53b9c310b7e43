"""Real processes at the same ledger at the same moment: each version has one winner, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from deltalake import DeltaTable

from include.judge.judge import BLESSED
from include.models import artifacts
from include.models.registry import Registry
from include.promote import ledger, verdicts
from include.promote.approval import APPROVED, REJECTED, WAITS, Blocker
from include.promote.promotion import promote, promotion_blocker, read_ledgers
from include.promote.verdicts import judge_and_record
from include.spec import UseCase
from include.storage.lake import Lake, Row
from tests.promote.conftest import asking, model
from tests.promote.racing import act, processes

FIRST, SECOND, THIRD = "2024-03-04", "2024-03-11", "2024-03-18"
Race = Callable[..., list[str]]


@pytest.fixture(scope="module")
def race() -> Iterator[Race]:
    """Lets four processes act at the same moment and returns how each ended."""
    with processes(act) as together:

        def run(lake: Lake, moves: list[tuple[str, str]], human: bool = False) -> list[str]:
            root = str(Path(lake.uri.removeprefix("file://")).parent)
            return together([(root, *move, human) for move in moves])

        yield run


@pytest.fixture(autouse=True)
def _stored(lake: Lake) -> None:
    """All models lie in the lake already, so that the races are about the ledgers."""
    for number in range(5):
        artifacts.store_model(lake, model(number))


def _key(evaluation: str) -> str:
    return evaluation.removeprefix("evaluations/").removesuffix(".json")


def _first(lake: Lake, spec: UseCase, attempt: Callable[..., str], gone: Registry) -> None:
    where = attempt(1, FIRST)
    judge_and_record(lake, spec, where)
    promote(lake, spec, _key(where), registry=gone)


def _serial(lake: Lake) -> list[Row]:
    """Return the champions' rows, once it is seen that the switches are 1, 2, 3, …, each of one commit."""
    rows = ledger.switches(lake)
    numbers = [row["switch"] for row in rows]
    assert numbers == sorted([*range(1, len(rows) // 2 + 1)] * 2)
    assert [row["role"] for row in rows] == ["baseline", "champion"] * (len(rows) // 2)
    history = DeltaTable(f"{lake.uri}/tables/switches").history()
    assert sum(commit["operation"] == "WRITE" for commit in history) == len(rows) // 2
    return ledger.champions(rows)


@pytest.mark.full
def test_one_of_four_first_challengers_is_promoted(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race
) -> None:
    """Four that were judged against nobody: the fastest is promoted, the others see it and stand back."""
    where = [attempt(version, FIRST) for version in range(1, 5)]
    for evaluation in where:
        judge_and_record(lake, weekly, evaluation)
    ends = race(lake, [("promote", _key(evaluation)) for evaluation in where])
    rows = _serial(lake)
    assert len(rows) == 1
    assert ends.count("nothing switched") == 3
    assert sum(end.startswith(f"v{rows[0]['version']} promoted") for end in ends) == 1


@pytest.mark.full
def test_one_promotion_asked_for_four_times_is_one(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race
) -> None:
    """Four runs of the same task make one switch, and all return it."""
    where = attempt(1, FIRST)
    judge_and_record(lake, weekly, where)
    ends = race(lake, [("promote", _key(where))] * 4)
    assert len(_serial(lake)) == 1
    assert len(set(ends)) == 1
    assert ends[0].startswith("v1 promoted")


def test_four_that_nothing_stands_in_the_way_of_are_all_switched(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race
) -> None:
    """Forced promotions all succeed, one after the other: no row is lost and no number is used twice."""
    where = [attempt(version, FIRST, refused=True) for version in range(1, 5)]
    for evaluation in where:
        judge_and_record(lake, weekly, evaluation)
    ends = race(lake, [("force", _key(evaluation)) for evaluation in where])
    rows = _serial(lake)
    assert sorted(row["version"] for row in rows) == ["1", "2", "3", "4"]
    assert all(" forced by ann, champion from " in end for end in ends)
    recorded = [row["recorded"] for row in verdicts.attempts(lake)]
    assert recorded == list(range(1, 9))


def test_verdicts_recorded_at_once_are_each_recorded_once(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry
) -> None:
    """Three attempts judged at the same moment, one of them twice: three rows, numbered in turn."""
    _first(lake, weekly, attempt, gone)
    where = [attempt(version, SECOND, champion=1, refused=True) for version in (2, 3, 4)]
    ends = race(lake, [("decide", evaluation) for evaluation in (*where, where[0])])
    rows = verdicts.attempts(lake)[1:]
    assert [row["recorded"] for row in rows] == [2, 3, 4]
    assert {row["key"] for row in rows} == set(map(_key, where))
    assert {row["sentence"] for row in rows} == set(ends)


@pytest.mark.parametrize("turn", range(2))
def test_a_refusal_and_a_promotion_at_once_leave_the_champion(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, turn: int
) -> None:
    """A refused first training sets its baseline once, or not at all if another's model was faster."""
    good, bad = attempt(1, FIRST), attempt(2, FIRST, refused=True)
    for where in (good, bad):
        judge_and_record(lake, weekly, where)
    moves = [("promote", _key(bad)), ("promote", _key(good)), ("promote", _key(bad))]
    race(lake, moves if turn else moves[::-1])
    rows = ledger.switches(lake)
    assert [(row["role"], row["kind"]) for row in rows if row["kind"] != "baseline only"] == [
        ("baseline", "promoted"),
        ("champion", "promoted"),
    ]
    assert [row["switch"] for row in rows if row["kind"] == "baseline only"] in ([], [1])


@pytest.mark.parametrize("turn", range(3))
def test_a_rollback_and_a_promotion_at_once(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry, turn: int
) -> None:
    """Whichever is first, the other decides again: a promotion is superseded, a rollback asks."""
    _first(lake, weekly, attempt, gone)
    second = attempt(2, SECOND, champion=1)
    judge_and_record(lake, weekly, second)
    promote(lake, weekly, _key(second), registry=gone)
    third = attempt(3, THIRD, champion=2)
    assert judge_and_record(lake, weekly, third).verdict == BLESSED
    moves = [("rollback", ""), ("promote", _key(third))]
    back, ahead = race(lake, moves if turn % 2 else moves[::-1])[:: 1 if turn % 2 else -1]
    rows = _serial(lake)
    said = {
        ("1", "2", "1"): ("rolled back to v1", "nothing switched"),
        ("1", "2", "3"): ("StaleDecision", "v3 promoted"),  # the rollback had looked before it
        ("1", "2", "3", "2"): ("rolled back to v2", "v3 promoted"),  # it looked after it
    }[tuple(row["version"] for row in rows)]
    assert back.startswith(said[0])
    assert ahead.startswith(said[1])


def test_four_rollbacks_to_one_version_are_one(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry
) -> None:
    """Four people who press the same button go back once."""
    _first(lake, weekly, attempt, gone)
    second = attempt(2, SECOND, champion=1)
    judge_and_record(lake, weekly, second)
    promote(lake, weekly, _key(second), registry=gone)
    ends = race(lake, [("rollback", "1")] * 4)
    rows = _serial(lake)
    assert [row["version"] for row in rows] == ["1", "2", "1"]
    assert all(a["model"] != b["model"] for a, b in pairwise(rows))
    assert all("rolled back to v1 by ann" in end for end in ends)


def test_of_a_yes_and_a_no_at_once_the_first_stays(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry
) -> None:
    """Two say yes and two say no: all four are told the same answer, and that one is acted on."""
    human = asking(weekly)
    where = attempt(1, FIRST, spec=human)
    judge_and_record(lake, human, where)
    key = _key(where)
    ends = race(lake, [(APPROVED, key), (REJECTED, key)] * 2, human=True)
    (row,) = lake.rows("approvals")
    assert set(ends) == {f"{row['answer']} by ann: race"}
    switched = promote(lake, human, key, registry=gone).switch
    assert (switched is not None) == (row["answer"] == APPROVED)


@pytest.mark.parametrize("turn", range(2))
def test_an_approval_its_promotion_and_a_newer_verdict_at_once(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry, turn: int
) -> None:
    """Whatever comes first, nothing serves without its own approval, and one of the two serves in the end."""
    human = asking(weekly)
    where = [attempt(version, partition, spec=human) for version, partition in ((1, FIRST), (2, SECOND))]
    old, new = map(_key, where)
    judge_and_record(lake, human, where[0])
    moves = [(APPROVED, old), ("promote", old), ("decide", where[1]), ("promote", old)]
    race(lake, moves if turn else moves[::-1], human=True)
    (row,) = lake.rows("approvals")
    assert row["attempt"] == old
    served = ledger.champions(ledger.switches(lake))
    assert {(row["attempt"], row["by"]) for row in served} <= {(old, "ann")}
    assert promote(lake, human, new, registry=gone).switch is None
    ledgers = read_ledgers(lake, human)
    blockers = [promotion_blocker(ledgers, verdicts.attempt(lake, key)) for key in (old, new)]
    if served:  # the newer one was compared with nobody, and has to be trained again
        assert blockers[1] is not None
        assert blockers[1].sentence.startswith(("superseded: judged against no champion", "not blessed"))
    else:
        assert blockers == [Blocker(f"superseded by the verdict of {SECOND}"), WAITS]


@pytest.mark.full
@pytest.mark.parametrize("turn", range(2))
def test_a_force_a_rollback_and_a_promotion_at_once(
    lake: Lake, weekly: UseCase, attempt: Callable[..., str], race: Race, gone: Registry, turn: int
) -> None:
    """Force always ends in a switch of its own; the others stand, or saw that somebody else was faster."""
    _first(lake, weekly, attempt, gone)
    second, third = attempt(2, SECOND, champion=1), attempt(3, THIRD, champion=2)
    worse = attempt(4, SECOND, champion=1, refused=True)
    for where in (second, worse):
        judge_and_record(lake, weekly, where)
    promote(lake, weekly, _key(second), registry=gone)
    judge_and_record(lake, weekly, third)
    moves = [("rollback", "1"), ("promote", _key(third)), ("force", _key(worse))]
    ends = dict(zip(moves if turn else moves[::-1], race(lake, moves if turn else moves[::-1]), strict=True))
    rows = _serial(lake)[2:]
    kinds = [(row["version"], row["kind"]) for row in rows]
    assert kinds.count(("4", "forced")) == 1
    assert kinds.count(("1", "rolled back")) == 1
    assert ends[moves[2]].startswith("v4 forced by ann")
    assert ends[moves[0]].startswith("rolled back to v1 by ann")
    if ("3", "promoted") in kinds:  # it was judged against version 2, so nobody can have been before it
        assert kinds[0] == ("3", "promoted")
    else:
        assert ends[moves[1]] == "nothing switched"
    assert len(kinds) == len(set(kinds))
