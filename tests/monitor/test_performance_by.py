"""Realized figures by day, week, version, rung and slice, as known then and now, and labels that go wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from sklearn import metrics as sk

from include.errors import EvergreenError, NotPublished
from include.monitor.checks.labels import check_labels, overdue_labels
from include.monitor.context import Finding, PartitionContext
from include.monitor.performance import performance_by
from include.ops.verify import verify
from include.score.pipeline import score
from include.spec import UseCase
from include.storage.lake import Lake
from tests.monitor import machines
from tests.monitor.machines import truth

SLICED = "{objective: log_loss, min_partitions: 2, block_partitions: 1, slices: {columns: [kind]}}"


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> UseCase:
    """The use case with a declared slice, which is a feature and no key."""
    return machines.spec(tmp_path_factory.mktemp("sliced"), gate=SLICED)


@pytest.fixture(scope="module")
def scored(bare: Path, sliced: UseCase, week: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake with six partitions scored, of which nobody has looked at any label."""
    folder = tmp_path_factory.mktemp("scored") / "lake"
    shutil.copytree(bare, folder)
    for partition in week[:6]:
        score(Lake("machines", str(folder)), sliced, partition)
    return folder


@pytest.fixture
def own(scored: Path, tmp_path: Path) -> Lake:
    """A copy of it."""
    return Lake("machines", str(shutil.copytree(scored, tmp_path / "own")))


def turned(row: dict[str, Any]) -> dict[str, Any]:
    """Return a label that says the contrary."""
    return row if row["minutes"] is None else {**row, "minutes": 60 - row["minutes"]}


def said(lake: Lake, use: UseCase, partition: str) -> dict[str, Finding]:
    """Return a partition's findings about labels by subject."""
    state = machines.watch(lake, use, partition)
    return {f.subject: f for f in check_labels(PartitionContext(lake, use, state, partition))}


def by_day(lake: Lake, use: UseCase, as_of: str | None) -> dict[str, tuple[str, float]]:
    """Return each partition's knowledge partition and log loss."""
    return {
        row["day"]: (row["as_of"], row["log_loss"]) for row in performance_by(lake, use, "day", as_of=as_of)
    }


