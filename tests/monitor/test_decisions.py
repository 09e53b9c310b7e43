"""Decisions rest on earlier ones, and are the same whatever order the partitions were monitored in."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from include.monitor.context import Finding, findings_table
from include.monitor.policy import other_causes, publish_decisions
from include.promote.ledger import BASELINE_ONLY, REFRESHED, REPLACED, ROLLED_BACK
from include.spec import UseCase
from include.spec.stages import Alerts, Retraining
from include.storage import schemas
from include.storage.lake import Lake
from tests.monitor import machines


@pytest.fixture(scope="module")
def rules(use: UseCase) -> UseCase:
    """Return rules by which each partition's decision depends on those of the partitions before."""
    quick = {"alerts": Alerts(quiet=2), "retraining": Retraining(consecutive=2, cooldown=3)}
    return use.model_copy(update=quick)


def watched(lake: Lake, use: UseCase, partition: str, *checks: Any) -> None:
    """Publish alarms as the monitor does, and decide."""
    found = [Finding(check, "x", 1.0, 0.5, "alarm", f"{check} of {partition}") for check in checks]
    lake.publish("findings", findings_table(partition, found), {"partition": partition})
    row = dict.fromkeys(schemas.PARTITIONS.names) | {"product": "monitor", "partition": partition}
    done = pa.Table.from_pylist([{**row, "outcome": "published"}], schema=schemas.PARTITIONS)
    lake.publish("partitions", done, {"product": "monitor", "partition": partition})
    publish_decisions(lake, use, partition)


def decided(lake: Lake) -> list[tuple[str, ...]]:
    """Return every decision, in the partitions' order."""
    rows = lake.rows("decisions")
    return sorted(tuple(row[name] for name in schemas.DECISIONS.names) for row in rows)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, rules: UseCase, week: list[str]) -> list[Any]:
    """What a lasting alarm in a week of partitions leads to, in order."""
    lake = opened(tmp_path_factory.mktemp("order"), week)
    for partition in week:
        watched(lake, rules, partition, "performance", "data")
    return decided(lake)


def opened(folder: Path, week: Sequence[str]) -> Lake:
    """Return a lake with a champion."""
    lake = Lake("machines", str(folder))
    machines.promote(lake, "0123456789abcdef", week[0])
    return lake


def switch(lake: Lake, **changes: Any) -> None:
    """Write another switch, like the champion's first but for some of its columns."""
    rows = sorted(lake.rows("switches"), key=lambda row: row["switch"])
    row = {**rows[0], "switch": len(rows) + 1, **changes}
    table = pa.Table.from_pylist([row], schema=schemas.SWITCHES)
    lake.append_at("switches", table, lake.version("switches"))


def test_a_lasting_alarm_is_told_now_and_then_and_asks_after_each_cooldown(
    expected: list[Any], week: list[str]
) -> None:
    """The planted week has both: the order of its partitions matters to what follows."""
    alerts, quiet = zip(*((row[-2], row[-1]) for row in expected), strict=True)
    assert [text != "[]" for text in alerts] == [n % 3 == 0 for n in range(8)]
    assert [text != "[]" for text in quiet] == [n % 3 != 0 for n in range(8)]
    causes = [row[2].removeprefix("degraded-0123456789ab-") for row in expected]
    assert causes == ["", *[week[1]] * 4, *[week[5]] * 3]


@settings(max_examples=3)
@given(order=st.permutations(range(8)))
def test_any_order_decides_the_same(
    rules: UseCase, week: list[str], expected: list[Any], order: list[int]
) -> None:
    """A partition done last changes all that follow it, however far."""
    with TemporaryDirectory() as folder:
        lake = opened(Path(folder), week)
        for place in order:
            watched(lake, rules, week[place], "performance", "data")
        assert decided(lake) == expected


