"""A partition without rows to score: empty because the source said so, or because nobody knows them yet."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.environment import Connect, Endpoint
from include.errors import NotPublished, PartitionError
from include.ingest.pipeline import ingest
from include.monitor.pipeline import monitor
from include.ops.prometheus import gauges
from include.ops.status import status
from include.ops.verify import verify
from include.promote import ledger
from include.rollout.pipeline import advance
from include.score.pipeline import score
from include.spec import UseCase
from include.spec.load import read
from include.storage.lake import Lake
from tests.features import parcels
from tests.usecases.weekly_sales import world

PARTITION = "2024-03-08"


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Lake, UseCase, Connect]:
    """Return the weekly use case, whose third week is announced and empty."""
    keys = world.write(tmp_path / "shop", 4)
    (tmp_path / "shop" / "sales" / f"{keys[2]}.csv").write_text(world.HEADER + "\n")
    folder = tmp_path / "usecases" / "weekly_sales"
    folder.mkdir(parents=True)
    for file in ("usecase.yaml", "features.sql"):
        text = (Path(world.__file__).parent / file).read_text()
        (folder / file).write_text(text.replace("min_rows: 10", "min_rows: 0"))
    spec, lake = read(folder / "usecase.yaml"), Lake("weekly_sales", str(tmp_path / "lake"))
    host = json.loads(world.connection(tmp_path / "shop"))["host"]

    def connect(name: str) -> Endpoint:
        return Endpoint(name=name, uri=host)

    assert {one.outcome for one in ingest(lake, spec, "sales", keys, connect)} == {"published"}
    return lake, spec, connect


def test_a_partition_whose_spine_is_empty_is_a_partition_of_no_rows(
    shop: tuple[Lake, UseCase, Connect],
) -> None:
    """It is published with a note, alarms nobody, isn't overdue, and recomputes; the others go on."""
    lake, spec, _ = shop
    keys = world.partitions(4)
    for partition in keys:
        ref = score(lake, spec, partition)
        monitor(lake, spec, partition)
        advance(lake, spec, partition)
        if partition == keys[2]:
            assert (ref.rows, ref.note) == (0, "0 rows: sales was published without rows for this partition")
            assert partition in lake.published("predictions")
            shown = {(one.name, one.labels.get("product")): one.value for one in gauges(lake, spec)}
            assert shown["evergreen_rows", "predictions"] == 0
    assert {row["partition"] for row in lake.rows("predictions")} == {keys[0], keys[1], keys[3]}
    alarms = {(r["partition"], r["check"], r["subject"]) for r in lake.rows("findings", {"outcome": "alarm"})}
    assert not [one for one in alarms if one[0] == keys[2]], alarms
    (data,) = lake.rows("findings", {"partition": keys[2], "check": "data", "subject": "predictions"})
    assert data["outcome"] == "ok"
    assert data["note"].startswith("0 rows: sales was published without rows")
    products = {row["product"]: row for row in status(lake, spec)["products"]}
    assert (products["predictions"]["published"], products["predictions"]["rows"]) == (4, 120)
    assert status(lake, spec)["not_published"] == []
    assert verify(lake, spec).differences == ()


def test_scored_again_it_is_the_same_partition(shop: tuple[Lake, UseCase, Connect]) -> None:
    """Rows that came after the decision don't make it red, nor are they scored."""
    lake, spec, connect = shop
    partition = world.partitions(4)[2]
    score(lake, spec, partition)
    before = lake.rows("partitions", {"product": "predictions"})
    score(lake, spec, partition)
    assert lake.rows("partitions", {"product": "predictions"}) == before
    file = Path(connect("shop").uri.removeprefix("file://")) / "sales" / f"{partition}.csv"
    file.write_text("\n".join([world.HEADER, *world.week(2)]) + "\n")
    late = datetime(2024, 3, 1, tzinfo=UTC)
    (outcome,) = ingest(lake, spec, "sales", [partition], connect, refetch=True, now=late)
    assert outcome.rows == 40
    assert score(lake, spec, partition).rows == 0
    assert lake.rows("predictions") == []


