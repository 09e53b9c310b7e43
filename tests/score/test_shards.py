"""A partition that is scored in shards leaves the tables that one task leaves, or isn't published."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from include.errors import SpecError
from include.promote import ledger
from include.references import Ref
from include.score import shards
from include.score.pipeline import score
from include.score.shards import PARTS, VERIFIED, plan_shards, publish_shards, score_shard
from include.spec import UseCase
from include.storage import schemas
from include.storage.erasures import ERASURES_TABLE
from include.storage.lake import Lake
from tests.features import parcels

Deploy = Callable[..., None]
FIRST, PARTITION = "2024-03-01", "2024-03-08"
TABLES = ("predictions", "partitions", "profiles", "restated", "shadows")

# the late share of a customer, who may be unknown, in place of that of a depot
SQL = parcels.SQL.replace("for_partition, depot,", "for_partition, customer,")
SQL = SQL.replace("for_partition, depot\n", "for_partition, customer\n")
SQL = SQL.replace("AND p.depot = s.depot", "AND p.customer IS NOT DISTINCT FROM s.customer")
RANKED = SQL.replace("s.weight,", "rank() OVER (PARTITION BY s.partition ORDER BY s.weight) AS weight,")


def declare(folder: Path, sql: str = SQL, shards: int = 3, **changes: Any) -> UseCase:
    """Return the parcels with customers, whose rows may be split by customer."""
    declared = yaml.safe_load(parcels.SPEC)
    for source in ("orders", "arrivals"):
        declared["sources"][source]["columns"]["customer"] = {"type": "string"}
    features = {**declared["features"], "entity": ["customer"]}
    scoring = {**declared["scoring"], "shards": shards}
    sections = {"sources": declared["sources"], "features": features, "scoring": scoring}
    return parcels.spec(folder, sql, **{**sections, **changes})


def fill(lake: Lake, spec: UseCase, customers: list[str | None], last: str = PARTITION) -> None:
    """Publish every source from the first partition on, with a parcel for each of the customers."""
    parcels.fill(lake, spec, FIRST, last)
    for source in ("orders", "arrivals"):
        made = []
        for partition in spec.partitions(source, FIRST, last):
            rows = parcels.rows(spec, source, partition).to_pylist() * (1 + len(customers) // 12)
            numbered = zip(count(), rows, customers, strict=False)
            made += [row | {"parcel": number, "customer": customer} for number, row, customer in numbered]
        table = pa.Table.from_pylist(made, schemas.validated_schema(spec.sources[source]))
        lake.publish(f"validated_{source}", table, {"partition": spec.partitions(source, FIRST, last)})


def score_in_shards(lake: Lake, spec: UseCase, partition: str = PARTITION) -> Ref:
    """Run the tasks of a partition, one after the other."""
    keys = plan_shards(lake, spec, partition)
    for key in keys:
        score_shard(lake, spec, key)
    return publish(lake, spec, partition, keys)


def publish(lake: Lake, spec: UseCase, partition: str, keys: list[str]) -> Ref:
    """Publish a partition's shards, or score it in one task, as the operator does."""
    ref = publish_shards(lake, spec, partition, keys) if keys else None
    return ref or score(lake, spec, partition)


def state(lake: Lake) -> dict[str, list[str]]:
    """Return every row that scoring has written, in an order of its own."""
    return {name: sorted(map(repr, lake.rows(name))) for name in TABLES}


CUSTOMERS: list[str | None] = [
    None,
    "ada",
    "ben",
    "cy",
    "dee",
    "eli",
    "flo",
    "gus",
    "hal",
    None,
    "ada",
    "ben",
]


@pytest.fixture
def spec(tmp_path: Path) -> UseCase:
    """Three shards by customer."""
    return declare(tmp_path / "spec")


@pytest.fixture
def pair(spec: UseCase, deploy: Deploy, tmp_path: Path) -> tuple[Lake, Lake]:
    """Two lakes with the same rows and the same champion."""
    lakes = Lake("parcels", str(tmp_path / "whole")), Lake("parcels", str(tmp_path / "sharded"))
    for lake in lakes:
        fill(lake, spec, CUSTOMERS)
        deploy(lake, "1", "2024-03-04")
    return lakes


