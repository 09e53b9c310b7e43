"""What a partition looks back on is settled before it is scored, whatever was run before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from include.environment import Connect, Endpoint
from include.errors import (
    ConcurrentCommit,
    EvergreenError,
    SettingError,
    SpecError,
    StoredDataError,
    StoreUnavailable,
)
from include.ingest import late_sources
from include.ingest.late_sources import refresh_lookback
from include.ingest.pipeline import ingest
from include.spec import UseCase
from include.storage.lake import Lake
from include.storage.schemas import PARTITIONS as PARTITION_ROWS
from tests.usecases.weekly_sales import world

PARTITIONS = world.partitions(6)


def outcomes(lake: Lake) -> dict[str, str]:
    """Return the outcome of each partition."""
    return {row["partition"]: row["outcome"] for row in lake.rows("partitions")}


def test_partitions_that_nobody_attempted_are_pulled(lake: Lake, spec: UseCase, connect: Connect) -> None:
    """The four partitions of the lookback are ingested, not the partition itself, and each once."""
    assert {o.partition for o in refresh_lookback(lake, spec, PARTITIONS[5], connect)} == set(PARTITIONS[1:5])
    assert outcomes(lake) == dict.fromkeys(PARTITIONS[1:5], "published")
    assert refresh_lookback(lake, spec, PARTITIONS[5], connect) == []


def test_a_pulled_partition_has_the_knowledge_time_of_its_own_rule(
    lake: Lake, spec: UseCase, connect: Connect
) -> None:
    """A partition that is pulled is no different from one that ran in its turn."""
    refresh_lookback(lake, spec, PARTITIONS[2], connect)
    found = {row["partition"]: row["known_at"] for row in lake.rows("validated_sales")}
    assert found == {
        PARTITIONS[0]: datetime(2024, 1, 1, 5, tzinfo=UTC),
        PARTITIONS[1]: datetime(2024, 1, 8, 5, tzinfo=UTC),
    }


def test_what_came_late_is_known_on_the_partition_that_found_it(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """A source that had nothing is asked again for three partitions; refused partitions are not."""
    files = {partition: shop / "sales" / f"{partition}.csv" for partition in PARTITIONS}
    kept = {partition: file.read_bytes() for partition, file in files.items()}
    files[PARTITIONS[0]].unlink()
    files[PARTITIONS[3]].unlink()
    files[PARTITIONS[4]].write_bytes(b"")
    ingest(lake, spec, "sales", PARTITIONS[:5], connect)
    for partition, data in kept.items():
        files[partition].write_bytes(data)
    (late,) = refresh_lookback(lake, spec, PARTITIONS[5], connect)
    assert (late.partition, late.outcome) == (PARTITIONS[3], "published")
    known = {row["known_at"] for row in lake.rows("validated_sales", {"partition": PARTITIONS[3]})}
    assert known == {datetime(2024, 2, 5, 5, tzinfo=UTC)}
    assert outcomes(lake)[PARTITIONS[0]] == "unavailable"
    assert outcomes(lake)[PARTITIONS[4]] == "refused"


def test_what_came_after_the_deadline_is_known_when_a_person_fetches_it(
    lake: Lake, declare: Callable[..., UseCase], shop: Path, connect: Connect
) -> None:
    """The partition was scored without it, so training must not see it there. A spine has to be seen."""

    def plans(raw: dict[str, Any]) -> None:
        raw["sources"]["plans"] = {**raw["sources"]["sales"], "path": "plans/{day}.csv"}

    spec = declare(plans)
    morning, days_later = datetime(2024, 1, 8, 9, 0, tzinfo=UTC), datetime(2024, 1, 11, 12, 0, tzinfo=UTC)
    for partition in PARTITIONS[:2]:
        (shop / "sales" / f"{partition}.csv").rename(shop / f"{partition}.csv")
        for source in ("sales", "plans"):
            (outcome,) = ingest(lake, spec, source, [partition], connect, now=morning)
            assert outcome.outcome == "unavailable"
        for source in ("sales", "plans"):
            (shop / source).mkdir(exist_ok=True)
            shutil.copyfile(shop / f"{partition}.csv", shop / source / f"{partition}.csv")
    # up to the deadline of 9:00 the run waits for the source
    for source, partition, now, known_at in (
        ("plans", PARTITIONS[0], days_later, days_later),
        ("plans", PARTITIONS[1], morning, datetime(2024, 1, 8, 5, tzinfo=UTC)),
        ("sales", PARTITIONS[0], days_later, datetime(2024, 1, 1, 5, tzinfo=UTC)),
    ):
        (outcome,) = ingest(lake, spec, source, [partition], connect, now=now)
        assert outcome.outcome == "published", outcome.note
        rows = lake.rows(f"validated_{source}", {"partition": partition})
        assert {row["known_at"] for row in rows} == {known_at}


def test_a_source_that_still_has_nothing_stays_unavailable(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """Asked again and still nothing: the same row, and no new commit for it."""
    (shop / "sales" / f"{PARTITIONS[3]}.csv").unlink()
    refresh_lookback(lake, spec, PARTITIONS[5], connect)
    version = lake.version("partitions")
    (again,) = refresh_lookback(lake, spec, PARTITIONS[5], connect)
    assert (again.partition, again.outcome) == (PARTITIONS[3], "unavailable")
    assert lake.version("partitions") == version


def test_an_outage_leaves_a_partition_its_own_knowledge_time(
    lake: Lake, spec: UseCase, connect: Connect, tmp_path: Path
) -> None:
    """Of a source that didn't answer nobody knows that it had nothing.

    A backfill doesn't lose the partition.
    """

    def out(name: str) -> Endpoint:
        return Endpoint(name, (tmp_path / "nowhere").as_uri())

    assert ingest(lake, spec, "sales", PARTITIONS[:1], out)[0].outcome == "unavailable"
    assert [row["inputs"] for row in lake.rows("partitions")] == ["{}"]
    assert [o.outcome for o in refresh_lookback(lake, spec, PARTITIONS[1], connect)] == ["published"]
    assert {row["known_at"] for row in lake.rows("validated_sales")} == {datetime(2024, 1, 1, 5, tzinfo=UTC)}


def test_an_open_circuit_leaves_a_partition_its_own_knowledge_time(
    lake: Lake, spec: UseCase, connect: Connect, tmp_path: Path
) -> None:
    """A source that wasn't asked has said nothing either."""

    def out(name: str) -> Endpoint:
        return Endpoint(name, (tmp_path / "nowhere").as_uri())

    ingest(lake, spec, "sales", PARTITIONS[:3], out)
    (last,) = ingest(lake, spec, "sales", PARTITIONS[3:4], out)
    assert "failures in a row" in last.note
    lake.replace("state/breaker/sales.json", b"{}")
    (*_, found) = refresh_lookback(lake, spec, PARTITIONS[4], connect)
    assert (found.partition, found.outcome) == (PARTITIONS[3], "published")
    known = {row["known_at"] for row in lake.rows("validated_sales", {"partition": PARTITIONS[3]})}
    assert known == {datetime(2024, 1, 22, 5, tzinfo=UTC)}