@settings(max_examples=2)
@given(order=st.permutations(range(8)))
@example([4, 5, 0, 1, 2, 3, 6, 7])
def test_in_any_order_a_training_starts_after_each_cooldown_only(
    rules: UseCase, week: list[str], order: list[int]
) -> None:
    """One that is monitored late starts none where a later one has, though it now names the cause."""
    started: list[str] = []
    with TemporaryDirectory() as folder:
        lake = opened(Path(folder), week)
        for partition in (week[place] for place in order):
            watched(lake, rules, partition, "performance")
            (decision,) = lake.rows("decisions", {"partition": partition})
            cause = decision["cause"]
            if cause and not {cause, *other_causes(lake, rules, partition, cause)} & {*started}:
                started.append(cause)
    places = sorted(week.index(cause[-10:]) for cause in started)
    assert places
    assert all(later - earlier > rules.retraining.cooldown for earlier, later in pairwise(places))


@pytest.mark.full
def test_two_at_once_decide_the_same(
    rules: UseCase, week: list[str], expected: list[Any], tmp_path: Path
) -> None:
    """Each partition twice, by three workers."""
    opened(tmp_path, week)
    with ThreadPoolExecutor(3) as workers:
        each = [*week, *reversed(week)]
        list(
            workers.map(
                lambda partition: watched(
                    Lake("machines", str(tmp_path)), rules, partition, "performance", "data"
                ),
                each,
            )
        )
    assert decided(Lake("machines", str(tmp_path))) == expected


@pytest.mark.full
@pytest.mark.parametrize("order", [range(9), [*range(9), 4], [4, *range(9)], [8, 3, 1, 0, 2, 5, 6, 7, 4]])
def test_a_partition_without_rows_changes_no_later_decision(
    rules: UseCase, week: list[str], expected: list[Any], order: Sequence[int], tmp_path: Path
) -> None:
    """Of a sparse spine it is decided itself, whenever it is monitored, and the others as if it weren't."""
    readings = rules.sources["readings"].model_copy(update={"sparse": True})
    sparse = rules.model_copy(update={"sources": {**rules.sources, "readings": readings}})
    keys = rules.clock.keys(week[0], rules.clock.shift(week[-1], 1))
    empty, others = keys[4], keys[:4] + keys[5:]
    lake = opened(tmp_path, week)
    spine = [{"product": "readings", "partition": key, "outcome": "published", "rows": 9} for key in others]
    lake.publish("partitions", pa.Table.from_pylist(spine, schemas.PARTITIONS), {"product": "readings"})
    for key in (keys[place] for place in order):
        watched(lake, sparse, key, *(["performance", "data"] if key != empty else []))
    renamed = dict(zip(week, others, strict=True))
    as_if = [
        (renamed[key], decision, cause.replace(cause[-10:], renamed.get(cause[-10:], "")))
        for key, decision, cause, *_ in expected
    ]
    assert sorted(row[:3] for row in decided(lake)) == sorted([*as_if, (empty, "nothing", "")])


def test_an_alarm_that_was_mended_is_told_no_more(rules: UseCase, week: list[str], tmp_path: Path) -> None:
    """A partition monitored again without its alarm gives it back to the next one that has it."""
    lake = opened(tmp_path, week)
    for partition in week[:2]:
        watched(lake, rules, partition, "data")
    assert [row[1] for row in decided(lake)] == ["alert", "nothing"]
    watched(lake, rules, week[0])
    assert [row[1] for row in decided(lake)] == ["nothing", "alert"]


@pytest.mark.parametrize(
    ("kind", "decision", "does"),
    [
        (REPLACED, "replace", "ridge of v1 serves"),
        (ROLLED_BACK, "roll back", "v1 serves again"),
        (REFRESHED, "nothing", ""),
    ],
)
def test_a_champion_that_went_is_the_decision_of_its_partition(
    rules: UseCase, week: list[str], tmp_path: Path, kind: str, decision: str, does: str
) -> None:
    """Whoever did it: the partition from which on it holds says so, once; a refresh isn't news."""
    lake = opened(tmp_path, week)
    switch(lake, kind=kind, effective_from=week[2], reason="loses more", recipe="ridge")
    for partition in week[1:4]:
        watched(lake, rules, partition)
    reasons = [row[3] for row in decided(lake)]
    after = "retrain" if kind == REPLACED else "nothing"
    assert [row[1] for row in decided(lake)] == ["nothing", decision, after]
    assert reasons[1].startswith(f"{kind}: {does} from this partition on (loses more); " if does else "no ")