def test_a_spine_that_nobody_ingested_is_refused(lake: Lake, use: UseCase) -> None:
    """Nobody knows whether there are rows: the sentence says to ingest it, and nothing is published."""
    lake.publish(
        "partitions", lake.read("partitions").slice(0, 0), {"product": "orders", "partition": PARTITION}
    )  # type: ignore[union-attr]
    lake.publish("validated_orders", lake.read("validated_orders").slice(0, 0), {"partition": PARTITION})  # type: ignore[union-attr]
    with pytest.raises(
        NotPublished, match=r"found nothing; ingest orders for this partition, then score it again"
    ):
        score(lake, use, PARTITION)
    assert lake.rows("partitions", {"product": "predictions"}) == []


@pytest.mark.parametrize(
    ("declared", "remedy"),
    [
        (
            "12:00",
            r"move schedule.batch to a later time, when orders has arrived; or, if schedule.timezone or "
            r"sources.orders.available_at was changed after",
        ),
        ("19:00", r"move schedule.batch to 19:00 or later; or, if the rows are available earlier, declare"),
    ],
)
def test_a_spine_that_is_known_only_after_the_decision_says_so(
    declared: str, remedy: str, lake: Lake, use: UseCase
) -> None:
    """Ingesting it again wouldn't help: what has to change is the hour of the decision, or of `known`."""
    source = use.sources["orders"].model_copy(update={"available_at": declared})
    late = use.model_copy(update={"sources": {**use.sources, "orders": source}})
    parcels.publish(
        lake, use, "orders", PARTITION, [parcels.rows(use, "orders", PARTITION, after=timedelta(hours=1))]
    )
    with pytest.raises(
        NotPublished, match=rf"found 12 rows, not known before 2024-03-08 18:00 UTC; {remedy}"
    ):
        score(lake, late, PARTITION)


def test_a_switch_takes_effect_after_an_empty_partition(shop: tuple[Lake, UseCase, Connect]) -> None:
    """It is done, as any other partition is."""
    lake, spec, _ = shop
    keys = world.partitions(4)
    for partition in keys[:3]:
        score(lake, spec, partition)
    assert ledger.next_unserved(lake, spec) == keys[3]


def test_no_switch_takes_effect_after_the_schedule_ends(shop: tuple[Lake, UseCase, Connect]) -> None:
    """A switch whose first partition would be after schedule.end is refused with what to change."""
    lake, spec, _ = shop
    keys = world.partitions(4)
    schedule = spec.schedule.model_copy(update={"end": keys[1]})
    ending = spec.model_copy(update={"schedule": schedule})
    score(lake, ending, keys[0])
    assert ledger.next_unserved(lake, ending) == keys[1]
    score(lake, ending, keys[1])
    with pytest.raises(
        PartitionError,
        match=rf"switch: expected a partition that the new model can serve by schedule.end, {keys[1]}, "
        rf"but found {keys[2]} as the next partition; "
        "set `schedule.end` in usecase.yaml to a later day",
    ):
        ledger.next_unserved(lake, ending)
    assert status(lake, ending)["trials"] == []


def test_a_partition_far_ahead_of_the_newest_scored_one_is_warned_about(
    shop: tuple[Lake, UseCase, Connect], caplog: pytest.LogCaptureFixture
) -> None:
    """The note and the log name the partitions that it skips; the next one and an older one skip none."""
    lake, spec, _ = shop
    keys = world.partitions(4)
    assert "skipped without predictions" not in score(lake, spec, keys[0]).note
    warning = (
        f"skipped without predictions: {keys[1]} to {keys[2]}; a new switch takes effect only after {keys[3]}"
    )
    assert warning in score(lake, spec, keys[3]).note
    assert warning in caplog.text
    assert "skipped without predictions" not in score(lake, spec, keys[1]).note
