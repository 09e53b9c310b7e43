"""Partitions of a source: again, killed, alone or together, corrected, late; the same tables after."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from include.environment import Connect, Endpoint
from include.errors import PartitionError, PartitionRefused, SourceUnavailable, SpecError, StoredDataError
from include.features.build import features
from include.features.checks import point_in_time_violations
from include.features.labels import known_on, labels
from include.features.point_in_time import create_views, read_sources
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.snapshots import snapshots
from tests.usecases.weekly_sales import world

PARTITIONS = world.partitions(6)
TABLES = ("validated_sales", "quarantine", "profiles", "partitions")
NOW = datetime(2024, 6, 1, tzinfo=UTC)


def state(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of all tables of the stage, in one order."""
    return {table: sorted(lake.rows(table), key=str) for table in TABLES}


def change(shop: Path, partition: str, old: str, new: str) -> None:
    """Write another text in place of one in a partition's file."""
    file = shop / "sales" / f"{partition}.csv"
    file.write_text(file.read_text().replace(old, new))


class Killed(Exception):
    """Stands for the death of a process between two writes."""


class Mortal(Lake):
    """A lake whose process dies before its n-th write."""

    lives: int

    def _spend(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise Killed

    def publish(self, *args: Any, **more: Any) -> int:
        """Publish, or die."""
        self._spend()
        return super().publish(*args, **more)

    def create(self, *args: Any) -> bool:
        """Create, or die."""
        self._spend()
        return super().create(*args)


def test_a_partition_becomes_rows_a_profile_and_a_row_of_its_own(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """A good file is published with types, units, knowledge time, profile and lineage."""
    (outcome,) = ingest(lake, spec, "sales", [PARTITIONS[1]], connect)
    assert (outcome.outcome, outcome.rows, outcome.note) == ("published", 40, "40 rows")
    row = next(r for r in lake.rows("validated_sales") if (r["store"], r["item"]) == ("s01", "bread"))
    line = (shop / "sales" / f"{PARTITIONS[1]}.csv").read_text().splitlines()[1].split(",")
    assert row["price"] == pytest.approx(int(line[3]) / 100)
    assert (row["promo"], row["opens"], row["units"]) == (line[4] == "true", 480, int(line[6]))
    assert row["known_at"] == datetime(2024, 1, 8, 5, tzinfo=UTC)
    assert {r["column"]: r["kind"] for r in lake.rows("profiles")} == {
        **dict.fromkeys(("price", "opens", "units"), "numeric"),
        **dict.fromkeys(("store", "item", "promo"), "categorical"),
    }
    (kept,) = snapshots(lake, "sales", PARTITIONS)[PARTITIONS[1]]
    (partition,) = lake.rows("partitions")
    assert partition["inputs"] == f'{{"raw/sales": "{kept.identity}"}}'
    assert (partition["digest"], partition["spec"]) == (outcome.digest, spec.digest_of("sales"))


def test_again_and_in_another_order_is_the_same(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect, tmp_path: Path
) -> None:
    """Three times over, one by one or backwards: the tables are those of one run over the range."""
    change(shop, PARTITIONS[2], "true", "perhaps")
    once = ingest(lake, spec, "sales", PARTITIONS, connect)
    expected = state(lake)
    other = Lake("weekly_sales", str(tmp_path / "other"))
    for _ in range(3):
        for partition in reversed(PARTITIONS):
            ingest(other, spec, "sales", [partition], connect)
    assert state(other) == expected
    assert ingest(lake, spec, "sales", PARTITIONS, connect) == once
    assert state(lake) == expected


def test_a_partition_that_stands_is_left_alone(
    lake: Lake, spec: UseCase, connect: Connect, shop: Path
) -> None:
    """A rerun over published and refused partitions asks no source and writes nothing."""
    change(shop, PARTITIONS[2], "true", "perhaps")
    ingest(lake, spec, "sales", PARTITIONS, connect)
    versions = [lake.version(table) for table in TABLES]

    def nobody(name: str) -> Endpoint:
        raise AssertionError(name)

    outcomes = ingest(lake, spec, "sales", PARTITIONS, nobody)
    assert [o.outcome for o in outcomes] == ["published", "published", "refused", *["published"] * 3]
    assert [lake.version(table) for table in TABLES] == versions


@pytest.mark.full
def test_killed_before_any_write_and_run_again(
    spec: UseCase, shop: Path, connect: Connect, tmp_path: Path
) -> None:
    """Wherever the process dies, the run after it leaves the tables of an undisturbed one."""
    change(shop, PARTITIONS[1], ",s01,bread,", ",s1,bread,")
    clean = Lake("weekly_sales", str(tmp_path / "clean"))
    ingest(clean, spec, "sales", PARTITIONS[:2], connect)
    expected = state(clean)
    for lives in range(20):
        folder = str(tmp_path / f"killed-{lives}")
        mortal = Mortal("weekly_sales", folder)
        mortal.lives = lives
        try:
            ingest(mortal, spec, "sales", PARTITIONS[:2], connect)
        except Killed:
            done = {row["partition"] for row in Lake("weekly_sales", folder).rows("partitions")}
            assert done == set()  # the row that says "done" comes last
        else:
            assert lives == 9  # two objects, two manifests, the schedule, four tables
            break
        again = Lake("weekly_sales", folder)
        ingest(again, spec, "sales", PARTITIONS[:2], connect)
        assert state(again) == expected
    else:
        pytest.fail("it never lived through")


@pytest.mark.parametrize("lost", ["validated_sales", "quarantine", "profiles"])
def test_what_was_lost_is_made_again(
    lost: str, lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """A partition whose row says it is done, but whose rows are gone, is healed by a rerun."""
    change(shop, PARTITIONS[1], ",s01,bread,", ",s1,bread,")
    ingest(lake, spec, "sales", PARTITIONS[:2], connect)
    expected = state(lake)
    nothing = lake.read(lost).slice(0, 0)
    owner = {"profiles": {"product": "sales"}, "quarantine": {"source": "sales"}}.get(lost, {})
    lake.publish(lost, nothing, {"partition": PARTITIONS[1], **owner})
    assert state(lake) != expected
    ingest(lake, spec, "sales", PARTITIONS[:2], connect)
    assert state(lake) == expected


def test_two_runs_at_once_lose_and_double_nothing(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect, tmp_path: Path
) -> None:
    """Overlapping runs of the same partitions leave the tables of one run."""
    change(shop, PARTITIONS[1], ",s01,bread,", ",s1,bread,")
    ingest(lake, spec, "sales", PARTITIONS, connect)

    def run(partitions: list[str]) -> None:
        ingest(Lake("weekly_sales", str(tmp_path / "both")), spec, "sales", partitions, connect)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, [PARTITIONS, PARTITIONS[:4], PARTITIONS[2:]]))
    assert state(Lake("weekly_sales", str(tmp_path / "both"))) == state(lake)


def test_new_code_or_another_spec_makes_the_tables_anew(
    lake: Lake, declare: Callable[..., UseCase], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept bytes are read again under the new declaration; nothing is fetched."""
    ingest(lake, declare(), "sales", PARTITIONS[:1], connect)
    monkeypatch.setenv("EVERGREEN_CODE", "newer")
    pounds = declare(lambda raw: raw["sources"]["sales"]["columns"]["price"].update(scale=0.1))
    before = max(row["price"] for row in lake.rows("validated_sales"))
    ingest(lake, pounds, "sales", PARTITIONS[:1], connect)
    assert max(row["price"] for row in lake.rows("validated_sales")) == pytest.approx(before * 10)
    (partition,) = lake.rows("partitions")
    assert (partition["code"], partition["spec"]) == ("newer", pounds.digest_of("sales"))


def test_the_first_fetch_wins(lake: Lake, spec: UseCase, shop: Path, connect: Connect) -> None:
    """A file that changes after it was fetched changes nothing until it is refetched."""
    (first,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect)
    change(shop, PARTITIONS[0], "true", "false")
    assert ingest(lake, spec, "sales", PARTITIONS[:1], connect) == [first]


def test_the_first_fetch_wins_when_both_had_asked(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """A fetch that comes back after another was kept, with other bytes, isn't a revision."""

    def overtaken(name: str) -> Endpoint:
        ingest(lake, spec, "sales", PARTITIONS[:1], connect)
        change(shop, PARTITIONS[0], "true", "false")
        return connect(name)

    ingest(lake, spec, "sales", PARTITIONS[:1], overtaken)
    assert [one.revision for one in snapshots(lake, "sales", PARTITIONS)[PARTITIONS[0]]] == [0]
    assert {row["promo"] for row in lake.rows("validated_sales")} == {True, False}


class Overtaken(Lake):
    """A lake in which something happens right before the first publication."""

    then: Callable[[], Any] | None = None

    def publish(self, *args: Any, **more: Any) -> int:
        """Publish, after what happens first."""
        happens, self.then = self.then, None
        if happens is not None:
            happens()
        return super().publish(*args, **more)


def test_a_plain_run_beside_a_refetch_undoes_nothing(
    spec: UseCase, shop: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that publishes what it read before a revision came publishes that revision as well."""
    folders = [str(tmp_path / name) for name in ("alone", "beside")]
    for folder in folders:
        ingest(Lake("weekly_sales", folder), spec, "sales", PARTITIONS[:1], connect)
    monkeypatch.setenv("EVERGREEN_CODE", "newer")  # so that a plain run has something to make
    change(shop, PARTITIONS[0], ",s01,bread,", ",s1,bread,")
    alone, other = (Lake("weekly_sales", folder) for folder in folders)
    ingest(alone, spec, "sales", PARTITIONS[:1], connect, refetch=True, now=NOW)
    beside = Overtaken("weekly_sales", folders[1])
    beside.then = lambda: ingest(other, spec, "sales", PARTITIONS[:1], connect, refetch=True, now=NOW)
    (outcome,) = ingest(beside, spec, "sales", PARTITIONS[:1], connect)
    assert state(other) == state(alone)
    assert outcome.note == "39 rows of revision 1, 1 quarantined"


def test_an_outage_beside_a_run_that_was_answered_takes_nothing_back(
    spec: UseCase, shop: Path, connect: Connect, tmp_path: Path
) -> None:
    """A run that had no answer doesn't write "unavailable" over what another published meanwhile."""
    alone, other = (Lake("weekly_sales", str(tmp_path / name)) for name in ("alone", "beside"))
    ingest(alone, spec, "sales", PARTITIONS[:1], connect)
    beside = Overtaken("weekly_sales", str(tmp_path / "beside"))
    beside.then = lambda: ingest(other, spec, "sales", PARTITIONS[:1], connect)
    ingest(
        beside, spec, "sales", PARTITIONS[:1], lambda name: Endpoint(name, (tmp_path / "nowhere").as_uri())
    )
    assert state(other) == state(alone)


def test_a_partition_still_to_come_is_refused(lake: Lake, spec: UseCase, connect: Connect) -> None:
    """What a source says before a partition's data can be known is not kept as that partition's."""
    known = datetime(2024, 1, 8, 5, tzinfo=UTC)
    refusal = r"sales/2024-01-08: .*still to come: 2024-01-08 05:00 UTC; wait until then"
    with pytest.raises(PartitionError, match=refusal):
        ingest(lake, spec, "sales", PARTITIONS[:2], connect, now=known - timedelta(seconds=1))
    assert snapshots(lake, "sales", PARTITIONS) == {}
    found = ingest(lake, spec, "sales", PARTITIONS[:2], connect, now=known)
    assert [outcome.outcome for outcome in found] == ["published", "published"]


def test_a_revision_lies_beside_the_old_rows(lake: Lake, spec: UseCase, shop: Path, connect: Connect) -> None:
    """Other content after a published one is the next revision, known from `now` on; both can be read."""
    (first,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect)
    old = lake.rows("validated_sales")
    change(shop, PARTITIONS[0], "true", "false")
    (second,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect, refetch=True, now=NOW)
    rows = lake.rows("validated_sales")
    assert sorted(filter(lambda r: r["revision"] == 0, rows), key=str) == sorted(old, key=str)
    assert {row["known_at"] for row in rows if row["revision"] == 1} == {NOW}
    assert len(rows) == 80
    assert second.note == "40 rows of revision 1"
    assert second.digest != first.digest
    settled = state(lake)
    for _ in range(2):  # the same content again is the same snapshot, whenever it is seen
        ingest(
            lake,
            spec,
            "sales",
            PARTITIONS[:1],
            connect,
            refetch=True,
            now=datetime(2025, 1, 1, tzinfo=UTC),
        )
    assert state(lake) == settled


def test_a_revision_of_a_published_partition_needs_to_know_when(
    lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """Without `now` a published partition isn't refetched: nobody could say when the rows were known."""
    ingest(lake, spec, "sales", PARTITIONS[:1], connect)
    with pytest.raises(PartitionError, match=r"weekly_sales/sales/2024-01-01.*pass `now`"):
        ingest(lake, spec, "sales", PARTITIONS[:1], connect, refetch=True)


def test_a_bad_revision_leaves_the_good_one(lake: Lake, spec: UseCase, shop: Path, connect: Connect) -> None:
    """A correction that is refused says so and takes nothing away; the one after it counts."""
    ingest(lake, spec, "sales", PARTITIONS[:1], connect)
    good = lake.rows("validated_sales")
    file = shop / "sales" / f"{PARTITIONS[0]}.csv"
    whole = file.read_text()
    file.write_text("<html>gone</html>")
    (bad,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect, refetch=True, now=NOW)
    assert bad.outcome == "refused"
    with pytest.raises(PartitionRefused, match="revision 1: expected a data file"):
        bad.raise_for_outcome()
    assert sorted(lake.rows("validated_sales"), key=str) == sorted(good, key=str)
    (partition,) = lake.rows("partitions")
    assert (partition["outcome"], partition["revision"]) == ("published", 0)
    assert "a newer revision was refused" in partition["note"]
    file.write_text(whole.replace("true", "false"))
    (third,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect, refetch=True, now=NOW)
    assert (third.outcome, third.note) == ("published", "40 rows of revision 2")
    assert {row["revision"] for row in lake.rows("validated_sales")} == {0, 2}


def test_a_correction_without_rows_replaces_the_rows_from_then_on(
    lake: Lake, declare: Callable[..., UseCase], shop: Path, connect: Connect
) -> None:
    """Where a partition may be empty, a later decision and later labels don't see what was withdrawn."""
    spec = declare(lambda raw: raw["sources"]["sales"]["contract"].update(min_rows=0))
    ingest(lake, spec, "sales", PARTITIONS[:3], connect)
    before = features(lake, spec, PARTITIONS[1:2])
    assert labels(lake, spec, PARTITIONS[:1], as_of=None).num_rows == 40
    file = shop / "sales" / f"{PARTITIONS[1]}.csv"
    whole = file.read_text()
    file.write_text(whole.splitlines()[0] + "\n")
    moment = spec.clock.decision_time(PARTITIONS[2]) - timedelta(minutes=1)
    (outcome,) = ingest(lake, spec, "sales", PARTITIONS[1:2], connect, refetch=True, now=moment)
    assert (outcome.outcome, outcome.note) == ("published", "0 rows of revision 1")
    assert features(lake, spec, PARTITIONS[1:2]) == before  # of a decision that was taken before
    rows = read_sources(lake, spec, PARTITIONS[1:3])
    with create_views(spec, rows, PARTITIONS[1:3], NOW) as engine:
        visible = "SELECT for_partition, count(*) FROM known_sales WHERE partition = ? GROUP BY 1"
        assert engine.execute(visible, [PARTITIONS[1]]).fetchall() == [(PARTITIONS[1], 40)]
    known = {as_of: labels(lake, spec, PARTITIONS[:1], as_of=as_of).num_rows for as_of in PARTITIONS[1:3]}
    assert known == {PARTITIONS[1]: 40, PARTITIONS[2]: 0}
    assert labels(lake, spec, PARTITIONS[:1], as_of=None).num_rows == 0
    assert known_on(lake, spec, PARTITIONS[:1], PARTITIONS[3]) == {PARTITIONS[0]: tuple(PARTITIONS[1:3])}
    assert point_in_time_violations(lake, spec, PARTITIONS[2]) == []
    (manifest,) = (key for key in lake.keys("raw/snapshots") if key.endswith("/1.json"))
    content = lake.get(manifest)
    lake.remove([manifest])
    with pytest.raises(StoredDataError, match=r"/1\.json.*found no object.*restore the object from a backup"):
        read_sources(lake, spec, PARTITIONS[1:3])
    lake.create(manifest, content)
    file.write_text(whole.replace("true", "false"))
    ingest(lake, spec, "sales", PARTITIONS[1:2], connect, refetch=True, now=moment)
    assert labels(lake, spec, PARTITIONS[:1], as_of=None).num_rows == 40


def test_a_refused_partition_is_put_right_under_the_rules_own_time(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """Nothing was published, so the corrected file is known as the rule says, and needs no `now`."""
    file = shop / "sales" / f"{PARTITIONS[0]}.csv"
    whole = file.read_bytes()
    file.write_bytes(b"")
    assert ingest(lake, spec, "sales", PARTITIONS[:1], connect)[0].outcome == "refused"
    file.write_bytes(whole)
    assert (
        ingest(lake, spec, "sales", PARTITIONS[:1], connect)[0].outcome == "refused"
    )  # it reads what it kept
    (outcome,) = ingest(lake, spec, "sales", PARTITIONS[:1], connect, refetch=True)
    assert outcome.outcome == "published"
    assert {row["known_at"] for row in lake.rows("validated_sales")} == {datetime(2024, 1, 1, 5, tzinfo=UTC)}


def test_a_late_file_is_known_on_the_partition_that_saw_it(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """Nothing yet is recorded as unavailable.

    What comes later is known by the rule on the later partition.
    """
    file = shop / "sales" / f"{PARTITIONS[1]}.csv"
    late = file.read_bytes()
    file.unlink()
    (outcome,) = ingest(lake, spec, "sales", [PARTITIONS[1]], connect)
    assert (outcome.outcome, outcome.rows) == ("unavailable", 0)
    with pytest.raises(
        SourceUnavailable, match=r"found nothing yet \(sales/2024-01-08\.csv\); run the partition"
    ):
        outcome.raise_for_outcome()
    assert [row["outcome"] for row in lake.rows("partitions")] == ["unavailable"]
    file.write_bytes(late)
    (outcome,) = ingest(lake, spec, "sales", [PARTITIONS[1]], connect, arrived_on=PARTITIONS[3])
    assert outcome.outcome == "published"
    assert {row["known_at"] for row in lake.rows("validated_sales")} == {datetime(2024, 1, 22, 5, tzinfo=UTC)}


def test_an_unavailable_source_takes_nothing_back(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """A partition that was published stays so when it is refetched and the source has nothing."""
    ingest(lake, spec, "sales", PARTITIONS[:2], connect)
    expected = state(lake)
    (shop / "sales" / f"{PARTITIONS[0]}.csv").unlink()
    outcomes = ingest(lake, spec, "sales", PARTITIONS[:2], connect, refetch=True, now=NOW)
    assert [o.outcome for o in outcomes] == ["unavailable", "published"]
    assert state(lake) == expected


def test_a_partition_that_the_schedule_lacks_is_refused(lake: Lake, spec: UseCase, connect: Connect) -> None:
    """A Tuesday isn't a partition of a weekly clock, and a source that isn't declared is named."""
    with pytest.raises(PartitionError, match=r"2024-01-02.*the next is 2024-01-08"):
        ingest(lake, spec, "sales", ["2024-01-02"], connect)
    with pytest.raises(SpecError, match=r"source 'sale'.*one of sales"):
        ingest(lake, spec, "sale", PARTITIONS, connect)
    assert lake.version("partitions") == -1


CELL = st.sampled_from(["", "x", "7", "7", "7", "8", "12", "99999999", "-1"])
ROW = st.tuples(
    st.sampled_from(["s01", "s01", "s02", "s03", "y"]),
    st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    CELL,
    st.sampled_from(["yes", "no", "no", "maybe", ""]),
    st.sampled_from(["0800", "2400", "1275", ""]),
    CELL,
)
FILE = st.one_of(st.lists(ROW, max_size=14), st.just(None))


@pytest.mark.full
@given(files=st.lists(FILE, min_size=2, max_size=4), cut=st.integers(1, 3))
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_partition_alone_fares_as_among_others(
    files: list[list[tuple[str, ...]] | None],
    cut: int,
    declare: Callable[..., UseCase],
    tmp_path_factory: Any,
) -> None:
    """Whatever is in the other partitions of a batch: the same rows, quarantine, profiles and outcomes."""

    def loose(raw: dict[str, Any]) -> None:
        contract = raw["sources"]["sales"]["contract"]
        contract.update(min_rows=1, tolerance=0.7)
        contract["expectations"] += [
            {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "units", "max_value": 10}},
            {
                "type": "expect_column_values_to_match_regex",
                "kwargs": {"column": "units", "regex": "^.{1,2}$"},
            },
            {
                "type": "expect_column_pair_values_a_to_be_greater_than_b",
                "kwargs": {
                    "column_A": "opens",
                    "column_B": "units",
                    "ignore_row_if": "either_value_is_missing",
                },
            },
        ]

    folder = tmp_path_factory.mktemp("sales")
    (folder / "shop" / "sales").mkdir(parents=True)
    partitions = PARTITIONS[: len(files)]
    for partition, rows in zip(partitions, files, strict=True):
        if rows is not None:
            lines = [world.HEADER, *(",".join([partition, *row]) for row in rows)]
            (folder / "shop" / "sales" / f"{partition}.csv").write_text("\n".join(lines) + "\n")
    spec = declare(loose)

    def connect(name: str) -> Endpoint:
        return Endpoint(name, (folder / "shop").as_uri())

    together, alone = Lake("weekly_sales", str(folder / "a")), Lake("weekly_sales", str(folder / "b"))
    many = ingest(together, spec, "sales", partitions, connect)
    some = ingest(alone, spec, "sales", partitions[cut:], connect)
    for partition in partitions[:cut]:
        some += ingest(alone, spec, "sales", [partition], connect)
    assert sorted(some, key=lambda o: o.partition) == many
    assert state(alone) == state(together)