def test_a_champion_that_went_on_a_skipped_partition_is_told_on_the_next_one(
    rules: UseCase, week: list[str], tmp_path: Path
) -> None:
    """The first partition that is monitored tells it, with its date, until an earlier one is monitored."""
    lake = opened(tmp_path, week)
    switch(lake, kind=ROLLED_BACK, effective_from=week[2], reason="loses more")
    switch(lake, kind=REFRESHED, effective_from=week[3])
    for partition in (week[1], *week[4:6]):
        watched(lake, rules, partition)
    assert [row[1] for row in decided(lake)] == ["nothing", "roll back", "nothing"]
    assert f"v1 serves again from {week[2]} on (loses more)" in decided(lake)[1][3]
    watched(lake, rules, week[2])
    assert [row[1] for row in decided(lake)] == ["nothing", "roll back", "nothing", "nothing"]


def test_a_replacement_asks_for_a_training_until_another_recipe_is_promoted(
    rules: UseCase, week: list[str], tmp_path: Path
) -> None:
    """By one cause a week, also after a refit of the recipe that replaced it, and by none once it is over."""
    lake = opened(tmp_path, week)
    switch(lake, kind=REPLACED, effective_from=week[2], model="e" * 64)
    switch(lake, kind=REPLACED, effective_from=week[2], role="baseline", model="b" * 64)
    switch(lake, kind=REFRESHED, model="d" * 64, version="2", effective_from=week[4])
    switch(lake, model="f" * 64, version="3", effective_from=week[5])
    for partition in week[1:7]:
        watched(lake, rules, partition)
    rows = decided(lake)
    assert [row[2] for row in rows] == ["", *[f"replaced-{week[2]}-{week[2]}"] * 3, "", ""]
    assert all(f"the champion was replaced on {week[2]}" in row[3] for row in rows[1:4])


def test_before_the_first_promotion_the_reason_says_what_serves(
    rules: UseCase, week: list[str], tmp_path: Path
) -> None:
    """Nobody is champion, which is a fact and no request: the schedule trains the first model."""
    lake = opened(tmp_path, week[2:])
    baseline = lake.rows("switches")[0] | {
        "role": "baseline",
        "kind": BASELINE_ONLY,
        "effective_from": week[1],
    }
    table = pa.Table.from_pylist([{**baseline, "switch": 0}], schema=schemas.SWITCHES)
    lake.append_at("switches", table, lake.version("switches"))
    for partition in week[:3]:
        watched(lake, rules, partition)
    nobody = "there is no champion: no model was promoted yet, and"
    assert [row[1:4] for row in decided(lake)] == [
        ("nothing", "", f"{nobody} a constant serves instead"),
        ("nothing", "", f"{nobody} baseline v1 serves instead"),
        ("nothing", "", "no performance alarm"),
    ]


def test_decisions_of_a_lake_without_alerts_are_read(rules: UseCase, week: list[str], tmp_path: Path) -> None:
    """A lake made before alerts were a column is gone on with."""
    lake = opened(tmp_path, week)
    old = {"partition": week[0], "decision": "nothing", "cause": "", "reason": "nothing is degraded"}
    lake.publish("decisions", pa.Table.from_pylist([old]), {"partition": week[0]})
    watched(lake, rules, week[1], "data")
    assert {row["partition"]: row["alerts"] is None for row in lake.rows("decisions")} == {
        week[0]: True,
        week[1]: False,
    }