@pytest.mark.full
@settings(max_examples=4)
@given(
    customers=st.lists(st.sampled_from([None, "", "ada", "ben", "cy", "dee", "é"]), min_size=1, max_size=90),
    number=st.integers(2, 9),
)
def test_any_number_of_shards(deploy_anywhere: Deploy, customers: list[str | None], number: int) -> None:
    """Whatever the number of shards and the customers, the reference and the tables are the same."""
    with tempfile.TemporaryDirectory() as folder:
        spec = declare(Path(folder), shards=number)
        whole, sharded = (Lake("parcels", f"{folder}/{name}") for name in ("whole", "sharded"))
        for lake in (whole, sharded):
            fill(lake, spec, customers, "2024-03-03")
            deploy_anywhere(lake, "1", FIRST)
        assert score_in_shards(sharded, spec, "2024-03-03") == _moved(
            score(whole, spec, "2024-03-03"), sharded
        )
        assert state(sharded) == state(whole)
        assert sharded.keys(PARTS) == []


@pytest.fixture(scope="module")
def deploy_anywhere(stored: dict[str, bytes]) -> Deploy:
    """Return what promotes a version, for examples that need no lake of their own."""
    from tests.score import conftest

    return conftest.deploy.__wrapped__(stored)  # type: ignore[attr-defined]


def _moved(ref: Ref, lake: Lake) -> Ref:
    return Ref(f"{lake.uri}/tables/predictions", ref.partition, ref.digest, ref.rows, ref.note)


def test_sql_that_looks_at_other_entities_is_not_published(pair: tuple[Lake, Lake], tmp_path: Path) -> None:
    """The error names the columns and the first rows, and nothing is published."""
    lake, spec = pair[1], declare(tmp_path / "ranked", RANKED)
    with pytest.raises(
        SpecError, match="found other values of weight without the other entities' rows"
    ) as raised:
        score_in_shards(lake, spec)
    assert "of 12 rows: depot=north parcel=" in str(raised.value)
    assert "expected features that look only at rows of the same customer" in str(raised.value)
    assert lake.rows("predictions") == []
    assert lake.keys(VERIFIED) == []


@pytest.mark.full
def test_the_first_partitions_are_verified(pair: tuple[Lake, Lake], spec: UseCase, tmp_path: Path) -> None:
    """Three partitions are compared with the whole; other SQL is compared again."""
    lake = pair[1]
    for partition in ("2024-03-04", "2024-03-05", "2024-03-06", "2024-03-07"):
        score_in_shards(lake, spec, partition)
    assert [key[-10:] for key in lake.keys(VERIFIED)] == ["2024-03-04", "2024-03-05", "2024-03-06"]
    with pytest.raises(SpecError, match="other values of weight"):
        score_in_shards(lake, declare(tmp_path / "ranked", RANKED))


class Dying(Lake):
    """A lake whose process is killed before its next write, once it has written so many times."""

    def __init__(self, of: Lake, writes: int) -> None:
        super().__init__(of.name, of.uri.removeprefix("file://").rpartition("/")[0])
        self.left = writes

    def _die(self) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


def _mortal(name: str) -> Callable[..., Any]:
    def write(self: Dying, *args: Any, **kwargs: Any) -> Any:
        self._die()
        return getattr(Lake, name)(self, *args, **kwargs)

    return write


for _name in ("publish", "append_at", "create", "remove"):
    setattr(Dying, _name, _mortal(_name))


@pytest.mark.full
def test_killed_before_any_write(pair: tuple[Lake, Lake], spec: UseCase, tmp_path: Path) -> None:
    """Killed before any write of a shard or of the commit and run again, it leaves what one task leaves."""
    whole, untouched = pair
    score(whole, spec, PARTITION)
    for writes in count():
        shutil.copytree(untouched.uri.removeprefix("file://"), tmp_path / f"{writes}" / "parcels")
        lake = Lake("parcels", str(tmp_path / f"{writes}"))
        try:
            score_in_shards(Dying(lake, writes), spec)
        except KeyboardInterrupt:
            score_in_shards(lake, spec)
        else:
            break
        assert state(lake) == state(whole), f"killed before write {writes}"
        assert lake.keys(PARTS) == []
    # the plan, two objects of each shard, that it was verified, three tables, and what is removed
    assert writes == 1 + 3 * 2 + 1 + 3 + 1