def test_an_outage_does_not_unsay_that_there_was_nothing_yet(
    lake: Lake, spec: UseCase, shop: Path, connect: Connect
) -> None:
    """What the source once said it didn't have was not known then, though it failed when asked again."""
    file, away = shop / "sales" / f"{PARTITIONS[0]}.csv", shop.with_name("away")
    late = file.read_bytes()
    file.unlink()
    ingest(lake, spec, "sales", PARTITIONS[:1], connect)
    shop.rename(away)
    (failed,) = refresh_lookback(lake, spec, PARTITIONS[1], connect)
    assert "no folder at the connection's address" in failed.note
    away.rename(shop)
    file.write_bytes(late)
    refresh_lookback(lake, spec, PARTITIONS[2], connect)
    known = {row["known_at"] for row in lake.rows("validated_sales", {"partition": PARTITIONS[0]})}
    assert known == {datetime(2024, 1, 15, 5, tzinfo=UTC)}


def test_a_source_without_its_connection_holds_nobody_up(lake: Lake, spec: UseCase, connect: Connect) -> None:
    """Its partitions are told as unavailable and attempted again once there is a connection."""

    def none(name: str) -> Endpoint:
        raise SettingError(f"connection {name}", required="one in Airflow", found="none")

    (found,) = refresh_lookback(lake, spec, PARTITIONS[1], none)
    assert (found.partition, found.outcome) == (PARTITIONS[0], "unavailable")
    assert found.note == "connection shop: expected one in Airflow, but found none"
    assert outcomes(lake) == {}
    assert [o.outcome for o in refresh_lookback(lake, spec, PARTITIONS[1], connect)] == ["published"]