@pytest.mark.full
def test_a_revision_restates_the_partition_it_touches(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """Turned labels give that partition other figures from when they are known; what was reported stays."""
    machines.watch(own, sliced, week[4])
    reported = by_day(own, sliced, week[4])
    assert list(reported) == week[:3]
    machines.revise(own, sliced, week[3], turned, week[5])
    machines.watch(own, sliced, week[4])
    assert by_day(own, sliced, None) == reported
    found = said(own, sliced, week[5])["revised"]
    assert (found.outcome, found.value) == ("alarm", pytest.approx(0.95, abs=0.04))
    assert by_day(own, sliced, week[4]) == reported
    now = by_day(own, sliced, None)
    target, predicted = truth(sliced, own, [week[1]])
    assert now.pop(week[1]) == (week[5], pytest.approx(sk.log_loss(1 - target, predicted)))
    assert now == {key: reported[key] for key in (week[0], week[2])} | {week[3]: now[week[3]]}
    assert machines.watch(own, sliced, week[5]).relabeled == {week[5]: [week[1]]}


@pytest.mark.full
def test_the_order_of_watching_makes_no_difference(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """Watched at the end, or each partition with a revision between, the tables are the same.

    And verified.
    """
    folder = Path(own.uri.removeprefix("file://"))
    shutil.copytree(folder, folder.parent / "other" / "machines")
    other = Lake("machines", str(folder.parent / "other"))
    for partition in week[:6]:
        machines.watch(own, sliced, partition)
        if partition == week[4]:
            machines.revise(own, sliced, week[3], turned, week[5])
    machines.revise(other, sliced, week[3], turned, week[5])
    machines.watch(other, sliced, week[5])
    assert machines.state(own) == machines.state(other)
    recomputed = [
        said for said in verify(own, sliced).differences if "performance" in said or "losses" in said
    ]
    assert recomputed == []


def test_labels_that_come_again_change_nothing(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """The same content again isn't a revision; what came twice in one file is told, or is an alarm."""
    machines.watch(own, sliced, week[3])
    before = machines.state(own)
    machines.stops(own, sliced, week[2])
    assert "duplicates" not in said(own, sliced, week[3])
    assert machines.state(own) == before
    machines.stops(own, sliced, week[3], duplicates=2)
    assert said(own, sliced, week[3])["duplicates"].outcome == "ok"
    machines.stops(own, sliced, week[3], duplicates=60)
    assert said(own, sliced, week[3])["duplicates"].outcome == "alarm"


def test_one_label_of_ten_may_come_twice_or_be_revised(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """As many rows as the contract tolerates regardless of their share aren't an alarm."""
    rows = [{"machine": machine, "minutes": 0.0} for machine in range(10)]
    machines.publish(own, sliced, "stops", week[3], rows, duplicates=1)
    duplicates = said(own, sliced, week[3])["duplicates"]
    assert (duplicates.outcome, duplicates.value) == ("ok", pytest.approx(1 / 11))
    machines.watch(own, sliced, week[4])
    change = {3: {"minutes": 60.0}}
    machines.revise(own, sliced, week[3], lambda row: {**row, **change.get(row["machine"], {})}, week[5])
    revised = said(own, sliced, week[5])["revised"]
    assert (revised.outcome, revised.value) == ("ok", pytest.approx(0.1))


def test_labels_that_stay_away_are_an_alarm(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """Without labels for as many partitions as performance is judged on the finding says so.

    Until they come.
    """
    lost = own.read("partitions").slice(0, 0)
    for partition in week[3:]:
        own.publish("partitions", lost, {"product": "stops", "partition": partition})
    outcomes = [said(own, sliced, partition)["overdue"] for partition in week[1:7]]
    assert [f.value for f in outcomes] == [None, 0, 1, 2, 3, 4]
    assert [f.outcome for f in outcomes] == ["not enough", "ok", "ok", "ok", "alarm", "alarm"]
    machines.stops(own, sliced, week[6])
    assert said(own, sliced, week[6])["overdue"].outcome == "ok"


@pytest.mark.full
@pytest.mark.parametrize("change", [{"minutes": None}, {"machine": 9999}], ids=["null", "other keys"])
def test_labels_that_label_no_row_are_an_alarm(
    own: Lake, sliced: UseCase, week: list[str], change: dict[str, Any]
) -> None:
    """Labels that come on time are as good as none if all are null, or their keys match no row scored."""
    for partition in week[3:]:
        labels = [{"machine": machine, "minutes": 0.0, **change} for machine in range(machines.ROWS)]
        machines.publish(own, sliced, "stops", partition, labels)
    outcomes = [said(own, sliced, partition)["overdue"] for partition in week[2:7]]
    assert [f.value for f in outcomes] == [0, 1, 2, 3, 4]
    assert [f.outcome for f in outcomes] == ["ok", "ok", "ok", "alarm", "alarm"]
    assert outcomes[-1].note.endswith(
        "label rows arrived for 4 of them, but none labels a scored row: "
        "the label is null, or the key differs"
    )


def test_a_day_whose_labels_are_all_null_is_no_alarm(week: list[str]) -> None:
    """One canceled day, or two, isn't an alarm, however few partitions performance is judged on."""
    outcomes = [overdue_labels(week[:n], week[:n], week[:1], 1).outcome for n in range(1, 5)]
    assert outcomes == ["ok", "ok", "ok", "alarm"]
    finding = overdue_labels(week[:2], week[:1], week[:1], 1)
    assert (finding.outcome, finding.note[:36]) == ("alarm", "labels of 1 scored partition is over")


def test_labels_that_come_a_season_later_are_realized(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """A partition that has long left the window still gets its figures.

    As of the partition they were known.
    """
    late = sliced.clock.shift(week[0], 100)
    machines.stops(own, sliced, week[2], known_at=sliced.clock.local(late, "06:00"))
    assert week[0] not in by_day(own, sliced, None) | dict.fromkeys(
        machines.watch(own, sliced, week[5]).published_digests
    )
    assert week[0] not in by_day(own, sliced, None)
    machines.watch(own, sliced, late)
    assert by_day(own, sliced, None)[week[0]][0] == late
    assert week[0] not in by_day(own, sliced, week[5])


def test_labels_before_the_prediction_are_an_alarm(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """A clock that is two days slow gives labels that precede their partition's decision, and is told."""
    assert "early" not in said(own, sliced, week[2])
    machines.stops(own, sliced, week[3], known_at=sliced.clock.local(week[1], "06:00"))
    found = said(own, sliced, week[3])["early"]
    assert found.outcome == "alarm"
    assert f"labels of {week[1]} were known before the predictions were made" in found.note


def test_groups_are_measured_on_their_pooled_rows(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """A week's, a version's and a rung's ROC-AUC is that of all their rows, and days are as was reported."""
    machines.watch(own, sliced, week[5])
    target, predicted = truth(sliced, own, week[:4])
    auc = pytest.approx(sk.roc_auc_score(target, predicted))
    for by, name in (("version", "1"), ("served_by", "champion"), ("week", "2024-W04")):
        (row,) = performance_by(own, sliced, by, as_of=week[5])
        assert (row[by], row["partitions"], row["roc_auc"]) == (name, 4, auc)
    assert [row["week"] for row in performance_by(own, sliced, "week")] == ["2024-W04", "2024-W05"]
    (day,) = performance_by(own, sliced, "day", first=week[0], last=week[0])
    (pooled,) = performance_by(own, sliced, "version", first=week[0], last=week[0])
    assert pooled.pop("version") == "1"
    assert {name: day[name] for name in pooled} == pooled


def test_slices_are_the_declared_ones(own: Lake, sliced: UseCase, week: list[str]) -> None:
    """Each kind of machine has its row, and together they have all rows of the partitions that matured."""
    found = performance_by(own, sliced, "slice", as_of=week[2])
    assert [row["slice"] for row in found] == ["kind = belt", "kind = fan", "kind = pump"]
    assert sum(row["rows"] + row["unlabeled"] for row in found) == machines.ROWS
    kinds = [row["kind"] for row in machines.day(week[0])[0]]
    assert found[2]["rows"] + found[2]["unlabeled"] == kinds.count("pump")


def test_what_cannot_be_shown_is_said(own: Lake, use: UseCase, sliced: UseCase, week: list[str]) -> None:
    """Without labels there is no row; no slice, no such group, an empty or a turned range are errors."""
    assert performance_by(own, sliced, "week", as_of=week[1]) == []
    with pytest.raises(EvergreenError, match=r"gate\.slices\.columns"):
        performance_by(own, use, "slice")
    with pytest.raises(EvergreenError, match="one of day, week"):
        performance_by(own, use, "month")
    with pytest.raises(EvergreenError, match="isn't after the last"):
        performance_by(own, use, "day", first=week[1], last=week[0])
    with pytest.raises(NotPublished, match=f"those from {week[0]} to {week[5]}"):
        performance_by(own, use, "day", first=week[7])


def test_what_is_overdue_for_longer_than_is_looked_back_is_named(week: list[str]) -> None:
    """The note says since when no labels came at least; of one partition it says one."""
    overdue = [
        overdue_labels(week[1:3], [], [], 1).note,
        overdue_labels(week[:2], week[:1], week[:1], 1).note,
    ]
    assert overdue == [
        f"labels of at least 2 scored partitions are overdue: none came for {week[1]} or later",
        f"labels of 1 scored partition is overdue: none came since those of {week[0]}",
    ]