@pytest.mark.full
def test_two_runs_at_once(pair: tuple[Lake, Lake], spec: UseCase) -> None:
    """Two runs of a partition at the same time leave what one leaves."""
    whole, lake = pair
    score(whole, spec, PARTITION)
    with ThreadPoolExecutor(2) as pool:
        list(
            pool.map(lambda _: score_in_shards(Lake("parcels", lake.uri.rpartition("/")[0]), spec), range(2))
        )
    assert state(lake) == state(whole)


def test_a_run_that_comes_second_uses_nothing_of_its_own(pair: tuple[Lake, Lake], spec: UseCase) -> None:
    """A run whose shards were removed by another's commit completes what the other one published."""
    whole, lake = pair
    score(whole, spec, PARTITION)
    keys = plan_shards(lake, spec, PARTITION)
    score_shard(lake, spec, keys[0])
    score_in_shards(lake, spec)
    assert [score_shard(lake, spec, key).note for key in keys] == [
        "not needed: one task scores the partition"
    ] * 3
    publish(lake, spec, PARTITION, keys)
    assert state(lake) == state(whole)


def test_a_published_partition_is_scored_again_by_one_task(pair: tuple[Lake, Lake], spec: UseCase) -> None:
    """A rerun plans no shards, and leaves the tables as they are."""
    lake = pair[1]
    first, before = score_in_shards(lake, spec), state(lake)
    assert plan_shards(lake, spec, PARTITION) == []
    assert score_in_shards(lake, spec) == first
    assert state(lake) == before


def test_a_model_that_fails(pair: tuple[Lake, Lake], spec: UseCase, deploy: Deploy) -> None:
    """A champion that gives no numbers is replaced by the next step with the reason that one task gives."""
    for lake in pair:
        deploy(lake, "nan", "2024-03-05")
    score(pair[0], spec, PARTITION)
    score_in_shards(pair[1], spec)
    assert state(pair[1]) == state(pair[0])
    assert {row["served_by"] for row in pair[1].rows("predictions")} == {"previous"}


def test_features_that_fail(pair: tuple[Lake, Lake], tmp_path: Path) -> None:
    """A shard whose features can't be computed is left to one task, which knows what to do about it."""
    lake = pair[1]
    spec = declare(tmp_path / "failing", SQL.replace("s.weight,", "error('no weight') AS weight,"))
    keys = plan_shards(lake, spec, PARTITION)
    for key in keys:
        assert score_shard(lake, spec, key).note.startswith("not stored: parcels: features: expected ")
    assert publish_shards(lake, spec, PARTITION, keys) is None
    with pytest.raises(SpecError, match="no weight"):
        score(lake, spec, PARTITION)


def test_a_missing_source(spec: UseCase, deploy: Deploy, tmp_path: Path) -> None:
    """Without a source that the champion requires, each shard has the step and the reason of one task."""
    lakes = [Lake("parcels", str(tmp_path / name)) for name in ("whole", "sharded")]
    for lake in lakes:
        fill(lake, spec, CUSTOMERS)
        parcels.publish(lake, spec, "roads", PARTITION, [], "unavailable")
        lake.publish("validated_roads", lake.read("validated_roads")[:0], {"partition": PARTITION})  # type: ignore[index]
        deploy(lake, "1", "2024-03-04")
    score(lakes[0], spec, PARTITION)
    score_in_shards(lakes[1], spec)
    assert state(lakes[1]) == state(lakes[0])
    assert {row["served_by"] for row in lakes[1].rows("predictions")} == {"baseline"}