def test_a_partition_that_cant_be_ingested_holds_nobody_up(
    lake: Lake, spec: UseCase, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a row check of the use case fails on it: the others are ingested, and it is tried again."""

    def failing(
        lake: Lake, spec: UseCase, source: str, partitions: list[str], *more: Any, **options: Any
    ) -> Any:
        if PARTITIONS[1] in partitions:
            raise SpecError("a row check", required="an answer", found="KeyError")
        return ingest(lake, spec, source, partitions, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(late_sources, "ingest", failing)
        results = {one.partition: one for one in refresh_lookback(lake, spec, PARTITIONS[3], connect)}
    assert {key: one.outcome for key, one in results.items()} == {
        PARTITIONS[0]: "published",
        PARTITIONS[1]: "unavailable",
        PARTITIONS[2]: "published",
    }
    assert results[PARTITIONS[1]].note == "a row check: expected an answer, but found KeyError"
    (again,) = refresh_lookback(lake, spec, PARTITIONS[3], connect)
    assert (again.partition, again.outcome) == (PARTITIONS[1], "published")


@pytest.mark.parametrize("kind", [StoreUnavailable, StoredDataError, ConcurrentCommit])
def test_what_a_retry_mends_stops_the_scoring(
    lake: Lake, spec: UseCase, connect: Connect, monkeypatch: pytest.MonkeyPatch, kind: type[EvergreenError]
) -> None:
    """Or the partition would be scored without what it looks back on, for good."""

    def failing(*arguments: Any, **options: Any) -> Any:
        raise kind("the lake")

    monkeypatch.setattr(late_sources, "ingest", failing)
    with pytest.raises(kind):
        refresh_lookback(lake, spec, PARTITIONS[3], connect)


def test_a_refused_partition_that_is_corrected_after_the_deadline_is_known_then(
    lake: Lake, declare: Callable[..., UseCase], shop: Path, connect: Connect
) -> None:
    """It was scored without that source, so training must not see it there. One that wasn't loses nothing."""

    def plans(raw: dict[str, Any]) -> None:
        raw["sources"]["plans"] = {**raw["sources"]["sales"], "path": "plans/{day}.csv"}

    spec, file = declare(plans), shop / "plans" / f"{PARTITIONS[0]}.csv"
    file.parent.mkdir()
    week_later, much_later = datetime(2024, 1, 8, 6, tzinfo=UTC), datetime(2026, 1, 1, 6, tzinfo=UTC)
    for partition in PARTITIONS[:2]:
        file.with_name(f"{partition}.csv").write_text("store,oops\ns01,5\n")
        (outcome,) = ingest(lake, spec, "plans", [partition], connect, now=week_later)
        assert outcome.outcome == "refused"
    row = {"product": "predictions", "partition": PARTITIONS[0], "outcome": "published"}
    lake.publish("partitions", pa.Table.from_pylist([row], PARTITION_ROWS), row)
    for partition in PARTITIONS[:2]:
        shutil.copyfile(shop / "sales" / f"{partition}.csv", file.with_name(f"{partition}.csv"))
        (outcome,) = ingest(lake, spec, "plans", [partition], connect, refetch=True, now=much_later)
        assert outcome.outcome == "published", outcome.note
    known = {row["partition"]: row["known_at"] for row in lake.rows("validated_plans")}
    assert known == {PARTITIONS[0]: much_later, PARTITIONS[1]: datetime(2024, 1, 8, 5, tzinfo=UTC)}