@pytest.mark.full
@pytest.mark.parametrize("kind", [ledger.CANARY, ledger.SHADOW])
def test_a_challenger_on_trial(pair: tuple[Lake, Lake], deploy: Deploy, tmp_path: Path, kind: str) -> None:
    """A canary's rows and a shadow's predictions are those of one task."""
    spec = declare(
        tmp_path / "trial", gate={"objective": "log_loss", "rollout": {"kind": kind, "share": 0.5}}
    )
    for lake in pair:
        deploy(lake, "2", "2024-03-06")
        newest = ledger.switches(lake)[-1]
        row = {**ledger.live_champion(ledger.switches(lake)), **{"role": "challenger", "kind": kind}}  # type: ignore[dict-item]
        first = ledger.champions(ledger.switches(lake))[0]
        row |= {"model": first["model"], "version": first["version"], "effective_from": "2024-03-07"}
        assert ledger.record_switch(lake, lambda rows, row=row: [row])["switch"] > newest["switch"]  # type: ignore[misc]
    score(pair[0], spec, PARTITION)
    score_in_shards(pair[1], spec)
    assert state(pair[1]) == state(pair[0])
    by = {row["served_by"] for row in pair[1].rows("predictions")}
    assert by == ({"champion", "canary"} if kind == ledger.CANARY else {"champion"})
    assert len(pair[1].rows("shadows")) > 0


def test_a_switch_between_two_shards(pair: tuple[Lake, Lake], spec: UseCase, deploy: Deploy) -> None:
    """All shards are served by the champion of the plan."""
    lake = pair[1]
    keys = plan_shards(lake, spec, PARTITION)
    score_shard(lake, spec, keys[0])
    deploy(lake, "2", "2024-03-05")
    for key in keys[1:]:
        score_shard(lake, spec, key)
    assert publish(lake, spec, PARTITION, keys).note == "12 rows by champion v1"


def test_a_revision_between_two_shards(pair: tuple[Lake, Lake], spec: UseCase) -> None:
    """All shards read the versions of the plan, and the predictions are those of before the revision."""
    whole, lake = pair
    score(whole, spec, PARTITION)
    keys = plan_shards(lake, spec, PARTITION)
    score_shard(lake, spec, keys[0])
    rows = lake.read("validated_orders", {"partition": PARTITION})
    assert rows is not None
    lake.publish("validated_orders", rows.slice(0, 3), {"partition": PARTITION})
    for key in keys[1:]:
        score_shard(lake, spec, key)
    publish(lake, spec, PARTITION, keys)
    assert state(lake) == state(whole)


def test_rows_that_are_erased_meanwhile(pair: tuple[Lake, Lake], spec: UseCase) -> None:
    """A shard that may have read erased rows isn't kept, and one task scores what is left."""
    lake = pair[1]
    keys = plan_shards(lake, spec, PARTITION)
    score_shard(lake, spec, keys[0])
    erasure = pa.table({name: pa.array(["{}"]) for name in ("contents", "keys")})
    lake.append_at(ERASURES_TABLE, erasure, -1)
    score_shard(lake, spec, keys[1])
    stored = {key.split("/")[-2] for key in lake.keys(PARTS) if key.endswith(".arrow")}
    assert stored == {"0"}


def test_a_declaration_that_changes_meanwhile(pair: tuple[Lake, Lake], spec: UseCase, tmp_path: Path) -> None:
    """Shards of another declaration aren't published."""
    whole, lake = pair
    keys = plan_shards(lake, spec, PARTITION)
    score_shard(lake, spec, keys[0])
    other = declare(tmp_path / "other", SQL.replace("s.weight,", "s.weight + 1 AS weight,"))
    assert score_shard(lake, other, keys[1]).note == "not needed: one task scores the partition"
    score(whole, other, PARTITION)
    publish(lake, other, PARTITION, keys)
    assert state(lake) == state(whole)


def test_a_shard_reads_its_own_entities(
    pair: tuple[Lake, Lake], spec: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sources with the entity it reads its share, of the others all rows."""
    seen: list[dict[str, int]] = []
    compute = shards.compute_features

    def counted(spec: UseCase, rows: dict[str, pa.Table], partitions: list[str]) -> pa.Table:
        seen.append({name: table.num_rows for name, table in rows.items()})
        return compute(spec, rows, partitions)

    monkeypatch.setattr(shards, "compute_features", counted)
    for key in plan_shards(pair[1], spec, PARTITION):
        score_shard(pair[1], spec, key)
    total = {
        name: pair[1].count(f"validated_{name}", {"partition": spec.clock.keys("2024-03-04", PARTITION)})
        for name in ("orders", "arrivals")
    }
    assert {name: sum(one[name] for one in seen) for name in total} == total
    assert {one["roads"] for one in seen} == {2}
    assert max(one["orders"] for one in seen) < total["orders"]
